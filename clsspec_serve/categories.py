"""The classes of published segmentation data sets, with the colours that they are shown in."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from clsspec_serve.errors import UsageError
from clsspec_serve.heads import Category

TABLES = {"ade20k": 150, "voc2012": 21, "cityscapes": 19}
"""The names of the tables, and how many classes each has."""


@cache
def categories(name: str) -> tuple[Category, ...]:
    """The classes of a published data set, by their ids.

    `ade20k`: the 150 of the scene parsing benchmark, each by the first of its names; `voc2012`: 20
    and the background, which is 0; `cityscapes`: the 19 that are trained and scored. The colours of
    the first are those of the benchmark's own colour table, those of the others are the data sets'.
    Raises UsageError for another name.
    """
    if name not in TABLES:
        raise UsageError(f"there is no table of classes {name!r}; accepted are {', '.join(TABLES)}")
    path = Path(__file__).parent / "class_tables" / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Category(
                name=row["name"], colour=(int(row["red"]), int(row["green"]), int(row["blue"]))
            )
            for row in csv.DictReader(file)
        )


def default_categories(count: int) -> tuple[Category, ...]:
    """Classes for a head that says no more than how many it has.

    The shipped table with that many classes, otherwise `class 0`, `class 1`, ... in colours that
    are all different. Raises UsageError for less than one class.
    """
    if count < 1:
        raise UsageError(f"a head of {count} classes; accepted are 1 and more")
    for name, known in TABLES.items():
        if known == count:
            return categories(name)
    return tuple(Category(name=f"class {i}", colour=voc_colour(i)) for i in range(count))


def voc_colour(index: int) -> tuple[int, int, int]:
    """The colour (RGB) that PASCAL VOC gives to an id (`VOClabelcolormap.m` in its devkit).

    The id's bits go to red, green and blue in turn, and in each from the highest bit downwards, so
    that the first 2 ** 24 ids have different colours.
    """
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
