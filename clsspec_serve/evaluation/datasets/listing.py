"""Which files a data set has, found out before any of them is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from clsspec_serve.errors import DatasetError, UsageError, one_line
from clsspec_serve.evaluation.datasets.depth_maps import FloatArray
from clsspec_serve.evaluation.datasets.samples import DepthSample
from clsspec_serve.evaluation.datasets.windows import Window, whole

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""How picture files end, in any case of letters."""


def find_root(root: Path, inside: Sequence[str], needs: Collection[str], accepted: str) -> Path:
    """The first of the folders `inside` the root ("" is itself) that has all that it `needs`.

    Raises UsageError, with what is `accepted`, when none has.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: is not a folder; accepted is {accepted}")
    for folder in (root / name for name in inside):
        if all((folder / need).exists() for need in needs):
            return folder
    lacking = [need for need in needs if not (root / inside[0] / need).exists()]
    raise UsageError(f"{root}: it holds no {lacking[0]}; accepted is {accepted}")


def files_by_name(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """The files of a folder that have one of the endings, in order of name, without the ending.

    Hidden files are left out; the endings fit in any case of letters. Raises DatasetError when
    there is none, and when two differ in nothing but the ending.
    """
    found: dict[str, Path] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed: {error.strerror}") from error
    for name in names:
        ending = next((end for end in endings if name.lower().endswith(end.lower())), None)
        if ending is None or name.startswith("."):
            continue
        stem = name[: -len(ending)]
        if stem in found:
            raise DatasetError(f"{folder / name}: has the name of {found[stem].name}")
        found[stem] = folder / name
    if not found:
        raise DatasetError(f"{folder}: has no files in it that end in {', '.join(endings)}")
    return found


def pairs(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[tuple[str, Path, Path]]:
    """(name, picture, label) for every name. Raises DatasetError for one without its partner."""
    counts = f"there are {len(images)} pictures and {len(labels)} labels"
    for name, path in images.items():
        if name not in labels:
            raise DatasetError(f"{path}: has no label of the same name; {counts}")
    for name, path in labels.items():
        if name not in images:
            raise DatasetError(f"{path}: has no picture of the same name; {counts}")
    return [(name, path, labels[name]) for name, path in images.items()]


def need_file(path: Path, listed_in: Path) -> Path:
    """The path itself. Raises DatasetError when there is no such file."""
    if not path.is_file():
        raise DatasetError(f"{path}: is missing; {listed_in} lists it")
    return path


def lines(path: Path) -> list[str]:
    """The lines of a list that are not blank. Raises DatasetError when there are none."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {one_line(error)}") from error
    if not any(found):
        raise DatasetError(f"{path}: is empty; accepted is a list of files")
    return [line for line in found if line]


def listed_depths(
    path: Path,
    images: Path,
    depths: Path,
    read: Callable[[Path], FloatArray],
    crop: Window = whole,
) -> tuple[tuple[DepthSample, ...], int]:
    """The samples of a list of `picture depth [focal length]`, one a line, below two folders.

    Also how many lines say `None` in place of a depth. A leading slash means nothing. Raises
    DatasetError for a line of another form, a missing file, and when no sample is left.
    """
    samples: list[DepthSample] = []
    without = 0
    for line in lines(path):
        fields = line.split()
        if len(fields) not in (2, 3):
            raise DatasetError(f"{path}: has the line {line!r}; accepted is PICTURE DEPTH [FOCAL]")
        if fields[1] == "None":
            without += 1
            continue
        image, depth = (field.lstrip("/") for field in fields[:2])
        samples.append(
            DepthSample(
                name=str(PurePosixPath(image).with_suffix("")),
                image=need_file(images / image, path),
                depth=need_file(depths / depth, path),
                read=read,
                crop=crop,
            )
        )
    if not samples:
        raise DatasetError(f"{path}: lists no picture with a depth")
    return tuple(samples), without
