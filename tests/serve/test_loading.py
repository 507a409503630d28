from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from half_bundle import HEADS
from head_bundle import write_head_bundle
from variant_bundle import INT8, add_variant, resealed, scaled_graph

from clsspec_serve import fastest as fastest_module
from clsspec_serve import load, loading
from clsspec_serve.bundle import REFERENCE, Bundle, open_bundle
from clsspec_serve.engines.openvino import _core
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.errors import EngineError, UsageError
from clsspec_serve.loading import build, start
from clsspec_serve.manifest import Variant
from clsspec_serve.parity import Sample, reference_samples, save_samples

HAS_BF16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
SIZE = "28x42"
Loaded = list[tuple[str, dict[str, Any]]]

bf16 = pytest.mark.skipif(not HAS_BF16, reason="the CPU has no bf16 instructions")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The graphs that were loaded, and how."""
    found: Loaded = []
    original = loading.load_engine

    def note(graph: Path, **options: Any) -> Engine:
        found.append((graph.name, options))
        return original(graph, **options)

    monkeypatch.setattr(loading, "load_engine", note)
    return found


def refusal(bundle: Bundle, engine: Any = "onnxruntime", precision: Any = "int8") -> str:
    with pytest.raises(EngineError) as info:
        start(bundle, engine=engine, precision=precision, threads=1)
    return str(info.value)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_accurate_graph_is_started_and_nothing_is_said(
    tiny_bundle: Path, loaded: Loaded, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = start(add_variant(tiny_bundle), engine=engine, precision="int8", threads=1)
    assert (model.engine.name, model.engine.precision) == (engine, "int8")
    ((name, options),) = loaded
    assert (name, options["precision"], options["threads"]) == (INT8, "int8", 1)
    assert caplog.messages == []


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_one_that_is_not_accurate_is_refused_with_the_output_and_its_cosine(
    tiny_bundle: Path, engine: Any
) -> None:
    bundle = add_variant(tiny_bundle, content=scaled_graph(default=-1))
    assert refusal(bundle, engine) == (
        f"{engine} is not accurate in int8 on this machine: cls at {SIZE}: "
        "cosine -1.000000, at least 0.99; use --precision fp32"
    )


def test_every_output_is_compared(tiny_bundle: Path) -> None:
    bundle = add_variant(tiny_bundle, content=scaled_graph(_0_raw=-3))
    assert f": cls_0_raw at {SIZE}: cosine -1.0" in refusal(bundle)


def test_every_sample_is_compared(tiny_bundle: Path) -> None:
    bundle = add_variant(tiny_bundle)
    (sample,) = reference_samples(bundle)
    pixels = np.zeros((1, 4, 56, 28), np.uint8)
    pixels[:, 1] = 200
    wrong = Sample(pixels, {"cls": np.array([[1, 0, 0, 0]], np.float32)})
    save_samples([sample, wrong], tiny_bundle / REFERENCE)
    assert ": cls at 56x28: cosine 0.000000, " in refusal(resealed(tiny_bundle))


def test_a_reference_that_was_changed_is_what_it_is_compared_with(tiny_bundle: Path) -> None:
    bundle = add_variant(tiny_bundle)
    (sample,) = reference_samples(bundle)
    outputs = sample.outputs | {"patches_0": -sample.outputs["patches_0"]}
    save_samples([Sample(sample.pixels, outputs)], tiny_bundle / REFERENCE)
    assert f": patches_0 at {SIZE}: cosine -1.0" in refusal(resealed(tiny_bundle))


def test_what_is_not_a_number_is_refused(tiny_bundle: Path) -> None:
    bundle = add_variant(tiny_bundle, content=scaled_graph(default=float("nan")))
    assert f": cls at {SIZE}: cosine nan, " in refusal(bundle)


def test_the_tolerance_is_that_of_the_precision(tiny_bundle: Path) -> None:
    """0.995 is enough for int8 and too little for fp16, which here only `build` would start."""
    bundle = add_variant(tiny_bundle)
    (sample,) = reference_samples(bundle)
    (vector,) = sample.outputs["cls"].astype(float)
    aside = np.array([-vector[1], vector[0], -vector[3], vector[2]])  # at a right angle, as long
    turned = 0.995 * vector + np.sqrt(1 - 0.995**2) * aside
    outputs = {"cls": turned[None].astype(np.float32)}
    save_samples([Sample(sample.pixels, outputs)], tiny_bundle / REFERENCE)
    start(resealed(tiny_bundle), engine="onnxruntime", precision="int8", threads=1)
    if HAS_BF16:
        found = refusal(open_bundle(tiny_bundle), "openvino", "bf16")
        assert ": cosine 0.99" in found
        assert ", at least 0.999; " in found


@bf16
def test_bf16_of_the_graph_in_fp32_is_compared_too(tiny_bundle: Path) -> None:
    start(open_bundle(tiny_bundle), engine="openvino", precision="bf16", threads=1)
    (tiny_bundle / "model.onnx").write_bytes(scaled_graph(default=-1))
    found = refusal(resealed(tiny_bundle), "openvino", "bf16")
    assert found.startswith("openvino is not accurate in bf16 on this machine: cls at ")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_fp32_is_not_compared_when_it_is_started(
    tiny_bundle: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "reference_samples", pytest.fail)
    (tiny_bundle / "model.onnx").write_bytes(scaled_graph(default=-1))
    assert start(resealed(tiny_bundle), engine=engine, threads=1).engine.precision == "fp32"


def test_build_compares_nothing(tiny_bundle: Path) -> None:
    bundle = add_variant(tiny_bundle, content=scaled_graph(default=-1))
    model = build(bundle, engine="onnxruntime", precision="int8", threads=1)
    (sample,) = reference_samples(bundle)
    found = model.infer(sample.pixels, ["cls"], [])["cls"]
    np.testing.assert_allclose(found, -sample.outputs["cls"], rtol=1e-5)


def test_without_a_reference_it_is_started_with_a_warning(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_variant(tiny_bundle, content=scaled_graph(default=-1))
    (tiny_bundle / REFERENCE).unlink()
    bundle = resealed(tiny_bundle)
    with caplog.at_level(logging.WARNING):
        start(bundle, engine="onnxruntime", precision="int8", threads=1)
        start(bundle, engine="onnxruntime", threads=1)
    assert caplog.messages == ["onnxruntime int8 is not checked: the bundle has no reference.npz"]
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "clsspec.engine")


def test_a_precision_without_a_graph_is_one_line(tiny_bundle: Path) -> None:
    assert refusal(open_bundle(tiny_bundle)) == (
        f"{tiny_bundle} has no graph in int8 for onnxruntime; it has fp32 for it, and `clsspec "
        "export --precision int8` writes one"
    )


def test_an_engine_runs_the_graph_that_is_for_it(tiny_bundle: Path, loaded: Loaded) -> None:
    bundle = add_variant(tiny_bundle, "model.openvino.onnx", ("openvino",), ("fp32", "bf16"))
    start(bundle, engine="openvino", threads=1)
    start(bundle, engine="onnxruntime", threads=1)
    assert [name for name, _ in loaded] == ["model.openvino.onnx", "model.onnx"]


def heads_bundle(folder: Path) -> Bundle:
    folder.mkdir()
    (folder / INT8).write_bytes(tiny.tiny_graph())
    variant = Variant(graph=INT8, engines=("openvino",), precisions=("int8",))
    return open_bundle(write_head_bundle(folder, HEADS, variants=(variant,)))


@pytest.mark.parametrize(
    ("precision", "of_heads"),
    [("int8", "fp32"), ("fp32", "fp32"), pytest.param("bf16", "bf16", marks=bf16)],
)
def test_a_head_is_run_in_what_the_engine_makes_of_fp32(
    tmp_path: Path, loaded: Loaded, precision: Any, of_heads: str
) -> None:
    model = start(heads_bundle(tmp_path / "b"), engine="openvino", precision=precision, threads=1)
    found = model(np.full((28, 42, 3), 200, np.uint8), tasks=("depth",))
    assert found.depth.shape == (28, 42)
    assert [(name, options["precision"]) for name, options in loaded] == [
        ("model.onnx" if precision != "int8" else INT8, precision),
        ("depth.onnx", of_heads),
    ]


def test_a_device_is_for_an_engine_on_gpus(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"^device 1: onnxruntime runs on the CPU; "):
        start(open_bundle(tiny_bundle), engine="onnxruntime", device=1)


# load


def test_load_is_fp32_unless_told(tiny_bundle: Path, loaded: Loaded) -> None:
    add_variant(tiny_bundle)
    assert load(tiny_bundle, threads=1).engine.precision == "fp32"
    assert load(tiny_bundle, precision="int8", threads=1).engine.precision == "int8"
    assert [name for name, _ in loaded] == ["model.onnx", INT8]


def test_auto_starts_what_was_found_to_be_the_fastest(
    tiny_bundle: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fastest(bundle: Bundle, engine: str, **options: Any) -> tuple[str, str]:
        asked.append((bundle.path, engine, options))
        return "openvino", "int8"

    monkeypatch.setattr(fastest_module, "fastest", fastest)
    add_variant(tiny_bundle)
    model = load(tiny_bundle, precision="auto", threads=1)
    assert (model.engine.name, model.engine.precision) == ("openvino", "int8")
    assert asked == [(tiny_bundle, "auto", {"threads": 1, "device": None})]
    assert [name for name, _ in loaded] == [INT8]


def test_auto_really_measures(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_variant(tiny_bundle, content=scaled_graph(default=-1))
    with caplog.at_level(logging.INFO):
        model = load(tiny_bundle, engine="onnxruntime", precision="auto", threads=1)
    assert (model.engine.name, model.engine.precision) == ("onnxruntime", "fp32")
    left, last = caplog.messages
    assert left.startswith("precision: int8 on onnxruntime is left out: onnxruntime is not accura")
    assert last.startswith("precision: fp32 on onnxruntime (fp32 on onnxruntime ")
