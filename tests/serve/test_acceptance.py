"""Which plans are kept: those that compute what ONNX Runtime computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from half_bundle import write_half_bundle
from numpy.typing import NDArray
from tensorrt_double import Double, install

from clsspec_serve import load
from clsspec_serve.acceptance import Acceptance, _shown
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.choices import HeadTask, Precision
from clsspec_serve.engines import select
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.plans import PlanManifest
from clsspec_serve.errors import EngineError
from clsspec_serve.loading import build, start
from clsspec_serve.models import find_bundle
from clsspec_serve.parity import reference_samples

Array = NDArray[Any]
SQUARE = (56, 56)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(put=monkeypatch.setattr, put_module=monkeypatch.setitem)


@pytest.fixture
def halves(tmp_path: Path) -> Bundle:
    return open_bundle(write_half_bundle(tmp_path / "halves"))


def run(
    bundle: Bundle, tasks: tuple[HeadTask, ...] = (), precision: Precision = "fp32"
) -> dict[str, Array]:
    """A square picture, which is not the bundle's own size, on TensorRT."""
    model = start(bundle, engine="tensorrt", precision=precision)
    names = [output.name for output in bundle.manifest.outputs]
    return model.infer(np.full((2, 4, *SQUARE), 3, np.uint8), names, tasks)


def kept(bundle: Bundle) -> list[str]:
    """The graphs and precisions of the plans on disk, each of which was compared."""
    found = sorted(bundle.path.rglob("engines/*/*.json"))
    manifests = [PlanManifest.model_validate_json(file.read_bytes()) for file in found]
    assert all(each.checked for each in manifests)
    assert len([*bundle.path.rglob("*.plan")]) == len(found)
    return ["-".join(file.name.split("-")[:2]) for file in found]


def scaled(value: Array) -> Array:
    return value * np.float32(1.001)


def turned(value: Array) -> Array:
    """As long as it was, and as large; its features are others."""
    return value[..., ::-1].copy()


def wrong_in_batches(value: Array) -> Array:
    """The last of several is that of the picture before."""
    return np.concatenate([value[:-1], value[-2:-1]]) if len(value) > 1 else value


def wrong_alone(value: Array) -> Array:
    return turned(value) if len(value) == 1 else value


def lost(value: Array) -> Array:
    return np.full_like(value, np.nan)


def test_a_right_plan_is_kept_and_not_built_again(double: Double, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    found = run(bundle)
    expected = load(tiny_bundle, engine="onnxruntime").infer(
        np.full((2, 4, *SQUARE), 3, np.uint8), [*found], ()
    )
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
    assert kept(bundle) == ["model-fp32"]
    run(bundle)
    assert double.log.count("build") == 1


@pytest.mark.parametrize("spoil", [scaled, turned, wrong_in_batches, wrong_alone, lost])
def test_a_wrong_plan_is_refused_and_not_kept(
    double: Double, tiny_bundle: Path, spoil: Callable[[Array], Array]
) -> None:
    double.spoil = spoil
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(EngineError) as info:
        run(bundle)
    words = str(info.value)
    assert words.startswith("tensorrt is not right in fp32 on this machine: ")
    assert " at 56x56: relative difference " in words
    assert words.endswith("; the plan is not kept")
    assert kept(bundle) == []


def test_in_half_precision_what_counts_is_the_direction(double: Double, halves: Bundle) -> None:
    double.spoil = scaled
    run(halves, precision="fp16")
    assert kept(halves) == ["model-fp16"]
    double.spoil = turned
    again = start(halves, engine="tensorrt", precision="fp16", batch_size=4)
    with pytest.raises(EngineError, match=r"not right in fp16 .*: cosine .*, at least 0.999; the"):
        again.features(np.full((1, 4, *SQUARE), 3, np.uint8), ["cls"])
    assert kept(halves) == ["model-fp16"]


def test_a_plan_in_which_nothing_is_half_is_refused(double: Double, halves: Bundle) -> None:
    with pytest.raises(EngineError) as info:
        run(halves, precision="bf16")
    assert str(info.value) == (
        "tensorrt is not right in bf16 on this machine: 0 % of 11 layers in half precision, 0 "
        "fused attentions of a plan for pixels 4x56x56, position 4x4x4 in batches of 1 to 8; the "
        "plan is not kept"
    )
    assert kept(halves) == []


def test_each_head_is_compared_on_features_of_the_photographs(
    double: Double, halves: Bundle
) -> None:
    tasks: tuple[HeadTask, ...] = ("segment", "depth", "classify")
    run(halves, tasks, "fp16")
    # In fp32, as a head has no other graph.
    assert kept(halves) == ["classify-fp32", "depth-fp32", "model-fp16", "segment-fp32"]


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_a_wrong_head_is_refused(double: Double, halves: Bundle, task: HeadTask) -> None:
    run(halves)
    double.spoil = scaled
    acceptance = Acceptance(halves)
    model = build(halves, engine="tensorrt", batch_size=4)
    features = load(halves.path, engine="onnxruntime").features(
        np.full((1, 4, *SQUARE), 3, np.uint8), ["cls", "patches"]
    )
    with pytest.raises(EngineError, match=rf"not right in fp32 on this machine: {task} at "):
        model.answer(task, features, (4, 4))
    assert kept(halves) == ["model-fp32"]
    assert acceptance.found == {}


def test_a_head_of_vectors_is_compared_at_the_bundles_own_size(
    double: Double, halves: Bundle
) -> None:
    acceptance = Acceptance(halves)
    engine = TensorRtEngine(halves.head("classify"))
    engine.run({"cls": np.zeros((1, 4), np.float32)}, ["classify"])
    (plan,) = engine.plans
    assert {each.size for each in acceptance.differences_of_head("classify", plan)} == {tiny.SIZE}


def test_a_plan_is_shown_one_photograph_and_its_largest_batch(
    double: Double, halves: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the embedded bundle, as this one carries none."""
    acceptance = Acceptance(halves)
    engine = TensorRtEngine(halves.graph, largest=5)
    sides = {"pixels": np.zeros((1, 4, *SQUARE), np.uint8)}
    engine.run({**sides, "position": np.zeros((4, 4, 4), np.float32)}, ["cls"])
    (plan,) = engine.plans
    shown: list[Array] = []
    real = plan.run

    def spied(inputs: Any, outputs: Any) -> Any:
        shown.append(inputs["pixels"])
        return real(inputs, outputs)

    monkeypatch.setattr(plan, "run", spied)
    found = acceptance.differences(plan)
    assert acceptance.found == {plan.sha256: found}
    assert len(found) == 2 * len(halves.manifest.outputs)
    assert [each.shape for each in shown] == [(1, 4, *SQUARE), (5, 4, *SQUARE)]
    pictures = [_shown(each.pixels[0], SQUARE) for each in reference_samples(find_bundle(None))]
    pictures += [picture[:, :, ::-1] for picture in pictures]
    assert len(pictures) == 4
    np.testing.assert_allclose(shown[1], np.stack([*pictures, pictures[0]]), atol=1)


def test_a_photograph_in_another_size_is_black_where_it_covers_nothing() -> None:
    pixels = np.full((4, 20, 30), 255, np.uint8)
    pixels[3] = 1
    pixels[:, :, 20:] = 0
    shown = _shown(pixels, (10, 15))
    assert (shown.shape, shown.dtype) == ((4, 10, 15), np.uint8)
    assert {*np.unique(shown[3])} == {0, 1}
    assert not shown[:, :, 10:].any()
    assert shown[:3, :, :9].min() == 255
    assert _shown(pixels, (20, 30)) is pixels


def test_without_onnxruntime_it_is_said_before_anything_is_built(
    double: Double, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "_found", lambda name: name != "onnxruntime")
    with pytest.raises(EngineError, match="onnxruntime is not installed; install it with"):
        load(tiny_bundle, engine="tensorrt")
    assert double.log == []
