"""From a trained backbone to the bundle: `clsspec` itself exports, fits and scores."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indoor_tiny.folders import write_folder
from indoor_tiny.training.train import BACKBONE

NAME = "indoor-tiny"
TRAINED_ON = "rendered-rooms"
"""The folder of the heads' pictures, which their descriptions name."""
FARTHEST = 10
"""Metres where the depth head's range ends, as in NYUv2."""


@dataclass(frozen=True)
class Heads:
    """How the heads are fitted, and what they are shown at.

    `train`, `validation`: frames of the train split, both seen by the backbone; the held-out ones
    are only scored. `side`: the heads' input is as large as a square of so many pixels a side.
    """

    train: int
    validation: int
    side: int
    epochs: int
    seed: int


def make_bundle(heads: Heads, frames: Path, run: Path) -> Path:
    """Export the backbone of a run and fit both heads on it; `run/indoor-tiny`.

    Raises `CalledProcessError` where a command of `clsspec` fails, after its own words.
    """
    data, validation = run / TRAINED_ON, run / "validation"
    write_folder(frames / "train", data, range(heads.train), seed=heads.seed)
    others = range(heads.train, heads.train + heads.validation)
    write_folder(frames / "train", validation, others, seed=heads.seed)
    plain, segmenting, whole = (run / name for name in ("backbone", "segmenting", NAME))
    _clsspec("export", run / BACKBONE, "--storage", "fp16", "--out", plain, "--force")
    for task, model, into in (("segment", plain, segmenting), ("depth", segmenting, whole)):
        options = ["--epochs", heads.epochs, "--seed", heads.seed, "--cache", run / "cache"]
        options += ["--size", f"{heads.side}x{heads.side}", "--val", validation]
        if task == "depth":
            options += ["--max-depth", FARTHEST]
        _clsspec("fit", task, data, "--model", model, "--into", into, "--force", *options)
    return whole


def score_bundle(bundle: Path, frames: Path, count: int, folder: Path) -> dict[str, Any]:
    """What `clsspec eval` says of a bundle on `count` held-out frames.

    Shares are in [0, 1], RMSE in metres; `classes` holds the IoU of each class that there is.
    """
    write_folder(frames / "held-out", folder, range(count))
    figures: dict[str, Any] = {}
    for task in ("segment", "depth"):
        text = _clsspec("eval", folder, "--task", task, "--model", bundle, "--json")
        report = json.loads(text)
        figures |= {key: _share(metric) for key, metric in report["metrics"].items()}
        if task == "segment":
            figures["classes"] = {each["name"]: _share(each) for each in report["classes"]}
    return figures


def _share(metric: dict[str, Any]) -> float | None:
    value: float | None = metric["value"]
    return value / 100 if value is not None and metric["unit"] == "%" else value


def _clsspec(*arguments: object) -> str:
    command = [str(Path(sys.executable).with_name("clsspec")), *map(str, arguments)]
    print("clsspec", *command[1:], flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
