"""Requests in JSON, read so that no body makes more work than its length says."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from clsspec_serve.errors import first_problem
from clsspec_serve.http.errors import Refused

MOST_VALUES = 1 << 16
"""In a body: each becomes an object of its own, and each wrong one an error, of a kilobyte."""

Body = TypeVar("Body", bound=BaseModel)


def read_json(kind: type[Body], body: bytes) -> Body:
    """What a JSON body says; for a thread, as it may be long. Raises `Refused` (413, 422)."""
    # Whatever a body lists has a comma or a colon for each thing; base64 has neither of them.
    values = body.count(b",") + body.count(b":")
    if values > MOST_VALUES:
        raise Refused(413, f"the JSON body has {values} values; accepted are {MOST_VALUES}")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Refused(422, f"the JSON body: {first_problem(error)}") from error
