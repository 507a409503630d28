from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from bench_bundle import make_quick
from command_line import Clsspec

from clsspec_serve import loading
from clsspec_serve.engines import select
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.errors import EngineError
from clsspec_serve.manifest import OF_FP32


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


ONCE = ("--rounds", "1", "--engine", "onnxruntime", "--precision", "fp32")


def test_a_table_goes_to_stdout_and_the_progress_to_stderr(
    clsspec: Clsspec, tiny_bundle: Path
) -> None:
    result = clsspec("bench", tiny_bundle, *ONCE)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"model    tiny (tiny), {tiny_bundle}"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "fp32 |" in line]
    assert [row[:3] for row in rows] == [
        ["onnxruntime fp32", "28x42", "1"],
        ["onnxruntime fp32", "28x42", "8"],
    ]
    assert any(line.startswith("ceiling of fp32: ") for line in lines)
    assert any(line.startswith("preprocessing: ") and "256x384 to 28x42" in line for line in lines)


def test_json_has_a_row_for_each_size_and_batch(clsspec: Clsspec, tiny_bundle: Path) -> None:
    options = ("--size", "28x28,56", "--batch-size", "2, 1", "--threads", "1", "--json")
    result = clsspec("bench", tiny_bundle, *ONCE, *options)
    assert result.code == 0
    report = json.loads(result.out)
    assert [(row["size"], row["batch"], row["rounds"]) for row in report["rows"]] == [
        *(([28, 28], 2, 1), ([28, 28], 1, 1)),
        *(([56, 56], 2, 1), ([56, 56], 1, 1)),
    ]
    assert report["machine"]["threads"] == 1
    assert [each["size"] for each in report["preprocessing"]] == [[28, 28], [56, 56]]
    assert all(row["twin_ratio"] is None for row in report["rows"])


def test_every_engine_is_measured_in_what_it_has_of_the_bundle_unless_one_is_chosen(
    clsspec: Clsspec, tiny_bundle: Path
) -> None:
    result = clsspec("bench", tiny_bundle, "--rounds", "1", "--batch-size", "1", "--json")
    report = json.loads(result.out)
    found = [(row["engine"], row["precision"]) for row in report["rows"] + report["not_run"]]
    assert sorted(found) == sorted(
        (name, precision) for name in select.installed_engines() for precision in OF_FP32[name]
    )


def test_seconds_say_how_long(clsspec: Clsspec, tiny_bundle: Path) -> None:
    options = (*ONCE[2:], "--batch-size", "1", "--json")
    rounds = [
        json.loads(clsspec("bench", tiny_bundle, *options, "--seconds", seconds).out)["rows"][0][
            "rounds"
        ]
        for seconds in ("0", "0.3")
    ]
    assert rounds[0] == 3
    assert rounds[1] > 3


@pytest.mark.stress
def test_the_twin_is_measured_beside_it(clsspec: Clsspec, exported: Path) -> None:
    result = clsspec("bench", exported, *ONCE, "--batch-size", "2", "--twin", "--json")
    assert result.code == 0
    assert result.err.splitlines()[0] == "exporting the plain twin"
    (row,) = json.loads(result.out)["rows"]
    assert row["twin_ratio"] > 0
    assert row["twin_latency_ms"]["p50"] > 0
    assert row["twin_ratio"] == pytest.approx(
        row["latency_ms"]["p50"] / row["twin_latency_ms"]["p50"]
    )  # in the only round


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "batch size '0'; accepted are numbers from 1, such as 1,8"),
        (["--batch-size", "1,,8"], "batch size '1,,8'; accepted are numbers from 1, such as 1,8"),
        (["--batch-size", "-1"], "batch size '-1'; accepted are numbers from 1, such as 1,8"),
        (
            ["--size", "0x28"],
            "size '0x28'; accepted is HxW in pixels, such as 480x640, or one side",
        ),
        (["--size", "28x28;56"], "size '28x28;56'; accepted is HxW in pixels"),
        (
            ["--seconds", "1", "--rounds", "2"],
            "--seconds and --rounds both say how long; accepted is one of them",
        ),
        (["--twin"], "tiny is plain; it is its own plain twin"),
        (
            ["--batch-size", "99999999"],
            "a batch of 99999999 inputs of 28x42; accepted are 1 and more, up to 89,478,485 pixels",
        ),
    ],
)
def test_what_it_refuses(
    clsspec: Clsspec, tiny_bundle: Path, arguments: list[str], message: str
) -> None:
    result = clsspec("bench", tiny_bundle, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith(f"clsspec: {message}")


def test_without_an_engine_nothing_is_measured(
    clsspec: Clsspec, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    result = clsspec("bench", tiny_bundle)
    assert result.code == 1
    assert 'install it with: pip install "clsspec-serve[cpu]"' in result.error()


def test_a_twin_needs_the_export_extra(
    clsspec: Clsspec, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else real(name)
    )
    result = clsspec("bench", tiny_bundle, "--twin")
    assert result.code == 2
    assert result.error() == (
        'this command needs timm; install with: pip install "clsspec-serve[export]"'
    )


def refuse(graph: Path, **options: Any) -> Engine:
    raise EngineError("no such instructions")


def test_an_engine_that_cannot_run_is_a_line_with_its_reason(
    clsspec: Clsspec, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loading.load_engine
    monkeypatch.setattr(
        loading,
        "load_engine",
        lambda graph, **options: (refuse if options["engine"] == "openvino" else real)(
            graph, **options
        ),
    )
    result = clsspec("bench", tiny_bundle, "--rounds", "1", "--precision", "fp32")
    assert result.code == 0
    assert "openvino fp32: not run: no such instructions" in result.out.splitlines()
    assert "| onnxruntime fp32 |" in result.out


def test_where_none_can_run_the_exit_code_says_so(
    clsspec: Clsspec, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_engine", refuse)
    result = clsspec("bench", tiny_bundle, *ONCE)
    assert result.code == 1
    assert "onnxruntime fp32: not run: no such instructions" in result.out.splitlines()
    assert result.err == f"clsspec: {tiny_bundle} could be measured on no engine\n"


def test_the_embedded_model_is_measured_without_a_bundle(clsspec: Clsspec) -> None:
    result = clsspec("bench", *ONCE, "--size", "32x32", "--batch-size", "1")
    assert result.code == 0
    assert result.err.startswith("model: indoor-tiny, the embedded one ")
    assert result.out.startswith("model    indoor-tiny (vit_tiny_patch16_224_clsspec), ")
