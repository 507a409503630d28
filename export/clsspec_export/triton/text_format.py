"""Protocol buffers' text format, as far as `config.pbtxt` needs it.

Triton's own classes for it come with gRPC, and with an older protobuf than ONNX has here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, Union


class Word(str):
    """The value of an enumeration, which stands without quotes."""


Value: TypeAlias = Union[str, int, Sequence["Value"], "Message"]
Message: TypeAlias = Mapping[str, Value]


def render(message: Message) -> str:
    """The text of a message: fields in order, a list for each that is repeated.

    A map's field is a list of messages with `key` and `value`.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def entries(values: Mapping[str, Value]) -> Sequence[Message]:
    """A map's field."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield f"{name} {{"
            yield from (f"  {line}" for line in _lines(value))
            yield "}"
        elif isinstance(value, str | int):
            yield f"{name}: {_scalar(value)}"
        elif all(isinstance(each, str | int) for each in value):
            yield f"{name}: [ {', '.join(_scalar(each) for each in value)} ]"
        else:
            for each in value:
                yield from _lines({name: each})


def _scalar(value: Value) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    # Of JSON's strings the format has all but the escapes beyond ASCII.
    return json.dumps(value, ensure_ascii=False)
