"""What a reader of heads knows beside the file."""

from __future__ import annotations

from dataclasses import dataclass

from clsspec_serve.heads import Source
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import Architecture, Preprocessing


@dataclass(frozen=True)
class Context:
    """The backbone, and what the user said where the file cannot.

    `name`: the file's. `maximum`: where a depth head's range ends, in metres. `layers`: those that
    the head takes, in its order. None: nothing said.
    """

    architecture: Architecture
    preprocessing: Preprocessing
    name: str
    source: Source
    maximum: float | None = None
    layers: tuple[Layer, ...] | None = None
