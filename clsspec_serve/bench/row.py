"""One engine on batches of one size: what was measured, and what that amounts to."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from clsspec_serve.bench.times import Times, quartiles
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.request import Size


@dataclass(frozen=True)
class Ceiling:
    """What matrix products alone reach: of `shape`, (rows, width, hidden), FLOP/s at the best."""

    engine: EngineName
    shape: tuple[int, int, int]
    flops: float


@dataclass(frozen=True)
class Row:
    """One engine at one precision on batches of one size, (H, W); `gpu` None: on the CPU.

    `gflop`: multiply-accumulates of one picture, as two each, in 1e9. `twin`: the times of the
    plain twin in the same rounds. `ceiling`: the best of all engines at this precision and on this
    device, in the same rounds; None where none could be measured.
    """

    engine: EngineName
    precision: Precision
    size: Size
    batch: int
    gflop: float
    gpu: str | None
    times: Times
    twin: Times | None
    ceiling: Ceiling | None

    @property
    def images_per_second(self) -> float:
        """Of passes one after the other, by their median."""
        return self.batch / self.times.median

    @property
    def flops(self) -> float:
        """Those of the products, in a second, by the shortest run."""
        return 1e9 * self.gflop * self.batch / self.times.shortest

    @property
    def share(self) -> float | None:
        """Of the ceiling, at the best of both.

        By medians, work of another process that came when the ceiling had its turn would lift the
        share, even beyond 1.
        """
        return None if self.ceiling is None else self.flops / self.ceiling.flops

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts: dict[str, Any] = {
            "engine": self.engine,
            "precision": self.precision,
            "gpu": self.gpu,
            "size": list(self.size),
            "batch": self.batch,
            "rounds": len(self.times.rounds),
            "runs": len(self.times.runs),
            "latency_ms": latency_ms(self.times),
            "images_per_second": self.images_per_second,
            "gflop_per_image": self.gflop,
            "best_gflop_per_second": self.flops / 1e9,
            "ceiling_share": self.share,
            "ceiling": None,
            "twin_latency_ms": None,
            "twin_ratio": None,
            "twin_ratio_quartiles": None,
        }
        if self.ceiling is not None:
            facts["ceiling"] = {
                "engine": self.ceiling.engine,
                "products": list(self.ceiling.shape),
                "best_gflop_per_second": self.ceiling.flops / 1e9,
            }
        if self.twin is not None:
            ratios = self.times.ratios(self.twin)
            facts["twin_latency_ms"] = latency_ms(self.twin)
            facts["twin_ratio"] = statistics.median(ratios)
            facts["twin_ratio_quartiles"] = quartiles(ratios)
        return facts


def latency_ms(times: Times) -> dict[str, float | None]:
    """Median and percentiles in ms; see `Times.percentile`."""
    p90, p99 = (times.percentile(percent) for percent in (90, 99))
    return {
        "p50": 1000 * times.median,
        "p90": None if p90 is None else 1000 * p90,
        "p99": None if p99 is None else 1000 * p99,
    }
