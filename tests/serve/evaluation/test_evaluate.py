"""The way through an evaluation: a batch at a time, shown as is said, scored and put in words."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from empty_datasets import classification, segmentation
from head_bundle import (
    SOURCE,
    WHOLE,
    classify_head,
    depth_head,
    nearest_colour_head,
    write_head_bundle,
)
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve import load
from clsspec_serve.categories import categories
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.evaluation.classification_score import ClassificationResult
from clsspec_serve.evaluation.cls_neighbours import evaluate_neighbours
from clsspec_serve.evaluation.datasets.samples import (
    ClassificationDataset,
    DepthDataset,
    LabelledPicture,
)
from clsspec_serve.evaluation.datasets.windows import eigen
from clsspec_serve.evaluation.evaluate import evaluate, predict_all, protocol_of, spread
from clsspec_serve.evaluation.metrics import Metric, metrics_of
from clsspec_serve.evaluation.protocol import Shown, scored
from clsspec_serve.evaluation.segmentation_score import SegmentationResult
from clsspec_serve.heads import ClassificationHead, DepthHead, Protocol
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.predictor import Prediction

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@dataclass
class Watched:
    """A sample that says when its truth is read and let go of."""

    image: Path
    width: int
    alive: weakref.WeakSet[Any]
    most: list[int]

    def load(self) -> tuple[NDArray[np.uint8], Any]:
        truth = Truth(self.width)
        self.alive.add(truth)
        self.most.append(len(self.alive))
        return np.full((28, self.width, 3), self.width % 256, np.uint8), truth


class Truth:
    def __init__(self, width: int) -> None:
        self.width = width


@pytest.mark.parametrize("options", [{}, {"window": 14, "stride": 7, "flip": True}])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_no_more_than_a_batch_is_in_memory_and_truths_stay_with_their_pictures(
    tmp_path: Path, batch_size: int, options: Any
) -> None:
    model = load(write_head_bundle(tmp_path / "bundle", [nearest_colour_head(COLOURS)]))
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most: list[int] = []
    widths = [28, 28, 42, 42, 42, 42, 42, 56, 28, 28, 30, 31, 42, 42]
    samples = [Watched(Path(f"{n}.png"), width, alive, most) for n, width in enumerate(widths)]
    order = iter(range(len(widths)))

    def take(image: Path, prediction: Prediction, truth: Truth) -> None:
        index = next(order)
        assert image == Path(f"{index}.png")
        assert prediction.segment.shape == (28, truth.width) == (28, widths[index])

    predict_all(model, samples, "T", take, batch_size=batch_size, tasks=("segment",), **options)
    assert next(order, None) is None
    # One more waits for the next batch, and one is still in the loop's own hands.
    assert max(most) <= batch_size + 2


def test_a_picture_that_the_network_cannot_be_shown_is_named(tmp_path: Path) -> None:
    model = load(write_head_bundle(tmp_path / "bundle", [nearest_colour_head(COLOURS)]))
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    samples = [Watched(Path("ok.png"), 28, alive, []), Watched(Path("long.png"), 90000, alive, [])]
    with pytest.raises(ImageError, match=r"^long\.png: a picture of 28x90000 would be resampled"):
        predict_all(
            model,
            samples,
            "T",
            lambda _, __, ___: None,
            batch_size=1,
            tasks=("segment",),
            size=(1036, 1036),
        )


def test_a_limit_takes_pictures_from_all_over() -> None:
    assert spread(range(12), 6) == (0, 2, 4, 6, 8, 10)
    assert spread(range(10), 4) == (0, 2, 5, 7)
    assert spread(range(3), 1) == (0,)
    assert spread(range(3), None) == spread(range(3), 3) == spread(range(3), 9) == (0, 1, 2)


PREPROCESSING: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("protocol", "options", "text"),
    [
        (
            {"size": (512, 512), "policy": "short", "window": 512, "stride": 341},
            {},
            "short side 512, bilinear; windows of 512 every 341 px; not mirrored",
        ),
        (
            {"size": (480, 480), "policy": "short", "flip": True},
            {"size": (480, 640), "policy": "squash"},
            "resized to 480x640, bilinear; the whole at once; averaged with the mirror image",
        ),
        (
            {"size": (224, 224), "resize": (256, 256), "policy": "squash"},
            {"size": (112, 112), "window": 56},
            "resized to 128x128, 112x112 cut out of the middle, bilinear; windows of 56 every 37 "
            "px; not mirrored",
        ),
        (
            {"size": (70, 42), "policy": "fit", "interpolation": "bicubic"},
            {"flip": True},
            "at their own aspect ratio and the area of 70x42, bicubic; the whole at once; averaged "
            "with the mirror image",
        ),
    ],
)
def test_how_pictures_are_shown_is_said_in_words(
    tmp_path: Path, protocol: Any, options: Any, text: str
) -> None:
    head = nearest_colour_head(COLOURS, Protocol(**protocol))
    model = load(write_head_bundle(tmp_path / "bundle", [head]))
    asked: Any = {"tasks": ("segment",), "flip": None, **options}
    assert Shown.of(model.request(**asked)).text() == text


def test_features_are_shown_as_the_backbone_is(tmp_path: Path) -> None:
    own = Preprocessing(
        size=(224, 224), resize=(256, 256), policy="crop", interpolation="bicubic", **PREPROCESSING
    )
    model = load(write_head_bundle(tmp_path / "bundle", preprocessing=own))
    asked = protocol_of(classification("a", "b"), "cls", {})
    text = "resized to cover 256x256, 224x224 cut out of the middle, bicubic; the whole at once; "
    assert Shown.of(model.request(**asked)).text() == f"{text}not mirrored"


def test_the_rule_of_a_depth_score_is_said_in_words(tmp_path: Path) -> None:
    sample: Any = type("Sample", (), {"crop": None})
    dataset = DepthDataset("sun_rgbd", 0.001, 10, (sample,), cap=8, region=eigen)
    assert scored(dataset) == (
        "depths between 0.001 and 10 m, capped at 8 m in Eigen's window; of each picture, then "
        "the mean over pictures"
    )


def test_shares_are_printed_in_percent_and_what_is_not_is_said() -> None:
    result = SegmentationResult(0.47321, 0.5, 0.61, (0.47321, float("nan")), 1, 9)
    assert [metric.text() for metric in metrics_of(result)] == ["47.32 %", "50.00 %", "61.00 %"]
    top = metrics_of(ClassificationResult(0.853, 0.974, 1000))
    assert [(metric.name, metric.text()) for metric in top] == [
        ("top-1", "85.30 %"),
        ("top-5", "97.40 %"),
    ]
    assert Metric("rmse", "RMSE", 2.7868, "m").text() == "2.7868 m"
    assert Metric("x", "x", None, "%", "nobody knows").text() == "- (nobody knows)"


def write_classes(
    root: Path, count: int, paint: Callable[[int, int], Any]
) -> ClassificationDataset:
    samples = []
    for label, name in enumerate("ab"):
        for index in range(count):
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = np.asarray(paint(label, index), np.uint8)
            Image.fromarray(np.broadcast_to(colour, (28, 42, 3)).copy()).save(path)
            samples.append(LabelledPicture(f"{name}/{index}", path, label))
    return ClassificationDataset("folders", ("a", "b"), tuple(samples))


def test_neighbours_are_counted_right_over_many_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clsspec_serve.evaluation.cls_neighbours._ROWS", 3)
    train = write_classes(tmp_path / "train", 10, lambda label, i: (200 * label, 90, 200 - i))
    # The last picture of each class looks like the other class.
    test = write_classes(
        tmp_path / "test", 4, lambda label, i: (200 * (label if i < 3 else 1 - label), 90, 190)
    )
    model = load(write_head_bundle(tmp_path / "bundle"))
    found = evaluate_neighbours(model, train, test, **protocol_of(test, "cls", {}))
    assert {k: (r.top1, r.top5, r.images) for k, r in found.by_k.items()} == {
        10: (6 / 8, None, 8),
        20: (6 / 8, None, 8),
    }
    assert (found.images, found.train) == (8, 20)
    one = evaluate_neighbours(model, train, test, limit=1, **protocol_of(test, "cls", {}))
    assert (one.by_k[10].top1, one.images) == (1, 1)


def test_neighbours_of_masks_are_refused(tmp_path: Path) -> None:
    model = load(write_head_bundle(tmp_path / "bundle"))
    masks = segmentation("ade20k", categories("ade20k"))
    with pytest.raises(UsageError, match="ade20k has no class for each picture"):
        evaluate_neighbours(model, masks, masks)


def test_a_depth_that_is_cut_off_is_refused_before_it_is_scored(tmp_path: Path) -> None:
    protocol = Protocol(size=(28, 28), resize=(32, 32), policy="squash")
    model = load(write_head_bundle(tmp_path / "b", [depth_head([0.01] * 4, protocol=protocol)]))
    sample: Any = Watched(Path("a.png"), 42, weakref.WeakSet(), [])
    dataset = DepthDataset("folders", 0.001, 10, (sample,))
    with pytest.raises(UsageError, match=r"^a\.png: the model would be shown 28x28 of 32x32"):
        evaluate(model, dataset, **protocol_of(dataset, "depth", {}))


def test_the_builder_writes_heads_of_every_task(tmp_path: Path) -> None:
    heads = [
        nearest_colour_head(COLOURS),
        depth_head([0.01, 0, 0, 0], 0.5),
        classify_head(["a", "b"], np.eye(4)[:, :2], [0, 0]),
    ]
    model = load(write_head_bundle(tmp_path / "bundle", heads))
    red = np.full((28, 42, 3), (255, 0, 0), np.uint8)
    found = model(red, tasks=("segment", "depth", "classify"))
    assert (found.segment == 0).all()
    np.testing.assert_allclose(found.depth, 3.05, rtol=1e-6)
    np.testing.assert_allclose(found.classify, [255, 0])
    kinds = {type(head) for head in model.manifest.heads}
    assert {DepthHead, ClassificationHead} < kinds
    assert all(head.source == SOURCE and head.protocol == WHOLE for head in model.manifest.heads)
