"""What the commands share that run a model on picture files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from clsspec_serve.errors import ImageError

if TYPE_CHECKING:
    from clsspec_serve.images import ImageLimits
    from clsspec_serve.predictor import Model, Prediction
    from clsspec_serve.request import Options


def image_limits(max_pixels: int, background: str) -> ImageLimits:
    """`--max-pixels` and `--background`; raises `UsageError`."""
    from clsspec_serve.colour import parse_colour
    from clsspec_serve.images import ImageLimits

    return ImageLimits(max_pixels, parse_colour(background))


def network_size(text: str | None) -> tuple[int, int] | None:
    """`--size`; raises `UsageError`."""
    from clsspec_serve.transform import parse_size

    return None if text is None else parse_size(text)


def predict_files(
    model: Model,
    images: Sequence[Path],
    doing: str,
    *,
    together: bool,
    batch_size: int,
    **options: Unpack[Options],
) -> Iterator[tuple[Path, Prediction]]:
    """Each picture with its answers, under a progress bar called `doing`.

    A picture that cannot be read is named on stderr, and ends in `ImageError` once the others are
    done; at once where there is only one, and where all go `together` into one file.
    """
    from clsspec_serve.progress import progress

    failed: list[Path] = []

    def refuse(image: Path, error: ImageError) -> None:
        if together or len(images) == 1:
            raise error
        print(f"clsspec: {error}", file=sys.stderr)
        failed.append(image)
        meter.advance()

    with progress(doing, len(images), "images") as meter:
        for found in model.predict_each(images, refuse, batch_size=batch_size, **options):
            yield found
            meter.advance()
    if failed:
        raise ImageError(f"{len(failed)} of {len(images)} images could not be read")
