"""The one rule of all formats: no more of a kind than accepted."""

from __future__ import annotations

from clsspec_serve.errors import ImageError


def refuse_more(got: int, accepted: int, what: str, name: str) -> None:
    """Raise ImageError where there are more than accepted."""
    if got > accepted:
        raise ImageError(f"{name}: has {got} {what}; accepted are {accepted}")
