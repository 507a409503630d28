"""The protocol's objects in JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from clsspec_serve.http.options import Seen

VERSION = "1"
"""Of every model: a bundle has no versions, and clients may name one all the same."""
INPUT = "image"

_Name = Annotated[str, Field(max_length=256)]


class Closed(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid")


class InputParameters(Closed):
    """`binary_data_size`: the bytes of the tensor's data, where they follow the JSON."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class InputTensor(Closed):
    """Encoded pictures. `shape`: [N] or [N, 1]. `data`: in base64, where it is not binary."""

    name: Literal["image"]
    shape: Annotated[list[int], Field(min_length=1, max_length=2)]
    datatype: Literal["BYTES"]
    parameters: InputParameters = InputParameters()
    data: list[str | list[str]] | None = None


class OutputParameters(Closed):
    """`binary_data`: whether the tensor follows the JSON, in place of `binary_data_output`."""

    binary_data: bool | None = None


class RequestedOutput(Closed):
    """An output by its name."""

    name: _Name
    parameters: OutputParameters = OutputParameters()


class RequestParameters(Seen):
    """How pictures are shown to the network; `binary_data_output`: whether outputs are binary.

    The others are those of Triton's scheduler, which its clients send to every server; nothing
    depends on them here.
    """

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    binary_data_output: bool = False
    priority: int | None = None
    timeout: int | None = None
    sequence_id: int | str | None = None
    sequence_start: bool | None = None
    sequence_end: bool | None = None


class InferenceRequest(Closed):
    """Pictures, and the outputs that are wanted: all that the model has unless given."""

    id: str | None = None
    model_name: _Name | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[RequestedOutput] = []


class OutputTensor(BaseModel):
    """`data`: numbers in C order, null for NaN and infinity; without it they follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferenceResponse(BaseModel):
    """The outputs in the order of the request; `id` is the request's."""

    model_config = ConfigDict(ser_json_inf_nan="null")

    model_name: str
    model_version: str = VERSION
    id: str | None = None
    outputs: list[OutputTensor]


class Tensor(BaseModel):
    """What a model takes or gives; -1 stands for any length."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """The server and what it knows beyond the protocol."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """The model and its tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Live(BaseModel):
    """The server answers."""

    live: bool = True


class Ready(BaseModel):
    """Requests should come here."""

    ready: bool = True


class ModelReady(BaseModel):
    """The model answers."""

    name: str
    ready: bool = True
