"""What became of one picture of a request."""

from __future__ import annotations

from dataclasses import dataclass

from clsspec_serve.http.errors import Problem
from clsspec_serve.predictor import Prediction


@dataclass(frozen=True)
class Result:
    """A prediction, or what was wrong; `name`: of the picture's file, where it has one."""

    name: str | None
    outcome: Prediction | Problem
