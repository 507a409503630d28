"""Pictures of a finished shard computed once more, and compared with what it has stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from tarfile import TarError

import pyarrow as pa

from clsspec_serve.dataset.comparing import Comparing
from clsspec_serve.dataset.fingerprint import differences, fingerprint
from clsspec_serve.dataset.preparing import Job
from clsspec_serve.dataset.rows import Failure, Row
from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.sampling import sampled
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.stored import Stored
from clsspec_serve.dataset.working import Threads, codec_of, pipeline_of
from clsspec_serve.errors import DatasetError, one_line
from clsspec_serve.predictor import Model
from clsspec_serve.request import settle

_MAY_DIFFER = ("clsspec", "engine", "gpu", "decoders", "numpy")
_GONE = ("unreadable", "changed")


@dataclass
class Comparison:
    """What came of it.

    `pictures`: that were compared. `worst`: by answer, the largest difference, of masks a share of
    pixels. `problems`: what differs by more than is accepted, or cannot be read. `left`: why others
    were not compared.
    """

    pictures: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def other_versions(run: Run, model: Model) -> list[str]:
    """In what this machine differs from the one that the run was begun on, without being wrong.

    Raises `DatasetError` where the model is another one.
    """
    asked = run.state.asked
    request = settle(model.manifest, asked.options())
    gpu = None if model.gpu is None else model.gpu.name
    now = fingerprint(model.manifest, request, asked, run.state.place, gpu)
    found = differences(run.state.fingerprint, now)
    wrong = [words for name, words in found.items() if name not in _MAY_DIFFER]
    if wrong:
        raise DatasetError(f"{run.tree.name} was computed otherwise: {'; '.join(wrong)}")
    return list(found.values())


def recompute(
    run: Run, records: Mapping[int, Record], model: Model, threads: Threads, count: int
) -> Comparison:
    """Compute `count` pictures of these shards, in other batches than then, and compare them."""
    shards = {shard: records[shard].pictures for shard in sorted(records)}
    chosen = sampled(run, shards, count)
    places = iter(chosen)
    comparison = Comparison()
    comparing = Comparing(run.state, codec_of(run))
    stored: dict[int, Stored] = {}

    def compare(job: Job, now: Row) -> None:
        _, place = next(places)
        try:
            if job.shard not in stored:
                stored.clear()
                stored[job.shard] = Stored(run, job.shard)
            then = stored[job.shard].row(place, job.item)
        except (OSError, LookupError, ValueError, TarError, pa.ArrowException) as error:
            comparison.problems.append(
                f"{job.item.id}: what is stored cannot be read: {one_line(error)}"
            )
            return
        _compare(then, now, comparing, comparison)

    if chosen:
        pipeline_of(run, model, threads).run((job for job, _ in chosen), compare)
    return comparison


def _compare(then: Row, now: Row, comparing: Comparing, comparison: Comparison) -> None:
    name = now.item.id
    if now.failure is not None and now.failure.kind in _GONE and then.failure != now.failure:
        comparison.left.append(f"{name}: {now.failure.reason}")
        return
    if then.content != now.content:
        comparison.problems.append(f"{name}: was stored with other bytes, or of another original")
        return
    if now.content.duplicate_of is not None:
        return
    comparison.pictures += 1
    if then.failure is not None or now.failure is not None:
        if then.failure != now.failure:
            words = [_words(each.failure) for each in (then, now)]
            comparison.problems.append(f"{name}: was stored as {words[0]}, and is {words[1]}")
        return
    for answer, difference, limit in comparing(then, now):
        comparison.worst[answer] = max(difference, comparison.worst.get(answer, 0.0))
        if not difference <= limit:
            comparison.problems.append(
                f"{name}: {answer} differs by {difference:.1e}; accepted are {limit:.1e}"
            )


def _words(failure: Failure | None) -> str:
    return "an answer" if failure is None else f"{failure.kind} ({failure.reason})"
