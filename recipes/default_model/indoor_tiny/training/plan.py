"""Every number that a training is a function of."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from clsspec_serve.errors import UsageError

TABLE = "training"


@dataclass(frozen=True)
class Plan:
    """A training from nothing, with the paper's split or, for the twin, without.

    `side`, `batch`: pixels and pictures of a step; `last_side`, `last_batch`: those of the last
    `last_share` of the steps, which also set the grid of the position embedding. `rate`: the
    learning rate, reached after `warmup` steps, from where it falls to 1 % along a cosine.
    `average`: the decay of the averaged weights, which are the ones that are kept. `layer_scale`:
    the first value of LayerScale; DINOv2's 1e-5 is for hundreds of epochs, and at a few thousand
    steps keeps the blocks closed for too long. `balance`: classes weigh their frequency to the
    power of minus this. `smallest_crop`: the least share of a frame's side that a crop has.
    `compiled`: PyTorch compiles the network first, once for each side; needs a C++ compiler.
    The last six numbers weigh the parts of the loss.
    """

    specialized: bool = True
    steps: int = 3200
    batch: int = 64
    side: int = 160
    last_batch: int = 32
    last_side: int = 256
    last_share: float = 0.15
    rate: float = 1.5e-3
    warmup: int = 200
    weight_decay: float = 0.05
    largest_gradient: float = 1.0
    average: float = 0.998
    layer_scale: float = 0.1
    drop_path: float = 0.0
    seed: int = 0
    balance: float = 0.3
    smallest_crop: float = 0.5
    measure_every: int = 400
    compiled: bool = False
    class_weight: float = 1.0
    depth_weight: float = 1.0
    gradient_weight: float = 0.5
    room_weight: float = 0.2
    presence_weight: float = 0.5
    share_weight: float = 0.2

    def __post_init__(self) -> None:
        for name in ("side", "last_side"):
            if (side := getattr(self, name)) < 16 or side % 16:
                raise UsageError(f"{name} is {side}; accepted are multiples of the patch, 16")
        for name in ("steps", "batch", "last_batch", "measure_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; accepted is 1 or more")
        if not 0 <= self.last_share <= 1 or not 0 < self.smallest_crop <= 1:
            raise UsageError("last_share and smallest_crop are shares, from 0 to 1")

    @property
    def last_from(self) -> int:
        """The first step with `last_side`."""
        return self.steps - round(self.steps * self.last_share)

    def side_at(self, step: int) -> int:
        """Pixels of a side of the pictures of a step."""
        return self.side if step < self.last_from else self.last_side

    def batch_at(self, step: int) -> int:
        """How many pictures a step has."""
        return self.batch if step < self.last_from else self.last_batch

    def shown_before(self, step: int) -> int:
        """How many pictures all earlier steps had."""
        early = min(step, self.last_from)
        return early * self.batch + (step - early) * self.last_batch


def read_plan(path: Path) -> Plan:
    """The plan in the table `[training]` of a TOML file; what it leaves out is `Plan`'s default.

    Raises `UsageError` for a key that a plan does not have, and for a value of another type.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8")).get(TABLE, {})
    known = {field.name: type(getattr(Plan, field.name)) for field in fields(Plan)}
    if unknown := sorted(table.keys() - known.keys()):
        raise UsageError(f"{path}: [{TABLE}] does not know {', '.join(unknown)}")
    for name, value in table.items():
        kind = type(value)
        if kind is not known[name] and (kind, known[name]) != (int, float):
            raise UsageError(
                f"{path}: [{TABLE}] {name} is {value!r}; accepted is {known[name].__name__}"
            )
    return Plan(**{name: known[name](value) for name, value in table.items()})
