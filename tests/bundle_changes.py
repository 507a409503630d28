"""A bundle with another manifest, and why it is not opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clsspec_serve.bundle import MANIFEST, open_bundle
from clsspec_serve.errors import BundleError


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as info:
        open_bundle(folder)
    message = str(info.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(str(folder))


def assert_file_is_needed(folder: Path, name: str) -> None:
    """A graph that is changed, missing, not listed, or only there is refused in these words."""
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f": {name} was changed" in refusal(folder)
    file.unlink()
    assert refusal(folder) == f": {name} is missing"
    change(folder, lambda manifest: manifest["files"].pop(name))
    assert refusal(folder) == f": clsspec.json does not list {name}"
    file.write_bytes(content)
    assert refusal(folder) == f": {name} is there, but clsspec.json does not list it"
