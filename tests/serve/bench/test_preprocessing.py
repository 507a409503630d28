from __future__ import annotations

from dataclasses import dataclass

import pytest
import tiny_bundle as tiny
from bench_bundle import PICTURE

from clsspec_serve.bench import preprocessing as module
from clsspec_serve.bench.preprocessing import SECONDS, time_preprocessing
from clsspec_serve.errors import ImageError
from clsspec_serve.request import Request


@dataclass
class Slow:
    """`prepare` that takes so many seconds of its own clock, after a longer first time."""

    seconds: float
    now: float = 0.0
    calls: int = 0

    def clock(self) -> float:
        return self.now

    def prepare(self, manifest: object, picture: bytes, request: Request) -> object:
        self.now += self.seconds if self.calls else 100
        self.calls += 1
        return PREPARE(tiny.tiny_manifest(), picture, request)


PREPARE = module.prepare


@pytest.mark.parametrize(("seconds", "runs"), [(0.2, 3), (2 * SECONDS, 1)])
def test_a_picture_is_prepared_until_the_time_is_over(
    seconds: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(seconds)
    monkeypatch.setattr(module, "prepare", slow.prepare)
    found = time_preprocessing(
        tiny.tiny_manifest(), PICTURE.read_bytes(), (28, 56), clock=slow.clock
    )
    assert found.times.runs == pytest.approx([seconds] * runs)
    assert (found.picture, found.shown) == ((400, 600), (28, 56))


def test_it_says_what_the_model_is_shown() -> None:
    """Under `fit` a picture keeps its aspect ratio, whatever the size that is asked for."""
    manifest = tiny.tiny_manifest()
    preprocessing = manifest.preprocessing.model_copy(update={"policy": "fit"})
    manifest = manifest.model_copy(update={"preprocessing": preprocessing})
    found = time_preprocessing(manifest, PICTURE.read_bytes(), (70, 70))
    assert found.shown == (56, 84)
    assert found.times.median > 0


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(ImageError):
        time_preprocessing(tiny.tiny_manifest(), b"no picture", (28, 28))
