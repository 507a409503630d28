"""The query strings: the command line's options by the same names, and the answer's form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from clsspec_serve.choices import DType, Form, Policy, Task
from clsspec_serve.colour import parse_colour
from clsspec_serve.delivery import Delivery
from clsspec_serve.errors import UsageError
from clsspec_serve.images import ImageLimits
from clsspec_serve.layers import parse_layers, parse_tasks
from clsspec_serve.request import Options
from clsspec_serve.transform import parse_size


class Seen(BaseModel):
    """How pictures are read and shown to the network."""

    model_config = ConfigDict(extra="forbid")

    size: Annotated[
        str | None,
        Field(description="HxW of the network's input in pixels, or one side.", max_length=20),
    ] = None
    resize: Annotated[Policy | None, Field(description="How a picture is brought to the size.")] = (
        None
    )
    background: Annotated[
        str, Field(description="RRGGBB behind transparent pixels.", max_length=7)
    ] = "ffffff"

    def options(self, tasks: tuple[Task, ...], pixels: int) -> Options:
        """What a model is asked; raises `UsageError`."""
        return {
            "tasks": tasks,
            "size": None if self.size is None else parse_size(self.size),
            "policy": self.resize,
            "limits": ImageLimits(pixels, parse_colour(self.background)),
        }


class Shown(Seen):
    """That, and what form the answer has."""

    format: Annotated[
        Form | None, Field(description="Of the answer, in place of the Accept header.")
    ] = None

    def delivery(self) -> Delivery:
        """What is done with the features afterwards; raises `UsageError`."""
        return Delivery()


class Features(Shown):
    """Which features, and in what form."""

    layers: Annotated[
        str, Field(description="Blocks from 0, such as 5,11:raw.", max_length=1000)
    ] = ""
    normalize: Annotated[bool, Field(description="To Euclidean length 1.")] = False
    dtype: Annotated[DType, Field(description="Of floats.")] = "float32"

    def delivery(self) -> Delivery:
        return Delivery(normalize=self.normalize, dtype=self.dtype)

    def options(self, tasks: tuple[Task, ...], pixels: int) -> Options:
        return {**super().options(tasks, pixels), "layers": parse_layers(self.layers)}


class DenseFeatures(Features):
    """Of patches too."""

    tasks: Annotated[
        str | None,
        Field(description="cls, patches, or both, with a comma between.", max_length=100),
    ] = None
    pool: Annotated[
        int, Field(ge=1, le=1024, description="Side, in patches, of the squares averaged.")
    ] = 1

    def delivery(self) -> Delivery:
        return Delivery(self.pool, self.normalize, self.dtype)


class Windows(Shown):
    """How a map at the picture's own size is made."""

    window: Annotated[
        int | None,
        Field(
            ge=0,
            le=1 << 16,
            description="Side, in pixels of the network's input, of windows; 0 for none.",
        ),
    ] = None
    stride: Annotated[
        int | None, Field(ge=1, le=1 << 16, description="Step of the windows, in such pixels.")
    ] = None
    flip: Annotated[
        bool | None, Field(description="The mean with the answer to the mirror image.")
    ] = None

    def options(self, tasks: tuple[Task, ...], pixels: int) -> Options:
        return {
            **super().options(tasks, pixels),
            "window": self.window,
            "stride": self.stride,
            "flip": self.flip,
        }


class Depth(Windows):
    """Of metres."""

    dtype: Annotated[DType, Field(description="Of floats.")] = "float32"

    def delivery(self) -> Delivery:
        return Delivery(dtype=self.dtype)


class Everything(DenseFeatures, Windows):
    """Several tasks from one forward pass."""

    tasks: Annotated[
        str | None,
        Field(
            description="Of cls, patches, segment, depth and classify, with commas between; all "
            "that the model has unless given.",
            max_length=100,
        ),
    ] = None


def tasks_of(text: str | None, default: tuple[Task, ...]) -> tuple[Task, ...]:
    """`tasks=`; raises `UsageError`."""
    return default if text is None else parse_tasks(text)


def refuse_repeated(given: Sequence[tuple[str, str]]) -> None:
    """Raise `UsageError` where a query has an option twice, of which only one would count."""
    counts = Counter(name for name, _ in given)
    for name, count in counts.items():
        if count > 1:
            raise UsageError(
                f"{name} is given {count} times; accepted is once, with commas between several"
            )
