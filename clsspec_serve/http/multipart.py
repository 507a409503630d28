"""The files of a `multipart/form-data` body."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from clsspec_serve.errors import one_line
from clsspec_serve.http.errors import Refused


@dataclass
class Part:
    """One part: the name of its field, that of its file if it has one, and its bytes."""

    field_name: str | None = None
    file_name: str | None = None
    data: bytes = b""


@dataclass
class _Collector:
    """What the parser calls, and what it has found."""

    most: int
    ended: bool = False
    parts: list[Part] = field(default_factory=list)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _data: bytearray = field(default_factory=bytearray)

    def on_part_begin(self) -> None:
        if len(self.parts) == self.most:
            raise Refused(413, f"the multipart body has more than {self.most} parts")
        self.parts.append(Part())
        self._data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.parts[-1].field_name = _text(options.get(b"name"))
            self.parts[-1].file_name = _text(options.get(b"filename"))
        self._name, self._value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def on_part_end(self) -> None:
        self.parts[-1].data = bytes(self._data)

    def on_end(self) -> None:
        self.ended = True


def parse_multipart(content_type: str, body: bytes, most: int) -> list[Part]:
    """The parts of a whole body, in order, at most `most`. Raises `Refused` for what is none."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refused(400, "the multipart body has no boundary in its Content-Type")
    collector = _Collector(most)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.on_part_begin,
                "on_header_field": collector.on_header_field,
                "on_header_value": collector.on_header_value,
                "on_header_end": collector.on_header_end,
                "on_part_data": collector.on_part_data,
                "on_part_end": collector.on_part_end,
                "on_end": collector.on_end,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise Refused(400, f"the multipart body is damaged: {one_line(error)}") from error
    if not collector.ended:
        raise Refused(400, "the multipart body is truncated")
    return collector.parts


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
