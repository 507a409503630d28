from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from clsspec_serve.bundle import Bundle, describe_folder, open_bundle, write_manifest
from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Values
from clsspec_serve.engines.select import load_engine
from clsspec_serve.errors import BundleError
from clsspec_serve.loading import start
from clsspec_serve.parity import (
    Difference,
    Sample,
    compare,
    reference_samples,
    run_sample,
    save_samples,
)
from clsspec_serve.predictor import Model
from clsspec_serve.verification import EngineReport, verify_engines

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
SIZE = (56, 56)


def features(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((2, 3, 4, 8), np.float32)


def test_agreement_is_the_share_of_vectors_whose_largest_value_is_at_the_same_place() -> None:
    found = np.array([[[1, 2], [3, 1], [0, 5], [2, 2.5]]], np.float32)
    expected = np.array([[[1, 3], [1, 3], [0, 1], [9, 2.5]]], np.float32)
    assert compare("segment", SIZE, found, expected).agreement == 0.5


def test_equal_arrays_do_not_differ() -> None:
    found = compare("patches", SIZE, features(), features())
    assert found.relative == 0
    assert found.cosine == pytest.approx(1, abs=1e-12)
    assert found.within("fp32")
    assert found.within("bf16")


def test_the_difference_is_the_largest_one_relative_to_the_largest_value() -> None:
    reference = np.array([[3.0, -4.0], [1.0, 0.0]])
    found = np.array([[3.0, -4.0], [1.0, 0.5]])
    difference = compare("cls", SIZE, found, reference)
    assert difference.relative == 0.5 / 4
    assert difference.cosine == pytest.approx(1 / np.hypot(1, 0.5))  # the worst vector, not a mean


@pytest.mark.parametrize(
    ("relative", "cosine", "precision", "within"),
    [
        (1e-4, 0.99999, "fp32", True),
        (1e-4, 0.9999, "fp32", False),
        (1.01e-4, 1.0, "fp32", False),
        (0.5, 0.999, "bf16", True),
        (0.0, 0.9989, "bf16", False),
        (np.nan, 1.0, "fp32", False),
        (0.0, np.nan, "bf16", False),
    ],
)
def test_fp32_is_judged_by_difference_and_cosine_and_bf16_by_the_cosine(
    relative: float, cosine: float, precision: Precision, within: bool
) -> None:
    assert Difference("cls", SIZE, relative, cosine, 1.0).within(precision) is within


@pytest.mark.parametrize("where", ["found", "reference"])
def test_one_nan_never_passes(where: str) -> None:
    arrays = {"found": features(), "reference": features()}
    arrays[where][1, 2, 3, 4] = np.nan
    difference = compare("patches", SIZE, arrays["found"], arrays["reference"])
    assert not difference.within("fp32")
    assert not difference.within("bf16")


def test_another_shape_is_refused() -> None:
    with pytest.raises(
        BundleError, match=r"cls has shape \(2, 3, 4, 7\), the reference \(2, 3, 4, 8"
    ):
        compare("cls", SIZE, features()[..., :7], features())


def test_a_difference_says_what_was_seen_and_what_is_accepted() -> None:
    difference = Difference("cls", (98, 140), 0.25, 0.5, 1.0)
    assert difference.describe("fp32") == (
        "cls at 98x140: relative difference 2.5e-01, at most 1e-04; "
        "cosine 0.500000, at least 0.99999"
    )
    assert difference.describe("bf16") == "cls at 98x140: cosine 0.500000, at least 0.999"


def test_samples_are_read_as_they_were_saved(exported_bundle: Bundle, tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 14 * 28, dtype=np.uint8).reshape(2, 4, 14, 28)
    samples = [
        Sample(pixels, {"cls": features(1), "patches_10_raw": features(2)}),
        Sample(pixels[:1], {"cls": features(3)}),
    ]
    save_samples(samples, tmp_path / "reference.npz")
    found = list(reference_samples(Bundle(tmp_path, exported_bundle.manifest)))
    assert [sample.size for sample in found] == [(14, 28), (14, 28)]
    for before, after in zip(samples, found, strict=True):
        assert np.array_equal(before.pixels, after.pixels)
        assert before.outputs.keys() == after.outputs.keys()
        assert all(np.array_equal(after.outputs[k], v) for k, v in before.outputs.items())


class Swapping:
    """An engine that returns the features of the pictures' mirror images."""

    name = "swapping"
    precision: Precision = "fp32"

    def __init__(self, graph: Path) -> None:
        self._engine = load_engine(graph, engine="onnxruntime", threads=1)

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        mirrored = np.ascontiguousarray(inputs["pixels"][..., ::-1])
        return self._engine.run(dict(inputs) | {"pixels": mirrored}, outputs)


def test_an_engine_that_is_right_is_within_and_one_that_is_wrong_is_not(
    exported_bundle: Bundle,
) -> None:
    right = start(exported_bundle, engine="onnxruntime", threads=1)
    wrong = Model(exported_bundle, Swapping(exported_bundle.graph), pytest.fail)
    for sample in reference_samples(exported_bundle):
        for difference in run_sample(right, sample):
            assert difference.within("fp32")
        for difference in run_sample(wrong, sample):
            assert not difference.within("fp32")


def test_every_engine_and_precision_verifies_a_good_bundle(exported_bundle: Bundle) -> None:
    reports = verify_engines(exported_bundle)
    assert [(report.engine, report.precision) for report in reports] == [
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
    ]
    for report in reports[: 3 if HAS_BF16 else 2]:
        assert report.passed
        assert report.reason is None
        assert len(report.differences) == 2 * 4
        print(report.engine, report.precision, max(d.relative for d in report.differences))
    if not HAS_BF16:
        assert not reports[2].passed
        assert reports[2].reason == "this CPU has no bf16 instructions; use --precision fp32"


def with_weights_doubled(bundle: Bundle, folder: Path, count: int) -> Bundle:
    """A copy whose last `count` weights are doubled and whose manifest has their hashes."""
    shutil.copytree(bundle.path, folder)
    data = folder / "model.onnx.data"
    weights = np.fromfile(data, np.float32)
    weights[-count:] *= 2
    weights.tofile(data)
    files = describe_folder(folder)
    write_manifest(folder, bundle.manifest.model_copy(update={"files": files}))
    return open_bundle(folder)


def test_one_changed_row_of_one_weight_is_caught_in_fp32(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    """bf16 is judged by the cosine alone, which one row in 288 moves less than bf16 itself may."""
    reports = verify_engines(with_weights_doubled(exported_bundle, tmp_path / "row", 72))
    assert [r.passed for r in reports if r.precision == "fp32"] == [False, False]


def test_a_changed_weight_is_caught_in_every_precision(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    reports = verify_engines(with_weights_doubled(exported_bundle, tmp_path / "all", 288 * 72))
    assert len(reports) == 3
    assert not any(report.passed for report in reports)
    assert all(report.differences or report.reason for report in reports)
    for report in reports:
        print(report.engine, report.precision, min(d.cosine for d in report.differences))


def test_an_engine_without_a_result_has_not_passed() -> None:
    assert not EngineReport("openvino", "fp32", ()).passed
    assert not EngineReport("openvino", "bf16", (), "no bf16 here").passed
