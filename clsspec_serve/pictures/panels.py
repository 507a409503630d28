"""Pictures with titles, side by side in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clsspec_serve.colour import Colour
from clsspec_serve.errors import UsageError
from clsspec_serve.images import DEFAULT_MAX_PIXELS

Bytes = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)
_ELONGATED = 3
"""Most times that a panel is wider than high."""
_ON_ONE_LINE = 3
_SMOOTHING = 8
"""Pillow draws circles without intermediate tones; they are drawn larger and reduced."""


@dataclass(frozen=True)
class Panel:
    """A picture `(H, W, 3)` uint8, RGB, what it is called, and what its colours mean."""

    title: str
    picture: Bytes
    legend: tuple[tuple[Colour, str], ...] = ()


@dataclass(frozen=True)
class _Layout:
    """Pixels: `text` high letters, `bar` for titles, `gap` in between; sides of rows, columns."""

    text: int
    bar: int
    gap: int
    heights: list[int]
    widths: list[int]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of everything."""
        height = sum(self.heights) + len(self.heights) * (self.bar + self.gap)
        return height, sum(self.widths) + (len(self.widths) + 1) * self.gap


def fitted(pixels: Bytes, height: int) -> Bytes:
    """The picture `(H, W, 3)` uint8 at this height; lower where it would be too wide."""
    scale = min(height / pixels.shape[0], height * _ELONGATED / pixels.shape[1])
    size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def ring(picture: Bytes, y: float, x: float) -> Bytes:
    """A copy with a small ring around a point, white between black so that it shows everywhere."""
    radius = max(max(picture.shape[:2]) / 40, 6)
    line = max(radius / 5, 1.5)
    reach = math.ceil(radius + line)
    corner = (math.floor(x) - reach, math.floor(y) - reach)
    middle = [(place - edge) * _SMOOTHING for place, edge in zip((x, y), corner, strict=True)]
    out = Image.fromarray(picture)
    for colour, outer, width in (
        ((0, 0, 0), radius + line / 2, 2 * line),
        ((255, 255, 255), radius, line),
    ):
        mask = Image.new("L", ((2 * reach + 1) * _SMOOTHING,) * 2)
        ImageDraw.Draw(mask).circle(
            middle, outer * _SMOOTHING, outline=255, width=round(width * _SMOOTHING)
        )
        small = mask.reduce(_SMOOTHING)
        out.paste(Image.new("RGB", small.size, colour), corner, small)
    return np.asarray(out)


def wrapped(panels: Sequence[Panel]) -> list[list[Panel]]:
    """One picture's panels on one line, or on two where they are more than three."""
    columns = len(panels) if len(panels) <= _ON_ONE_LINE else (len(panels) + 1) // 2
    return [list(panels[start : start + columns]) for start in range(0, len(panels), columns)]


def check_size(rows: Sequence[Sequence[Panel]]) -> None:
    """Raise UsageError where `grid` would give a picture of more than `DEFAULT_MAX_PIXELS`."""
    height, width = _layout(rows).size
    if height * width > DEFAULT_MAX_PIXELS:
        raise UsageError(
            f"the panels make a picture of {width}x{height} pixels; accepted are "
            f"{DEFAULT_MAX_PIXELS}: take a lower --height, or a folder for a picture each"
        )


def grid(rows: Sequence[Sequence[Panel]]) -> Bytes:
    """All panels in rows and columns, each under its title: `(H, W, 3)` uint8, RGB.

    Raises UsageError as `check_size` does.
    """
    check_size(rows)
    layout = _layout(rows)
    sheet = Image.new("RGB", layout.size[::-1], _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(layout.text)
    top = 0
    for row, height in zip(rows, layout.heights, strict=True):
        left = layout.gap
        for panel, width in zip(row, layout.widths, strict=False):
            _label(draw, font, panel, (left, top + layout.bar // 2), width)
            sheet.paste(Image.fromarray(panel.picture), (left, top + layout.bar))
            left += width + layout.gap
        top += layout.bar + height + layout.gap
    return np.asarray(sheet)


def _layout(rows: Sequence[Sequence[Panel]]) -> _Layout:
    heights = [max(panel.picture.shape[0] for panel in row) for row in rows]
    text = max(max(heights) // 24, 11)
    columns = range(max(len(row) for row in rows))
    widths = [
        # Room for a title above the narrowest picture.
        max(10 * text, *(row[each].picture.shape[1] for row in rows if each < len(row)))
        for each in columns
    ]
    return _Layout(text, 2 * text, text, heights, widths)


def _label(
    draw: ImageDraw.ImageDraw, font: Font, panel: Panel, place: tuple[int, int], width: int
) -> None:
    """The title and as much of the legend as there is room for; `place`: left, middle."""
    x, y = place
    end = x + width
    title = _shortened(_printable(panel.title), font, width)
    draw.text((x, y), title, _INK, font, "lm")
    side = round(font.getlength("m"))
    x += round(font.getlength(title)) + side
    for colour, name in panel.legend:
        text = _printable(name)
        after = x + side * 3 // 2 + round(font.getlength(text))
        if after > end:
            break
        draw.rectangle((x, y - side // 2, x + side, y + side // 2), colour, _INK)
        draw.text((x + side * 3 // 2, y), text, _INK, font, "lm")
        x = after + side


def _shortened(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _printable(text: str) -> str:
    """Control characters and bytes of a file's name that are no text cannot be drawn."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
