"""The names of people's own classes: a list beside the pictures, or none but their numbers."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.categories import voc_colour
from clsspec_serve.colour import parse_colour
from clsspec_serve.errors import DatasetError, UsageError, one_line
from clsspec_serve.heads import Category

CLASSES = "classes.txt"
"""The list's own name in a folder of labelled pictures."""


def numbered(count: int) -> tuple[Category, ...]:
    """`class 0`, `class 1` and so on: how many there are does not tell what they are."""
    return tuple(Category(name=f"class {i}", colour=voc_colour(i)) for i in range(count))


def read_classes(path: Path) -> tuple[Category, ...]:
    """One class a line, from id 0 on: its name and, if wanted, its colour, such as `sky #70c0ff`.

    Raises `DatasetError` for a file that cannot be read, has blank lines in between, or names a
    class twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: cannot be read: {one_line(error)}; accepted is one name a line"
        ) from error
    found = [_category(path, index, line.strip()) for index, line in enumerate(lines)]
    names = [category.name for category in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not found:
        problem = f"names {twice[0]!r} twice" if twice else "is empty"
        raise DatasetError(f"{path}: {problem}; accepted is one name a line")
    return tuple(found)


def _category(path: Path, index: int, line: str) -> Category:
    if not line:
        raise DatasetError(f"{path}: line {index + 1} is blank; accepted is one name a line")
    name, _, last = line.rpartition(" ")
    coloured = bool(last.startswith("#") and name)
    try:
        colour = parse_colour(last) if coloured else voc_colour(index)
    except UsageError as error:
        raise DatasetError(f"{path}: line {index + 1}: {error}") from error
    try:
        return Category(name=name.strip() if coloured else line, colour=colour)
    except ValueError as error:
        raise DatasetError(
            f"{path}: line {index + 1} holds control characters; accepted is one name a line"
        ) from error
