"""What the candidates of `dataset.py` do, each in a process of its own.

    python benchmarks/dataset_work.py CANDIDATE SOURCE OUT SECONDS

prints JSON: the seconds of CPU that it took, those of its children included, the seconds of the
clock, and how much was done, in pictures or in MB of maps. Loading the model and importing come
before. SECONDS: for each batch of the stand-in engine. Candidates: `CANDIDATES`.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from dataset_stand_in import embedded, noise
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.choices import DType, Task
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.dataset.codecs.codec import parse_codec
from clsspec_serve.dataset.layout import layout_of
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.working import Threads
from clsspec_serve.dataset.writer import ShardWriter
from clsspec_serve.predictor import Model
from clsspec_serve.request import Options, Request

if TYPE_CHECKING:
    import torch

CLS: tuple[Task, ...] = ("cls",)
DENSE: tuple[Task, ...] = ("cls", "patches")
IMAGE = (375, 500)
BATCH = Asked().batch_size
SHARD = Asked().shard_size
CORES = os.cpu_count() or 1

Work = Callable[[], float]
"""Does it, and says how much that was."""


@dataclass(frozen=True)
class Given:
    """Of a candidate: the folder of pictures, a new folder, and a stand-in's seconds per batch."""

    source: Path
    out: Path
    seconds: float

    @property
    def paths(self) -> list[Path]:
        """The pictures, in order."""
        return sorted(self.source.iterdir())


def options(tasks: tuple[Task, ...]) -> Options:
    """One grid for all pictures, so that maps are arrays."""
    return {"tasks": tasks, "policy": "squash"}


def sizing(model: Model, request: Request) -> tuple[tuple[int, int], Image.Resampling]:
    """(H, W) to which the model's preprocessing resizes a picture, and its filter."""
    geometry, _ = model.frame(IMAGE, request)
    return geometry.resized, Image.Resampling[request.preprocessing.interpolation.upper()]


def batch(given: Given, tasks: tuple[Task, ...], model: Model, codec: str = "none") -> Work:
    """The run, whole."""
    asked = Asked.model_validate({**options(tasks), "codec": parse_codec(codec)})
    settings = Settings(str(given.source), str(given.out), asked)
    runner = Here(model, Threads(decoders=CORES))

    def work() -> float:
        summary = work_off(model.bundle, settings, runner)
        if summary.failures:
            raise RuntimeError(summary.text())
        return summary.computed

    return work


def on_its_engine(given: Given) -> Work:
    """The run on the engine of this machine."""
    return batch(given, DENSE, embedded())


def on_a_free_engine(tasks: tuple[Task, ...], given: Given) -> Work:
    """The run on an engine that takes no time."""
    return batch(given, tasks, embedded(seconds=0))


def in_a_codec(codec: str, given: Given) -> Work:
    """The run on an engine that takes no time, with maps in a smaller form."""
    return batch(given, DENSE, embedded(seconds=0), codec)


def on_the_stand_in(tasks: tuple[Task, ...], given: Given) -> Work:
    """The run on an engine that takes a fixed time."""
    return batch(given, tasks, embedded(given.seconds))


def stand_in_alone(given: Given) -> Work:
    """As many batches through that engine, one after the other."""
    model, pictures = embedded(given.seconds), len(given.paths)
    request = model.request(**options(DENSE))
    geometry, _ = model.frame(IMAGE, request)
    pixels = np.zeros((BATCH, 4, *geometry.input), np.uint8)

    def work() -> float:
        for _ in range(-(-pictures // BATCH)):
            model.forward(pixels, request)
        return pictures

    return work


def loop(given: Given) -> Work:
    """As a user would write it with this library: the same arrays, by zarr and pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zarr

    model, paths = embedded(), given.paths

    def work() -> float:
        given.out.mkdir()
        array, vectors = None, []
        for index, found in enumerate(model.predict(paths, batch_size=BATCH, **options(DENSE))):
            if array is None:
                shape = found.patches.shape
                whole = np.empty((len(paths), *shape), np.float32)
                array = zarr.create_array(
                    str(given.out / "patches.zarr"),
                    shape=whole.shape,
                    shards=(SHARD, *shape),
                    chunks=(1, *shape),
                    dtype="float32",
                    compressors=None,
                )
            whole[index] = found.patches
            vectors.append(found.cls)
            if (index + 1) % SHARD == 0 or index + 1 == len(paths):
                first = index // SHARD * SHARD
                array[first : index + 1] = whole[first : index + 1]
        column = pa.FixedSizeListArray.from_arrays(np.concatenate(vectors), len(vectors[0]))
        table = pa.table({"id": [path.name for path in paths], "cls": column})
        pq.write_table(table, given.out / "rows.parquet")
        return len(paths)

    return work


@dataclass(frozen=True)
class Resized:
    """A data set of PyTorch: pictures by index, opened and resized by Pillow and torchvision.

    Each is the network's input `(4, H, W) uint8`: RGB, and a coverage of 1.
    """

    paths: list[Path]
    size: tuple[int, int]
    resampling: Image.Resampling

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        import torch
        from torchvision.transforms.functional import pil_to_tensor

        with Image.open(self.paths[index]) as picture:
            resized = picture.convert("RGB").resize(self.size[::-1], self.resampling)
        pixels = pil_to_tensor(resized)
        return torch.cat([pixels, torch.ones_like(pixels[:1])])


def loader(given: Given) -> Work:
    """As a user would write it with PyTorch: worker processes load, lists keep, np.save writes.

    The network is the same engine in the same settings, so that only what is around it differs.
    """
    import torchvision.transforms.functional  # noqa: F401 - not by each worker
    from torch.utils.data import DataLoader

    model = embedded()
    request = model.request(**options(DENSE))
    pictures = Resized(given.paths, *sizing(model, request))

    def work() -> float:
        vectors, patches = [], []
        for pixels in DataLoader(pictures, batch_size=BATCH, num_workers=CORES):
            for found in model.forward(pixels.numpy(), request):
                vectors.append(found["cls"])
                patches.append(found["patches"])
        given.out.mkdir()
        np.save(given.out / "cls.npy", np.stack(vectors))
        np.save(given.out / "patches.npy", np.stack(patches))
        return len(pictures)

    return work


def pillow(given: Given) -> Work:
    """Reading, decoding and resizing alone, in a thread for each core."""
    model, paths = embedded(seconds=0), given.paths
    (height, width), resampling = sizing(model, model.request(**options(CLS)))

    def one(path: Path) -> None:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            np.asarray(picture.convert("RGB").resize((width, height), resampling))

    def work() -> float:
        with ThreadPoolExecutor(CORES) as pool:
            return sum(1 for _ in pool.map(one, paths))

    return work


def maps(given: Given, dtype: DType) -> list[NDArray[Any]]:
    """A patch map of the model's for each picture; there are 64 different ones."""
    model = embedded(seconds=0)
    asked = Asked(dtype=dtype)
    (kept,) = layout_of(model.manifest, model.request(**options(DENSE)), asked).maps.values()
    different = noise(64, *kept.shape).astype(dtype)
    return [different[index % 64] for index in range(len(given.paths))]


def written(dtype: DType, given: Given) -> Work:
    """Ready rows through the writer of shards: [CLS], patch maps, hashes, fsync, records."""
    model = embedded(seconds=0)
    request = model.request(**options(DENSE))
    layout = layout_of(model.manifest, request, Asked(dtype=dtype))
    geometry, _ = model.frame(IMAGE, request)
    rows = [
        Row(Item(f"{index:06}.jpg", ""), geometry, {"cls": each[0, 0]}, {"patches": each})
        for index, each in enumerate(maps(given, dtype))
    ]

    def work() -> float:
        tree = open_tree(str(given.out))
        for first in range(0, len(rows), SHARD):
            writer = ShardWriter(tree, layout, first // SHARD, SHARD)
            for row in rows[first : first + SHARD]:
                writer.add(row)
            writer.finish()
        return megabytes([row.maps["patches"] for row in rows])

    return work


def written_bare(dtype: DType, given: Given) -> Work:
    """The maps of each shard written to a file as they are, and fsync."""
    kept = maps(given, dtype)

    def work() -> float:
        given.out.mkdir()
        for first in range(0, len(kept), SHARD):
            with open(given.out / str(first), "wb", buffering=0) as stream:
                for each in kept[first : first + SHARD]:
                    stream.write(each)
                os.fsync(stream.fileno())
        return megabytes(kept)

    return work


def megabytes(arrays: Sequence[NDArray[Any]]) -> float:
    """In millions of bytes."""
    return sum(array.nbytes for array in arrays) / 1e6


CANDIDATES: Mapping[str, Callable[[Given], Work]] = {
    "plain loop": loop,
    "PyTorch DataLoader": loader,
    "`clsspec batch`": on_its_engine,
    "Pillow in threads": pillow,
    "free engine: cls": partial(on_a_free_engine, CLS),
    "free engine: cls, patches": partial(on_a_free_engine, DENSE),
    "int8": partial(in_a_codec, "int8"),
    "pca:64": partial(in_a_codec, "pca:64"),
    "pca:64,int8": partial(in_a_codec, "pca:64,int8"),
    "stand-in engine alone": stand_in_alone,
    "stand-in engine: cls": partial(on_the_stand_in, CLS),
    "stand-in engine: cls, patches": partial(on_the_stand_in, DENSE),
    "write and fsync, fp32": partial(written_bare, "float32"),
    "shard writer, fp32": partial(written, "float32"),
    "write and fsync, fp16": partial(written_bare, "float16"),
    "shard writer, fp16": partial(written, "float16"),
}


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(name: str, source: str, out: str, seconds: str) -> None:
    """Do it, and print what it took."""
    work = CANDIDATES[name](Given(Path(source), Path(out), float(seconds)))
    cpu, wall = cpu_seconds(), time.monotonic()
    amount = work()
    print(json.dumps([cpu_seconds() - cpu, time.monotonic() - wall, amount]))


if __name__ == "__main__":
    main(*sys.argv[1:])
