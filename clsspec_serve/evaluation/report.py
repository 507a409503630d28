"""An evaluation in one piece: numbers, what they are of, and how they were made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clsspec_serve.choices import Precision
from clsspec_serve.evaluation.metrics import Metric
from clsspec_serve.evaluation.protocol import Shown
from clsspec_serve.evaluation.words import EvalTask


@dataclass(frozen=True)
class Pictures:
    """Where pictures are, and how many were `used` of those with a label, `labelled`.

    `split` None: folders. `left_out`: how many more have no part in the numbers, by the reason.
    """

    name: str
    root: str
    split: str | None
    used: int
    labelled: int
    left_out: dict[str, int]

    def text(self) -> str:
        """The same in words."""
        split = "" if self.split is None else f", {self.split}"
        reasons = [f"; {count} {why}" for why, count in self.left_out.items() if count]
        return (
            f"{self.used} of {self.labelled} of {self.name}{split} ({self.root}){''.join(reasons)}"
        )


@dataclass(frozen=True)
class Run:
    """What answered. `sha256`: of the graphs. `threads` None: all cores. `seconds`: in all."""

    model: str
    path: str
    sha256: dict[str, str]
    engine: str
    precision: Precision
    threads: int | None
    batch_size: int
    versions: dict[str, str]
    seconds: float

    def text(self) -> str:
        """Engine, precision and time in words."""
        threads = "all cores" if self.threads is None else f"threads: {self.threads}"
        engine = " ".join(filter(None, (self.engine, self.versions.get(self.engine))))
        return (
            f"{engine}, {self.precision}, {threads}, batches of {self.batch_size}, "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class Report:
    """What `clsspec eval` prints.

    `classes`: the IoU of each. `neighbours`: the training pictures of k-NN. `rule`: how it was
    scored.
    """

    task: EvalTask
    metrics: tuple[Metric, ...]
    classes: tuple[Metric, ...]
    pictures: Pictures
    neighbours: Pictures | None
    shown: Shown
    rule: str
    run: Run

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a number that does not exist is None beside a `reason`."""
        facts = asdict(self)
        facts["metrics"] = {metric.key: _for_machines(metric) for metric in self.metrics}
        facts["classes"] = [
            {"id": int(metric.key), **_for_machines(metric)} for metric in self.classes
        ]
        facts["shown"]["text"] = self.shown.text()
        return facts

    def lines(self, *, per_class: bool = False) -> list[str]:
        """For people: a name and a value a line, with the IoU of every class or without."""
        rows = [(metric.name, metric.text()) for metric in self.metrics]
        rows += [("pictures", self.pictures.text())]
        if self.neighbours is not None:
            rows += [("neighbours", self.neighbours.text())]
        rows += [
            ("scored", self.rule),
            ("shown", self.shown.text()),
            ("model", f"{self.run.model} ({self.run.path})"),
            ("run", self.run.text()),
        ]
        if per_class:
            rows += [(f"IoU of {metric.name}", metric.text()) for metric in self.classes]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}" for name, value in rows]


def _for_machines(metric: Metric) -> dict[str, Any]:
    facts = {"name": metric.name, "value": metric.value, "unit": metric.unit}
    return facts if metric.value is not None else {**facts, "reason": metric.reason}
