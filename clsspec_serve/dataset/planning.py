"""What a run will take, before it begins: counted from its listing, and measured on a sample."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path, PurePosixPath

import numpy as np

from clsspec_serve.bundle import Bundle
from clsspec_serve.dataset.batch import Settings, begun
from clsspec_serve.dataset.calibrating import calibrated
from clsspec_serve.dataset.codecs.calibration import Calibration, copy_bases
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.run import STATE, Run, begin, is_run, open_run, require_new, resume
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.runner import News
from clsspec_serve.dataset.sampling import sampled
from clsspec_serve.dataset.shards import Record, read_records
from clsspec_serve.dataset.sinks.maps import array_path, index_bytes
from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.source import Place
from clsspec_serve.dataset.trees.local import LocalTree
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.trees.tree import Tree, reading
from clsspec_serve.dataset.vectors import has_vectors, vectors_path
from clsspec_serve.progress import progress

SAMPLE = 50
"""Pictures, about: two shards of whole batches."""
_TIMED = 8
"""Fewer pictures than these tell no speed."""
_NPY = 128
"""Bytes before the values of a `.npy`."""


@dataclass(frozen=True)
class Sample:
    """Pictures that were computed: how many, those that failed by kind, and bytes of each.

    `sizes`: by folder. `rate`: pictures in a second while the second half was computed, None where
    there were too few. `slowest`: the stage that the others waited for, where it took long enough
    to tell.
    """

    pictures: int
    failures: Mapping[str, int]
    sizes: Mapping[str, float]
    rate: float | None
    slowest: str


@dataclass(frozen=True)
class Plan:
    """What there is, and what is still to come.

    `pictures`, `shards`: in all, of which `pictures_done`, `shards_done` are done. `files`,
    `sizes`: still to be written; the latter in bytes, by folder or file, exact for arrays and from
    the sample for the rest. `free`: bytes, None where that is not known. `sample`: None where
    nothing is to be computed. `coming`: pictures that are to be computed, without those that are
    known to be duplicates. `unsearched`: whether the run is still to look for these. `calibration`:
    of the codec, where there is one.
    """

    pictures: int
    shards: int
    pictures_done: int
    shards_done: int
    files: int
    sizes: Mapping[str, int]
    free: int | None
    sample: Sample | None
    coming: int
    unsearched: bool
    calibration: Calibration | None

    @property
    def size(self) -> int:
        """Bytes that are still to be written, in all."""
        return sum(self.sizes.values())


def plan(bundle: Bundle, settings: Settings, runner: Here) -> Plan:
    """See what a run would do; nothing is written but to a temporary folder of this machine.

    Raises what `work_off` raises before its first shard, but for failures of an earlier time.
    """
    source = find_source(settings.source, settings.asked.column, settings.asked.fps)
    state, layout = begun(bundle, settings, source, runner.gpu)
    tree = open_tree(settings.out)
    with tempfile.TemporaryDirectory() as folder:
        draft = _Draft(Path(folder) / "run", tree.name)
        if is_run(tree):
            _copy(tree, draft)
        else:
            require_new(tree)
            begin(draft, state)
        run = resume(draft, source, layout, state, append=settings.append)
        run = calibrated(run, layout, lambda: runner.model)
        lengths = dict(enumerate(run.state.lengths()))
        done = read_records(tree).keys()
        pending = {shard: count for shard, count in lengths.items() if shard not in done}
        passing = {shard: _passing(run, shard, count) for shard, count in pending.items()}
        sample = _sample(run, pending, layout, runner, folder) if any(passing.values()) else None
    with reading(tree.name):
        free = tree.free()
    maps = {array_path(name): each.size for name, each in layout.maps.items()}
    there = has_vectors(tree, layout.vectors)
    # One that is there grows with the shards, and is otherwise left.
    needed = bool(pending) or not there if settings.npy else there and bool(pending)
    arrays = _bytes_of_arrays(layout, lengths, state.asked.shard_size) if needed else {}
    coming = sum(pending.values())
    size = state.asked.shard_size
    other = {name: ceil(coming * each) for name, each in (sample.sizes if sample else {}).items()}
    passed = sum(passing.values())
    exact = {name: passed * each + len(pending) * index_bytes(size) for name, each in maps.items()}
    sizes = {**other, **exact} if pending else {}
    return Plan(
        pictures=run.state.pictures,
        shards=run.state.shards,
        pictures_done=run.state.pictures - coming,
        shards_done=run.state.shards - len(pending),
        files=len(pending) * (len(sizes) + 1) + len(arrays),
        sizes=sizes | arrays,
        free=free,
        sample=sample,
        coming=passed,
        unsearched=state.asked.dedupe and not all(part.contents for part in run.state.parts),
        calibration=run.state.calibration,
    )


def _passing(run: Run, shard: int, pictures: int) -> int:
    """How many pictures of a shard are computed, as far as that is known."""
    if not run.state.asked.dedupe:
        return pictures
    return sum(each.duplicate_of is None for each in run.contents(shard))


class _Draft(LocalTree):
    """A run's folder as it would be; in messages it has the name of the real one."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self._name = name

    @property
    def name(self) -> str:
        return self._name


def _copy(tree: Tree, draft: Tree) -> None:
    """What a run says of itself, its listings, and what was found before its first shard."""
    state = open_run(tree).state
    for path in (STATE, *(part.file for part in state.parts), *state.known):
        with reading(f"{tree.name}/{path}"):
            draft.write(path, tree.read(path))


@dataclass(frozen=True)
class _Chosen:
    """A source of some pictures of another one."""

    place: Place
    chosen: tuple[Item, ...]

    def items(self) -> Iterator[Item]:
        return iter(self.chosen)


def _sample(
    run: Run, shards: Mapping[int, int], layout: Layout, runner: Here, folder: str
) -> Sample:
    """A run over a few pictures, in two shards; the second one's time is that of a long run."""
    batch = run.state.asked.batch_size
    half = min(max(1, SAMPLE // 2 // batch) * batch, ceil(sum(shards.values()) / 2))
    chosen = tuple(job.item for job, _ in sampled(run, shards, 2 * half))
    half = min(half, ceil(len(chosen) / 2))
    asked = run.state.asked.model_copy(update={"shard_size": half, "dedupe": False})
    state = run.state.model_copy(update={"asked": asked, "parts": ()})
    tree = LocalTree(Path(folder) / "sample")
    begin(tree, state)
    if state.calibration:
        copy_bases(run.tree, tree, state.calibration)
    small = resume(tree, _Chosen(state.place, chosen), layout, state)
    found: list[tuple[float, Record]] = []
    slowest = ""
    with progress("Sampling", len(chosen), "images") as meter:

        def tell(news: News) -> None:
            nonlocal slowest
            slowest = news.slowest or slowest
            meter.advance(news.pictures)

        def done(record: Record) -> None:
            found.append((time.monotonic(), record))

        runner.run(small, range(small.state.shards), tell, done)
    failures: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for _, record in found:
        failures.update(record.failures)
        for path, file in record.files.items():
            sizes[PurePosixPath(path).parts[0]] += file.size
    rate = None
    if len(found) == 2 and found[1][1].pictures >= _TIMED:
        (before, _), (after, last) = found
        rate = last.pictures / (after - before)
    each = {name: size / len(chosen) for name, size in sizes.items()}
    return Sample(len(chosen), failures, each, rate, slowest)


def _bytes_of_arrays(layout: Layout, lengths: Mapping[int, int], shard_size: int) -> dict[str, int]:
    """Of `NAME.npy`."""
    last = len(lengths) - 1
    rows = last * shard_size + lengths[last]
    itemsize = np.dtype(layout.dtype).itemsize
    return {
        vectors_path(name): _NPY + rows * width * itemsize for name, width in layout.vectors.items()
    }
