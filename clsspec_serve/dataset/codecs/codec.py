"""Which form patch maps are kept in, as people write it: `int8`, `pca:128` or `pca:128,int8`."""

from __future__ import annotations

from clsspec_serve.errors import UsageError
from clsspec_serve.schema import Positive, Strict


class Codec(Strict):
    """What is done with each patch map, in this order; nothing unless told otherwise.

    `pca`: how many principal components are kept of each patch. `int8`: a byte for each value.
    """

    pca: Positive | None = None
    int8: bool = False

    @property
    def loses(self) -> bool:
        """Whether maps are kept in another form than the run's dtype."""
        return self.int8 or self.pca is not None

    def __str__(self) -> str:
        words = [f"pca:{self.pca}"] * (self.pca is not None) + ["int8"] * self.int8
        return ",".join(words) or "none"


PLAIN = Codec()


def parse_codec(text: str) -> Codec:
    """Read `none`, `int8`, `pca:128` or `pca:128,int8`; raises `UsageError`."""
    if text == str(PLAIN):
        return PLAIN
    words = [word.strip() for word in text.split(",")]
    int8 = words[-1] == "int8"
    first = words[: len(words) - int8]
    if not first:
        return Codec(int8=True)
    name, colon, number = first[0].partition(":")
    if len(first) > 1 or name != "pca" or not colon or not number.isdecimal() or not int(number):
        raise UsageError(f"codec {text!r}; accepted are none, int8, pca:128 and pca:128,int8")
    return Codec(pca=int(number), int8=int8)
