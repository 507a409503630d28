"""Runs of several workers: the same bytes as one, and what becomes of those that are lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from command_line import tree
from dataset_sources import as_folder, computed, named

from clsspec_serve.dataset.runners import processes, replicas
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.runners.replicas import AHEAD, LOSSES, Lost, spread
from clsspec_serve.dataset.runners.runner import News
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.worker import Resources
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, OutputError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}
TWO = Processes([Resources(1, Threads(2, 1))] * 2)
PICTURES = 4
"""Of each shard of a worker that is made up."""

Answer = Callable[[int], Record]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Forty pictures, of which the seventh is none."""
    return as_folder(tmp_path / "set", named(40) | {"006.png": b"no picture"})


def test_two_processes_give_the_bytes_of_one(bundle: Path, source: Path, tmp_path: Path) -> None:
    first = computed(bundle, source, tmp_path / "one", OPTIONS)
    second = computed(bundle, source, tmp_path / "two", OPTIONS, runner=TWO)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert (second.computed, second.failures) == (first.computed, first.failures)
    assert computed(bundle, source, tmp_path / "two", OPTIONS, runner=TWO).computed == 0


def test_too_many_failures_in_processes_end_the_run_which_goes_on_elsewhere(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"1 picture failed, the last one 006\.png: is not an"):
        computed(bundle, source, tmp_path / "two", OPTIONS, runner=TWO, max_errors=0)
    assert not list((tmp_path / "two").glob(".clsspec-*"))
    computed(bundle, source, tmp_path / "two", OPTIONS)
    computed(bundle, source, tmp_path / "one", OPTIONS)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_processes_that_are_killed_are_replaced(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    killed: list[int] = []

    class Child(processes._Child):
        def __init__(self, out: str, resources: Resources) -> None:
            super().__init__(out, resources)
            started.append(self._process.pid or 0)

        def compute(self, shard: int) -> Future[Record]:
            record = super().compute(shard)
            if shard in (1, 6) and len(killed) < 2:
                killed.append(self._process.pid or 0)
                os.kill(killed[-1], signal.SIGKILL)
            return record

    monkeypatch.setattr(processes, "_Child", Child)
    computed(bundle, source, tmp_path / "two", OPTIONS, runner=TWO)
    computed(bundle, source, tmp_path / "one", OPTIONS)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert len(killed) == 2
    assert len(started) == 4


def test_a_worker_that_would_give_other_bytes_is_refused(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment reaches only the workers, which then have another decoder."""
    (tmp_path / "sitecustomize.py").write_text(
        "from PIL import features\nfeatures.version = lambda name: '9.9'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DatasetError, match=r"computes otherwise: decoders was .* libjpeg_turbo 9"):
        computed(bundle, source, tmp_path / "out", OPTIONS, runner=TWO)


def test_what_a_worker_cannot_write_is_the_runs_error(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DatasetError):
        computed(bundle, source, out, OPTIONS, max_errors=0)
    for each in ("000000.json", "000001.json"):
        (out / "shards" / each).unlink(missing_ok=True)
    shutil.rmtree(out / "rows")
    (out / "rows").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*/out/rows/00000\d\.parquet: "):
        computed(bundle, source, out, OPTIONS, runner=TWO)


class MadeUp:
    """A worker that answers at once, by `answer`; `close` is remembered."""

    def __init__(self, answer: Answer, beginning: BaseException | None = None) -> None:
        self.ready: Future[None] = Future()
        if beginning is None:
            self.ready.set_result(None)
        else:
            self.ready.set_exception(beginning)
        self._answer, self._news = answer, News()
        self.closed = False
        self.given: list[int] = []

    def compute(self, shard: int) -> Future[Record]:
        record: Future[Record] = Future()
        self.given.append(shard)
        try:
            record.set_result(self._answer(shard))
            self._news += News(PICTURES)
        except BaseException as error:
            # Half of its pictures were told of.
            self._news += News(PICTURES // 2)
            record.set_exception(error)
        return record

    def news(self) -> News:
        news, self._news = self._news, News()
        return news

    def close(self) -> None:
        self.closed = True


def recorded(shard: int) -> Record:
    return Record(shard=shard, pictures=PICTURES, files={})


def told(workers: list[MadeUp], replicas: int, shards: int) -> tuple[list[int], int]:
    """The shards that were recorded, in that order, and how many pictures were told of."""
    remaining, done, pictures = iter(workers), [], 0

    def tell(news: News) -> None:
        nonlocal pictures
        pictures += news.pictures

    spread(
        [lambda: next(remaining)] * replicas,
        range(shards),
        tell,
        lambda record: done.append(record.shard),
    )
    return done, pictures


def test_shards_are_handed_out_a_few_at_a_time() -> None:
    workers = [MadeUp(recorded), MadeUp(recorded)]
    done, pictures = told(workers, 2, 7)
    assert sorted(done) == list(range(7))
    assert pictures == 7 * PICTURES
    assert workers[0].given[:AHEAD] == [0, 2]
    assert workers[1].given[:AHEAD] == [1, 3]
    assert all(worker.closed for worker in workers)


def test_shards_of_a_lost_worker_are_the_next_ones_and_its_pictures_do_not_count() -> None:
    def lost(shard: int) -> Record:
        raise Lost("by design")

    workers = [MadeUp(lost), MadeUp(recorded)]
    done, pictures = told(workers, 1, 5)
    assert done == [0, 1, 2, 3, 4]
    assert pictures == 5 * PICTURES
    assert workers[0].closed


def test_a_shard_that_ends_every_worker_ends_the_run() -> None:
    def poisoned(shard: int) -> Record:
        if shard == 3:
            raise Lost("ended with signal SIGSEGV")
        return recorded(shard)

    workers = [MadeUp(poisoned) for _ in range(9)]
    with pytest.raises(DatasetError, match="shard 3 has lost 3 replicas; the last one ended with"):
        told(workers, 1, 9)
    assert sum(bool(worker.given) for worker in workers) == LOSSES


def test_workers_that_never_start_end_the_run() -> None:
    workers = [MadeUp(recorded, Lost("ended with exit code 1")) for _ in range(9)]
    with pytest.raises(DatasetError, match="3 replicas in a row did not start; the last one ended"):
        told(workers, 2, 4)


def test_what_a_worker_raises_ends_the_run_and_closes_the_others() -> None:
    def full(shard: int) -> Record:
        raise OutputError("no space")

    workers = [MadeUp(full), MadeUp(recorded)]
    with pytest.raises(OutputError, match="no space"):
        told(workers, 2, 4)
    assert all(worker.closed for worker in workers)
    refused = [MadeUp(recorded, DatasetError("another decoder"))]
    with pytest.raises(DatasetError, match="another decoder"):
        told(refused, 1, 4)


def test_no_more_workers_start_than_there_are_shards() -> None:
    assert told([MadeUp(recorded)], 8, 1) == ([0], PICTURES)


def test_the_run_waits_for_a_worker_that_is_long_in_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_SECONDS", 0.001)
    worker, looks = MadeUp(recorded), 0
    worker.ready = Future()
    news = worker.news

    def looked() -> News:
        nonlocal looks
        looks += 1
        if looks == 5:
            worker.ready.set_result(None)
        return news()

    monkeypatch.setattr(worker, "news", looked)
    assert told([worker], 1, 2) == ([0, 1], 2 * PICTURES)
