"""Furniture libraries: what is read of them, what is left out, what is held out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from indoor_tiny.classes import CLASSES, ROOMS, class_id
from indoor_tiny.scenes.catalogue import PLACES, RULES, Piece, read_furniture

ENTRY = """
id#{n}=Some#{name}
name#{n}={name}
category#{n}={category}
model#{n}=/some/{name}{n}.obj
width#{n}=50
depth#{n}=60.5
height#{n}=100
creator#{n}=Maker
"""


def library(folder: Path, entries: list[tuple[str, str]], extra: str = "") -> Path:
    text = "".join(
        ENTRY.format(n=n, name=name, category=category)
        for n, (category, name) in enumerate(entries, 1)
    )
    with zipfile.ZipFile(folder / "Some.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", text + extra)
    return folder


def pieces(folder: Path, *entries: tuple[str, str], extra: str = "") -> list[Piece]:
    return read_furniture(library(folder, list(entries), extra))


def test_lengths_become_metres_and_lie_along_width_height_depth(tmp_path: Path) -> None:
    (piece,) = pieces(tmp_path, ("Living room", "Chair"), extra="elevation#1=12\n")
    assert piece.size == (0.5, 1.0, 0.605)
    assert piece.elevation == 0.12
    assert piece.model == "some/Chair1.obj"


@pytest.mark.parametrize(
    ("category", "name", "label", "place"),
    [
        ("Living room", "Armchair", "chair", "seat"),
        ("Living room", "Corner sofa", "sofa", "wall"),
        ("Living room", "TV remote control", "other", "top"),
        ("Living room", "Wall flat TV", "screen", "hung"),
        ("Bedroom", "Bedside table", "cabinet", "wall"),
        ("Bedroom", "Opened convertible sofa BZ", "bed", "wall"),
        ("Bathroom", "Toilet brush", "other", "top"),
        ("Bathroom", "Toilets unit", "bath", "wall"),
        ("Kitchen", "Large fridge", "appliance", "wall"),
        ("Doors and windows", "Sliding window", "window", "opening"),
        ("Characters", "Sitting girl", "person", "floor"),
        ("Miscellaneous", "Screen", "other", "wall"),
    ],
)
def test_name_and_category_say_class_and_place(
    category: str, name: str, label: str, place: str, tmp_path: Path
) -> None:
    (piece,) = pieces(tmp_path, (category, name))
    assert (piece.label, piece.place) == (class_id(label), place)


def test_what_has_no_class_is_left_out(tmp_path: Path) -> None:
    assert not pieces(tmp_path, ("Vehicles", "Truck"), ("Characters", "Horse"))


def test_a_piece_goes_to_the_rooms_of_its_line_or_to_all(tmp_path: Path) -> None:
    bath, plant = pieces(tmp_path, ("Bathroom", "Bidet"), ("Living room", "Yucca"))
    assert bath.rooms == {ROOMS.index("bathroom")}
    assert plant.rooms == set(range(len(ROOMS)))


def test_pieces_of_one_name_are_never_in_both_splits(tmp_path: Path) -> None:
    names = [f"{kind} chair" for kind in ("Oak", "Red", "Old", "Folding", "Low", "High")] * 3
    found = pieces(tmp_path, *(("Living room", name) for name in names))
    held = {piece.name for piece in found if piece.held_out}
    assert held
    assert not held & {piece.name for piece in found if not piece.held_out}
    assert 0 < sum(piece.held_out for piece in found) <= round(0.2 * len(found))


def test_a_folder_without_libraries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.sh3f"):
        read_furniture(tmp_path)


def test_every_rule_names_a_class_and_a_place_that_there_are() -> None:
    for line in RULES.read_text(encoding="utf-8").splitlines()[1:]:
        _, _, label, place, rooms = line.split(",")
        assert (label == "" and place == "") or (label in CLASSES and place in PLACES)
        assert set(rooms.split()) <= set(ROOMS)
