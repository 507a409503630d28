"""The table of `clsspec bench`, in Markdown, its columns aligned."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from clsspec_serve.bench.row import Row, latency_ms
from clsspec_serve.bench.times import quartiles


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each row, below their names; of the twin only where there is one."""
    names = ["engine", "size", "batch", "ms", "p90", "p99", "images/s", "of ceiling"]
    paired = any(row.twin is not None for row in rows)
    cells = [[*names, *(["twin ms", "over twin", "quartiles"] if paired else [])]]
    cells += [_cells(row, paired=paired) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    printed = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in cells
    ]
    rule = "|".join("-" * (width + 2) for width in widths)
    return [printed[0], f"|{rule}|", *printed[1:]]


def _cells(row: Row, *, paired: bool) -> list[str]:
    latency = latency_ms(row.times)
    cells = [
        f"{row.engine} {row.precision}",
        f"{row.size[0]}x{row.size[1]}",
        str(row.batch),
        *(_ms(latency[name]) for name in ("p50", "p90", "p99")),
        f"{row.images_per_second:.1f}",
        "-" if row.share is None else f"{100 * row.share:.0f} %",
    ]
    if paired and row.twin is not None:
        ratios = row.times.ratios(row.twin)
        middle = quartiles(ratios)
        cells += [
            _ms(1000 * row.twin.median),
            f"{statistics.median(ratios):.3f}",
            "-" if middle is None else f"{middle[0]:.3f}-{middle[1]:.3f}",
        ]
    return cells


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"
