from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from standins.backbones import PHOTOGRAPHS, Written, all_outputs, tiny, write_bundle

from clsspec_export import lower as lower_module
from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Origin
from clsspec_export.export import export_bundle
from clsspec_export.graphs import write_graphs
from clsspec_export.lower import lower_precisions, write_lower
from clsspec_export.specialize import PLAIN
from clsspec_serve.choices import Precision
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.manifest import Specialization

PICTURES = [Path("a.jpg")]
NEED = "--precision int8 needs --calibrate, a folder of pictures like yours"
FOR_INT8 = "--calibrate is for --precision int8"


@pytest.mark.parametrize(
    ("precisions", "pictures", "message"),
    [
        (
            ["bf16", "fp32"],
            [],
            "--precision has 'fp32'; accepted are bf16, fp16, int8, beside fp32, which every "
            "bundle has",
        ),
        (["int8"], [], NEED),
        (["bf16", "int8"], [], NEED),
        (["bf16"], PICTURES, FOR_INT8),
        ([], PICTURES, FOR_INT8),
    ],
)
def test_what_does_not_go_together_is_one_line(
    precisions: list[Precision], pictures: list[Path], message: str
) -> None:
    with pytest.raises(UsageError) as info:
        lower_precisions(precisions, pictures)
    assert str(info.value) == message


@pytest.mark.parametrize("precisions", [[], ["bf16"], ["fp16", "bf16"]])
def test_only_int8_needs_pictures(precisions: list[Precision]) -> None:
    assert lower_precisions(precisions, []) == precisions
    assert lower_precisions([*precisions, "int8"], PICTURES) == [*precisions, "int8"]


def test_an_export_asks_before_it_writes_anything(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --calibrate"):
        export_bundle(tiny(), tmp_path / "new", Origin("random:tiny"), precisions=["int8"])
    assert [*tmp_path.iterdir()] == []


def test_each_precision_has_a_variant_for_the_engines_that_run_it(written: Written) -> None:
    first, *lower = written.variants
    assert (first.graph, first.engines, first.precisions) == (
        *("model.openvino.onnx", ("openvino",)),
        ("fp32", "bf16"),
    )
    assert [variant.model_dump() for variant in lower] == [
        {
            **{"graph": "model.int8.onnx", "engines": ("onnxruntime", "openvino")},
            **{"precisions": ("int8",), "calibration": f"ranges of {len(PHOTOGRAPHS)} pictures"},
        },
        *(
            {
                **{"graph": f"model.{each}.onnx", "engines": ("cuda", "tensorrt")},
                **{"precisions": (each,), "calibration": None},
            }
            for each in ("bf16", "fp16")
        ),
    ]


def test_each_graph_has_a_file_of_weights_and_there_are_no_others(written: Written) -> None:
    names = [f"model{part}.onnx" for part in ("", ".bf16", ".fp16", ".int8")]
    expected = {"position.npy", "model.openvino.onnx", *names, *(f"{name}.data" for name in names)}
    assert {file.name for file in written.folder.iterdir()} == expected


Forms = list[tuple[str, str]]


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Forms:
    """The form of the backbone that each lower graph is made of, without making it."""
    found: Forms = []

    def note(backbone: Backbone, precision: str, *_: Any) -> Any:
        found.append((precision, type(backbone).__name__))
        return lower_module.Variant(graph=precision, engines=("cuda",), precisions=(precision,))

    monkeypatch.setattr("clsspec_export.graphs.write_lower", note)
    monkeypatch.setattr("clsspec_export.graphs.export_graph", lambda *_, **__: None)
    return found


@pytest.mark.parametrize(
    ("specialization", "form"),
    [(Specialization(qkv_blocks=1), "StreamedBackbone"), (PLAIN, "Backbone")],
)
def test_all_are_made_of_the_form_of_the_graph_in_fp32(
    forms: Forms, tmp_path: Path, specialization: Specialization, form: str
) -> None:
    checkpoint = tiny(specialization=specialization)
    order: tuple[Precision, ...] = ("fp16", "int8", "bf16")
    write_graphs(checkpoint, all_outputs(checkpoint), tmp_path, order, PICTURES)
    assert forms == [(precision, form) for precision in order]


def test_a_broken_picture_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    for folder in (scratch, out):
        folder.mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    checkpoint = tiny()
    backbone = Backbone(checkpoint.model, all_outputs(checkpoint))

    def copied(backbone: Backbone, path: Path) -> None:
        path.write_bytes(b"a graph")

    def reading(graph: Path, destination: Path, inputs: Any) -> None:
        assert graph.read_bytes() == b"a graph"
        next(inputs)

    monkeypatch.setattr(lower_module, "export_graph", copied)
    monkeypatch.setattr(lower_module, "quantize", reading)
    with pytest.raises(ImageError, match=r"bad\.jpg: "):
        write_lower(backbone, "int8", out, checkpoint, [tmp_path / "bad.jpg"])
    assert [*out.iterdir()] == [*scratch.iterdir()] == []


def test_a_bundle_without_precisions_has_none(tmp_path: Path) -> None:
    write_bundle(tiny(), tmp_path / "plain")
    assert not [*(tmp_path / "plain").glob("model.*.onnx")]
