"""Which stage the others wait for."""

from __future__ import annotations

import time
from dataclasses import astuple, fields

from clsspec_serve.dataset.pipeline import Pipeline, Times

_SECONDS = 2.0
"""Between two looks."""


class Stalls:
    """What a pipeline waits for, lately."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._looked = time.monotonic()
        self._before = Times()
        self._stage = ""

    def words(self, failed: int) -> str:
        """The slowest stage of the last seconds, and how many pictures failed."""
        if time.monotonic() - self._looked >= _SECONDS:
            self._look()
        parts = [f"slowest: {self._stage}"] if self._stage else []
        if failed:
            parts.append(f"{failed} failed")
        return ", ".join(parts)

    def _look(self) -> None:
        now = self._pipeline.times
        spent = {
            field.name: after - before
            for field, after, before in zip(
                fields(Times), astuple(now), astuple(self._before), strict=True
            )
        }
        self._stage = max(spent, key=lambda name: spent[name])
        self._before = Times(*astuple(now))
        self._looked = time.monotonic()
