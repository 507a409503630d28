"""Dense supervised training from nothing on rendered frames, on a few CPU cores."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from indoor_tiny.frames import Frames, open_shards
from indoor_tiny.training.attention import fastest_attention
from indoor_tiny.training.backbone import normalized, save_backbone
from indoor_tiny.training.loader import Batch, Batches, load
from indoor_tiny.training.measure import Figures, measure_network
from indoor_tiny.training.network import Answers
from indoor_tiny.training.objectives import losses, weights_by_frequency
from indoor_tiny.training.optimizer import averaged, rate_at
from indoor_tiny.training.plan import Plan
from indoor_tiny.training.state import State, resume, save_state

Forward = Callable[[Tensor], Answers]

LOG = "log.jsonl"
BACKBONE = "backbone.safetensors"

LOG_EVERY = 50
_WATCHED = 256
"""Held-out frames, at most, that are looked at during the training."""


def train(
    plan: Plan,
    frames: Path,
    validation: Path,
    run: Path,
    *,
    until: int | None = None,
    workers: int = 1,
    save_minutes: float = 5.0,
) -> None:
    """Train, or go on with, the network in `run`; at the end write its backbone there.

    `frames`, `validation`: folders of shards. `until`: the step to stop at, to be resumed later.
    `workers`: processes that make batches; none, and they are made in between. The state is saved
    every `save_minutes` and at the end. A resumed training ends in the same bits as one that was
    never interrupted. Raises `UsageError` where `run` holds a training by another plan.
    """
    shards, held_out = open_shards(frames), open_shards(validation)
    run.mkdir(parents=True, exist_ok=True)
    state = resume(plan, sum(len(shard) for shard in shards), run)
    end = plan.steps if until is None else min(until, plan.steps)
    class_weights = weights_by_frequency(shards, plan.balance)
    forward = _forward(state)
    log, saved = Log(run / LOG, plan.steps), time.monotonic()
    for batch in load(Batches(plan, frames), range(state.step, end), workers):
        parts = step(state, forward, batch, class_weights)
        log.add(state.step, rate_at(state.step - 1, plan), parts, len(batch.rooms))
        if state.step % plan.measure_every == 0 or state.step == plan.steps:
            log.measured(state.step, _look(state, held_out))
        if time.monotonic() - saved > 60 * save_minutes:
            save_state(state, run)
            saved = time.monotonic()
    save_state(state, run)
    if state.step == plan.steps:
        save_backbone(averaged(state.average).backbone, plan, state.frames, run / BACKBONE)


def step(state: State, forward: Forward, batch: Batch, class_weights: Tensor) -> dict[str, float]:
    """One step of the optimiser; the weighed parts of the loss before it.

    `forward`: what computes the answers of the state's network.
    """
    network, plan = state.network, state.plan
    network.train()
    with fastest_attention(), torch.autocast("cpu", dtype=torch.bfloat16):
        answers = forward(normalized(batch.images))
    parts = losses(answers, batch, plan, class_weights)
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    torch.nn.utils.clip_grad_norm_(
        network.parameters(), plan.largest_gradient, error_if_nonfinite=True
    )
    state.optimizer.step(rate_at(state.step, plan))
    state.average.update_parameters(network)
    state.step += 1
    return {name: float(part.detach()) for name, part in parts.items()}


def _forward(state: State) -> Forward:
    if not state.plan.compiled:
        return state.network
    return torch.compile(state.network, fullgraph=True, dynamic=False)


class Log:
    """Lines of JSON in a file, and the same in words on the screen."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path, self._steps = path, steps
        self._restart()

    def add(self, step: int, rate: float, parts: dict[str, float], shown: int) -> None:
        """Note the loss of a step, and write the mean over the last ones now and then."""
        self._pictures += shown
        self._parts.append(parts)
        if step % LOG_EVERY:
            return
        means = {name: sum(each[name] for each in self._parts) / len(self._parts) for name in parts}
        speed = self._pictures / (time.monotonic() - self._since)
        total = sum(means.values())
        rounded = {name: round(value, 4) for name, value in means.items()}
        self._write(
            {"step": step, "rate": rate, "pictures_per_second": round(speed, 1)}
            | {"loss": round(total, 4), "parts": rounded}
        )
        words = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        print(
            f"{step}/{self._steps}: loss {total:.3f} ({words}), {speed:.1f} pictures/s", flush=True
        )
        self._restart()

    def measured(self, step: int, figures: Figures) -> None:
        """Write what was measured on held-out frames, the time for which does not count."""
        self._write({"step": step, "held_out": {name: round(v, 4) for name, v in figures.items()}})
        words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"{step}/{self._steps}: held out: {words}", flush=True)
        self._restart()

    def _restart(self) -> None:
        self._parts: list[dict[str, float]] = []
        self._pictures, self._since = 0, time.monotonic()

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _look(state: State, held_out: Sequence[Frames]) -> Figures:
    """The averaged weights on a fixed few of the held-out frames."""
    stride = math.ceil(sum(len(shard) for shard in held_out) / _WATCHED)
    side = state.plan.side_at(state.step - 1)
    return measure_network(averaged(state.average), held_out, side, stride)
