"""From a backbone to the bundle, its heads, its figures and its card, on a handful of frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_frames import write_frames

from clsspec_serve.bundle import Bundle, open_bundle
from indoor_tiny.bundle import TRAINED_ON, Heads, make_bundle, score_bundle
from indoor_tiny.card import card
from indoor_tiny.classes import CLASSES
from indoor_tiny.training.measure import measure
from indoor_tiny.training.plan import Plan
from indoor_tiny.training.train import train

pytestmark = pytest.mark.stress

HEADS = Heads(train=4, validation=2, side=48, epochs=1, seed=0)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "frames"
    write_frames(folder / "train", 8, 0)
    write_frames(folder / "held-out", 2, 1)
    return folder


@pytest.fixture(scope="module")
def run(frames: Path) -> Path:
    """A training of one step."""
    plan = Plan(steps=1, batch=2, side=32, last_batch=2, last_side=48, warmup=1)
    train(plan, frames / "train", frames / "held-out", frames.parent / "run", workers=0)
    return frames.parent / "run"


@pytest.fixture(scope="module")
def bundle(frames: Path, run: Path) -> Bundle:
    return open_bundle(make_bundle(HEADS, frames, run))


def test_both_heads_are_in_it_and_say_what_they_were_trained_on(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.name == "indoor-tiny"
    assert manifest.storage == "fp16"
    assert [head.task for head in manifest.heads] == ["segment", "depth"]
    for head in manifest.heads:
        assert head.source.name == f"{TRAINED_ON}, 4 pictures"
        assert head.protocol.size == (48, 48)


def test_its_card_has_the_figures_of_bundle_network_and_baselines(
    bundle: Bundle, frames: Path, run: Path
) -> None:
    figures = measure(run, frames / "train", frames / "held-out")
    figures["bundle"] = score_bundle(bundle.path, frames, 2, frames.parent / "held-out")
    assert figures["bundle"].keys() >= {"mean_iou", "pixel_accuracy", "abs_rel", "rmse", "classes"}
    assert figures["bundle"]["classes"].keys() == set(CLASSES)
    assert 0 <= figures["bundle"]["pixel_accuracy"] <= 1
    rows = [
        line for line in card(figures).splitlines() if line.startswith("| ") and "%" not in line
    ]
    accuracies = [row.split("|")[3].strip() for row in rows if "." in row]
    keys = ("bundle", "network", "position", "constant")
    assert accuracies == [f"{100 * figures[key]['pixel_accuracy']:.1f}" for key in keys]
