"""Codecs as people write them."""

from __future__ import annotations

import pytest

from clsspec_serve.dataset.codecs.codec import Codec, parse_codec
from clsspec_serve.errors import UsageError


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("none", Codec()),
        ("int8", Codec(int8=True)),
        ("pca:128", Codec(pca=128)),
        ("pca:1,int8", Codec(pca=1, int8=True)),
    ],
)
def test_a_codec_is_written_as_it_is_read(text: str, codec: Codec) -> None:
    assert parse_codec(text) == codec
    assert str(codec) == text
    assert codec.loses == (text != "none")


def test_blanks_after_the_comma_do_no_harm() -> None:
    assert parse_codec("pca:64, int8") == Codec(pca=64, int8=True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "int4", "pca", "pca:", "pca:0", "pca:-3", "pca:1.5", "pca:a", "pca:2:int8", ",int8"),
        *("int8,pca:2", "int8,int8", "pca:2,pca:2", "pca:2,pca:2,int8", "none,int8", "pca:2,", "²"),
        *("pca:" + "9" * 5000, "pca:٣", "pca:02"),
    ],
)
def test_anything_else_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_codec(text)
    assert str(caught.value) == (
        f"codec {text!r}; accepted are none, int8, pca:128 and pca:128,int8"
    )
