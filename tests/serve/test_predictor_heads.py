"""Masks, depth and classes of pictures, against the official evaluations in PyTorch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dense_network as network
import head_bundle as by_hand
import numpy as np
import official_inference as official
import pytest
import tiny_bundle as tiny
import torch
from dense_network import PATCH, Backbone, Heads
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clsspec_serve import Model, load, preparation
from clsspec_serve import predictor as module
from clsspec_serve.errors import BundleError, EngineError, UsageError
from clsspec_serve.heads import Category

Pixels = NDArray[np.uint8]


@pytest.fixture
def backbone() -> Backbone:
    return Backbone()


@pytest.fixture
def heads() -> Heads:
    return Heads()


@pytest.fixture
def model(tiny_bundle: Path, backbone: Backbone, heads: Heads) -> Model:
    return network.model(tiny_bundle, backbone, heads)


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Blotches with edges, and noise: no two windows look alike."""
    rng = np.random.default_rng([height, width, seed])
    coarse = rng.integers(0, 256, (-(-height // 40), -(-width // 40), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-20, 21, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def resampled(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """Brought to (H, W) as the transform does, and normalised."""
    return network.normalised(
        np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    )


def agreement(found: NDArray[Any], values: Tensor, rounding: float) -> float:
    """The share of pixels with PyTorch's class; on the others two classes differ by rounding."""
    assert found.shape == values.shape[1:]
    winner = torch.from_numpy(found.astype(np.int64))[None]
    behind = values.amax(0) - values.gather(0, winner)[0]
    assert behind.max() <= rounding
    return float((behind == 0).float().mean())


SKY_AND_SEA = (Category(name="sky", colour=(0, 0, 0)), Category(name="sea", colour=(0, 0, 9)))

OFFICIAL = [(512, 512), (512, 683), (683, 512), (375, 500), (300, 900), (601, 433), (513, 512)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", OFFICIAL)
def test_a_head_alone_is_evaluated_as_officially(
    model: Model, backbone: Backbone, size: tuple[int, int], flip: bool
) -> None:
    pixels = picture(*size)
    shown = resampled(pixels, official.short_side(size, 512))
    values = official.segmentation(
        shown, network.official_segment, PATCH, size, (512, 341), flip=flip
    )
    found = model(pixels, tasks=("segment",), flip=flip).segment
    # 512 are padded to 518, whose answer is resized, not cropped.
    assert {shape[1:] for shape, _ in backbone.runs} == {(4, 518, 518)}
    share = agreement(found, values, 1e-6 if flip else 1e-5)
    print(f"{round(share * found.size)} of {found.size} pixels have PyTorch's class")
    assert share > 0.9999


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("size", "side", "windows"),
    [
        ((230, 310), 131, (100, 67)),
        ((230, 310), 131, (99, 33)),
        ((310, 230), 131, (84, 84)),
        ((97, 300), 57, (57, 19)),
        ((150, 101), 97, (512, 341)),
        ((97, 151), 97, (96, 1)),
        ((60, 60), 29, (14, 9)),
        ((230, 310), 131, None),
        ((101, 97), 57, None),
        ((1, 1), 33, None),
        ((1, 1), 33, (20, 10)),
        ((1, 7), 33, (33, 20)),
    ],
)
def test_other_windows_and_sizes_are_taken_alike(
    model: Model,
    size: tuple[int, int],
    side: int,
    windows: tuple[int, int] | None,
    flip: bool,
) -> None:
    pixels = picture(*size)
    window, stride = windows or (0, None)
    options: dict[str, Any] = {"size": (side, side), "window": window, "stride": stride}
    both = model(pixels, tasks=("segment", "depth"), flip=flip, **options)
    shown = resampled(pixels, official.short_side(size, side))
    values = official.segmentation(shown, network.official_segment, PATCH, size, windows, flip=flip)
    assert agreement(both.segment, values, 1e-6 if flip else 1e-5) > 0.999
    if windows and windows[0] >= max(shown.shape):
        windows = None
    metres = official.depth(shown, network.official_depth, PATCH, size, windows, flip=flip)
    np.testing.assert_allclose(both.depth, metres, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "asked"), [((480, 640), None), ((427, 640), None), ((300, 211), (123, 123))]
)
@pytest.mark.parametrize("flip", [None, True, False])
def test_depth_is_one_bilinear_step_from_the_grid(
    model: Model, size: tuple[int, int], asked: tuple[int, int] | None, flip: bool | None
) -> None:
    pixels = picture(*size)
    shown = resampled(pixels, official.short_side(size, min(asked or (480, 480))))
    expected = official.depth(shown, network.official_depth, PATCH, size, flip=flip is not False)
    found = model(pixels, tasks=("depth",), size=asked, flip=flip).depth
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("windows", [(0, None), (60, 41)])
@pytest.mark.parametrize("flip", [False, True])
def test_squash_shows_all_of_the_picture(
    model: Model, windows: tuple[int, int | None], flip: bool
) -> None:
    pixels = picture(120, 77)
    window, stride = windows
    options: dict[str, Any] = {"size": (98, 131), "policy": "squash"}
    found = model(
        pixels, tasks=("segment", "depth"), window=window, stride=stride, flip=flip, **options
    )
    shown = resampled(pixels, (98, 131))
    pair = (window, stride) if stride else None
    values = official.segmentation(
        shown, network.official_segment, PATCH, (120, 77), pair, flip=flip
    )
    assert agreement(found.segment, values, 1e-6 if flip else 1e-5) > 0.999
    metres = official.depth(shown, network.official_depth, PATCH, (120, 77), pair, flip=flip)
    np.testing.assert_allclose(found.depth, metres, rtol=0, atol=1e-5)


@pytest.mark.parametrize("windows", [(0, None), (50, 33)])
@pytest.mark.parametrize("flip", [False, True])
def test_of_a_crop_only_what_was_shown_is_answered(
    model: Model, windows: tuple[int, int | None], flip: bool
) -> None:
    pixels = picture(100, 160)
    window, stride = windows
    options: dict[str, Any] = {"size": (75, 75), "policy": "crop"}
    found = model(
        pixels, tasks=("segment", "depth"), window=window, stride=stride, flip=flip, **options
    )
    # 100 x 160 is resized to 75 x 120, of which the columns 22 to 97 are kept; a pixel is 0.75.
    shown = resampled(pixels, (75, 120))[:, :, :, 22:97]
    kept = [22 <= (x + 0.5) * 0.75 < 97 for x in range(160)]
    np.testing.assert_array_equal((found.segment != 255).all(axis=0), kept)
    np.testing.assert_array_equal((found.segment == 255).all(axis=0), np.logical_not(kept))
    np.testing.assert_array_equal(np.isfinite(found.depth).all(axis=0), kept)
    np.testing.assert_array_equal(np.isnan(found.depth).all(axis=0), np.logical_not(kept))
    # At 100 x 100 the kept part is on the picture's own pixels but for a shift of two thirds.
    middle = slice(kept.index(True) + 5, 160 - kept[::-1].index(True) - 5)
    pair = (window, stride) if stride else None
    fine = official.depth(shown, network.official_depth, PATCH, (300, 300), pair, flip=flip)
    # Three samples a pixel: the centre of pixel x is that of sample 3 x + 1 - 88.
    columns = [3 * x + 1 - 88 for x in range(160)][middle]
    np.testing.assert_allclose(found.depth[:, middle], fine[1::3][:, columns], rtol=0, atol=1e-5)
    values = official.segmentation(
        shown, network.official_segment, PATCH, (300, 300), pair, flip=flip
    )
    if not flip:
        assert agreement(found.segment[:, middle], values[:, 1::3][:, :, columns], 1e-5) > 0.999


def test_black_around_a_small_picture_is_shown_but_not_answered_for(model: Model) -> None:
    pixels = picture(40, 30)
    manifest = model.manifest
    head = manifest.heads[1]
    protocol = head.protocol.model_copy(
        update={"policy": "crop", "size": (70, 70), "resize": (30, 30)}
    )
    framed = head.model_copy(update={"protocol": protocol})
    model.bundle = module.Bundle(
        model.bundle.path, manifest.model_copy(update={"heads": (framed,)})
    )
    found = model(pixels, tasks=("depth",), flip=False).depth
    bordered = np.zeros((70, 70, 3), np.uint8)
    bordered[15:55, 20:50] = pixels
    metres = official.depth(network.normalised(bordered), network.official_depth, PATCH, (70, 70))
    np.testing.assert_allclose(found, metres[15:55, 20:50], rtol=0, atol=1e-5)


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
