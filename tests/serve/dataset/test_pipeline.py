"""Which pictures share a forward pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bounded import within
from dataset_sources import as_folder, computed, picture, rows
from http_server import observed

from clsspec_serve import load
from clsspec_serve.dataset import writer
from clsspec_serve.dataset.pipeline import LOOK_AHEAD
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.working import Threads, pipeline_of, work
from clsspec_serve.errors import OutputError

BATCH = 4
WIDE, HIGH = (28, 56), (56, 28)


def passes(bundle: Path, folder: Path, sizes: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The shapes of the forward passes over one shard of pictures of these sizes."""
    pictures = {f"{index:03}.png": picture(index, *size) for index, size in enumerate(sizes)}
    source, out = as_folder(folder / "set", pictures), folder / "out"
    seen: list[tuple[int, ...]] = []
    model = observed(bundle, lambda inputs: seen.append(inputs["pixels"].shape))
    options = {"policy": "fit", "size": (42, 42), "shard_size": len(sizes), "batch_size": BATCH}
    computed(bundle, source, out, runner=Here(model, Threads(2, 2)), **options)
    alone = load(bundle, threads=1)
    for row, content in zip(rows(out), pictures.values(), strict=True):
        expected = alone(content, policy="fit", size=(42, 42)).cls
        np.testing.assert_array_equal(np.float32(row["cls"]), expected)
    return seen


def test_pictures_of_two_shapes_fill_batches_of_their_own(bundle: Path, tmp_path: Path) -> None:
    shapes = passes(bundle, tmp_path, [WIDE, HIGH] * 10)
    assert [count for count, *_ in shapes] == [4, 4, 4, 4, 2, 2]
    assert len({shape[2:] for shape in shapes}) == 2


def test_a_picture_of_a_rare_shape_is_not_waited_for_to_the_end(
    bundle: Path, tmp_path: Path
) -> None:
    far = LOOK_AHEAD * BATCH
    shapes = passes(bundle, tmp_path, [HIGH] + [WIDE] * (far + 3) + [HIGH])
    counts = [count for count, *_ in shapes]
    rare = [index for index, shape in enumerate(shapes) if shape[2] > shape[3]]
    assert counts[rare[0]] == counts[rare[1]] == 1
    assert rare[0] == LOOK_AHEAD
    assert sum(counts) == far + 5


def test_a_shard_that_cannot_be_put_in_place_ends_work_that_waits_for_more(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the next shard may never come, nor a row of it."""
    source, out = as_folder(tmp_path / "set", {"1.png": picture(1)}), tmp_path / "out"
    computed(bundle, source, out)
    (out / "shards" / "000000.json").unlink()
    run = open_run(open_tree(str(out)))
    pipeline = pipeline_of(run, load(bundle, threads=1), Threads(1, 1))

    def given() -> Iterator[int]:
        yield 0
        while not pipeline.failed:
            time.sleep(0.01)

    def full(*_: object) -> None:
        raise OutputError("no room")

    monkeypatch.setattr(writer, "write_record", full)
    with pytest.raises(OutputError, match="no room"):
        within(
            30,
            lambda: work(run, pipeline, given(), seen=lambda row: None, done=lambda record: None),
        )
