"""What heads learn from features, and the head that comes of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fit_pictures import fitted, write_depth, write_segmentation
from torch import Tensor
from training_runs import SIZE, TASKS, pictures

from clsspec_export.fit.training import Course, weights_of
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.modules import module
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import HeadTask
from clsspec_serve.evaluation.datasets.plain_folders import depth_folders, segmentation_folders
from clsspec_serve.evaluation.segmentation_score import SegmentationScore
from clsspec_serve.layers import Layer
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model


@pytest.fixture(scope="session")
def transformer(exported_bundle: Bundle) -> Model:
    """A ViT with random weights."""
    return start(exported_bundle, engine="onnxruntime")


def predicted(model: Model, head: LinearHead, image: Path, size: tuple[int, int]) -> Tensor:
    """The head's answer from the engine's features, in plain PyTorch."""
    found = model(image, tasks=("cls", "patches"), layers=(), size=size, policy="squash")
    inputs = [
        torch.from_numpy(found.arrays[output.name])[None] for output in head.description.inputs
    ]
    answer: Tensor = module(head)(*inputs)
    return answer


def enlarge(values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)


def test_regions_of_colours_are_learned_from_a_transformers_patches(
    transformer: Model, tmp_path: Path
) -> None:
    size = (112, 112)
    write_segmentation(tmp_path / "train", 10, size=size, block=56)
    write_segmentation(tmp_path / "val", 4, size=size, block=56, seed=1)
    found = fitted(
        transformer,
        "segment",
        tmp_path / "train",
        tmp_path / "cache",
        size=size,
        val=tmp_path / "val",
        rates=(1e-3, 1e-2),
        epochs=25,
    )
    held_out = segmentation_folders(tmp_path / "val", found.head.description.classes)
    score = SegmentationScore(3)
    for sample in held_out.samples:
        logits = predicted(transformer, found.head, sample.image, size)
        ids = enlarge(logits.permute(0, 3, 1, 2), size).argmax(dim=1)[0]
        score.add(ids.numpy(), sample.load()[1])
    assert score.result().pixel_accuracy >= 0.99
    assert found.figure.rank >= 0.98


@pytest.mark.parametrize("bins", [1, 64])
def test_depths_are_learned_from_a_transformers_patches(
    transformer: Model, tmp_path: Path, bins: int
) -> None:
    """Far below the spread of the depths, which is the error of an answer that knows nothing."""
    size = (112, 112)
    write_depth(tmp_path / "train", 12, size=size, block=56)
    write_depth(tmp_path / "val", 4, size=size, block=56, seed=1)
    found = fitted(
        transformer,
        "depth",
        tmp_path / "train",
        tmp_path / "cache",
        size=size,
        val=tmp_path / "val",
        bins=bins,
        epochs=40,
        rates=(1e-2, 3e-2),
        batch_size=2,
    )
    assert found.head.weight.shape[0] == bins
    errors, spreads = [], []
    for sample in depth_folders(tmp_path / "val", 0.001, 10).samples:
        depth = enlarge(predicted(transformer, found.head, sample.image, size)[None], size)[0, 0]
        truth = sample.load()[1]
        errors.append(float(np.sqrt(np.mean((depth.numpy() - truth) ** 2))))
        spreads.append(float(truth.std()))
    assert np.mean(errors) < 0.5 * np.mean(spreads)
    assert found.figure.rank == pytest.approx(-np.mean(errors), rel=0.1)


@pytest.mark.parametrize("both", [False, True])
def test_classes_of_pictures_are_learned(transformer: Model, tmp_path: Path, both: bool) -> None:
    root = pictures("classify", tmp_path / "train", size=(56, 56))
    found = fitted(
        transformer, "classify", root, tmp_path / "cache", size=(56, 56), both=both, epochs=20
    )
    assert found.figure.rank == 1
    assert len(found.head.description.inputs) == 1 + both
    for label in range(3):
        image = root / f"colour{label}" / "00.png"
        assert int(predicted(transformer, found.head, image, (56, 56)).argmax()) == label


@pytest.mark.parametrize("task", TASKS)
def test_the_folded_head_is_the_trained_one(
    transformer: Model, tmp_path: Path, task: HeadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers and both kinds of tokens; the answer over raw features is that over standard."""
    courses: list[tuple[Course, Any]] = []
    run = Course.run

    def kept(self: Course, heads: Any, *rest: Any) -> Any:
        courses.append((self, heads))
        return run(self, heads, *rest)

    monkeypatch.setattr(Course, "run", kept)
    root = pictures(task, tmp_path / "data", 4)
    layers = (Layer(0, True), Layer(1, True))
    found = fitted(
        transformer, task, root, tmp_path / "c", size=SIZE, layers=layers, both=True, epochs=2
    )
    ((course, (runner,)),) = courses
    names = [output.name for output in found.head.description.inputs]
    dense = ["patches_0", "cls_0", "patches", "cls"]
    assert names == (["cls_0", "cls", "patches"] if task == "classify" else dense)
    raw = [torch.from_numpy(np.array(x))[None] for x in course.validation.features(0)]
    scale = (course.statistics.variance + 1e-5).sqrt().chunk(len(raw))
    standard = [
        ((x.double() - mean) / own).float()
        for x, mean, own in zip(raw, course.statistics.mean.chunk(len(raw)), scale, strict=True)
    ]
    with torch.no_grad():
        expected = runner.head(*standard)
        torch.testing.assert_close(module(found.head)(*raw), expected, rtol=1e-4, atol=1e-4)


def test_weights_come_out_of_a_module_as_they_went_in(arithmetic: Model, tmp_path: Path) -> None:
    root = pictures("segment", tmp_path / "data")
    layers = (Layer(0, False), Layer(1, True), Layer(0, True))
    head = fitted(
        arithmetic, "segment", root, tmp_path / "c", size=SIZE, layers=layers, both=True, epochs=1
    ).head
    weight = torch.arange(head.weight.numel(), dtype=torch.float32).reshape(head.weight.shape)
    found = weights_of(module(replace(head, weight=weight)), head.description)
    assert torch.equal(found[0], weight)
    assert torch.equal(found[1], head.bias)


def test_what_a_head_says_of_itself(arithmetic: Model, tmp_path: Path) -> None:
    root = pictures("depth", tmp_path / "data")
    description = fitted(arithmetic, "depth", root, tmp_path / "c", size=(56, 84)).head.description
    assert description.task == "depth"
    assert (description.method, description.bins, description.upsample) == ("bins", 16, 4)
    assert (description.minimum, description.maximum) == (0.001, 10)
    assert description.source.format == "clsspec"
    protocol = description.protocol
    assert (protocol.size, protocol.policy, protocol.window) == ((56, 84), "fit", None)
