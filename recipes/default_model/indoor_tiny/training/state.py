"""A training on disk: everything on which its next step depends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from clsspec_serve.errors import UsageError
from clsspec_serve.whole import new_file
from indoor_tiny.training.network import DenseNetwork, new_network
from indoor_tiny.training.optimizer import Optimizer, averaged, new_average
from indoor_tiny.training.plan import Plan

STATE = "state.pt"


@dataclass
class State:
    """A training in memory. `step`: how many steps are done. `frames`: how many are shown."""

    plan: Plan
    frames: int
    network: DenseNetwork
    average: AveragedModel
    optimizer: Optimizer
    step: int = 0


def new_state(plan: Plan, frames: int) -> State:
    """A training before its first step."""
    network = new_network(plan)
    return State(plan, frames, network, new_average(network, plan), Optimizer(network, plan))


def save_state(state: State, folder: Path) -> None:
    """Write `STATE` as a whole, over an earlier one."""
    with new_file(folder / STATE) as stream:
        torch.save(
            {
                "plan": asdict(state.plan),
                "frames": state.frames,
                "step": state.step,
                "network": state.network.state_dict(),
                "average": state.average.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            stream,
        )


def resume(plan: Plan, frames: int, folder: Path) -> State:
    """The training that a folder holds, or a new one where it holds none.

    Raises `UsageError` for a training by another plan or with another number of frames.
    """
    state = new_state(plan, frames)
    path = folder / STATE
    if not path.exists():
        return state
    stored = torch.load(path)
    _require_same(stored | stored["plan"], {"frames": frames} | asdict(plan), path)
    state.network.load_state_dict(stored["network"])
    state.average.load_state_dict(stored["average"])
    state.optimizer.load_state_dict(stored["optimizer"])
    state.step = stored["step"]
    torch.set_rng_state(stored["random"])
    return state


def trained(folder: Path) -> tuple[Plan, DenseNetwork]:
    """The plan and the averaged network of the training in a folder, for evaluation.

    Raises `UsageError` where there is none.
    """
    path = folder / STATE
    if not path.exists():
        raise UsageError(f"{folder}: holds no training")
    stored = torch.load(path)
    plan = Plan(**stored["plan"])
    average = new_average(new_network(plan), plan)
    average.load_state_dict(stored["average"])
    return plan, averaged(average)


def _require_same(stored: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise UsageError(
                f"{path}: was trained with {name} {stored.get(name)!r}, the plan has {value!r}; "
                "accepted is the same plan, or a folder without a training"
            )
