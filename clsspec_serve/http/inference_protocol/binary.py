"""Bodies with binary data: JSON, and after it the bytes of tensors."""

from __future__ import annotations

from clsspec_serve.http.errors import Refused

HEADER = "Inference-Header-Content-Length"
"""Of requests and of answers: the bytes of the JSON, where more follow."""

_PREFIX = 4


def split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what follows it; `json_length` is the header's text.

    Raises `Refused`.
    """
    if json_length is None:
        return body, memoryview(b"")
    length = json_length.strip()
    # `int` would take signs, underscores and more digits than it can afford.
    if not (length.isascii() and length.isdecimal() and len(length) < 20):
        raise Refused(400, f"{HEADER} {length[:40]!r}; accepted is a number of bytes")
    if int(length) > len(body):
        raise Refused(400, f"{HEADER} {length}, but the body has {len(body)} bytes")
    return body[: int(length)], memoryview(body)[int(length) :]


def elements(data: memoryview, count: int) -> list[bytes]:
    """The elements of a BYTES tensor: each after its length in 4 bytes, the lowest first.

    Raises `Refused` unless there are `count`, and nothing more.
    """
    found: list[bytes] = []
    start = 0
    for index in range(count):
        begin = start + _PREFIX
        start = begin + int.from_bytes(data[start:begin], "little")
        if start > len(data):
            raise Refused(400, f"the binary data ends within element {index} of {count}")
        found.append(bytes(data[begin:start]))
    if start < len(data):
        raise Refused(400, f"the binary data has {len(data) - start} bytes after {count} elements")
    return found
