"""Which form patch maps are kept in, as people write it: `int8`, `pca:128` or `pca:128,int8`."""

from __future__ import annotations

import re

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
_CODEC = re.compile(r"pca:([1-9][0-9]{0,5})(, *int8)?|(int8)")


def parse_codec(text: str) -> Codec:
    """Read `none`, `int8`, `pca:128` or `pca:128,int8`; raises `UsageError`."""
    if text == str(PLAIN):
        return PLAIN
    found = _CODEC.fullmatch(text)
    if found is None:
        raise UsageError(f"codec {text!r}; accepted are none, int8, pca:128 and pca:128,int8")
    pca, after, alone = found.groups()
    return Codec(pca=int(pca) if pca else None, int8=bool(after or alone))
