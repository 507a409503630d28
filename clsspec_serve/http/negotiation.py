"""Which form an answer has: what `format=` says, or else the Accept header."""

from __future__ import annotations

from collections.abc import Sequence

from clsspec_serve.choices import Form
from clsspec_serve.http.errors import Refused

MEDIA_TYPES: dict[Form, str] = {
    "npy": "application/x-npy",
    "npz": "application/x-npz",
    "safetensors": "application/vnd.safetensors",
    "png": "image/png",
    "json": "application/json",
}


def choose(asked: Form | None, accept: str | None, forms: Sequence[Form], reason: str = "") -> Form:
    """One of `forms`, of which the first is the default; raises `Refused` (406).

    `reason`: why there are no others, for the message.

    Of the forms that the header likes best the first is taken; what it does not speak of is not
    acceptable (RFC 9110, 12.5.1).
    """
    if asked is not None:
        if asked not in forms:
            raise Refused(406, f"format {asked}; accepted here{reason} are {', '.join(forms)}")
        return asked
    if not accept:
        return forms[0]
    ranges = [_range(part) for part in accept.split(",")]
    qualities = [_quality(MEDIA_TYPES[form], ranges) for form in forms]
    best = max(qualities)
    if best <= 0:
        types = ", ".join(MEDIA_TYPES[form] for form in forms)
        raise Refused(406, f"nothing in Accept: {accept[:200]}; accepted here{reason} are {types}")
    return forms[qualities.index(best)]


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key == "q":
            try:
                return name, float(value)
            except ValueError:
                return name, 0.0
    return name, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """That of the most specific range which covers the type."""
    found = dict(ranges)
    kind = media_type.partition("/")[0]
    for name in (media_type, f"{kind}/*", "*/*"):
        if name in found:
            return found[name]
    return 0.0
