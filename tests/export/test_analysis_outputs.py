"""The table and the plot of an analysis."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from clsspec_export import analysis_plot
from clsspec_export.analysis import (
    POINTS,
    Row,
    write_csv,
)
from clsspec_export.analysis_plot import plot

SCALED = ("attention_scaled", "mlp_scaled")


def _rows(depth: int, images: int, *, final: bool = True) -> list[Row]:
    """Rows as a model of that depth has them, each number another one."""
    points = [(block, point) for block in range(depth) for point in list(POINTS)[:-1]]
    points += [(depth - 1, "after_final_norm")] * final
    std = None if images == 1 else 0.01
    return [
        Row(block, point, images, 0.5 / (1 + n), std, 1 - 0.5 / (1 + n), std)
        for n, (block, point) in enumerate(points)
    ]


def test_the_table_gives_back_every_number_exactly(tmp_path: Path) -> None:
    for rows in (_rows(3, 5), _rows(2, 1, final=False)):
        write_csv(rows, tmp_path / "t.csv")
        text = (tmp_path / "t.csv").read_text(encoding="utf-8")
        assert text.count("\n") == 1 + len(rows)
        assert text.splitlines()[0] == (
            "block,point,images,cls_patch_mean,cls_patch_std,patch_patch_mean,patch_patch_std"
        )
        with (tmp_path / "t.csv").open(newline="") as stream:
            read = list(csv.DictReader(stream))
        for line, row in zip(read, rows, strict=True):
            for name, value in asdict(row).items():
                assert line[name] == "" if value is None else type(value)(line[name]) == value


def _axes(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], None]) -> list[Axes]:
    """The panels of the figure that `draw` saves."""
    figures = []
    save = Figure.savefig

    def spied(self: Figure, *arguments: object, **options: object) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", spied)
    draw()
    return figures[0].axes


def test_every_line_of_the_plot_is_one_point_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _rows(5, 3)
    axes = _axes(monkeypatch, lambda: plot(rows, "a name", tmp_path / "p.png"))
    shown = {}
    for index, panel in enumerate(axes):
        similarity = ("cls_patch", "patch_patch")[index // 2]
        assert similarity.split("_")[0] in axes[index - index % 2].get_ylabel().lower()
        for line in panel.lines:
            words = line.get_label()
            if words in POINTS.values():
                shown[similarity, words] = (list(line.get_xdata()), list(line.get_ydata()))
    for similarity in ("cls_patch", "patch_patch"):
        for point in set(POINTS) - {*SCALED, "block_output", "after_final_norm"}:
            expected = [getattr(row, f"{similarity}_mean") for row in rows if row.point == point]
            assert shown[similarity, POINTS[point]] == ([0, 1, 2, 3, 4], expected)
        for point in ("block_output", "after_final_norm"):
            places, values = shown[similarity, POINTS[point]]
            last = [row for row in rows if row.point == point][-1]
            assert (values, len(places)) == ([getattr(last, f"{similarity}_mean")], 1)
            assert places[0] > 4
            labels = [label.get_text() for label in axes[2].get_xticklabels()]
            assert labels[list(axes[2].get_xticks()).index(places[0])] == "final\nnorm"


@pytest.mark.parametrize(("depth", "images"), [(1, 1), (2, 7), (24, 1), (61, 7)])
def test_the_plot_is_a_picture_of_one_size_whatever_the_depth(
    tmp_path: Path, depth: int, images: int
) -> None:
    plot(_rows(depth, images, final=depth != 2), "x", tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1664, 1088))
        colours = np.unique(np.asarray(picture.convert("RGB")) @ np.array([1 << 16, 1 << 8, 1]))
    assert {0x595959, 0x0072B2, 0xD55E00} <= set(colours.tolist())


@pytest.mark.parametrize("name", ["$x_{$ 模型\n", "m" * 300, ""])
def test_no_name_of_a_checkpoint_spoils_the_plot(tmp_path: Path, name: str) -> None:
    plot(_rows(2, 3), name, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (1664, 1088)


def test_the_plot_does_without_pyplot_and_its_global_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    importlib.reload(analysis_plot).plot(_rows(2, 3), "x", tmp_path / "p.png")
    assert (tmp_path / "p.png").is_file()
