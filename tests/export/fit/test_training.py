from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fit_pictures import fitted, write_classes, write_depth, write_segmentation
from torch import Tensor

from clsspec_export.fit import fitting, training
from clsspec_export.fit.examples import Examples
from clsspec_export.fit.fitting import Fitted
from clsspec_export.fit.objectives import objective
from clsspec_export.fit.standardize import Statistics, statistics
from clsspec_export.fit.training import Course, Settings, weights_of
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.modules import module
from clsspec_export.heads.own import write_own
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.plain_folders import depth_folders, segmentation_folders
from clsspec_serve.evaluation.segmentation_score import SegmentationScore
from clsspec_serve.heads import DepthHead, Protocol, Source
from clsspec_serve.layers import Layer
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model
from clsspec_serve.schema import Output

SIZE = (28, 42)
Write = Callable[..., None]
TASKS: dict[HeadTask, Write] = {
    "segment": write_segmentation,
    "depth": write_depth,
    "classify": write_classes,
}


@pytest.fixture
def arithmetic(tiny_bundle: Path) -> Model:
    """A model whose features are the mean colours of the patches."""
    return start(open_bundle(tiny_bundle), engine="onnxruntime")


@pytest.fixture(scope="session")
def transformer(exported_bundle: Bundle) -> Model:
    """A ViT with random weights."""
    return start(exported_bundle, engine="onnxruntime")


def pictures(task: HeadTask, root: Path, count: int = 8, size: tuple[int, int] = SIZE) -> Path:
    if task == "classify":
        write_classes(root, count, size=size)
    else:
        TASKS[task](root, count, size=size, block=14)
    return root


def same(one: Fitted, other: Fitted) -> bool:
    return torch.equal(one.head.weight, other.head.weight) and torch.equal(
        one.head.bias, other.head.bias
    )


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
def test_the_same_seed_gives_the_same_file(
    arithmetic: Model, tmp_path: Path, task: HeadTask
) -> None:
    root = pictures(task, tmp_path / "data")
    torch.manual_seed(1)
    one = fitted(arithmetic, task, root, tmp_path / "one", size=SIZE)
    torch.manual_seed(2)
    np.random.seed(3)  # what global state must not change
    other = fitted(arithmetic, task, root, tmp_path / "other", size=SIZE)
    write_own(one.head, tmp_path / "one.safetensors")
    write_own(other.head, tmp_path / "other.safetensors")
    content = (tmp_path / "one.safetensors").read_bytes()
    assert content == (tmp_path / "other.safetensors").read_bytes()
    assert not same(one, fitted(arithmetic, task, root, tmp_path / "one", size=SIZE, seed=1))


def test_no_global_random_state_is_touched(arithmetic: Model, tmp_path: Path) -> None:
    root = pictures("segment", tmp_path / "data")
    before = torch.random.get_rng_state()
    fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("task", TASKS)
def test_a_grid_of_rates_gives_each_the_head_that_it_has_alone(
    arithmetic: Model, tmp_path: Path, task: HeadTask
) -> None:
    root = pictures(task, tmp_path / "data")
    together = fitted(arithmetic, task, root, tmp_path / "c", size=SIZE, rates=(1e-3, 1e-2))
    alone = {
        rate: fitted(arithmetic, task, root, tmp_path / "c", size=SIZE, rates=(rate,))
        for rate in (1e-3, 1e-2)
    }
    assert together.figures == {rate: found.figure for rate, found in alone.items()}
    assert together.figure.rank == max(found.figure.rank for found in alone.values())
    assert same(together, alone[together.rate])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("steps", [1, 3, 5, 7])
def test_an_interrupted_training_ends_in_the_same_bits(
    arithmetic: Model,
    tmp_path: Path,
    task: HeadTask,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = pictures(task, tmp_path / "data", 4 if task == "classify" else 8)

    def train(storage: str) -> Fitted:
        return fitted(
            arithmetic, task, root, tmp_path / storage, size=SIZE, rates=(1e-2, 0.1), epochs=4
        )

    whole = train("whole")
    taken = 0
    step = Course._step

    def counted(*arguments: Any) -> None:
        nonlocal taken
        if taken == steps:
            raise Interrupted
        taken += 1
        step(*arguments)

    monkeypatch.setattr(Course, "_step", counted)
    with pytest.raises(Interrupted):
        train("broken")
    before, taken, steps = taken, 0, 1000
    resumed = train("broken")
    assert same(whole, resumed)
    assert whole.figures == resumed.figures
    every = 4 * (3 if task == "classify" else 2)
    epoch = every // 4
    assert taken == every - before // epoch * epoch


def test_a_finished_training_leaves_its_checkpoint_until_the_head_is_safe(
    arithmetic: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures("segment", tmp_path / "data")
    first = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    with monkeypatch.context() as patch:
        patch.delattr(Course, "_step")
        again = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    assert same(first, again)
    again.checkpoint.remove()
    assert not list((tmp_path / "cache" / "runs").iterdir())


def test_other_settings_do_not_go_on_from_the_checkpoint(arithmetic: Model, tmp_path: Path) -> None:
    root = pictures("segment", tmp_path / "data")
    fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, epochs=2)
    found = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, epochs=3)
    fresh = fitted(arithmetic, "segment", root, tmp_path / "fresh", size=SIZE, epochs=3)
    assert same(found, fresh)


def test_a_rate_at_which_the_training_diverges_is_not_kept(
    arithmetic: Model, tmp_path: Path
) -> None:
    root = pictures("segment", tmp_path / "data")
    found = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, rates=(1e30, 1e-3))
    assert found.rate == 1e-3
    assert found.figures[1e30].text == "diverged"
    with pytest.raises(UsageError, match="diverged at all learning rates"):
        fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, rates=(1e30,))


def test_statistics_are_those_of_all_training_patches(
    arithmetic: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of different sizes: each patch counts, not each picture."""
    seen: list[Statistics] = []
    monkeypatch.setattr(
        fitting, "statistics", lambda examples: seen.append(statistics(examples)) or seen[0]
    )
    write_segmentation(tmp_path / "data", 3, size=(28, 42), block=14)
    write_segmentation(tmp_path / "more", 2, size=(28, 84), block=14, seed=4)
    for path in (tmp_path / "more").rglob("*.png"):
        path.rename(tmp_path / "data" / path.parent.name / f"more{path.name}")
    write_segmentation(tmp_path / "val", 1, size=SIZE, block=14, seed=5)
    fitted(
        arithmetic, "segment", tmp_path / "data", tmp_path / "c", size=SIZE, val=tmp_path / "val"
    )
    patches = [
        arithmetic(image, size=SIZE, policy="fit").patches.reshape(-1, 4)
        for image in sorted((tmp_path / "data" / "images").iterdir())
    ]
    assert len({len(each) for each in patches}) > 1
    every = np.concatenate(patches).astype(np.float64)
    np.testing.assert_allclose(seen[0].mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(seen[0].variance, every.var(axis=0), rtol=1e-9)


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rates": ()}, "learning rates none"),
        ({"rates": (1e-3, -1.0)}, "learning rates 0.001, -1"),
        ({"rates": (1e-3, 1e-3)}, "each once"),
        ({"epochs": 0}, "0 epochs"),
        ({"batch_size": 0}, "batches of 0"),
        ({"layers": (Layer(7, True),)}, "it has 1, 0, 0:raw .`clsspec export --layers` adds more."),
    ],
)
def test_settings_that_lead_nowhere_are_refused(
    arithmetic: Model, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    root = pictures("segment", tmp_path / "data")
    with pytest.raises(UsageError, match=words):
        fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, **changes)
    assert not (tmp_path / "cache").exists()


def test_the_last_step_is_smaller_than_the_first(arithmetic: Model, tmp_path: Path) -> None:
    """A cosine from the rate to nearly 0."""
    root = pictures("segment", tmp_path / "data")
    shares: list[float] = []
    step = training.Course._step

    class Watched(training.Course):
        def _step(self, batch: Any, heads: Any, share: float) -> None:
            shares.append(share)
            step(self, batch, heads, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "Course", Watched)
        fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, epochs=4)
    expected = (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    np.testing.assert_allclose(shares, expected)


@pytest.mark.parametrize("damage", ["shorter", "empty", "altered", "not ours"])
def test_a_damaged_checkpoint_counts_as_none(
    arithmetic: Model, tmp_path: Path, damage: str
) -> None:
    root = pictures("segment", tmp_path / "data")
    first = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    (path,) = (tmp_path / "cache" / "runs").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "shorter":
        content = content[:-7]
    elif damage == "empty":
        content = bytearray()
    elif damage == "altered":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"no checkpoint")
    path.write_bytes(content)
    said: list[str] = []
    again = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, report=said.append)
    assert f"{path} is damaged; the training starts over" in said
    assert same(first, again)
    said.clear()
    fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, report=said.append)
    assert not any("damaged" in line for line in said)


class Given(Examples):
    """One picture of one patch."""

    def __init__(self, feature: float, depth: float) -> None:
        self._given = np.full((1, 1, 1), feature, np.float32), np.full((4, 4), depth, np.float32)

    def __len__(self) -> int:
        return 1

    def features(self, index: int) -> list[Any]:
        return [self._given[0]]

    def target(self, index: int) -> Any:
        return self._given[1]


def test_a_regression_finds_back_from_beyond_its_range() -> None:
    """There the head's clamp has no slope; the answer itself stays within the range."""
    description = DepthHead(
        inputs=(Output(name="patches", kind="patches", layer=0, norm=True),),
        protocol=Protocol(size=SIZE, policy="fit"),
        source=Source(name="tests", format="clsspec"),
        minimum=0.001,
        maximum=10,
        method="regression",
        bins=1,
        upsample=4,
    )
    settings = Settings(60, (0.5,), 1, 0)
    heads = training.runners(description, 1, settings, 30.0)
    examples = Given(1.0, 5.0)
    plain = Statistics(torch.zeros(1), torch.ones(1))
    course = Course(examples, examples, plain, objective(description))
    (before,) = course.figures(heads)
    assert before.rank == pytest.approx(-5, rel=1e-3)
    for epoch in range(60):
        course._epoch(epoch, heads, settings)
    (after,) = course.figures(heads)
    assert after.rank > -1
