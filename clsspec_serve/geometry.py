"""Where the network's input lies in the picture, and back.

Coordinates are continuous, in pixels: (0, 0) is the outer corner of the first pixel and (0.5, 0.5)
its centre, y before x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from clsspec_serve.errors import UsageError, first_problem


@dataclass(frozen=True)
class Geometry:
    """The way from a picture to the network's input: resize, cut out, pad.

    `image`: (H, W) of the picture, upright, in its own pixels.
    `resized`: (H, W) of the whole picture after resampling; the next two count in these pixels.
    `crop`: (top, left, height, width) of what is kept. It reaches over the edges, with a negative
    top or left, where the source's protocol shows black around a picture that is too small.
    `padding`: (top, left, bottom, right) of the pixels around the crop whose coverage is 0.
    `input`: (H, W) of the network's input, `patch` times `grid`. `patch`: side of a patch in pixels
    of the input. `grid`: (h, w) in patches.
    Raises UsageError when these contradict each other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    image: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    padding: tuple[int, int, int, int]
    input: tuple[int, int]
    patch: int
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        sides = (*self.image, *self.resized, *self.crop[2:], self.patch, *self.grid)
        for axis in (0, 1):
            padded = self.padding[axis] + self.crop[axis + 2] + self.padding[axis + 2]
            if not padded == self.input[axis] == self.grid[axis] * self.patch:
                raise UsageError(f"geometry contradicts itself along axis {axis}: {self}")
        if min(sides) < 1 or min(self.padding) < 0:
            raise UsageError(f"geometry has a side or a padding that is too small: {self}")

    def to_dict(self) -> dict[str, Any]:
        """Plain integers and lists of them, as JSON has them."""
        return asdict(self, dict_factory=_plain)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Geometry:
        """The inverse of `to_dict`. Raises UsageError on other keys, lengths or types."""
        try:
            return TypeAdapter(cls).validate_python(dict(data))
        except ValidationError as error:
            raise UsageError(f"geometry has a wrong {first_problem(error)}") from error

    def pooled(self, side: int) -> Geometry:
        """That of a map of `side` by `side` patches in one: `(ceil(h / side), ceil(w / side))`.

        Where the last ones have fewer, the rest of them counts as padding.
        """
        grid = (-(-self.grid[0] // side), -(-self.grid[1] // side))
        patch = self.patch * side
        input_size = (grid[0] * patch, grid[1] * patch)
        top, left, bottom, right = self.padding
        below, beside = input_size[0] - self.input[0], input_size[1] - self.input[1]
        padding = (top, left, bottom + below, right + beside)
        return replace(self, padding=padding, input=input_size, patch=patch, grid=grid)

    def patch_to_image(self, row: int, col: int) -> tuple[float, float]:
        """(y, x) of a patch's centre in the picture's pixels.

        It lies outside of the picture for a patch of padding. Raises UsageError outside the grid.
        """
        if not (0 <= row < self.grid[0] and 0 <= col < self.grid[1]):
            raise UsageError(f"patch ({row}, {col}) is outside of the grid {self.grid}")
        return self._to_image(0, row), self._to_image(1, col)

    def image_to_patch(self, y: float, x: float) -> tuple[int, int] | None:
        """(row, col) of the patch that shows a point of the picture, given in its pixels.

        None when the point was cropped away or is not in the picture.
        """
        row, col = self._to_patch(0, y), self._to_patch(1, x)
        return None if row is None or col is None else (row, col)

    def _to_image(self, axis: int, index: int) -> float:
        position = (index + 0.5) * self.patch - self.padding[axis] + self.crop[axis]
        return position * self.image[axis] / self.resized[axis]

    def _to_patch(self, axis: int, position: float) -> int | None:
        if not 0 <= position < self.image[axis]:
            return None
        kept = position * self.resized[axis] / self.image[axis] - self.crop[axis]
        if not 0 <= kept < self.crop[axis + 2]:
            return None
        return int((kept + self.padding[axis]) // self.patch)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}
