from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from standins.backbones import families, tiny, write_bundle

from clsspec_export import export as export_module
from clsspec_export import graphs as graphs_module
from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Origin
from clsspec_export.export import export_bundle
from clsspec_export.model_card import model_card
from clsspec_export.specialize import PLAIN, specialization_of, specialize
from clsspec_serve import position
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.engines import select
from clsspec_serve.errors import ExportError, OutputError
from clsspec_serve.layers import Layer

Tamper = Callable[[Path], None]


def change_weights(graph: Path) -> None:
    """Multiply a thousand weights in the middle of the file by 1.5."""
    data = graph.with_name("model.onnx.data")
    weights = np.fromfile(data, np.float32)
    middle = len(weights) // 2
    weights[middle : middle + 1000] *= 1.5
    weights.tofile(data)


def reuse_graph(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tamper: Tamper | None) -> None:
    """Stand in for the slow part of an export: a copy of the graph that it wrote before."""

    def copy(backbone: Backbone, path: Path, **_: object) -> None:
        shutil.copy(bundle.path / path.name, path)
        if path.name != "model.onnx":
            return  # its weights are those of the first
        shutil.copy(bundle.path / "model.onnx.data", path.parent)
        if tamper is not None:
            tamper(path)

    monkeypatch.setattr(graphs_module, "export_graph", copy)


def export_again(destination: Path, *, replace: bool = False) -> None:
    """The export that `exported_bundle` was, with the graph that is reused."""
    checkpoint, layers = families()["specialized"](), [Layer(0, True)]
    export_bundle(checkpoint, destination, Origin("again"), layers=layers, replace=replace)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


DIFFERS = (
    r"^onnxruntime in fp32 differs from PyTorch; \w+ at 56x56: "
    r"relative difference \d\.\de[-+]\d\d, at most 1e-04; cosine 0\.\d+, at least 0\.99999$"
)


def test_a_wrong_weight_is_refused_with_the_output_and_the_difference(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reuse_graph(monkeypatch, exported_bundle, change_weights)
    with pytest.raises(ExportError, match=DIFFERS):
        export_again(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_is_not_a_number_is_refused(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def poison(graph: Path) -> None:
        data = graph.with_name("model.onnx.data")
        weights = np.fromfile(data, np.float32)
        weights[-1] = np.nan
        weights.tofile(data)

    reuse_graph(monkeypatch, exported_bundle, poison)
    with pytest.raises(ExportError, match="relative difference nan, at most 1e-04"):
        export_again(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_another_architecture_is_refused_by_the_audit(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reuse_graph(monkeypatch, exported_bundle, None)
    with pytest.raises(ExportError, match=r"too few of 1 x \(32 x 72 x 216\)"):
        export_bundle(tiny(), tmp_path / "bundle", Origin("plain"), layers=[Layer(0, True)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", [56, 280])
def test_a_position_map_without_antialiasing_is_refused(
    side: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At 56 the map is only ever enlarged (another kernel); at 280 it is reduced as well."""
    checkpoint = tiny(img_size=side)
    write_bundle(checkpoint, tmp_path / "good")
    reuse_graph(monkeypatch, open_bundle(tmp_path / "good"), None)
    original = position._bicubic
    monkeypatch.setattr(
        position, "_bicubic", lambda old, new, factor, antialias: original(old, new, factor, False)
    )
    with pytest.raises(ExportError, match=r"differs from PyTorch; \w+ at 224x224: relative"):
        write_bundle(checkpoint, tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_an_existing_destination_is_refused_and_left_as_it_was(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reuse_graph(monkeypatch, exported_bundle, None)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(OutputError, match="bundle exists already; --force replaces it"):
        export_again(tmp_path / "bundle")
    assert list(tmp_path.rglob("*")) == [tmp_path / "bundle"]


def test_replacing_takes_the_place_of_a_bundle(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reuse_graph(monkeypatch, exported_bundle, None)
    shutil.copytree(exported_bundle.path, tmp_path / "bundle")
    export_again(tmp_path / "bundle", replace=True)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.provenance.source == "again"
    assert "LICENSE" not in manifest.files
    assert not (tmp_path / "bundle" / "LICENSE").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reuse_graph(monkeypatch, exported_bundle, None)
    thesis = tmp_path / "bundle" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(OutputError, match="is not a bundle; it is not replaced"):
        export_again(tmp_path / "bundle", replace=True)
    assert content(tmp_path / "bundle") == {"thesis.tex": b"years of work"}


def test_an_export_that_fails_leaves_the_old_bundle_as_it_was(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(exported_bundle.path, tmp_path / "bundle")
    reuse_graph(monkeypatch, exported_bundle, change_weights)
    with pytest.raises(ExportError, match=DIFFERS):
        export_again(tmp_path / "bundle", replace=True)
    assert content(tmp_path / "bundle") == content(exported_bundle.path)
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_parent_that_cannot_hold_a_folder_is_an_output_error(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reuse_graph(monkeypatch, exported_bundle, None)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot write .*file/bundle: "):
        export_again(tmp_path / "file" / "bundle")
    assert content(tmp_path) == {"file": b"not a folder"}


def test_a_full_disk_is_an_output_error(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graphs_module, "export_graph", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        export_again(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_card_of_trained_weights_does_not_call_them_random(exported_bundle: Bundle) -> None:
    manifest = exported_bundle.manifest
    trained = manifest.provenance.model_copy(update={"format": "timm", "licence": None})
    card = model_card(manifest.model_copy(update={"provenance": trained}))
    assert "random:tiny (format timm)" in card
    assert "mean nothing" not in card
    assert "not stated by the source" in card


@pytest.mark.parametrize(
    ("packages", "versions"),
    [
        ({"onnxruntime-gpu": "1.99"}, {"cuda": "1.99", "onnxruntime": "1.99"}),
        ({"onnxruntime-openvino": "1.98"}, {}),
    ],
)
def test_a_runtime_has_the_version_of_the_package_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], versions: dict[str, str]
) -> None:
    """Of one that nobody here knows it is left out."""
    monkeypatch.setattr(select, "_distribution", packages.get)
    checkpoint = next(iter(families().values()))()
    found = export_module._provenance(checkpoint, Origin("x")).versions
    own = ("clsspec-serve", "torch", "timm", "onnxscript")
    assert found == {name: importlib.metadata.version(name) for name in own} | versions


def test_what_is_split_already_decides_with_whom_the_registers_go() -> None:
    checkpoint = tiny("vit_small_patch14_reg4_dinov2")
    model = checkpoint.model
    specialize(model, PLAIN.model_copy(update={"final_norm": True, "registers_with": "patch"}))
    found = specialization_of(export_module.lift(checkpoint).model)
    assert found is not None
    assert found.registers_with == "patch"
    assert found.norms
