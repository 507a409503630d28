from __future__ import annotations

import pytest

from clsspec_serve.colour import parse_colour
from clsspec_serve.errors import UsageError


@pytest.mark.parametrize(
    ("text", "colour"),
    [("ffffff", (255, 255, 255)), ("#0080FF", (0, 128, 255)), ("010203", (1, 2, 3))],
)
def test_a_colour_is_hexadecimal(text: str, colour: tuple[int, int, int]) -> None:
    assert parse_colour(text) == colour


@pytest.mark.parametrize("text", ["", "fff", "white", "ffff", "ffffffff", "gggggg", "##ffffff"])
def test_a_colour_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="accepted is RRGGBB, such as ffffff") as info:
        parse_colour(text)
    assert repr(text) in str(info.value)
