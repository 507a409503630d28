"""What `clsspec bench` says, in words and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clsspec_serve.bench.machine import Machine
from clsspec_serve.bench.preprocessing import Preprocessing
from clsspec_serve.bench.row import Ceiling, Row, latency_ms
from clsspec_serve.bench.table import table
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.request import Size

TIMED = (
    "one forward pass, from pixels (uint8) to [CLS] and patch features (fp32), both in this "
    "machine's memory; neither heads nor decoding and resizing"
)


@dataclass(frozen=True)
class Failure:
    """An engine that did not run here, and why."""

    engine: EngineName
    precision: Precision
    reason: str


@dataclass(frozen=True)
class Report:
    """`model`, `path`: the bundle's. `seconds`: all that it took."""

    model: str
    path: str
    architecture: str
    machine: Machine
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    preprocessing: tuple[Preprocessing, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON: times in ms, sizes as [H, W]; what was not measured is null."""
        return {
            "model": self.model,
            "path": self.path,
            "architecture": self.architecture,
            "timed": TIMED,
            "machine": asdict(self.machine),
            "rows": [row.to_dict() for row in self.rows],
            "not_run": [asdict(failure) for failure in self.failures],
            "preprocessing": [
                {
                    "picture": list(each.picture),
                    "size": list(each.shown),
                    "runs": len(each.times.runs),
                    "latency_ms": latency_ms(each.times),
                    "images_per_second": 1 / each.times.median,
                }
                for each in self.preprocessing
            ],
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """For people: what was timed, a table in Markdown, and what goes with it."""
        gpus = dict.fromkeys(row.gpu for row in self.rows)
        lines = [
            f"model    {self.model} ({self.architecture}), {self.path}",
            f"machine  {self.machine.text()}",
            *(f"gpu      {gpu}" for gpu in gpus if gpu is not None),
            f"timed    {TIMED}",
        ]
        if self.rows:
            lines += ["", *table(self.rows), ""]
        for (precision, gpu), ceiling in self._ceilings().items():
            place = "" if gpu is None else f" on {gpu}"
            lines.append(
                f"ceiling of {precision}{place}: {ceiling.flops / 1e9:.0f} GFLOP/s, by "
                f"{ceiling.engine} in products of {'x'.join(map(str, ceiling.shape))}; shares are "
                "of the shortest runs"
            )
        if any(row.share is not None and row.share > 1 for row in self.rows):
            lines.append(
                "a share beyond 100 %: other work kept the machine from its ceiling; measure again "
                "when it is quiet"
            )
        for each in self.preprocessing:
            lines.append(
                f"preprocessing: {1000 * each.times.median:.2f} ms for a JPEG of "
                f"{_by(each.picture)} to {_by(each.shown)}, {1 / each.times.median:.0f} images/s "
                "on one core"
            )
        lines += [
            f"{each.engine} {each.precision}: not run: {each.reason}" for each in self.failures
        ]
        return lines

    def _ceilings(self) -> dict[tuple[Precision, str | None], Ceiling]:
        """The best that was seen of each precision and device."""
        found: dict[tuple[Precision, str | None], Ceiling] = {}
        for row in self.rows:
            best = found.get((row.precision, row.gpu))
            if row.ceiling is not None and (best is None or row.ceiling.flops > best.flops):
                found[row.precision, row.gpu] = row.ceiling
        return found


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
