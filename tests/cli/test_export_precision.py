"""`export --precision`, and what other commands say of such a bundle."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bench_bundle import make_quick
from command_line import Clsspec, tree
from standins.backbones import PHOTOGRAPHS
from tiny_architecture import NAME
from variant_bundle import INT8

from clsspec_cli import app
from clsspec_serve.bundle import describe_folder, open_bundle
from clsspec_serve.engines.openvino import _core

HAS_BF16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
NEED = "--precision int8 needs --calibrate, a folder of pictures like yours"
FOR_INT8 = "--calibrate is for --precision int8"
ACCEPTED = "; accepted are bf16, fp16, int8, beside fp32, which every bundle has"


@dataclass(frozen=True)
class Lowered:
    """A bundle with all precisions, and what was said while it was written."""

    folder: Path
    lines: list[str]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Not to be changed."""
    pictures, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("out") / "toy"
    for photograph in PHOTOGRAPHS:
        shutil.copy(photograph, pictures)
    arguments = ("--precision", "int8, fp16,bf16,int8", "--calibrate", pictures)
    command = ("clsspec", "export", f"random:{NAME}", "--out", out, *arguments)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(said):
        patch.setattr(sys, "argv", [*map(str, command)])
        with pytest.raises(SystemExit) as end:
            app.main()
    assert not end.value.code, said.getvalue()
    return Lowered(out, said.getvalue().splitlines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp8"), f"--precision has 'fp8'{ACCEPTED}"),
        (("--precision", "bf16,"), f"--precision has ''{ACCEPTED}"),
        (
            ("--precision", "bf16,fp32"),
            f"--precision has 'fp32'{ACCEPTED}",
        ),
        (("--precision", "int8"), NEED),
        (("--calibrate", "pictures"), FOR_INT8),
        (("--precision", "fp16", "--calibrate", "pictures"), FOR_INT8),
        (
            ("--precision", "int8", "--calibrate", "gone"),
            "gone is no folder; int8 is calibrated on a folder of pictures",
        ),
        (
            ("--precision", "int8", "--calibrate", "empty"),
            "empty has no pictures; accepted are .jpg, .jpeg, .png, .webp, .tif, .tiff, .bmp",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_nothing_is_read(
    clsspec: Clsspec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(PHOTOGRAPHS[0].parent, tmp_path / "pictures")
    before = tree(tmp_path)
    result = clsspec("export", f"random:{NAME}", "--out", "new", *options)
    assert (result.code, result.error()) == (2, message)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("options", [("--precision", "bf16"), ("--calibrate", "pictures")])
def test_a_bundle_for_triton_is_taken_as_it_is(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    result = clsspec("export", tiny_bundle, "--triton", tmp_path / "models", *options)
    assert result.code == 2
    assert result.error().startswith(f"{tiny_bundle} is a bundle, which --triton ")
    assert result.error().endswith(" --triton-size and --force")
    assert not (tmp_path / "models").exists()


def test_a_broken_picture_is_named_and_leaves_no_bundle(clsspec: Clsspec, tmp_path: Path) -> None:
    broken = tmp_path / "pictures" / "b.jpg"
    broken.parent.mkdir()
    shutil.copy(PHOTOGRAPHS[0], broken.with_name("a.jpg"))
    broken.write_bytes(b"no picture")
    options = ("--plain", "--precision", "int8", "--calibrate", broken.parent)
    result = clsspec("export", f"random:{NAME}", "--out", tmp_path / "out" / "toy", *options)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(f"clsspec: {broken}: ")
    assert "Traceback" not in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_the_manifest_has_each_graph_once_in_the_order_given(lowered: Lowered) -> None:
    manifest = open_bundle(lowered.folder).manifest
    assert [(each.graph, each.precisions) for each in manifest.variants] == [
        ("model.openvino.onnx", ("fp32", "bf16")),
        (INT8, ("int8",)),
        ("model.fp16.onnx", ("fp16",)),
        ("model.bf16.onnx", ("bf16",)),
    ]
    assert [each.calibration for each in manifest.variants] == [
        *(None, "ranges of 3 pictures"),
        *(None, None),
    ]
    graphs = [f"model{part}.onnx" for part in ("", ".bf16", ".fp16", ".int8")]
    expected = {"model.openvino.onnx", *graphs, *(f"{name}.data" for name in graphs)}
    assert {name for name in manifest.files if "onnx" in name} == expected
    assert manifest.files == describe_folder(lowered.folder)


def test_what_was_measured_is_in_the_manifest_with_the_lowest_cosine(lowered: Lowered) -> None:
    parity = open_bundle(lowered.folder).manifest.parity
    assert [(each.engine, each.precision) for each in parity] == [
        *(("onnxruntime", "fp32"), ("onnxruntime", "int8")),
        *(("openvino", "fp32"), ("openvino", "int8")),
    ]
    for each in parity:
        assert each.cosine is not None
        least = 0.99999 if each.precision == "fp32" else 0.99
        assert least < each.cosine <= 1 + 1e-9
        assert each.sizes == ((56, 56), (224, 224), (98, 140))


def test_export_says_what_it_does_and_how_far_each_is_from_pytorch(lowered: Lowered) -> None:
    runs = [*("onnxruntime in fp32", "onnxruntime in int8", "openvino in fp32", "openvino in int8")]
    assert [line for line in lowered.lines if line.startswith("parity of ")] == [
        f"parity of {run}" for run in runs
    ]
    for name in ("model.fp16.onnx", "model.bf16.onnx"):
        said = f"{name}: computed on the CPU, lowest cosine with PyTorch 0.99"
        assert sum(line.startswith(said) for line in lowered.lines) == 1
    words = ": difference to PyTorch, of the largest value: [CLS] "
    measured = [line for line in lowered.lines if words in line]
    assert [line.partition(words)[0] for line in measured] == [
        run.replace(" in ", " ") for run in runs
    ]
    assert ["; lowest cosine 0.99" in line for line in measured] == [False, True, False, True]
    assert lowered.lines[-1].startswith(f"{lowered.folder}: {NAME}_clsspec, ")


def test_the_model_card_says_how_far_int8_is(lowered: Lowered) -> None:
    card = (lowered.folder / "README.md").read_text()
    (line,) = (line for line in card.splitlines() if line.startswith("- onnxruntime int8: "))
    assert "; lowest cosine 0.99" in line


def test_verify_runs_every_graph_that_it_can_and_counts_their_products(
    clsspec: Clsspec, lowered: Lowered
) -> None:
    result = clsspec("verify", lowered.folder)
    assert (result.code, result.err) == (0, "")
    first, *runs, products = result.out.splitlines()
    count = len(open_bundle(lowered.folder).manifest.files)
    assert first == f"files: {count} whole"
    assert [line.split(": ")[0] for line in runs] == [
        *("onnxruntime fp32", "onnxruntime int8"),
        *("openvino fp32", "openvino bf16", "openvino int8"),
    ]
    for line in runs:
        if HAS_BF16 or "bf16" not in line:
            assert ": passed: 4 outputs, " in line
            assert ", lowest cosine " in line
    assert products == "products: those of the architecture, in our graphs and after optimisation"


def changed(lowered: Lowered, folder: Path, change: Callable[[Path], object]) -> Path:
    """A copy whose files were changed before its manifest was written."""
    shutil.copytree(lowered.folder, folder)
    change(folder)
    manifest = json.loads((folder / "clsspec.json").read_text())
    files = describe_folder(folder)
    manifest["files"] = {name: file.model_dump() for name, file in files.items()}
    (folder / "clsspec.json").write_text(json.dumps(manifest))
    return folder


def test_verify_says_what_it_cannot_count_without_onnx(
    clsspec: Clsspec, lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = clsspec("verify", lowered.folder)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-2:] == [
        "products of model.bf16.onnx: not compared: onnx is not installed",
        "products of the other graphs: those of the architecture, in our graphs and after "
        "optimisation",
    ]


def test_verify_names_the_graph_that_is_not_the_models(
    clsspec: Clsspec, lowered: Lowered, tmp_path: Path
) -> None:
    def swap(folder: Path) -> None:
        (folder / "model.bf16.onnx").write_bytes((folder / INT8).read_bytes())

    result = clsspec("verify", changed(lowered, tmp_path / "other", swap))
    assert result.code == 1
    assert "\nproducts: FAILED: model.bf16.onnx has products with " in result.out
    assert result.err == f"clsspec: {tmp_path / 'other'} failed: products\n"


def test_verify_fails_for_int8_alone_where_its_weights_are_others(
    clsspec: Clsspec, lowered: Lowered, tmp_path: Path
) -> None:
    def shuffle(folder: Path) -> None:
        data = folder / f"{INT8}.data"
        values = np.fromfile(data, np.int8)
        values[len(values) // 2 :] = np.random.default_rng(0).permutation(
            values[len(values) // 2 :]
        )
        values.tofile(data)

    result = clsspec("verify", changed(lowered, tmp_path / "other", shuffle))
    assert result.code == 1
    failed = "onnxruntime int8, openvino int8"
    assert result.err == f"clsspec: {tmp_path / 'other'} failed: {failed}\n"
    assert "onnxruntime fp32: passed: " in result.out
    assert "onnxruntime int8: FAILED: 4 outputs, " in result.out


def test_inspect_lists_what_was_measured_and_the_files(clsspec: Clsspec, lowered: Lowered) -> None:
    result = clsspec("inspect", lowered.folder)
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    for engine in ("onnxruntime", "openvino"):
        (line,) = (line for line in lines if line.startswith(f"{engine} int8 "))
        assert "; lowest cosine 0.99" in line
        assert line.endswith(" from PyTorch")
    assert any(line.startswith("model.fp16.onnx.data ") for line in lines)
    facts = json.loads(clsspec("inspect", lowered.folder, "--json").out)
    assert [each["graph"] for each in facts["variants"]][1:] == [
        *(INT8, "model.fp16.onnx", "model.bf16.onnx")
    ]
    assert facts["variants"][1]["calibration"] == "ranges of 3 pictures"


def test_bench_measures_every_precision_that_the_bundle_has(
    clsspec: Clsspec, lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quick(monkeypatch)
    options = ("--rounds", "1", "--batch-size", "1", "--threads", "1", "--json")
    report = json.loads(clsspec("bench", lowered.folder, *options).out)
    found = {(row["engine"], row["precision"]) for row in report["rows"]}
    if HAS_BF16:
        assert report["not_run"] == []
    assert found - {("openvino", "bf16")} == {
        *(("onnxruntime", "fp32"), ("onnxruntime", "int8")),
        *(("openvino", "fp32"), ("openvino", "int8")),
    }


def test_pictures_are_extracted_in_int8(clsspec: Clsspec, lowered: Lowered, tmp_path: Path) -> None:
    found = {}
    for precision in ("fp32", "int8"):
        out = tmp_path / f"{precision}.npz"
        options = ("--model", lowered.folder, "--precision", precision, "--out", out)
        assert clsspec("extract", PHOTOGRAPHS[0], *options).code == 0
        found[precision] = np.load(out)["cls"].ravel()
    one, other = found.values()
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert 0.99 < cosine < 0.9999999


def test_an_export_in_auto_is_refused(clsspec: Clsspec, tiny_bundle: Path) -> None:
    result = clsspec("export", tiny_bundle, "--out", "new", "--precision", "auto")
    assert result.code == 2
    assert "auto" in result.err
