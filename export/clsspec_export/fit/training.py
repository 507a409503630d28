"""Linear heads trained side by side, one for each learning rate, on the same batches.

What follows one after the other is a function of the settings alone: the order of the pictures of
an epoch of the seed and the epoch, the learning rate of the step. So weights and the optimiser's
state are all that a training needs to go on, and a resumed one ends in the same bits.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clsspec_export.fit.examples import Examples
from clsspec_export.fit.objectives import Figure, Objective
from clsspec_export.fit.standardize import Statistics
from clsspec_export.heads.linear import LinearHead, rows_of
from clsspec_export.heads.modules import Regression, module
from clsspec_serve.choices import Feature
from clsspec_serve.heads import AnyHead
from clsspec_serve.whole import write_whole

WEIGHT_DECAY = 1e-4
"""AdamW's, as in DINOv2's segmentation."""
INITIAL_SPREAD = 0.01
"""Standard deviation of the first weights, as in MMSegmentation's decode heads."""

Watch = Callable[[int, Sequence[Figure]], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """`rates`: AdamW's learning rates, each of which falls to 0 along a cosine.

    `batch_size`: pictures in a step. `seed`: of the first weights and of the pictures' order.
    """

    epochs: int
    rates: tuple[float, ...]
    batch_size: int
    seed: int


@dataclass
class Runner:
    """A head on its way, over standardised inputs."""

    rate: float
    head: nn.Module
    optimizer: torch.optim.AdamW

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(value).all()) for value in self.head.parameters())


def runners(
    description: AnyHead, width: int, settings: Settings, first_bias: float
) -> list[Runner]:
    """One head for each rate, all with the same first weights. `width`: C."""
    generator = torch.Generator().manual_seed(settings.seed)
    rows = rows_of(description)
    weight = torch.randn(rows, width, generator=generator) * INITIAL_SPREAD
    bias = torch.full((rows,), first_bias)
    made = []
    for rate in settings.rates:
        head = module(LinearHead(description, weight.clone(), bias.clone()))
        own = [value.requires_grad_() for name, value in head.named_parameters() if name in _OWN]
        optimizer = torch.optim.AdamW(own, lr=rate, weight_decay=WEIGHT_DECAY)
        made.append(Runner(rate, head, optimizer))
    return made


_OWN = ("weight", "patch_weight", "cls_weight", "bias")
"""The parameters of `modules` that are learned; the others are the bins."""


def weights_of(head: nn.Module, description: AnyHead) -> tuple[Tensor, Tensor]:
    """`(K, C)` and `(K,)` of a module, its columns in the order of the description's inputs."""
    state = head.state_dict()
    if "weight" in state:
        return state["weight"].clone(), state["bias"].clone()
    kinds = [output.kind for output in description.inputs]
    stacks: dict[Feature, str] = {"patches": "patch_weight", "cls": "cls_weight"}
    parts = {
        kind: iter(state[stacks[kind]].T.chunk(kinds.count(kind), dim=1)) for kind in set(kinds)
    }
    return torch.cat([next(parts[kind]) for kind in kinds], dim=1), state["bias"].clone()


def trainable_answer(head: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """What the loss is taken of: a regression's depth beyond its range, too.

    Where the head clamps it there is no slope, and what was once too far would stay there.
    """
    if isinstance(head, Regression):
        return functional.relu(head.values(tuple(inputs))[:, 0]) + head.minimum
    answer: Tensor = head(*inputs)
    return answer


class Checkpoint:
    """The state after an epoch, on disk; it appears whole, in place of the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, epochs: int, heads: Sequence[Runner]) -> None:
        """Write what is needed to go on after so many epochs."""
        stream = io.BytesIO()
        states = [(each.head.state_dict(), each.optimizer.state_dict()) for each in heads]
        torch.save({"epochs": epochs, "heads": states}, stream)
        content = stream.getvalue()
        write_whole(self._path, hashlib.sha256(content).digest() + content)

    def restore(self, heads: Sequence[Runner], report: Report) -> int:
        """Bring the heads to where they were; how many epochs are done.

        A damaged file is reported, and counts as none.
        """
        if not self._path.is_file():
            return 0
        try:
            stored = self._path.read_bytes()
        except OSError:
            stored = b""
        start = hashlib.sha256().digest_size
        if hashlib.sha256(stored[start:]).digest() != stored[:start]:
            report(f"{self._path} is damaged; the training starts over")
            return 0
        content = torch.load(io.BytesIO(stored[start:]), weights_only=True)
        for each, (head, optimizer) in zip(heads, content["heads"], strict=True):
            each.head.load_state_dict(head)
            each.optimizer.load_state_dict(optimizer)
        return int(content["epochs"])

    def remove(self) -> None:
        """Forget it; the head that it led to has been written."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Course:
    """What a training goes through: pictures to learn from, pictures to look at, one objective."""

    training: Examples
    validation: Examples
    statistics: Statistics
    objective: Objective

    def run(
        self,
        heads: Sequence[Runner],
        settings: Settings,
        done: int,
        checkpoint: Checkpoint,
        watch: Watch,
    ) -> list[Figure]:
        """Train to the end, after `done` epochs; the figures on the validation pictures.

        `watch` is told of the epochs done and the figures of the last one. A head whose weights
        are no longer finite has a figure of the lowest rank.
        """
        figures = self.figures(heads) if done else []
        if done:
            watch(done, figures)
        for epoch in range(done, settings.epochs):
            self._epoch(epoch, heads, settings)
            checkpoint.save(epoch + 1, heads)
            figures = self.figures(heads)
            watch(epoch + 1, figures)
        return figures

    def _epoch(self, epoch: int, heads: Sequence[Runner], settings: Settings) -> None:
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self.training))
        steps = math.ceil(len(order) / settings.batch_size)
        for step in range(steps):
            share = (epoch * steps + step) / (settings.epochs * steps)
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            self._step(batch.tolist(), heads, 0.5 + 0.5 * math.cos(math.pi * share))

    def _step(self, batch: Sequence[int], heads: Sequence[Runner], share: float) -> None:
        targets = [torch.from_numpy(np.array(self.training.target(index))) for index in batch]
        count = sum(self.objective.count(target[None]) for target in targets)
        if not count:
            return
        for each in heads:
            each.optimizer.zero_grad()
            for group in each.optimizer.param_groups:
                group["lr"] = each.rate * share
        for inputs, target in self._parts(self.training, batch):
            for each in heads:
                # Part by part, so that no more than one picture's maps are in memory.
                loss = self.objective.loss(trainable_answer(each.head, inputs), target)
                torch.autograd.backward(loss / count)
        for each in heads:
            each.optimizer.step()

    @torch.no_grad()
    def figures(self, heads: Sequence[Runner]) -> list[Figure]:
        """The results of all heads on the validation pictures."""
        sound = [each for each in heads if each.finite]
        scores = {id(each): self.objective.score() for each in sound}
        for inputs, target in self._parts(self.validation, range(len(self.validation))):
            for each in sound:
                scores[id(each)].add(each.head(*inputs), target)
        lost = Figure(-math.inf, "diverged")
        return [scores[id(each)].figure() if id(each) in scores else lost for each in heads]

    def _parts(
        self, examples: Examples, indices: Sequence[int]
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Standardised inputs and targets `(B, ...)`: maps one by one, vectors together."""
        size = 1 if examples.target(indices[0]).ndim else _VECTORS
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            columns = zip(*(examples.features(index) for index in part), strict=True)
            inputs = [torch.from_numpy(np.stack(column)) for column in columns]
            targets = np.stack([examples.target(index) for index in part])
            yield self.statistics.apply(inputs), torch.from_numpy(targets)


_VECTORS = 1024
"""Pictures of a classification that are taken at once."""
