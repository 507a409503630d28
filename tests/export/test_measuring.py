from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_graphs import edited
from onnx import GraphProto, numpy_helper
from standins.backbones import Written

from clsspec_export import measuring as measuring_module
from clsspec_export.measuring import measure, measure_all
from clsspec_export.reference import Reference
from clsspec_export.samples import check_inputs
from clsspec_serve.bundle import Bundle
from clsspec_serve.engines import select
from clsspec_serve.errors import ExportError
from clsspec_serve.manifest import Manifest, Provenance
from clsspec_serve.parity import Sample


@pytest.fixture(scope="module")
def manifest(written: Written) -> Manifest:
    return Manifest(
        name="written",
        architecture=written.architecture,
        preprocessing=written.checkpoint.preprocessing,
        position=written.checkpoint.position,
        outputs=written.outputs,
        variants=written.variants,
        provenance=Provenance(source="random:tiny", format="random", versions={}),
        parity=(),
        files={},
    )


@pytest.fixture(scope="module")
def bundle(written: Written, manifest: Manifest) -> Bundle:
    return Bundle(written.folder, manifest)


@pytest.fixture(scope="module")
def samples(written: Written) -> list[Sample]:
    """Its own size and a long one."""
    own, _, long = check_inputs(written.checkpoint.preprocessing, 14)
    reference = Reference(written.checkpoint, written.outputs)
    return [reference.sample(own), reference.sample(long[:2])]


def test_every_engine_is_measured_in_fp32_and_where_it_has_a_graph(
    bundle: Bundle, samples: list[Sample]
) -> None:
    said: list[str] = []
    found = measure_all(bundle, samples, said.append)
    runs = [
        *(("onnxruntime", "fp32"), ("onnxruntime", "int8")),
        *(("openvino", "fp32"), ("openvino", "int8")),
    ]
    assert [(each.engine, each.precision) for each in found] == runs
    assert said[:4] == [f"parity of {engine} in {precision}" for engine, precision in runs]
    halves = [line.rpartition(" ") for line in said[4:]]
    words = "computed on the CPU, lowest cosine with PyTorch"
    assert [line for line, _, _ in halves] == [
        f"model.bf16.onnx: {words}",
        f"model.fp16.onnx: {words}",
    ]
    assert [0.999 < float(number) < 0.9999999 for *_, number in halves] == [True, True]
    for each in found:
        assert each.sizes == ((56, 56), (98, 140))
        assert each.cosine is not None
        assert each.cls > 0
        assert each.patches > 0
        if each.precision == "fp32":
            assert max(each.cls, each.patches) < 1e-4
            assert each.cosine > 0.99999
        else:
            assert 0.99 < each.cosine < 0.99999
            assert each.summary().endswith(f"; lowest cosine {each.cosine:.6f}")


def test_the_lowest_cosine_is_of_all_samples_and_the_worst_difference_too(
    bundle: Bundle, samples: list[Sample]
) -> None:
    one, other = (measure(bundle, "onnxruntime", [each], "int8") for each in samples)
    both = measure(bundle, "onnxruntime", samples, "int8")
    assert both.cosine == min(one.cosine or 0, other.cosine or 0)
    assert (both.cls, both.patches) == (max(one.cls, other.cls), max(one.patches, other.patches))


def scaled(factor: float, prefix: str = "") -> object:
    """Multiply the scales of one quantized product's weights."""

    def change(graph: GraphProto) -> None:
        through = {node.output[0]: node for node in graph.node}
        product = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in through][1]
        name = through[product.input[1]].input[1]
        (tensor,) = (each for each in graph.initializer if each.name == name)
        value = numpy_helper.to_array(tensor) if not tensor.external_data else None
        assert value is not None, "scales of 72 columns are small enough to be inside"
        tensor.CopyFrom(numpy_helper.from_array(value * np.float32(factor), name))

    return change


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_int8_graph_that_is_too_far_off_is_refused_in_one_line(
    written: Written, manifest: Manifest, samples: list[Sample], tmp_path: Path, engine: str
) -> None:
    folder = edited(written.folder, "model.int8.onnx", tmp_path / "far", scaled(-1))
    with pytest.raises(ExportError) as info:
        measure(Bundle(folder, manifest), engine, samples, "int8")
    start, _, end = str(info.value).partition(": cosine ")
    assert start == f"{engine} in int8 differs from PyTorch; cls_0 at 56x56"
    assert end.endswith(", at least 0.99")
    assert "\n" not in end


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_half_graph_that_is_too_far_off_is_refused_in_one_line(
    written: Written, manifest: Manifest, samples: list[Sample], tmp_path: Path, precision: str
) -> None:
    def change(graph: GraphProto) -> None:
        (norm, *_) = (each for each in graph.node if each.op_type == "LayerNormalization")
        del norm.input[2]

    folder = edited(written.folder, f"model.{precision}.onnx", tmp_path / "far", change)
    with pytest.raises(ExportError, match=rf" in {precision} differs from PyTorch; \w+ at 56x56: "):
        measure_all(Bundle(folder, manifest), samples, lambda _: None)


def test_a_half_graph_is_loaded_with_the_engine_that_has_kernels_for_it(
    bundle: Bundle, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    original = measuring_module.load_engine

    def note(graph: Path, *, engine: str) -> object:
        loaded.append((graph.name, engine))
        return original(graph, engine=engine)

    monkeypatch.setattr(measuring_module, "load_engine", note)
    measure_all(bundle, samples[:1], lambda _: None)
    assert loaded == [("model.bf16.onnx", "openvino"), ("model.fp16.onnx", "onnxruntime")]


def test_a_half_graph_that_nothing_here_computes_is_said(
    bundle: Bundle, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_onnxruntime() -> Sequence[str]:
        return ["onnxruntime"]

    monkeypatch.setattr(measuring_module, "installed_engines", only_onnxruntime)
    monkeypatch.setattr(measuring_module, "running_engines", only_onnxruntime)
    said: list[str] = []
    measure_all(bundle, samples[:1], said.append)
    assert said[-2] == "model.bf16.onnx: not computed here, as openvino is not installed"
    assert said[-1].startswith("model.fp16.onnx: computed on the CPU, ")


def test_only_int8_asks_for_int8_of_an_engine(bundle: Bundle) -> None:
    assert select.PRECISIONS["onnxruntime"] == ("fp32", "int8")
    assert bundle.manifest.precisions("onnxruntime") == ("fp32", "int8")
    assert bundle.manifest.precisions("openvino") == ("fp32", "bf16", "int8")
    assert bundle.manifest.precisions("cuda") == ("fp32", "bf16", "fp16")
    plain = replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": ()}))
    assert plain.manifest.precisions("onnxruntime") == ("fp32",)
