"""What a data set's run costs beyond its work, with the embedded model and JPEGs of 500 x 375.

In each round every candidate does the same pictures in a process of its own, in alternating order,
and ratios are taken round by round.

- `clsspec batch`, whole: listing, reading, the network, Zarr and Parquet, hashes, fsync.
- a plain loop: open, predict in batches, and the same arrays written by zarr and pyarrow, once.
- the same two with a network that costs nothing, beside Pillow's decoding and resizing alone.

    python benchmarks/dataset.py [--rounds 5] [--pictures 400]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from serving_clients import jpegs

from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.engines.protocol import Arrays
from clsspec_serve.models import find_bundle
from clsspec_serve.predictor import Model, start
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches"), "policy": "squash"}
SIDE = 256


class Free:
    """An engine that costs nothing: of each output the same zeros."""

    name = "none"
    precision = "fp32"

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Any]:
        """See `Engine`."""
        count = len(inputs["pixels"])
        shapes = {"cls": (192,), "patches": (SIDE // 16, SIDE // 16, 192)}
        return {name: np.broadcast_to(np.float32(0), (count, *shapes[name])) for name in outputs}


def model(free: bool) -> Model:
    """The embedded one, set up as `clsspec batch` does."""
    loaded = start(find_bundle(None), shared=True)
    if free:
        loaded.engine = Free()  # type: ignore[assignment]
    return loaded


def batch(source: Path, out: Path, loaded: Model) -> None:
    """The run."""
    settings = Settings(str(source), str(out), shard_size=256, decoders=os.cpu_count() or 1)
    work_off(loaded, loaded.request(**OPTIONS), settings)


def loop(source: Path, out: Path, loaded: Model) -> None:
    """As a user would write it."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zarr

    paths = sorted(source.iterdir())
    out.mkdir()
    array, vectors = None, []
    for index, found in enumerate(loaded.predict(paths, **OPTIONS)):
        if array is None:
            shape = found.patches.shape
            whole = np.empty((len(paths), *shape), np.float32)
            array = zarr.create_array(
                str(out / "patches.zarr"),
                shape=whole.shape,
                shards=(256, *shape),
                chunks=(1, *shape),
                dtype="float32",
                compressors=None,
            )
        whole[index] = found.patches
        vectors.append(found.cls)
        if (index + 1) % 256 == 0 or index + 1 == len(paths):
            first = index // 256 * 256
            array[first : index + 1] = whole[first : index + 1]
    column = pa.FixedSizeListArray.from_arrays(np.concatenate(vectors), len(vectors[0]))
    pq.write_table(pa.table({"id": [path.name for path in paths], "cls": column}), out / "rows.pq")


def pillow(source: Path, out: Path, loaded: Model) -> None:
    """Decoding and resizing alone, on all cores."""

    def one(path: Path) -> None:
        with Image.open(path) as picture:
            np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, sorted(source.iterdir())))


WORK: dict[str, tuple[Callable[[Path, Path, Model], None], bool]] = {
    "plain loop": (loop, False),
    "clsspec batch": (batch, False),
    "Pillow: decode and resize": (pillow, True),
    "plain loop, free network": (loop, True),
    "clsspec batch, free network": (batch, True),
}


def measured(name: str, source: Path) -> tuple[float, float]:
    """Seconds of CPU and of the clock for each picture, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [sys.executable, __file__, "--work", name, str(source), f"{folder}/out"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu, wall = json.loads(output)
    count = len(list(source.iterdir()))
    return cpu / count, wall / count


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work, free = WORK[given.work[0]]
        loaded = model(free)
        cpu, wall = time.process_time(), time.monotonic()
        work(Path(given.work[1]), Path(given.work[2]), loaded)
        print(json.dumps([time.process_time() - cpu, time.monotonic() - wall]))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "set"
        source.mkdir()
        contents = jpegs()
        for index in range(given.pictures):
            (source / f"{index:06}.jpg").write_bytes(contents[index % len(contents)])
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in WORK}
        for index in range(given.rounds):
            for name in WORK if index % 2 else reversed(WORK):
                found[name].append(measured(name, source))
    print("| | CPU ms per picture | over its base | pictures/s | of its base |")
    print("|---|---|---|---|---|")
    for name, rounds in found.items():
        base = found["Pillow: decode and resize" if "free" in name else "plain loop"]
        pairs = list(zip(rounds, base, strict=True))
        cpu = statistics.median(each[0] for each in rounds)
        wall = statistics.median(each[1] for each in rounds)
        costs = statistics.median(each[0] / other[0] for each, other in pairs)
        speeds = statistics.median(other[1] / each[1] for each, other in pairs)
        print(f"| {name} | {1000 * cpu:.1f} | {costs:.3f} | {1 / wall:.1f} | {speeds:.3f} |")


if __name__ == "__main__":
    main()
