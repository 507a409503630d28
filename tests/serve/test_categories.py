from __future__ import annotations

import numpy as np
import pytest

from clsspec_serve.categories import TABLES, categories, default_categories, voc_colour
from clsspec_serve.errors import UsageError


def named(table: str, index: int) -> tuple[str, tuple[int, int, int]]:
    category = categories(table)[index]
    return category.name, category.colour


@pytest.mark.parametrize(
    ("table", "index", "expected"),
    [
        ("ade20k", 0, ("wall", (120, 120, 120))),
        ("ade20k", 7, ("bed", (204, 5, 255))),
        ("ade20k", 12, ("person", (150, 5, 61))),
        ("ade20k", 74, ("computer", (0, 255, 173))),
        ("ade20k", 136, ("traffic light", (41, 0, 255))),
        ("ade20k", 149, ("flag", (92, 0, 255))),
        ("voc2012", 0, ("background", (0, 0, 0))),
        ("voc2012", 15, ("person", (192, 128, 128))),
        ("voc2012", 20, ("tvmonitor", (0, 64, 128))),
        ("cityscapes", 0, ("road", (128, 64, 128))),
        ("cityscapes", 11, ("person", (220, 20, 60))),
        ("cityscapes", 18, ("bicycle", (119, 11, 32))),
    ],
)
def test_classes_have_their_published_place_and_colour(
    table: str, index: int, expected: tuple[str, tuple[int, int, int]]
) -> None:
    assert named(table, index) == expected


@pytest.mark.parametrize(("table", "count"), [("ade20k", 150), ("voc2012", 21), ("cityscapes", 19)])
def test_every_table_has_its_classes_under_different_names(table: str, count: int) -> None:
    names = [category.name for category in categories(table)]
    assert len(names) == len(set(names)) == TABLES[table] == count
    assert all(name == name.strip() for name in names)


def test_colours_differ_but_for_the_two_that_ade20k_itself_shares() -> None:
    for table in ("voc2012", "cityscapes"):
        colours = [category.colour for category in categories(table)]
        assert len(set(colours)) == len(colours)
    # The benchmark's own table gives 140, 140, 140 to road and to skyscraper.
    shared = [c.name for c in categories("ade20k") if c.colour == (140, 140, 140)]
    assert shared == ["road", "skyscraper"]
    assert len({category.colour for category in categories("ade20k")}) == 149


def test_vocs_colours_follow_from_the_bits_of_the_id() -> None:
    # The devkit's loop, one id at a time: three bits of the id a step, from the highest bit down.
    for index, category in enumerate(categories("voc2012")):
        rest, colour = index, np.zeros(3, int)
        for step in range(8):
            colour += [bit * 2 ** (7 - step) for bit in (rest % 2, rest // 2 % 2, rest // 4 % 2)]
            rest //= 8
        assert category.colour == tuple(colour.tolist()) == voc_colour(index)


@pytest.mark.parametrize("table", TABLES)
def test_a_head_with_as_many_classes_as_a_table_gets_that_table(table: str) -> None:
    assert default_categories(TABLES[table]) == categories(table)


@pytest.mark.parametrize("count", [1, 20, 1000])
def test_other_heads_get_numbered_classes_in_different_colours(count: int) -> None:
    found = default_categories(count)
    assert [category.name for category in found] == [f"class {i}" for i in range(count)]
    assert len({category.colour for category in found}) == count


def test_an_unknown_table_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^there is no table of classes 'coco'; accepted are"):
        categories("coco")


def test_no_classes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a head of 0 classes; accepted are 1 and more"):
        default_categories(0)
