"""The schema of heads: what a linear head takes, what it gives, and how it was evaluated."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clsspec_serve.choices import Interpolation, Policy
from clsspec_serve.schema import Name, Output, Positive, Scale, Strict

Byte = Annotated[int, Field(ge=0, le=255)]


class Protocol(Strict):
    """How a head's own evaluation shows it a picture.

    `size`, `resize`, `policy`, `interpolation`: as in `Preprocessing`, in place of the backbone's.
    `window`, `stride`: the side of the square windows that slide over the resized picture, and
    their step, in pixels; the answers are averaged where windows overlap. None: the whole picture
    at once. `flip`: the answer is the mean over the picture and its mirror image.
    """

    size: tuple[Positive, Positive]
    resize: tuple[Positive, Positive] | None = None
    policy: Policy
    interpolation: Interpolation = "bilinear"
    window: Positive | None = None
    stride: Positive | None = None
    flip: bool = False

    @model_validator(mode="after")
    def _steps_within_the_window(self) -> Self:
        if (self.window is None) != (self.stride is None):
            raise ValueError("window and stride come together")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError("stride is larger than the window")
        return self


class Category(Strict):
    """A class of a segmentation, with the colour (RGB) that it is painted in."""

    name: Name
    colour: tuple[Byte, Byte, Byte]


class Source(Strict):
    """Where a head's weights came from: the file's name, its format, sha256, licence if known."""

    name: str
    format: str
    sha256: str | None = None
    licence: str | None = None


class Head(Strict):
    """What all heads have.

    `inputs`: the backbone's outputs that the head takes, in the order in which it concatenates
    them.
    """

    inputs: Annotated[tuple[Output, ...], Field(min_length=1)]
    protocol: Protocol
    source: Source

    def taken(self) -> str:
        """The names of the inputs."""
        return " + ".join(output.name for output in self.inputs)


class SegmentationHead(Head):
    """`heads/segment.onnx`: patches, and [CLS] for every patch, to logits `(B, h, w, K) float32`.

    The output is called `segment`.
    """

    task: Literal["segment"] = "segment"
    classes: Annotated[tuple[Category, ...], Field(min_length=1)]

    def summary(self) -> str:
        """What it answers, in words."""
        return f"{len(self.classes)} classes, from {self.taken()}"


class DepthHead(Head):
    """`heads/depth.onnx`: patches, and [CLS] for every patch, to `depth (B, u*h, u*w) float32`.

    `minimum`, `maximum`: the range of the answer in metres. `method` `bins`: the expectation over
    `bins` depths spread evenly over the range, weighted by relu(logit) + 0.1, normalised;
    `regression`: relu of one value plus the minimum. `upsample`: u, by which the logits are
    enlarged, bilinearly, before that.
    """

    task: Literal["depth"] = "depth"
    minimum: Scale
    maximum: Scale
    method: Literal["bins", "regression"]
    bins: Positive = 1
    upsample: Positive = 1

    def summary(self) -> str:
        """What it answers, in words."""
        return f"{self.minimum} to {self.maximum} m by {self.method}, from {self.taken()}"

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError("minimum is not below maximum")
        if (self.bins > 1) != (self.method == "bins"):
            raise ValueError("bins are for the method bins, which needs two or more")
        return self


class ClassificationHead(Head):
    """`heads/classify.onnx`: [CLS]s, and the mean of patches, to logits `classify (B, K)`."""

    task: Literal["classify"] = "classify"
    classes: Annotated[tuple[Name, ...], Field(min_length=1)]

    def summary(self) -> str:
        """What it answers, in words."""
        return f"{len(self.classes)} classes, from {self.taken()}"


AnyHead = Annotated[SegmentationHead | DepthHead | ClassificationHead, Field(discriminator="task")]


def answer_shape(head: AnyHead, batch: int, grid: tuple[int, int]) -> tuple[int, ...]:
    """The shape of what a head's graph gives for a batch of (h, w) patches."""
    if isinstance(head, ClassificationHead):
        return batch, len(head.classes)
    if isinstance(head, SegmentationHead):
        return batch, *grid, len(head.classes)
    return batch, head.upsample * grid[0], head.upsample * grid[1]
