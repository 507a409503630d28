"""Pictures with the same bytes as another one, found before a run's first shard.

Every picture is read once for it. A row of a duplicate says where the answers are.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from clsspec_serve.bundle import describe
from clsspec_serve.dataset.contents import (
    DIGEST,
    Digests,
    first_rows,
    read_digests,
    write_contents,
)
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.run import Contents, Part, Run, with_parts
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.sources.source import Reader
from clsspec_serve.dataset.trees.tree import reading, writing_to
from clsspec_serve.errors import ImageError
from clsspec_serve.progress import progress


def with_duplicates(run: Run, readers: int) -> Run:
    """The run, in which every picture is known to be a duplicate or none; where that is asked for.

    What was found before is kept: pictures of a later listing are duplicates of those before.
    `readers`: threads. Raises `DatasetError` for what was found and cannot be read any more, and
    `OutputError`.
    """
    if not run.state.asked.dedupe or all(part.contents for part in run.state.parts):
        return run
    parts: list[Part] = []
    before: list[Digests] = []
    for index, part in enumerate(run.state.parts):
        if part.contents is not None:
            with (
                reading(f"{run.tree.name}/{part.contents.file}"),
                run.tree.open(part.contents.file) as stream,
            ):
                before.append(read_digests(stream))
            parts.append(part)
            continue
        before.append(_digests(run, index, readers))
        parts.append(part.model_copy(update={"contents": _written(run, index, before)}))
        run = with_parts(run, (*parts, *run.state.parts[index + 1 :]))
    return run


def _digests(run: Run, index: int, readers: int) -> Digests:
    """Of the pictures of a listing."""
    reader = open_reader(run.state.place, run.state.asked.limits.max_pixels)
    part = run.state.parts[index]
    found = bytearray()
    with (
        progress("Hashing", part.pictures, "images") as meter,
        ThreadPoolExecutor(min(readers, reader.threads or readers), "hash") as pool,
    ):
        first = sum(each.shards for each in run.state.parts[:index])
        for shard in range(first, first + part.shards):
            for digest in pool.map(partial(_digest, reader), run.items(shard)):
                found += digest
                meter.advance()
    return np.frombuffer(found, f"S{DIGEST}")


def _digest(reader: Reader, item: Item) -> bytes:
    if item.problem is not None:
        return bytes(DIGEST)
    try:
        content = reader.read(item)
    except ImageError:  # which will be this picture's failure
        return bytes(DIGEST)
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    # Frames of one colour have the same bytes in every shape.
    return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).digest()


def _written(run: Run, index: int, digests: list[Digests]) -> Contents:
    """Keep what is known of the last listing of these, `index`."""
    state, size = run.state, run.state.asked.shard_size
    starts = np.cumsum([0, *(part.shards * size for part in state.parts)])
    rows = np.concatenate(
        [start + np.arange(len(each)) for start, each in zip(starts, digests, strict=False)]
    )
    own = slice(len(rows) - len(digests[-1]), None)
    first = first_rows(np.concatenate(digests), rows)[own]
    file = state.parts[index].file.replace(".parquet", ".contents.parquet")
    with run.tree.scratch() as folder, writing_to(f"{run.tree.name}/{file}"):
        path = folder / "contents.parquet"
        write_contents(path, digests[-1], first, rows[own], size)
        about = describe(path)
        run.tree.place(path, file)
    return Contents(file=file, about=about)
