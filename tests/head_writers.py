"""Head files of one linear layer, or of anything, as functions that write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_files as files
import torch
from head_files import WIDTH

Write = Callable[[Path], object]


def saved(content: Any) -> Write:
    return lambda path: torch.save(content, path)


def bare(**changes: Any) -> Write:
    return saved(files.linear(5, WIDTH) | changes)
