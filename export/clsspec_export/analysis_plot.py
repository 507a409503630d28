"""The picture of an analysis: how similarity changes from layer to layer, over the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from clsspec_export.analysis import POINTS, Row


class Style(NamedTuple):
    """Colour and marker of a line."""

    color: str
    marker: str


# Okabe and Ito's blue and vermilion, which stay apart for colour-blind eyes; shapes help further.
BEFORE = Style("#595959", "o")
AFTER = Style("#0072B2", "s")
BRANCH = Style("#D55E00", "^")

HALVES = {
    "LayerNorm 1 and attention": {
        "before_norm1": BEFORE,
        "after_norm1": AFTER,
        "attention": BRANCH,
    },
    "LayerNorm 2 and MLP": {"before_norm2": BEFORE, "after_norm2": AFTER, "mlp": BRANCH},
}
"""The columns of panels, with their lines."""

FINAL = {"block_output": BEFORE, "after_final_norm": AFTER}
"""What the first column has beside the last block."""

SIMILARITIES = {"cls_patch": "[CLS] to patches", "patch_patch": "patches to patches"}
"""The rows of panels, by the columns of the table."""

DOTS_PER_INCH = 160
LONGEST_NAME = 60
MOST_TICKS = 13


def plot(rows: Sequence[Row], name: str, path: Path) -> None:
    """Write a PNG of 2 x 2 panels: a kind of similarity against a half of the block.

    Lines are means over the pictures, bands reach one standard deviation to both sides. `name` is
    what was analysed; its characters outside of ASCII, which the font may lack, become escapes.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(10.4, 6.8), layout=layout)
    figure.suptitle(
        _caption(name, rows[0].images), x=0.012, ha="left", fontsize=11, parse_math=False
    )
    depth = 1 + max(row.block for row in rows)
    gap = 1 + 0.04 * depth
    ends = [row for row in rows if row.block == depth - 1]
    panels = figure.subplots(2, 2, sharex="col", sharey=True, squeeze=False)
    for line, (similarity, words) in zip(panels, SIMILARITIES.items(), strict=True):
        line[0].set_ylabel(f"cosine similarity of\n{words}", fontsize=11)
        for axes, points in zip(line, HALVES.values(), strict=True):
            for point, style in points.items():
                _draw(axes, rows, similarity, point, style)
            _tidy(axes)
        for point, style in FINAL.items():
            _draw(line[0], ends, similarity, point, style, shift=gap)
    for axes, (half, points) in zip(panels[0], HALVES.items(), strict=True):
        axes.set_title(half, fontsize=12, pad=28, loc="left")
        legend = axes.legend(
            handles=axes.lines[: len(points)],
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=3,
            frameon=False,
            fontsize=8.5,
            borderaxespad=0.2,
            handlelength=1.4,
            handletextpad=0.5,
            columnspacing=1.0,
        )
        legend.set_in_layout(False)  # it would make the panel as narrow as itself
    step = next(step for step in (1, 2, 5, 10, 20, depth) if depth <= step * MOST_TICKS)
    numbers = list(range(0, depth, step))
    normed = any(row.point == "after_final_norm" for row in rows)
    panels[1][0].set_xticks(
        [*numbers, depth - 1 + gap], [*numbers, "final\nnorm" if normed else "end"]
    )
    panels[1][1].set_xticks(numbers)
    for axes in panels[1]:
        axes.set_xlabel("block", fontsize=11)
    figure.align_xlabels()
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH)


def _draw(
    axes: Axes, rows: Sequence[Row], similarity: str, point: str, style: Style, shift: float = 0
) -> None:
    """One line with its band; of a single row a marker with its range."""
    found = [row for row in rows if row.point == point]
    blocks = np.array([row.block + shift for row in found])
    mean = np.array([getattr(row, f"{similarity}_mean") for row in found])
    std = np.array([getattr(row, f"{similarity}_std") or 0 for row in found])
    label, (color, marker) = POINTS[point], style
    size = 4.5 if len(found) < 30 else 3.0
    axes.plot(blocks, mean, label=label, color=color, marker=marker, linewidth=1.6, markersize=size)
    axes.fill_between(blocks, mean - std, mean + std, color=color, alpha=0.16, linewidth=0)
    if len(found) == 1:
        axes.vlines(blocks, mean - std, mean + std, color=color, linewidth=1.2)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.axhline(0, color="#9a9a9a", linewidth=0.9, zorder=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9.5)


def _caption(name: str, images: int) -> str:
    text = name.encode("ascii", "backslashreplace").decode("ascii")
    if len(text) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        text = f"{text[:half]} ... {text[-half:]}"
    if images == 1:
        return f"{text}, one image"
    return f"{text}, {images} images; bands: one standard deviation over the images"
