"""`--precision auto`, and precisions that are not accurate here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Clsspec, features_of
from variant_bundle import INT8, add_variant, scaled_graph

from clsspec_serve import fastest as fastest_module

Asked = list[tuple[Path, str, dict[str, Any]]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What was asked of `fastest`, which finds int8 on OpenVINO."""
    asked: Asked = []

    def fastest(bundle: Any, engine: str, **options: Any) -> tuple[str, str]:
        asked.append((bundle.path, engine, options))
        return "openvino", "int8"

    monkeypatch.setattr(fastest_module, "fastest", fastest)
    return asked


def loaded(spy: Any) -> list[tuple[str, str, str]]:
    return [(graph.name, given["engine"], given["precision"]) for graph, given in spy.loaded]


FOUND = [(INT8, "openvino", "int8")]


def test_extract_runs_the_fastest(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, spy: Any, measured: Asked
) -> None:
    add_variant(tiny_bundle)
    out = photo.with_suffix(".npz")
    options = ("--model", tiny_bundle, "--precision", "auto", "--threads", "1", "--out", out)
    assert clsspec("extract", photo, *options).code == 0
    assert measured == [(tiny_bundle, "auto", {"threads": 1})]
    assert loaded(spy) == FOUND
    np.testing.assert_allclose(np.load(out)["cls"], features_of(0)["cls"], rtol=1e-3)


def test_the_environment_chooses_too(
    clsspec: Clsspec,
    tiny_bundle: Path,
    photo: Path,
    spy: Any,
    measured: Asked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_variant(tiny_bundle)
    monkeypatch.setenv("CLSSPEC_PRECISION", "auto")
    monkeypatch.setenv("CLSSPEC_ENGINE", "openvino")
    assert clsspec("extract", photo, "--model", tiny_bundle).code == 0
    assert [engine for _, engine, _ in measured] == ["openvino"]
    assert loaded(spy) == FOUND


def test_nothing_is_measured_unless_asked(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, spy: Any, measured: Asked
) -> None:
    assert clsspec("extract", photo, "--model", tiny_bundle).code == 0
    assert measured == []
    assert loaded(spy) == [("model.onnx", "auto", "fp32")] or loaded(spy) == [
        ("model.onnx", "onnxruntime", "fp32")
    ]


def test_extract_refuses_int8_that_is_not_accurate_here(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    add_variant(tiny_bundle, content=scaled_graph(default=-1))
    result = clsspec("extract", photo, "--model", tiny_bundle, "--precision", "int8")
    assert (result.code, result.error()) == (
        1,
        "onnxruntime is not accurate in int8 on this machine: cls at 28x42: "
        "cosine -1.000000, at least 0.99; use --precision fp32",
    )


def test_auto_leaves_out_what_is_not_accurate_here(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    add_variant(tiny_bundle, content=scaled_graph(default=-1))
    out = photo.with_suffix(".npz")
    options = ("--precision", "auto", "--engine", "onnxruntime", "--out", out)
    assert clsspec("extract", photo, "--model", tiny_bundle, *options).code == 0
    np.testing.assert_allclose(np.load(out)["cls"], features_of(0)["cls"], rtol=1e-5)


def test_bench_has_all_precisions_to_choose_from(clsspec: Clsspec, tiny_bundle: Path) -> None:
    options = ("--rounds", "1", "--batch-size", "1", "--json", "--engine", "openvino")
    found = clsspec("bench", tiny_bundle, *options, "--precision", "auto")
    assert {row["precision"] for row in json.loads(found.out)["rows"]} == {"fp32", "bf16"}


def test_serve_measures_once_for_all_replicas(
    clsspec: Clsspec,
    tiny_bundle: Path,
    spy: Any,
    measured: Asked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoServer:
        def __init__(self, *_: Any) -> None: ...

        def run(self, listeners: list[Any]) -> None:
            for listener in listeners:
                listener.close()

    add_variant(tiny_bundle)
    monkeypatch.setattr("clsspec_serve.http.logs.configure", lambda: None)
    monkeypatch.setattr("clsspec_serve.http.app.create_app", lambda *_: None)
    monkeypatch.setattr("clsspec_serve.http.server.Server", NoServer)
    options = ("--port", "0", "--replicas", "2", "--threads", "1", "--precision", "auto")
    result = clsspec("serve", "--model", tiny_bundle, *options)
    assert result.code == 0, result.err
    assert [(path, engine) for path, engine, _ in measured] == [(tiny_bundle, "auto")]
    assert loaded(spy) == FOUND * 2


@pytest.fixture
def pictures(photo: Path) -> Path:
    return photo.parent


def test_batch_runs_the_fastest_and_notes_it(
    clsspec: Clsspec, tiny_bundle: Path, pictures: Path, tmp_path: Path, spy: Any, measured: Asked
) -> None:
    add_variant(tiny_bundle)
    options = ("--model", tiny_bundle, "--precision", "auto", "--threads", "1")
    result = clsspec("batch", pictures, "--out", tmp_path / "out", *options)
    assert result.code == 0, result.err
    assert len(measured) == 1
    assert loaded(spy) == FOUND
    run = (tmp_path / "out" / "run.json").read_text()
    assert '"openvino"' in run
    assert '"int8"' in run


@pytest.mark.parametrize(
    ("engine", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8")]
)
def test_batch_goes_on_with_what_a_run_was_begun_with_and_measures_nothing(
    clsspec: Clsspec,
    tiny_bundle: Path,
    pictures: Path,
    tmp_path: Path,
    spy: Any,
    measured: Asked,
    engine: str,
    precision: str,
) -> None:
    add_variant(tiny_bundle)
    command = ("batch", pictures, "--out", tmp_path / "out", "--model", tiny_bundle)
    assert clsspec(*command, "--engine", engine, "--precision", precision).code == 0
    for path in (tmp_path / "out" / "shards").iterdir():
        path.unlink()
    begun = loaded(spy)
    result = clsspec(*command, "--precision", "auto")
    assert result.code == 0, result.err
    assert measured == []
    assert loaded(spy) == begun * 2


def test_batch_on_a_cluster_refuses_auto(
    clsspec: Clsspec, tiny_bundle: Path, pictures: Path, tmp_path: Path, measured: Asked
) -> None:
    options = ("--runner", "ray", "--precision", "auto", "--model", tiny_bundle)
    result = clsspec("batch", pictures, "--out", tmp_path / "out", *options)
    assert (result.code, result.error()) == (
        2,
        "--precision auto measures this machine, which says nothing of a Ray cluster; accepted "
        "with --runner ray are fp32, bf16, fp16 and int8",
    )
    assert measured == []
    assert not (tmp_path / "out").exists()
