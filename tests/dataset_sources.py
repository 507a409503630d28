"""Small data sets in each form, with the same pictures in all of them, and runs over them."""

from __future__ import annotations

import gc
import io
import tarfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from clsspec_serve import load
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, Summary, work_off
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.runner import Runner
from clsspec_serve.dataset.working import Threads
from clsspec_serve.request import Options


def picture(seed: int, height: int = 28, width: int = 42) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def named(count: int) -> dict[str, bytes]:
    """Pictures by name, in the order of the names."""
    return {f"{index:03}.png": picture(index) for index in range(count)}


def as_folder(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    """A folder of files."""
    for name, content in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def as_tar(
    file: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], **options: Any
) -> Path:
    """One tar; of pairs several may have one name. `options`: of `tarfile.open`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(file, "w", **options) as archive:
        for name, content in pairs:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def as_table(file: Path, column: str, values: Sequence[Any], kind: Any = None) -> Path:
    """A Parquet file of one column and another one that is not looked at, five rows in a group."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"label": [0] * len(values), column: pa.array(values, kind)})
    pq.write_table(table, file, row_group_size=5)
    return file


def computed(
    bundle: Path,
    source: Path | str,
    out: Path | str,
    options: Options | None = None,
    *,
    runner: Runner | None = None,
    **changes: Any,
) -> Summary:
    """A run over a source, here unless told otherwise; `changes` are of `asked` and `Settings`."""
    model = load(bundle, threads=1)
    settings = settings_of(bundle, source, out, options, **changes)
    return work_off(model.bundle, settings, runner or Here(model, Threads(2, 2)))


def settings_of(
    bundle: Path,
    source: Path | str,
    out: Path | str,
    options: Options | None = None,
    **changes: Any,
) -> Settings:
    """With shards of 4 pictures and batches of 3 unless told otherwise."""
    own = {name: changes.pop(name) for name in [*changes] if name in Asked.model_fields}
    asked = Asked.model_validate({"shard_size": 4, "batch_size": 3, **(options or {}), **own})
    return Settings(str(source), str(out), asked, str(bundle), **changes)


def rows(out: Path) -> list[dict[str, Any]]:
    """The table of a run, as pyarrow reads it."""
    found: list[dict[str, Any]] = pq.read_table(out / "rows").to_pylist()
    return found


def vectors(out: Path, name: str) -> NDArray[Any]:
    """A column of vectors `(N, D)`, NaN where there is none."""
    column = [row[name] for row in rows(out)]
    width = next(len(each) for each in column if each is not None)
    return np.array([[np.nan] * width if each is None else each for each in column], np.float32)


def samples(out: Path) -> list[dict[str, Any]]:
    """The tars of a run, as webdataset reads them; it leaves files for the collector to close."""
    urls = [str(each) for each in sorted((out / "samples").iterdir())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.freeze()  # so that nothing else is looked through
        found = list(webdataset.WebDataset(urls, shardshuffle=False))
        gc.collect()
        gc.unfreeze()
    return found
