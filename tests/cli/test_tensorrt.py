"""`--engine tensorrt`: in `verify`, `bench` and `extract`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Clsspec, save_picture
from tensorrt_double import GPUS, Double, install

from clsspec_cli import options
from clsspec_cli.devices import chosen_devices, chosen_engine
from clsspec_serve.errors import UsageError


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(put=monkeypatch.setattr, put_module=monkeypatch.setitem)


def test_devices_are_for_it_too(double: Double) -> None:
    assert chosen_engine("tensorrt", "fp32", "0,1") == "tensorrt"
    assert chosen_devices("tensorrt", "0,1", None) == [0, 1]
    assert chosen_devices("tensorrt", None, 2) == [0, 0]


def test_a_bundle_is_verified_with_plans_of_its_references_sizes(
    clsspec: Clsspec, double: Double, tiny_bundle: Path
) -> None:
    result = clsspec("verify", tiny_bundle)
    assert "\ntensorrt fp32: passed: " in result.out
    assert "tensorrt: builds a plan of model.onnx in fp32 for pixels 4x28x42" in result.err


def test_a_wrong_plan_fails_the_verification(
    clsspec: Clsspec, double: Double, tiny_bundle: Path
) -> None:
    double.spoil = lambda value: value * value.dtype.type(1.001)
    result = clsspec("verify", tiny_bundle)
    assert result.code == 1
    assert "\ntensorrt fp32: not run: tensorrt is not right in fp32 on this machine: " in result.out
    assert "failed: tensorrt fp32" in result.err.splitlines()[-1]


def test_a_verification_goes_without_it_where_it_does_not_run(
    clsspec: Clsspec, double: Double, tiny_bundle: Path
) -> None:
    double.__version__ = "8.6.1"
    result = clsspec("verify", tiny_bundle)
    assert "tensorrt" not in result.out
    assert "engine: tensorrt is left out: TensorRT 8.6.1 is too old" in result.err


def test_it_is_measured_at_as_many_sizes_as_are_asked_for(
    clsspec: Clsspec, double: Double, tiny_bundle: Path
) -> None:
    sizes = "28x28,28x42,42x42,42x28,56x56"
    options = ("--engine", "tensorrt", "--rounds", "1", "--precision", "fp32", "--json")
    result = clsspec("bench", tiny_bundle, "--size", sizes, "--batch-size", "1", *options)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert len(report["rows"]) == 5
    assert {row["gpu"] for row in report["rows"]} == {str(GPUS[0])}
    assert report["machine"]["versions"]["tensorrt"] == double.__version__
    # No other engine computes where it does.
    assert {row["ceiling"] for row in report["rows"]} == {None}
    # Nor does it build the products that others are compared with.
    assert double.log.count("build") == len(double.networks) == 5


def test_a_picture_has_its_features_from_it(
    clsspec: Clsspec, double: Double, tiny_bundle: Path, tmp_path: Path
) -> None:
    image = save_picture(tmp_path / "0.png")
    given = ("extract", image, "--model", tiny_bundle, "--out", tmp_path / "f.npz")
    result = clsspec(*given, "--engine", "tensorrt")
    assert result.code == 0, result.err
    assert "run" in double.log


def test_plans_of_a_bundle_are_built_and_compared_on_request(
    clsspec: Clsspec, double: Double, tiny_bundle: Path
) -> None:
    result = clsspec("export", tiny_bundle, "--tensorrt")
    assert result.code == 0, result.err
    assert "tensorrt fp32: model.onnx, " in result.err
    assert "largest relative difference to ONNX Runtime" in result.err
    assert list((tiny_bundle / "engines").glob("sm*-trt*/*"))
    assert "tensorrt fp32: passed: " in clsspec("verify", tiny_bundle).out


def test_a_plan_that_is_not_right_ends_the_export_with_its_name(
    clsspec: Clsspec, double: Double, tiny_bundle: Path
) -> None:
    double.spoil = lambda value: value * value.dtype.type(1.001)
    result = clsspec("export", tiny_bundle, "--tensorrt")
    assert result.code == 1
    assert "not all plans for fp32 could be built" in result.err.splitlines()[-1]


def test_what_plans_lack_is_said_before_a_checkpoint_is_read(
    clsspec: Clsspec, tmp_path: Path
) -> None:
    result = clsspec("export", "random:vit_tiny_patch16_224", "--out", tmp_path / "b", "--tensorrt")
    (line,) = result.err.splitlines()
    assert line.startswith("clsspec: tensorrt is not installed; install it with: ")
    assert 'pip install "clsspec-serve[tensorrt]"' in line
    assert not (tmp_path / "b").exists()


def test_plans_of_a_bundle_take_no_torch(
    clsspec: Clsspec, double: Double, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise UsageError("not installed")

    monkeypatch.setattr(options, "require_export_extra", refuse)
    assert clsspec("export", tiny_bundle, "--tensorrt").code == 0
    both = clsspec("export", tiny_bundle, "--tensorrt", "--triton", tiny_bundle.parent / "models")
    assert (both.code, both.error()) == (2, "not installed")
