"""A head's file read beside the backbone of `head_files`, and why it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from head_files import architecture, preprocessing

from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.read import read_head
from clsspec_serve.choices import HeadTask


def read(task: HeadTask, path: Path, depth: int = 12, **options: Any) -> LinearHead:
    return read_head(task, path, architecture(depth=depth), preprocessing(), **options)


def refusal(task: HeadTask, path: Path, error: type[Exception], **options: Any) -> str:
    """The message, which is one line."""
    with pytest.raises(error) as caught:
        read(task, path, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    return message
