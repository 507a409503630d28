"""Trainings: they learn, go on where they stopped, and end in a checkpoint clsspec reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_frames import write_frames

from clsspec_export.checkpoints.source import load_checkpoint
from clsspec_export.specialize import PLAIN, paper_specialization, specialization_of
from clsspec_serve.errors import UsageError
from indoor_tiny.training.loader import Batches
from indoor_tiny.training.measure import measure
from indoor_tiny.training.network import new_network
from indoor_tiny.training.plan import Plan
from indoor_tiny.training.state import STATE, new_state, resume, trained
from indoor_tiny.training.train import BACKBONE, LOG, step, train

PLAN = Plan(
    steps=6,
    batch=4,
    side=32,
    last_batch=2,
    last_side=48,
    last_share=0.3,
    warmup=2,
    drop_path=0.1,
    measure_every=3,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Frames to train on, and frames held out."""
    folder = tmp_path_factory.mktemp("frames")
    return write_frames(folder / "train", 8, 0), write_frames(folder / "held-out", 2, 1)


def test_an_interrupted_training_ends_in_the_same_bits(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    train(PLAN, *folders, tmp_path / "whole", workers=0)
    for stop in (2, 5, None):
        train(PLAN, *folders, tmp_path / "parts", workers=0, until=stop)
    one, other = (tmp_path / name for name in ("whole", "parts"))
    assert (one / BACKBONE).read_bytes() == (other / BACKBONE).read_bytes()
    states = [torch.load(each / STATE) for each in (one, other)]
    assert torch.equal(states[0]["random"], states[1]["random"])
    for name, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][name]), name


@pytest.mark.parametrize("specialized", [True, False])
def test_the_backbone_is_a_checkpoint_of_the_averaged_weights(
    tmp_path: Path, folders: tuple[Path, Path], specialized: bool
) -> None:
    plan = replace(PLAN, steps=1, specialized=specialized)
    train(plan, *folders, tmp_path, workers=0)
    checkpoint, _ = load_checkpoint(str(tmp_path / BACKBONE))
    _, network = trained(tmp_path)
    images = torch.rand(1, 3, 48, 48)
    with torch.inference_mode():
        expected = network.backbone.forward_features(images)
        assert torch.equal(checkpoint.model.forward_features(images), expected)
    assert checkpoint.architecture == "vit_tiny_patch16_224"
    assert checkpoint.preprocessing.size == (48, 48)
    expected_split = paper_specialization(12) if specialized else PLAIN
    assert specialization_of(checkpoint.model) == expected_split


def test_training_lowers_the_loss(folders: tuple[Path, Path]) -> None:
    plan = replace(PLAN, batch=8, warmup=1)
    state, batch = new_state(plan, 8), Batches(plan, folders[0])[0]
    sums = [sum(step(state, state.network, batch, torch.ones(17)).values()) for _ in range(15)]
    assert sums[-1] < 0.8 * sums[0]


@pytest.mark.stress
def test_a_compiled_network_trains_alike(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def traced(network: torch.nn.Module, **options: object) -> object:
        calls.append(options)
        # The C++ that PyTorch writes takes a minute to compile; tracing finds what cannot be.
        return compile(network, **options, backend="eager")

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    for compiled in (False, True):
        plan = replace(PLAN, steps=1, last_share=0, compiled=compiled)
        train(plan, *folders, tmp_path / str(compiled), workers=0)
    assert calls == [{"fullgraph": True, "dynamic": False}]
    eager, other = (trained(tmp_path / name)[1].state_dict() for name in ("False", "True"))
    for name, value in eager.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


def test_the_log_has_the_loss_and_what_was_measured(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indoor_tiny.training.train.LOG_EVERY", 2)
    train(replace(PLAN, steps=2, measure_every=2), *folders, tmp_path, workers=0)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 2]
    assert lines[0]["loss"] == pytest.approx(sum(lines[0]["parts"].values()), abs=1e-3)
    assert lines[1]["held_out"].keys() >= {"mean_iou", "abs_rel"}
    found = measure(tmp_path, *folders)
    assert found["network"].keys() == found["constant"].keys() == found["position"].keys()
    assert (found["frames"], found["side"], found["baseline_frames"]) == (2, 48, 8)
    assert found["network"] == pytest.approx(lines[1]["held_out"], abs=1e-4)


def test_a_training_by_another_plan_is_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    train(PLAN, *folders, tmp_path, workers=0, until=1)
    with pytest.raises(UsageError, match=r"seed 0, the plan has 1; accepted is the same plan"):
        resume(replace(PLAN, seed=1), 8, tmp_path)
    with pytest.raises(UsageError, match="frames 8, the plan has 9"):
        resume(PLAN, 9, tmp_path)


def test_a_folder_without_a_training_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no training"):
        trained(tmp_path)


def test_the_twin_starts_in_the_same_weights() -> None:
    own, twin = (new_network(replace(PLAN, specialized=each)).eval() for each in (True, False))
    images = torch.rand(1, 3, 48, 48)
    with torch.inference_mode():
        one, other = own(images), twin(images)
    torch.testing.assert_close(one.classes, other.classes)
    torch.testing.assert_close(one.room, other.room)
    assert sum(p.numel() for p in own.parameters()) > sum(p.numel() for p in twin.parameters())
