"""A run's folder: what is to be done, what is done, and that it is still the same run.

run.json              what is asked, the fingerprint, the layout, and the listings that there are
listing/0.parquet     the pictures, in order; --append adds 1.parquet, ...
rows/, samples/, NAME.zarr/    the results, see `sinks`
shards/000000.json    the record of a shard that is done
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.codecs.calibration import Calibration
from clsspec_serve.dataset.codecs.maps import Kept
from clsspec_serve.dataset.contents import UNKNOWN, Content, read_shard
from clsspec_serve.dataset.fingerprint import differences
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.listing import Item, Listing, added, difference, write_listing
from clsspec_serve.dataset.shards import Record, read_records
from clsspec_serve.dataset.sinks.maps import write_metadata
from clsspec_serve.dataset.sources.source import Place, Source
from clsspec_serve.dataset.trees.tree import Tree, reading, writing_to
from clsspec_serve.errors import DatasetError, OutputError
from clsspec_serve.manifest import File
from clsspec_serve.schema import Count, Positive, Strict

STATE = "run.json"
SCHEMA_VERSION = 1
_PLACES = ("source", "place", "model")
"""What may have moved since a run was begun."""


class Contents(Strict):
    """What is known of the bytes of a listing's pictures: the file that says it."""

    file: str
    about: File


class Part(Strict):
    """A listing: its file, how many pictures and shards it has, and the sha256 of what it says.

    `contents`: once they are known, where duplicates are looked for.
    """

    file: str
    pictures: Count
    shards: Count
    sha256: str
    contents: Contents | None = None


class State(Strict):
    """What `run.json` says: enough for any machine that reaches these places to compute a shard.

    `source`, `model`: as they were named, the model's folder as an absolute path; None is the
    embedded one. `place`: where the pictures are. `vectors`, `maps`, `files`: see `Layout`.
    `calibration`: of the codec, once it has been found.
    """

    schema_version: int = SCHEMA_VERSION
    source: str
    place: Place
    model: str | None
    asked: Asked
    fingerprint: dict[str, str]
    vectors: dict[str, Positive]
    maps: dict[str, Kept]
    files: dict[str, str]
    calibration: Calibration | None = None
    parts: tuple[Part, ...]

    @property
    def shards(self) -> int:
        """How many there are in all."""
        return sum(part.shards for part in self.parts)

    @property
    def pictures(self) -> int:
        """How many there are in all."""
        return sum(part.pictures for part in self.parts)

    @property
    def known(self) -> dict[str, File]:
        """The files that are found before the first shard: of the codec, and of duplicates."""
        bases = self.calibration.files if self.calibration else {}
        contents = [part.contents for part in self.parts if part.contents]
        return {**bases, **{each.file: each.about for each in contents}}

    def lengths(self) -> Iterator[int]:
        """How many pictures each shard has; the last one of a listing may have fewer."""
        size = self.asked.shard_size
        for part in self.parts:
            for first in range(0, part.pictures, size):
                yield min(size, part.pictures - first)


@dataclass(frozen=True)
class Run:
    """A run that can be worked on."""

    tree: Tree
    state: State

    def items(self, shard: int) -> list[Item]:
        """The pictures of a shard, in order."""
        part, index = self._part(shard)
        with self._listing(part) as listing:
            return listing.shard(index)

    def contents(self, shard: int) -> list[Content]:
        """What is known of the bytes of a shard's pictures, in order."""
        part, index = self._part(shard)
        if part.contents is None:
            size = self.state.asked.shard_size
            return [UNKNOWN] * min(size, part.pictures - index * size)
        file = part.contents.file
        with reading(f"{self.tree.name}/{file}"), self.tree.open(file) as stream:
            return read_shard(stream, index)

    def all_items(self) -> Iterator[Item]:
        """The pictures of all shards."""
        for part in self.state.parts:
            with self._listing(part) as listing:
                yield from listing

    def records(self) -> dict[int, Record]:
        """Of the shards that are done."""
        return read_records(self.tree)

    def _part(self, shard: int) -> tuple[Part, int]:
        """The listing that a shard is of, and which one of its shards it is."""
        for part in self.state.parts:
            if shard < part.shards:
                return part, shard
            shard -= part.shards
        raise IndexError(shard)

    @contextmanager
    def _listing(self, part: Part) -> Iterator[Listing]:
        with reading(f"{self.tree.name}/{part.file}"), self.tree.open(part.file) as stream:
            yield Listing(stream)


def is_run(tree: Tree) -> bool:
    """Whether a folder is a run's; raises `DatasetError` where that cannot be told."""
    with reading(f"{tree.name}/{STATE}"):
        return tree.exists(STATE)


def require_new(tree: Tree) -> None:
    """Raise `OutputError` for a folder that has files and is no run's."""
    with reading(tree.name):
        used = tree.exists("") and next(tree.walk(), None) is not None
    if used:
        raise OutputError(f"{tree.name} has files and no {STATE}; accepted is a new folder")


def begin(tree: Tree, state: State) -> None:
    """Make a new folder that of a run, without pictures so far; raises `OutputError`."""
    require_new(tree)
    _write_state(tree, state)


def resume(tree: Tree, source: Source, layout: Layout, now: State, *, append: bool = False) -> Run:
    """Go on with a run: list its pictures, or see that they are the same.

    `now`: what the run would be if it were begun anew. Raises `DatasetError` where its fingerprint
    or the source is not the same any more, and says in what. With `append` pictures that are new in
    the source are added as further shards.
    """
    state = read_state(tree)
    found = differences(state.fingerprint, now.fingerprint)
    if found:
        raise DatasetError(f"{tree.name} was begun otherwise: {'; '.join(found.values())}")
    moved = state.model_copy(update={name: getattr(now, name) for name in _PLACES})
    if moved != state:
        _write_state(tree, moved)
    run = _listed(Run(tree, moved), source, append)
    write_metadata(tree, layout, run.state.shards, run.state.asked.shard_size)
    return run


def calibrate(run: Run, found: Calibration) -> Run:
    """The run with what was found of its codec; raises `OutputError`."""
    state = run.state.model_copy(update={"calibration": found})
    _write_state(run.tree, state)
    return Run(run.tree, state)


def with_parts(run: Run, parts: tuple[Part, ...]) -> Run:
    """The run with what is known of its listings; raises `OutputError`."""
    state = run.state.model_copy(update={"parts": parts})
    _write_state(run.tree, state)
    return Run(run.tree, state)


def _listed(run: Run, source: Source, append: bool) -> Run:
    tree, state = run.tree, run.state
    shard_size = state.asked.shard_size
    with tree.scratch() as folder:
        file = folder / "listing.parquet"
        now = _list(source.items(), file, len(state.parts), shard_size)
        if not now.pictures:
            raise DatasetError(f"{state.source}: has no pictures")
        if [now.sha256] == [part.sha256 for part in state.parts]:
            return run
        if state.parts:
            with file.open("rb") as stream:
                listed = Listing(stream)
                if not append:
                    words = difference(run.all_items(), listed)
                    if words is None:
                        return run
                    raise DatasetError(
                        f"{state.source} is not what it was when {tree.name} was begun: {words}; "
                        "--append takes new pictures"
                    )
                file = folder / "more.parquet"
                new = added(run.all_items(), listed)
                now = _list(new, file, len(state.parts), shard_size)
        if not now.pictures:
            return run
        tree.place(file, now.file)
    # The last step: from here on there are more pictures.
    return with_parts(run, (*state.parts, now))


def open_run(tree: Tree) -> Run:
    """A run as it is; raises `DatasetError`."""
    return Run(tree, read_state(tree))


def read_state(tree: Tree) -> State:
    """What `run.json` says; raises `DatasetError`."""
    with reading(f"{tree.name}/{STATE}"):
        return State.model_validate_json(tree.read(STATE))


def _list(items: Iterator[Item], file: Path, number: int, shard_size: int) -> Part:
    with writing_to(str(file)):
        listed = write_listing(items, file, shard_size)
    shards = -(-listed.count // shard_size)
    name = f"listing/{number}.parquet"
    return Part(file=name, pictures=listed.count, shards=shards, sha256=listed.sha256)


def _write_state(tree: Tree, state: State) -> None:
    tree.write(STATE, state.model_dump_json(indent=1).encode() + b"\n")
