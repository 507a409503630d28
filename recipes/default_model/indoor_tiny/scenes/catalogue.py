"""Sweet Home 3D's furniture libraries: what there is, what it counts as, and which is held out.

A library is a zip file `*.sh3f` with OBJ models and a catalogue of Java properties, whose lengths
are centimetres. `furniture.csv` says by category and name what a piece is labelled as and where it
goes; its first line that fits counts, and a line without a class leaves the piece out.
"""

from __future__ import annotations

import csv
import hashlib
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indoor_tiny.classes import CLASSES, ROOMS

RULES = Path(__file__).with_name("furniture.csv")
PLACES = (
    "wall",  # on the floor, its back to a wall
    "middle",  # on the floor, chairs around it
    "seat",  # on the floor, at a table or anywhere
    "floor",  # on the floor, anywhere
    "stand",  # on the floor or, up to `LOW`, on top of something
    "top",  # on top of something
    "hung",  # on a wall, at its own height
    "opening",  # in a wall
    "ceiling",
    "rug",
)
LOW = 0.6
"""Metres up to which a piece may stand on a table."""

HELD_OUT_SHARE = 0.2
CENTIMETRES = 100

_CATALOGUE = "PluginFurnitureCatalog.properties"
_ENTRY = re.compile(r"(\w+)#(\d+)=(.*)")


@dataclass(frozen=True)
class Piece:
    """One model of a library.

    `size`: (width, height, depth) in metres: along x, y (up) and z (the front looks to +z).
    `elevation`: of its lowest point over the floor. `top`: where things can be put down on it;
    None where they cannot. `rotation`: `(3, 3)`, applied before anything is measured. `rooms`: ids
    of the kinds of rooms where it belongs.
    """

    library: Path
    model: str
    name: str
    creator: str
    label: int
    place: str
    rooms: frozenset[int]
    size: tuple[float, float, float]
    elevation: float
    top: float | None
    rotation: NDArray[np.float64]
    held_out: bool


def read_furniture(folder: Path) -> list[Piece]:
    """The pieces of all libraries in a folder that `furniture.csv` gives a class, in order.

    Of each class `HELD_OUT_SHARE` is held out, chosen by a hash of the model's name. Pieces of one
    name by one creator stay together: they are often variants of one model.

    Raises `FileNotFoundError` for a folder without libraries.
    """
    libraries = sorted(folder.glob("*.sh3f"))
    if not libraries:
        raise FileNotFoundError(f"{folder}: holds no *.sh3f, the libraries of Sweet Home 3D")
    rules = _read_rules()
    pieces = []
    for library in libraries:
        for entry in _entries(library):
            rule = next((rule for rule in rules if rule.fits(entry)), None)
            if rule is not None and rule.label is not None:
                pieces.append(_piece(library, entry, rule, rule.label))
    return _split(pieces)


@dataclass(frozen=True)
class _Rule:
    category: str
    name: re.Pattern[str]
    label: int | None
    place: str
    rooms: frozenset[int]

    def fits(self, entry: dict[str, str]) -> bool:
        return self.category == entry["category"] and self.name.search(entry["name"]) is not None


def _read_rules() -> list[_Rule]:
    with RULES.open(encoding="utf-8", newline="") as file:
        return [
            _Rule(
                category=row["category"],
                name=re.compile(row["name"], re.IGNORECASE),
                label=CLASSES.index(row["class"]) if row["class"] else None,
                place=row["place"],
                rooms=frozenset(map(ROOMS.index, row["rooms"].split() or ROOMS)),
            )
            for row in csv.DictReader(file)
        ]


def _entries(library: Path) -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(library) as archive:
        text = archive.read(_CATALOGUE).decode("latin-1")
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for line in text.splitlines():
        if match := _ENTRY.match(line.strip()):
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), match[3])
            found[int(match[2])][match[1]] = value.strip()
    yield from (found[number] for number in sorted(found))


def _piece(library: Path, entry: dict[str, str], rule: _Rule, label: int) -> Piece:
    def metres(key: str, default: float = 0.0) -> float:
        return float(entry.get(key, default * CENTIMETRES)) / CENTIMETRES

    rotation = np.eye(3)
    if "modelRotation" in entry:
        rotation = np.array(entry["modelRotation"].split(), np.float64).reshape(3, 3)
    drop = metres("dropOnTopElevation", metres("height"))
    return Piece(
        library=library,
        model=entry["model"].lstrip("/"),
        name=entry["name"],
        creator=entry["creator"],
        label=label,
        place=rule.place,
        rooms=rule.rooms,
        size=(metres("width"), metres("height"), metres("depth")),
        elevation=metres("elevation"),
        top=drop if drop > 0 else None,
        rotation=rotation,
        held_out=False,
    )


def _split(pieces: list[Piece]) -> list[Piece]:
    """Hold out whole groups of a class, in the order of their hashes, up to the share."""
    classes: dict[int, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for piece in pieces:
        classes[piece.label][piece.creator, piece.name] += 1
    held: set[tuple[int, str, str]] = set()
    for label, groups in classes.items():
        left = max(round(HELD_OUT_SHARE * sum(groups.values())), 1)
        for group in sorted(groups, key=lambda group: _hash(*group)):
            if groups[group] <= left:
                left -= groups[group]
                held.add((label, *group))
    return [
        replace(piece, held_out=(piece.label, piece.creator, piece.name) in held)
        for piece in pieces
    ]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
