"""The Python of `docs/batch.md`, as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_sources import as_folder, computed, named
from http_server import colour_bundle

from clsspec_serve import load
from clsspec_serve.dataset.codecs.codec import parse_codec

TEXT = (Path(__file__).parents[3] / "docs" / "batch.md").read_text(encoding="utf-8")
CALLS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_results_are_read_as_the_documents_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = colour_bundle(tmp_path / "colours")
    pictures = named(3)
    as_folder(tmp_path / "photos", pictures)
    computed(bundle, "photos", Path("features"), {"policy": "squash"})
    assert len(CALLS) == 2
    seen: dict[str, Any] = {}
    exec(compile(CALLS[0], "docs/batch.md", "exec"), seen)
    expected = load(bundle, threads=1)(pictures["002.png"], policy="squash")
    np.testing.assert_array_equal(seen["found"], expected.patches)
    assert seen["geometry"] == expected.geometry
    codec = parse_codec("pca:3,int8")
    computed(bundle, "photos", Path("small"), {"policy": "squash"}, codec=codec)
    exec(compile(CALLS[1], "docs/batch.md", "exec"), seen)
    # Three components are all that vary.
    np.testing.assert_allclose(seen["restored"], expected.patches, atol=1)
    assert np.abs(seen["restored"] - expected.patches).max() > 0
