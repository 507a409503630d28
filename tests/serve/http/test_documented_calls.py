"""The Python of `docs/http.md`, as written but for the server's address."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from http_server import serving

from clsspec_serve import load

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
CALLS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_call_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(CALLS) == 2
    shutil.copy(ROOT / "examples" / "coffee.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    with serving([load(threads=1)]) as server:
        for call in CALLS:
            here = call.replace("http://127.0.0.1:8000", server.url)
            assert here != call
            exec(compile(here, "docs/http.md", "exec"), {})
