"""Where plans are kept: in the bundle, or else in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tensorrt_double import Double

import clsspec_serve
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.plans import plans_of
from clsspec_serve.models import EMBEDDED

from .conftest import Inputs, Right, built


def place(graph: Path) -> Path:
    return plans_of(graph, "f" * 64, "sm80", "10.14.1").folder


def test_plans_are_in_the_bundle(graph: Path) -> None:
    """Those of its heads, too."""
    expected = graph.parent / "engines" / "sm80-trt10.14.1"
    assert place(graph) == expected
    assert place(graph.parent / "heads" / "segment.onnx") == expected


def test_plans_of_what_is_not_to_be_written_are_in_the_users_cache(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLSSPEC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here_ = tmp_path / "cache" / "clsspec" / "engines" / ("f" * 16) / "sm80-trt10.14.1"
    assert Path(clsspec_serve.__file__).parent in EMBEDDED.parents
    assert place(EMBEDDED / "model.onnx") == here_
    assert place(EMBEDDED / "heads" / "depth.onnx") == here_
    link = tmp_path / "snapshot" / "model.onnx"
    link.parent.mkdir()
    link.symlink_to(graph)
    assert place(link) == here_
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "own"))
    assert place(link) == tmp_path / "own" / "engines" / ("f" * 16) / "sm80-trt10.14.1"
    monkeypatch.setattr(os, "access", lambda path, mode: path != graph.parent)
    assert tmp_path / "own" in place(graph).parents
    monkeypatch.delenv("CLSSPEC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tmp_path / "home" / ".cache" / "clsspec" in place(graph).parents


def test_a_read_only_bundles_plans_are_kept_and_found(
    graph: Path,
    double: Double,
    inputs: Inputs,
    right: Right,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "own"))
    link = tmp_path / "snapshot" / "model.onnx"
    link.parent.mkdir()
    link.symlink_to(graph)
    for _ in range(2):
        right(TensorRtEngine(link), inputs())
    assert built(double) == 1
    assert [each.name for each in link.parent.iterdir()] == ["model.onnx"]
