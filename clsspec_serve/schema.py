"""What the descriptions in `clsspec.json` are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from clsspec_serve.choices import Feature

Positive = Annotated[int, Field(gt=0)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""What a terminal may be shown."""
Sentence = Annotated[Name, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Frozen, and closed to fields that this schema version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(Strict):
    """One output of the backbone's graph.

    `kind` `cls`: `(B, D)`; `patches`: `(B, h, w, D)`. `layer` counts blocks from 0; `norm` says
    whether the final norm was applied.
    """

    name: str
    kind: Feature
    layer: Count
    norm: bool
