"""Cases of which most take long and show more of the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_long(cases: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """Those of `always` run each time, the others with `make stress` alone."""
    return [each if each in always else _long(each) for each in cases]


def _long(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.stress)
