"""Keys of one naming scheme turned into those of another, with nothing dropped silently."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from clsspec_export.checkpoints.checkpoint import StateDict
from clsspec_serve.errors import CheckpointError


@dataclass(frozen=True)
class Rule:
    r"""`pattern` is matched against a whole key; `replacement` may use its groups (`\1`).

    A rule whose replacement is None drops the tensor: it has no part in the features.
    """

    pattern: str
    replacement: str | None


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule], source: str) -> StateDict:
    """Apply to each key the first rule that matches it; a key without a rule keeps its name.

    Raises `CheckpointError` when two keys end at the same name.
    """
    compiled = [(re.compile(rule.pattern), rule.replacement) for rule in rules]
    renamed: StateDict = {}
    origin: dict[str, str] = {}
    for key, value in state.items():
        target: str | None = key
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(key):
                target = None if replacement is None else match.expand(replacement)
                break
        if target is None:
            continue
        if target in renamed:
            raise CheckpointError(f"{source}: {origin[target]} and {key} both become {target}")
        renamed[target], origin[target] = value, key
    return renamed
