"""What a bundle holds of its heads, and that a head which differs is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_files as files
import numpy as np
import onnx
import pytest
from exported_heads import Made
from onnx import numpy_helper
from standins.backbones import DINOV2, WIDTH

from clsspec_export import export as export_module
from clsspec_export.checkpoints.checkpoint import Origin
from clsspec_export.export import architecture_of, export_bundle
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.read import read_head
from clsspec_export.reference import shrink
from clsspec_serve.bundle import describe, describe_folder, open_bundle, write_manifest
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import ExportError
from clsspec_serve.parity import Sample, reference_samples, save_samples
from clsspec_serve.verification import verify_engines


def test_the_manifest_lists_heads_files_and_their_parity(made: Callable[[str], Made]) -> None:
    path = made(DINOV2).path
    manifest = open_bundle(path).manifest
    assert [head.task for head in manifest.heads] == ["segment", "depth", "classify"]
    for head in manifest.heads:
        name = f"heads/{head.task}.onnx"
        assert manifest.files[name] == describe(path / name)
        assert {output.name for output in head.inputs} <= {o.name for o in manifest.outputs}
        inputs = onnx.load(path / name).graph.input
        assert [value.name for value in inputs] == [output.name for output in head.inputs]
    assert len({output.name for output in manifest.outputs}) == len(manifest.outputs)
    assert [output.name for output in manifest.outputs[:2]] == ["cls", "patches"]
    for parity in manifest.parity:
        assert parity.heads.keys() == {"segment", "depth", "classify"}
        assert all(0 < value <= 1e-4 for value in parity.heads.values())
        assert parity.mask_agreement is not None
        assert 0.999 <= parity.mask_agreement <= 1
    assert [parity.engine for parity in manifest.parity] == ["onnxruntime", "openvino"]


def test_the_reference_holds_the_answers_of_the_heads(made: Callable[[str], Made]) -> None:
    path = made(DINOV2).path
    assert (path / "reference.npz").stat().st_size < 2_000_000
    samples = list(reference_samples(open_bundle(path)))
    assert all({"segment", "depth", "classify"} <= sample.outputs.keys() for sample in samples)
    assert samples[1].outputs["segment"].shape == (1, 7, 10, 21)
    assert samples[1].outputs["depth"].shape == (1, 28, 40)
    assert samples[1].outputs["classify"].shape == (1, 1000)


def test_the_heads_answers_of_the_largest_backbone_fit_into_the_reference(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    shapes = {
        **{"cls": (1536,), "patches": (-1, -1, 1536)},
        **{f"patches_{n}_raw": (-1, -1, 1536) for n in (9, 19, 29, 39)},
        **{"segment": (-1, -1, 150), "depth": (-4, -4), "classify": (1000,)},
    }
    samples = []
    for rows, columns in ((16, 16), (7, 10)):
        sides = {-1: (rows, columns), -4: (4 * rows, 4 * columns)}
        outputs = {}
        for name, shape in shapes.items():
            grid = sides.get(shape[0], ())
            own = (*grid, *(side for side in shape if side > 0))
            outputs[name] = random.standard_normal((2, *own), np.float32)
        pixels = np.zeros((2, 4, 14 * rows, 14 * columns), np.uint8)
        samples.append(Sample(pixels, outputs))
    kept = shrink(samples)
    save_samples(kept, tmp_path / "reference.npz")
    assert (tmp_path / "reference.npz").stat().st_size < 2_000_000
    for sample in kept:
        assert {"segment", "depth", "classify", "cls"} <= sample.outputs.keys()


def disturb(graph: Path) -> None:
    """One per cent more of the largest weight that is not the table of bins."""
    model = onnx.load(graph)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weight = numpy_helper.to_array(tensor).copy()
    weight *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, graph)


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_an_altered_head_with_the_right_hash_fails_the_verification(
    task: HeadTask, made: Callable[[str], Made], tmp_path: Path
) -> None:
    shutil.copytree(made(DINOV2).path, tmp_path / "bundle")
    disturb(tmp_path / "bundle" / "heads" / f"{task}.onnx")
    manifest = open_bundle(made(DINOV2).path).manifest
    sealed = manifest.model_copy(update={"files": describe_folder(tmp_path / "bundle")})
    write_manifest(tmp_path / "bundle", sealed)
    assert all(report.passed for report in verify_engines(open_bundle(made(DINOV2).path)))
    for report in verify_engines(open_bundle(tmp_path / "bundle")):
        if report.precision == "fp32":
            assert not report.passed
            failed = {d.output for d in report.differences if not d.within("fp32")}
            assert failed == {task}


def test_a_head_whose_graph_differs_from_pytorch_is_not_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from standins.backbones import tiny

    checkpoint = tiny()
    files.dinov3_segmentation(tmp_path / "head.pth", WIDTH, 5)
    seen = architecture_of(checkpoint), checkpoint.preprocessing
    head = read_head("segment", tmp_path / "head.pth", *seen)

    def add(head: LinearHead, *arguments: Any) -> None:
        real(LinearHead(head.description, head.weight * 1.01, head.bias), *arguments)

    real = export_module.add_head
    monkeypatch.setattr(export_module, "add_head", add)
    with pytest.raises(
        ExportError, match=r"^onnxruntime in fp32 differs from PyTorch; segment at 56x56"
    ):
        export_bundle(checkpoint, tmp_path / "bundle", Origin("random"), heads=[head])
    assert [path.name for path in tmp_path.iterdir()] == ["head.pth"]


def test_heads_ask_for_layers_once_beside_those_that_people_ask_for(tmp_path: Path) -> None:
    from standins.backbones import tiny

    from clsspec_serve.layers import Layer

    checkpoint = tiny()
    files.dinov2_depth(tmp_path / "nyu.pth", 2 * WIDTH, 16)
    seen = architecture_of(checkpoint), checkpoint.preprocessing
    head = read_head("depth", tmp_path / "nyu.pth", *seen)
    layers = [Layer(1, False), Layer(0, True)]
    export_bundle(checkpoint, tmp_path / "b", Origin("random"), layers=layers, heads=[head])
    names = [
        output["name"]
        for output in json.loads((tmp_path / "b/clsspec.json").read_text())["outputs"]
    ]
    assert names == ["cls", "patches", "cls_1_raw", "patches_1_raw", "cls_0", "patches_0"]
