"""Windows of several pictures share forward passes, and each is answered as if alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dense_network as network
import numpy as np
import pytest
import tiny_bundle as tiny
from blotches import Pixels, picture
from dense_network import Backbone, Heads
from hypothesis import given, settings
from hypothesis import strategies as st

from clsspec_serve import Model, preparation


def same(found: Any, alone: Any) -> None:
    assert found.geometry == alone.geometry
    assert list(found.arrays) == list(alone.arrays)
    for name, array in alone.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


@settings(max_examples=40, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(10, 90), st.integers(10, 90)), max_size=6),
    batch_size=st.integers(1, 7),
    window=st.sampled_from([0, 14, 20, 33]),
    flip=st.booleans(),
    policy=st.sampled_from(["short", "fit", "squash", "crop"]),
)
def test_pictures_together_are_answered_as_each_alone(
    tmp_path_factory: pytest.TempPathFactory,
    sides: list[tuple[int, int]],
    batch_size: int,
    window: int,
    flip: bool,
    policy: Any,
) -> None:
    folder = tiny.write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    backbone = Backbone()
    model = network.model(folder, backbone, Heads())
    pictures = [picture(*side, seed) for seed, side in enumerate(sides)]
    options: dict[str, Any] = {
        "tasks": ("segment", "depth"),
        "size": (30, 30),
        "window": window,
        "flip": flip,
        "policy": policy,
    }
    found = list(model.predict(pictures, batch_size=batch_size, **options))
    assert max((shape[0] for shape, _ in backbone.runs), default=0) <= batch_size
    assert len(found) == len(pictures)
    for prediction, pixels in zip(found, pictures, strict=True):
        same(prediction, model(pixels, **options))


def test_windows_of_several_pictures_share_a_forward_pass(model: Model, backbone: Backbone) -> None:
    # In windows of 42, one every 21, 42 x 84 are three, and 63 x 42 are two.
    wide, tall = picture(42, 84), picture(63, 42)
    options: dict[str, Any] = {"size": (42, 42), "window": 42, "stride": 21}
    list(model.predict([wide, wide, tall, wide], batch_size=4, tasks=("segment",), **options))
    assert [shape for shape, _ in backbone.runs] == [(n, 4, 42, 42) for n in (4, 4, 3)]
    backbone.runs.clear()
    # At once they are of two shapes.
    options |= {"window": 0, "stride": None}
    list(model.predict([wide, wide, tall, wide], batch_size=4, tasks=("segment",), **options))
    assert [shape for shape, _ in backbone.runs] == [
        (2, 4, 42, 84),
        (1, 4, 70, 42),
        (1, 4, 42, 84),
    ]


def test_a_refused_picture_between_windows_leaves_the_others_alone(model: Model) -> None:
    images: list[Any] = [picture(40, 60, 0), b"no image", picture(40, 60, 1), b"", picture(60, 40)]
    options: dict[str, Any] = {"tasks": ("segment",), "size": (30, 30), "window": 20, "flip": True}
    refused: list[bytes] = []
    for batch_size in (1, 2, 5, 8, 100):
        refused.clear()
        found = list(
            model.predict_each(
                images, lambda image, _: refused.append(image), batch_size=batch_size, **options
            )
        )
        assert refused == [b"no image", b""]
        assert [id(image) for image, _ in found] == [id(images[n]) for n in (0, 2, 4)]
        for image, prediction in found:
            same(prediction, model(image, **options))


def test_pictures_are_read_no_further_than_the_batch_at_hand(model: Model) -> None:
    seen: list[int] = []

    def pictures() -> Iterator[Pixels]:
        for index in range(9):
            seen.append(index)
            yield picture(40, 60)

    # Two windows and their mirror images: a picture fills a batch.
    options: dict[str, Any] = {"tasks": ("segment",), "size": (28, 42), "policy": "squash"}
    found = model.predict(pictures(), batch_size=4, window=28, stride=14, flip=True, **options)
    next(found)
    assert len(seen) <= 2
    next(found)
    assert len(seen) <= 3


def test_windows_are_cut_as_the_network_takes_them(
    model: Model, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    ahead: list[int] = []
    cut, run = preparation.cut, backbone.run

    def counted(*given: Any) -> Iterator[Pixels]:
        for view in cut(*given):
            made.append(1)
            yield view

    def watched(inputs: Any, outputs: Any) -> Any:
        ahead.append(len(made) - sum(shape[0] for shape, _ in backbone.runs))
        return run(inputs, outputs)

    monkeypatch.setattr(preparation, "cut", counted)
    monkeypatch.setattr(backbone, "run", watched)
    list(
        model.predict(
            [picture(90, 90), picture(90, 90)],
            batch_size=5,
            tasks=("segment",),
            size=(90, 90),
            window=20,
            stride=10,
        )
    )
    assert len(made) == 2 * 8 * 8
    # A batch, and the one view that told that it is full.
    assert max(ahead) <= 6
