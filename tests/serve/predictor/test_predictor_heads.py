"""What is asked of the backbone and the heads for the tasks of a picture, and what comes back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dense_network as network
import head_bundle as by_hand
import numpy as np
import pytest
from blotches import Pixels, picture
from dense_network import Backbone, Heads
from PIL import Image

from clsspec_serve import Model, load
from clsspec_serve import predictor as module
from clsspec_serve.errors import BundleError, EngineError, UsageError
from clsspec_serve.heads import Category

SKY_AND_SEA = (Category(name="sky", colour=(0, 0, 0)), Category(name="sea", colour=(0, 0, 9)))


@pytest.mark.parametrize("policy", ["squash", "crop", "fit", "short"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 2)])
def test_tiny_pictures_are_answered_pixel_by_pixel(
    model: Model, policy: Any, size: tuple[int, int]
) -> None:
    found = model(picture(*size), tasks=("segment", "depth"), size=(40, 40), policy=policy)
    assert found.segment.shape == found.depth.shape == size
    if policy != "crop":
        assert found.segment.max() < network.CLASSES
        assert np.isfinite(found.depth).all()


def test_a_picture_that_lies_on_its_side_is_answered_upright(model: Model) -> None:
    pixels = picture(60, 90)
    stream, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(stream, "PNG", exif=tags)
    upright = np.ascontiguousarray(np.rot90(pixels, -1))
    options: dict[str, Any] = {"tasks": ("segment", "depth"), "size": (57, 57), "window": 40}
    found, expected = model(stream.getvalue(), **options), model(upright, **options)
    assert found.geometry.image == found.segment.shape == (90, 60)
    np.testing.assert_array_equal(found.segment, expected.segment)
    np.testing.assert_array_equal(found.depth, expected.depth)


def test_one_forward_pass_serves_all_tasks(model: Model, backbone: Backbone, heads: Heads) -> None:
    pixels = picture(50, 70)
    tasks = ("cls", "patches", "segment", "depth", "classify")
    found = model(pixels, tasks=tasks, size=(56, 56))
    assert list(found.arrays) == list(tasks)
    ((shape, outputs),) = backbone.runs
    assert shape == (1, 4, 56, 84)
    assert sorted(outputs) == ["cls", "cls_0_raw", "patches", "patches_0_raw"]
    assert [(head.task, head.given) for head in heads.loaded] == [
        ("segment", [("patches",)]),
        ("depth", [("patches_0_raw", "cls_0_raw")]),
        ("classify", [("cls",)]),
    ]
    for task in tasks[2:]:
        assert len(found.arrays[task]) == len(getattr(found, task))
    np.testing.assert_allclose(found.classify, network.CLASSIFY @ found.cls, rtol=1e-5, atol=1e-6)
    for task in tasks:
        # The same in the frame of the first head; flip and windows are of a head alone.
        alone = model(pixels, tasks=(task,), size=(56, 56), policy="short", window=0, flip=False)
        np.testing.assert_array_equal(alone.arrays[task], found.arrays[task])


@pytest.mark.parametrize(
    ("tasks", "outputs", "loaded"),
    [
        (("segment",), ("patches",), ["segment"]),
        (("depth",), ("patches_0_raw", "cls_0_raw"), ["depth"]),
        (("classify",), ("cls",), ["classify"]),
        (("cls", "segment"), ("cls", "patches"), ["segment"]),
        (("cls", "patches"), ("cls", "patches"), []),
    ],
)
def test_only_what_is_needed_is_asked_of_the_engines(
    model: Model, backbone: Backbone, heads: Heads, tasks: Any, outputs: Any, loaded: list[str]
) -> None:
    found = model(picture(30, 30), tasks=tasks, size=(28, 28))
    assert {asked for _, asked in backbone.runs} == {outputs}
    assert [head.task for head in heads.loaded] == loaded
    assert tuple(found.arrays) == tasks
    with pytest.raises(UsageError, match="was not asked for; there are"):
        _ = found.depth if "depth" not in tasks else found.segment


def test_a_head_is_loaded_at_its_first_use_and_once(model: Model, heads: Heads) -> None:
    model.request(tasks=("segment",))
    assert heads.loaded == []
    for _ in range(3):
        model(picture(20, 20), tasks=("segment", "depth"), size=(28, 28))
    assert [head.task for head in heads.loaded] == ["segment", "depth"]


def test_the_features_beside_a_mirror_image_are_those_of_the_picture(model: Model) -> None:
    pixels = picture(40, 60)
    options: dict[str, Any] = {"tasks": ("cls", "patches", "depth"), "size": (30, 30)}
    both, straight = model(pixels, flip=True, **options), model(pixels, flip=False, **options)
    np.testing.assert_array_equal(both.patches, straight.patches)
    np.testing.assert_array_equal(both.cls, straight.cls)
    assert (both.depth != straight.depth).any()


def test_an_answer_that_is_not_finite_is_an_engine_error(model: Model, heads: Heads) -> None:
    model(picture(20, 20), tasks=("segment", "depth"), size=(28, 28))
    for head in heads.loaded:
        real = head.run
        head.run = lambda inputs, outputs, real=real: {  # type: ignore[method-assign]
            name: np.full_like(value, np.nan) for name, value in real(inputs, outputs).items()
        }
    for task in ("segment", "depth"):
        with pytest.raises(EngineError, match="finite"):
            model(picture(20, 20), tasks=(task,), size=(28, 28))


def test_tasks_without_a_head_are_refused_before_a_picture_is_read(model: Model) -> None:
    model.bundle = module.Bundle(
        model.bundle.path, model.manifest.model_copy(update={"heads": model.manifest.heads[1:]})
    )

    def pictures() -> Iterator[Pixels]:
        pytest.fail("a picture was read")
        yield picture(1, 1)

    with pytest.raises(UsageError, match="no head for segment; its heads are: depth, classify"):
        next(model.predict(pictures(), tasks=("segment",)))


@pytest.mark.parametrize(
    "head",
    [
        by_hand.segment_head(SKY_AND_SEA, np.ones((4, 3)), np.zeros(3)),
        by_hand.classify_head(("cat", "dog"), np.ones((4, 1)), np.zeros(1)),
    ],
    ids=lambda head: head.description.task,
)
def test_a_head_that_does_not_answer_as_described_is_refused(
    head: by_hand.HeadGraph, tmp_path: Path
) -> None:
    model = load(by_hand.write_head_bundle(tmp_path / "bundle", [head]))
    with pytest.raises(BundleError, match=r"the graph of the head for \w+ gives \(1, .*says \(1, "):
        model(picture(28, 42), tasks=(head.description.task,))
