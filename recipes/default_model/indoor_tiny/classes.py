"""What the model tells apart: the classes of pixels and the kinds of rooms."""

from __future__ import annotations

from typing import Final

CLASSES: Final = (
    "wall",
    "floor",
    "ceiling",
    "bed",
    "chair",
    "sofa",
    "table",
    "cabinet",
    "lamp",
    "plant",
    "door",
    "window",
    "screen",
    "bath",
    "appliance",
    "person",
    "other",
)
"""Index = id of a pixel. `bath` is what a bathroom's plumbing ends in: bath, basin, toilet."""

COLOURS: Final = (
    "#9aa5b1",
    "#8c6d4f",
    "#e8e4da",
    "#d1495b",
    "#edae49",
    "#f26419",
    "#66a182",
    "#7d5ba6",
    "#ffe066",
    "#2e933c",
    "#5d3a00",
    "#6ec6ff",
    "#1d3557",
    "#00b4d8",
    "#ff99c8",
    "#e63946",
    "#4a4a4a",
)
"""One per class, for masks."""

ROOMS: Final = ("living", "bedroom", "kitchen", "bathroom", "office", "corridor")
"""What a room was furnished as; what [CLS] is asked for."""


def class_id(name: str) -> int:
    """The id of a class's pixels."""
    return CLASSES.index(name)
