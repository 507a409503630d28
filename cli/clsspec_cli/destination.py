"""Where results go: one file for everything, or a file per picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from clsspec_serve.choices import Format
from clsspec_serve.errors import UsageError


@dataclass(frozen=True)
class Destination:
    """`single` is the one file for everything; without it `files` has one for each picture."""

    form: Format
    single: Path | None
    files: dict[Path, Path]


def destination(images: Sequence[Path], out: Path | None, form: Format) -> Destination:
    """Read `--out` and `--format`.

    Raises `UsageError` for an unknown suffix, for several pictures and one `.npy`, and where two
    pictures would be written to one file.
    """
    # Not Path's own methods, which raise for a name that is too long.
    if out is not None and out.suffix and not os.path.isdir(out):
        suffix: Format | None = {f".{name}": name for name in get_args(Format)}.get(out.suffix)
        if suffix is None:
            raise UsageError(
                f"--out {out}: accepted are .npy, .npz, .safetensors, or a folder without a suffix"
            )
        if suffix == "npy" and len(images) > 1:
            raise UsageError("several images do not fit in one .npy; use .npz or a folder")
        return Destination(suffix, out, {})
    if out is not None and os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(
            f"--out {out} is a file; accepted are .npy, .npz, .safetensors, or a folder"
        )
    files = {image: (out or image.parent) / f"{image.stem}.features.{form}" for image in images}
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
