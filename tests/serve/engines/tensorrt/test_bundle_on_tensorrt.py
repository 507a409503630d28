"""The bundle inside of this package, its heads included, as a model on TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorrt_double import VERSIONS, install

from clsspec_serve import load
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.models import find_bundle
from clsspec_serve.predictor import Model

PICTURE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)


def test_features_and_heads_are_those_of_the_cpu_and_stay_on_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path))
    put = {"put": monkeypatch.setattr, "put_module": monkeypatch.setitem}
    double = install(VERSIONS[-1], **put)
    bundle = find_bundle(None)
    backbone = TensorRtEngine(bundle.graph, largest=2)
    model = Model(
        bundle,
        backbone,
        lambda task: TensorRtEngine(bundle.head(task), largest=2),
        backbone.gpu,
    )
    tasks = ("cls", "segment", "depth")
    found = model(PICTURE, tasks=tasks, size=(64, 96))
    expected = load(engine="onnxruntime", threads=1)(PICTURE, tasks=tasks, size=(64, 96))
    np.testing.assert_array_equal(found.segment, expected.segment)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4)
    np.testing.assert_allclose(found.cls, expected.cls, rtol=1e-4, atol=1e-4)
    crossed = [each for each in double.cuda.log if each.startswith(("up", "down"))]
    pixels, patches, floats = 64 * 96, 4 * 6, 4
    assert crossed == [
        *(f"up {floats * patches * 192}", f"up {4 * pixels}"),
        *(f"down {floats * 192}", f"down {floats * patches * 17}"),
        f"down {floats * 16 * patches}",
    ]
    (plan,) = backbone.plans
    assert plan.layers().attention == 12
    assert sorted(each.name.split("-")[0] for each in tmp_path.rglob("*.plan")) == [
        "depth",
        "model",
        "segment",
    ]
    assert double.cuda.misuses == []
