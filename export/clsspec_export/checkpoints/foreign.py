"""Specialized checkpoints with other names, mapped by a rule file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, ValidationError, model_validator

from clsspec_export.checkpoints.checkpoint import Checkpoint, StateDict
from clsspec_export.checkpoints.native import NativeConfig, build
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_serve.errors import UsageError, first_problem
from clsspec_serve.schema import Strict

FORMAT = "rules"


class FileRule(Strict):
    """`match` is a regular expression for a whole key; either `name` or `drop = true` follows."""

    match: str
    name: str | None = None
    drop: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.drop == (self.name is not None):
            raise ValueError(f"rule {self.match!r} needs either a name or drop = true")
        try:
            pattern = re.compile(self.match)
        except re.error as error:
            raise ValueError(f"rule {self.match!r} is no regular expression: {error}") from error
        try:
            pattern.sub(self.name or "", "")  # parses the name, whether or not the pattern matches
        except (re.error, IndexError) as error:
            raise ValueError(f"rule {self.match!r} cannot give {self.name!r}: {error}") from error
        return self


class RuleFile(NativeConfig):
    """What a rule file says: a native checkpoint's configuration, and how names become ours."""

    rule: tuple[FileRule, ...] = Field(min_length=1)


def read_rules(path: Path) -> RuleFile:
    """Parse and check a TOML rule file; raises `UsageError` naming the first wrong field."""
    try:
        return RuleFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}, {first_problem(error)}") from error


def read_foreign(content: Any, rules: RuleFile, source: str) -> Checkpoint:
    """Rename every tensor by the rules and load strictly; what no rule names must fit as it is."""
    renamed = rename(
        flatten(content),
        [Rule(rule.match, None if rule.drop else rule.name) for rule in rules.rule],
        source,
    )
    return build(rules, renamed, source, FORMAT)


def flatten(content: Any, prefix: str = "") -> StateDict:
    """Tensors of nested dictionaries by dotted path; counters and other values are no tensors."""
    state: StateDict = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            state[f"{prefix}{key}"] = value
        elif isinstance(value, dict):
            state |= flatten(value, f"{prefix}{key}.")
    return state
