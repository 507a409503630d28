"""Where results go: one file for everything, or a file per picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from clsspec_serve.errors import UsageError

Form = TypeVar("Form", bound=str)


@dataclass(frozen=True)
class Destination(Generic[Form]):
    """`single` is the one file for everything; without it `files` has one for each picture.

    `companions`: suffixes that replace a file's own in further files beside it.
    """

    form: Form
    single: Path | None
    files: dict[Path, Path]
    companions: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Every file that will be written."""
        files = [self.single] if self.single is not None else list(self.files.values())
        return [*files, *(file.with_suffix(end) for file in files for end in self.companions)]


def destination(
    images: Sequence[Path],
    out: Path | None,
    form: Form,
    *,
    forms: Sequence[Form],
    joint: Sequence[Form],
    ending: str,
    companions: tuple[str, ...] = (),
) -> Destination[Form]:
    """Read `--out` and `--format`: files are `photo.ENDING.FORM`, beside the picture or in `out`.

    `forms`: those that a command writes; `joint`: those among them that hold several pictures.
    Raises `UsageError` for an unknown suffix, for several pictures and one file of a form that
    holds one, and where two pictures would be written to one file, or over a picture.
    """
    target = replace(_read(images, out, form, forms, joint, ending), companions=companions)
    pictures = {os.path.realpath(image) for image in images}
    for path in target.paths:
        if os.path.realpath(path) in pictures:
            raise UsageError(f"{path} is one of the images; a result would replace it")
    return target


def _read(
    images: Sequence[Path],
    out: Path | None,
    form: Form,
    forms: Sequence[Form],
    joint: Sequence[Form],
    ending: str,
) -> Destination[Form]:
    # Not Path's own methods, which raise for a name that is too long.
    accepted = ", ".join(f".{each}" for each in forms)
    if out is not None and out.suffix and not os.path.isdir(out):
        suffix = next((each for each in forms if out.suffix == f".{each}"), None)
        if suffix is None:
            raise UsageError(f"--out {out}: accepted are {accepted}, or a folder without a suffix")
        if suffix not in joint and len(images) > 1:
            better = "".join(f".{each} or " for each in joint[:1])
            raise UsageError(f"several images do not fit in one .{suffix}; use {better}a folder")
        return Destination(suffix, out, {})
    if out is not None and os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(f"--out {out} is a file; accepted are {accepted}, or a folder")
    files = {image: (out or image.parent) / f"{image.stem}.{ending}.{form}" for image in images}
    twice = [path for path, count in Counter(files.values()).items() if count > 1]
    if twice:
        pair = [str(image) for image, path in files.items() if path == twice[0]]
        raise UsageError(f"{' and '.join(pair)} would both be written to {twice[0]}")
    return Destination(form, None, files)


def names_in_file(images: Sequence[Path]) -> dict[Path, str]:
    """What the pictures are called inside one file: their names, or, where two share one, paths.

    Raises `UsageError` when one picture is given twice.
    """
    if len(set(images)) < len(images):
        twice = next(image for image, count in Counter(images).items() if count > 1)
        raise UsageError(f"{twice} is given more than once")
    unique = len({image.name for image in images}) == len(images)
    return {image: image.name if unique else image.as_posix() for image in images}
