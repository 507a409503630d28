from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import pytest
import tiny_bundle as tiny
from command_line import Clsspec

from clsspec_cli import verify as module
from clsspec_serve.bundle import describe_folder
from clsspec_serve.engines import select
from clsspec_serve.parity import Sample, save_samples

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def without_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime is not installed the products are not counted; the tiny graph has none."""
    real = module.find_spec
    monkeypatch.setattr(
        module, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )


def reseal(folder: Path, edit: Edit = lambda manifest: None) -> None:
    """Write the manifest anew, with the hashes of the files as they are now."""
    path = folder / "clsspec.json"
    manifest = json.loads(path.read_text())
    files = describe_folder(folder)
    manifest["files"] = {name: file.model_dump() for name, file in files.items()}
    edit(manifest)
    path.write_text(json.dumps(manifest))


def test_an_exported_bundle_passes(clsspec: Clsspec, exported: Path) -> None:
    result = clsspec("verify", exported)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    count = len(json.loads((exported / "clsspec.json").read_text())["files"])
    assert lines[0] == f"files: {count} whole"
    assert lines[1].startswith("onnxruntime fp32: passed: 4 outputs, largest relative difference ")
    assert lines[2].startswith("openvino fp32: passed: 4 outputs")
    assert lines[3].startswith("openvino bf16: ")
    assert lines[4] == "products: those of the architecture, in our graphs and after optimisation"


@pytest.mark.usefixtures("without_counting")
def test_without_onnxruntime_the_engines_are_checked_all_the_same(
    clsspec: Clsspec, tiny_bundle: Path
) -> None:
    result = clsspec("verify", tiny_bundle)
    assert result.code == 0
    assert result.out.startswith("files: 5 whole\nonnxruntime fp32: passed: 6 outputs")
    assert "products" not in result.out


ABSENT = ("torch", "timm", "onnx", "onnxscript", "matplotlib")
VERIFY = f"""
import sys
sys.modules |= dict.fromkeys({ABSENT}, None)  # importing one of them is an error
sys.argv = ["clsspec", "verify"]
from clsspec_cli.app import main
main()
"""


def test_products_are_counted_where_nothing_of_the_export_is_installed() -> None:
    result = subprocess.run([sys.executable, "-c", VERIFY], capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (0, 1), result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "products: those of the architecture, in our graphs and after optimisation"


def test_a_graph_with_other_products_fails(clsspec: Clsspec, tiny_bundle: Path) -> None:
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert "\nproducts: FAILED: the exported graph " in result.out
    assert result.err == f"clsspec: {tiny_bundle} failed: products\n"


@pytest.mark.usefixtures("without_counting")
@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_outputs_that_differ_fail_every_engine(
    clsspec: Clsspec, tiny_bundle: Path, wrong: float
) -> None:
    with np.load(tiny_bundle / "reference.npz") as arrays:
        changed = dict(arrays)
    changed["0.patches"][0, 1, 2, 3] += wrong * np.abs(changed["0.patches"]).max()
    np.savez(tiny_bundle / "reference.npz", allow_pickle=False, **changed)
    reseal(tiny_bundle)
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert "onnxruntime fp32: FAILED: 6 outputs" in result.out
    assert "failed: onnxruntime fp32, openvino fp32" in result.err


def test_an_engine_that_does_not_run_has_not_passed(clsspec: Clsspec, tiny_bundle: Path) -> None:
    (tiny_bundle / "model.onnx").write_bytes(tiny.tiny_graph()[:-50])
    reseal(tiny_bundle)
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert "onnxruntime fp32: not run: onnxruntime cannot load" in result.out
    assert (
        result.err == f"clsspec: {tiny_bundle} failed: onnxruntime fp32, openvino fp32, products\n"
    )


def test_without_an_engine_nothing_is_verified(
    clsspec: Clsspec, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert 'install it with: pip install "clsspec-serve[cpu]"' in result.err


def test_a_bundle_without_reference_outputs_cannot_be_verified(
    clsspec: Clsspec, tiny_bundle: Path
) -> None:
    (tiny_bundle / "reference.npz").unlink()
    reseal(tiny_bundle)
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert result.err == (
        f"clsspec: {tiny_bundle}: reference.npz is missing; there is nothing to compare with\n"
    )


def test_an_empty_reference_cannot_be_verified(clsspec: Clsspec, tiny_bundle: Path) -> None:
    np.savez(tiny_bundle / "reference.npz", allow_pickle=False)
    reseal(tiny_bundle)
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert "reference.npz holds no outputs; there is nothing to compare with" in result.err


@pytest.mark.usefixtures("without_counting")
def test_a_head_without_a_reference_is_named(clsspec: Clsspec, tmp_path: Path) -> None:
    head = by_hand.depth_head([0.02, 0.01, 0.005, 0.1])
    bundle = by_hand.write_head_bundle(tmp_path / "bundle", [head])
    pixels = np.ones((1, 4, *tiny.SIZE), np.uint8)
    features = {"patches": tiny.features(pixels, tiny.POSITIONS)["patches"]}
    save_samples([Sample(pixels, features)], bundle / "reference.npz")
    reseal(bundle)
    lines = clsspec("verify", bundle).out.splitlines()
    assert "head for depth: not compared: reference.npz had no room for what it takes" in lines
