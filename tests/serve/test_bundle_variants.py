from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_bundle as tiny
from bundle_changes import assert_file_is_needed, change, refusal
from variant_bundle import INT8, add_variant

from clsspec_serve.bundle import open_bundle
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.errors import EngineError
from clsspec_serve.manifest import Parity

OPENVINO = "model.openvino.onnx"


@pytest.fixture
def with_variants(tiny_bundle: Path) -> Path:
    add_variant(tiny_bundle, OPENVINO, ("openvino",), ("fp32", "bf16"))
    add_variant(tiny_bundle)
    add_variant(tiny_bundle, "model.fp16.onnx", ("cuda", "tensorrt"), ("fp16",))
    add_variant(tiny_bundle, "model.second.onnx", ("openvino",), ("int8",))
    return tiny_bundle


@pytest.mark.parametrize(
    ("engine", "precision", "graph"),
    [
        ("onnxruntime", "fp32", "model.onnx"),
        ("onnxruntime", "int8", INT8),
        ("openvino", "fp32", OPENVINO),
        ("openvino", "bf16", OPENVINO),
        ("openvino", "int8", INT8),
        ("cuda", "fp32", "model.onnx"),
        ("cuda", "fp16", "model.fp16.onnx"),
        ("tensorrt", "fp16", "model.fp16.onnx"),
    ],
)
def test_an_engine_gets_the_first_graph_that_fits_or_else_the_main_one(
    with_variants: Path, engine: EngineName, precision: Precision, graph: str
) -> None:
    assert open_bundle(with_variants).graph_for(engine, precision) == with_variants / graph


def test_without_variants_it_is_the_main_one(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    for engine, precision in (("onnxruntime", "fp32"), ("openvino", "bf16"), ("cuda", "fp32")):
        assert bundle.graph_for(engine, precision) == bundle.graph


@pytest.mark.parametrize(
    ("engine", "precision", "has"),
    [
        ("cuda", "bf16", "fp32, fp16"),
        ("onnxruntime", "fp16", "fp32, int8"),
        ("tensorrt", "int8", "fp32, fp16"),
        ("openvino", "fp16", "fp32, bf16, int8"),
    ],
)
def test_a_precision_without_a_graph_is_refused_with_those_that_have_one(
    with_variants: Path, engine: EngineName, precision: Precision, has: str
) -> None:
    with pytest.raises(EngineError) as info:
        open_bundle(with_variants).graph_for(engine, precision)
    assert str(info.value) == (
        f"{with_variants} has no graph in {precision} for {engine}; it has {has} for it, and "
        f"`clsspec export --precision {precision}` writes one"
    )


def test_a_variants_file_must_be_there_and_listed_and_its_own(with_variants: Path) -> None:
    assert_file_is_needed(with_variants, INT8)


def test_a_variants_weights_must_be_listed(with_variants: Path) -> None:
    (with_variants / f"{INT8}.data").write_bytes(b"unchecked")
    expected = f": {INT8}.data is there, but clsspec.json does not list it"
    assert refusal(with_variants) == expected


def test_a_variants_graph_is_never_outside_of_the_bundle(
    with_variants: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.onnx").write_bytes(tiny.tiny_graph())
    change(with_variants, lambda manifest: manifest["variants"][1].update(graph="../outside.onnx"))
    assert refusal(with_variants) == ": clsspec.json does not list ../outside.onnx"


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"engines": []}, "engines"),
        ({"engines": ["tpu"]}, "engines.0"),
        ({"precisions": []}, "precisions"),
        ({"precisions": ["fp8"]}, "precisions.0"),
        ({"calibration": "two\nlines"}, "calibration"),
        ({"novelty": 1}, "novelty"),
    ],
)
def test_a_wrong_field_of_a_variant_is_named(
    with_variants: Path, edit: dict[str, Any], field: str
) -> None:
    change(with_variants, lambda manifest: manifest["variants"][1].update(edit))
    assert f"clsspec.json, field variants.1.{field}: " in refusal(with_variants)


def test_a_bundle_of_the_third_schema_is_still_opened(tiny_bundle: Path) -> None:
    # The third schema had one graph for all, and no cosine beside what was measured.
    def as_third(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 3
        del manifest["variants"]
        measured = {"engine": "onnxruntime", "precision": "fp32", "sizes": [[28, 42]]}
        found = {"cls": 1e-6, "patches": 2e-6, "heads": {}, "mask_agreement": None}
        manifest["parity"] = [measured | found]

    change(tiny_bundle, as_third)
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.variants == ()
    assert bundle.manifest.parity[0].cosine is None
    assert bundle.manifest.precisions("openvino") == ("fp32", "bf16")
    assert bundle.graph_for("openvino", "bf16") == bundle.graph


def test_the_cosine_is_said_of_what_is_less_than_fp32() -> None:
    sizes = ((28, 42),)
    found = {
        precision: Parity(
            engine="e", precision=precision, sizes=sizes, cls=0.01, patches=0.02, cosine=0.9981234
        ).summary()
        for precision in ("fp32", "int8")
    }
    assert found["fp32"] == "[CLS] 1.0e-02, patches 2.0e-02"
    assert found["int8"] == "[CLS] 1.0e-02, patches 2.0e-02; lowest cosine 0.998123"
