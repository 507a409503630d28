"""A bundle on TensorRT through the doors that users have: `load`, the server, data sets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from command_line import save_picture, tree
from half_bundle import write_half_bundle
from http_server import serving
from PIL import Image
from tensorrt_double import GPUS, VERSIONS, Double, install

from clsspec_serve import load
from clsspec_serve.bundle import REFERENCE, describe_folder, open_bundle, write_manifest
from clsspec_serve.choices import Precision
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.on_ray import Node, OnRay
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.worker import Resources, Worker
from clsspec_serve.dataset.working import Threads
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.errors import EngineError, UsageError
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model
from clsspec_serve.service import Capacity

TESTS = Path(__file__).parents[1]
TASKS = ("cls", "patches", "segment", "depth", "classify")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(put=monkeypatch.setattr, put_module=monkeypatch.setitem)


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    return write_half_bundle(tmp_path / "halves")


def engine_of(model: Model) -> TensorRtEngine:
    assert isinstance(model.engine, TensorRtEngine)
    return model.engine


def test_load_takes_a_gpu_and_runs_everything_there(double: Double, halves: Path) -> None:
    model = load(halves, engine="tensorrt", device=1)
    assert (model.gpu, model.at_once) == (GPUS[1], 2)
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    found = model(picture, tasks=TASKS)
    expected = load(halves, engine="onnxruntime")(picture, tasks=TASKS)
    assert [*found.arrays] == [*expected.arrays]
    for name, value in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[name], value, rtol=1e-5, atol=1e-4)
    assert double.cuda.device == 1
    assert double.cuda.misuses == []
    assert load(halves, engine="tensorrt").gpu == GPUS[0]
    with pytest.raises(UsageError, match=r"^device 0: openvino runs on the CPU; cuda and tensor"):
        load(halves, engine="openvino", device=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_precision_is_of_its_own_graph(
    double: Double, halves: Path, precision: Precision
) -> None:
    model = load(halves, engine="tensorrt", precision=precision)
    assert model.engine.precision == precision
    model(np.zeros((*tiny.SIZE, 3), np.uint8), tasks=("cls",))
    (plan,) = engine_of(model).plans
    assert bool(plan.layers().half) is (precision == "fp16")


def test_a_precision_without_a_graph_is_refused(double: Double, tiny_bundle: Path) -> None:
    with pytest.raises(EngineError, match="has no graph in bf16 for tensorrt; it has fp32 for it"):
        load(tiny_bundle, engine="tensorrt", precision="bf16")


def test_nothing_is_built_at_the_start_in_any_precision(
    double: Double, halves: Path, tiny_bundle: Path
) -> None:
    """The bundle's reference would take a plan for each of its sizes."""
    copyfile(tiny_bundle / REFERENCE, halves / REFERENCE)
    manifest = open_bundle(halves).manifest
    write_manifest(halves, manifest.model_copy(update={"files": describe_folder(halves)}))
    for precision in ("fp32", "bf16", "fp16"):
        load(halves, engine="tensorrt", precision=precision)
    assert double.log == []


def test_plans_are_for_the_batch_and_the_sizes_that_are_said(double: Double, halves: Path) -> None:
    model = start(open_bundle(halves), engine="tensorrt", batch_size=5, sizes=1)
    pixels = np.zeros((2, 4, *tiny.SIZE), np.uint8)
    model.infer(pixels, ["cls", "patches"], ["depth"])
    assert [plan.bucket.largest for plan in engine_of(model).plans] == [5]
    assert sorted(file.name.split("-b")[1][0] for file in halves.rglob("*.plan")) == ["5", "5"]
    with pytest.raises(EngineError, match="for 1 sizes at most"):
        model.features(np.zeros((1, 4, 56, 56), np.uint8), ["cls"])


def test_a_server_is_ready_when_its_plans_are_built(double: Double, halves: Path) -> None:
    bundle = open_bundle(halves)
    models = [
        start(bundle, engine="tensorrt", precision="fp16", batch_size=4, device=device)
        for device in (0, 1)
    ]
    with serving(models, Capacity(batch=4, threads=2)) as server:
        # The GPUs are of one kind, so one of them builds for both.
        assert double.log.count("build") == 2 + 3
        picture = io.BytesIO()
        Image.new("RGB", (28, 28)).save(picture, "PNG")
        headers = {"content-type": "image/png"}
        answer = server.client.post("/depth", content=picture.getvalue(), headers=headers)
        assert answer.status_code == 200, answer.text
    assert double.log.count("build") == 2 + 3


def settings(source: Path, out: Path, bundle: Path, **asked: Any) -> Settings:
    given = {"policy": "squash", "shard_size": 4, "batch_size": 3, "engine": "tensorrt"} | asked
    return Settings(str(source), str(out), Asked.model_validate(given), str(bundle))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for seed in range(9):
        save_picture(tmp_path / "set" / f"{seed}.png", seed)
    return tmp_path / "set"


def test_a_run_names_tensorrt_and_its_gpu(
    double: Double, halves: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = settings(source, out, halves, precision="fp16")
    model = start(open_bundle(halves), engine="tensorrt", precision="fp16", batch_size=3)
    work_off(model.bundle, asked, Here(model, Threads(2, 2)))
    state = open_run(open_tree(str(out))).state
    assert state.fingerprint["engine"] == f"tensorrt {VERSIONS[-1]}"
    assert (state.fingerprint["gpu"], state.fingerprint["precision"]) == (GPUS[0].name, "fp16")
    assert double.log.count("build") == 1
    worker = Worker(str(out), Resources(1, Threads(1, 1), 1))
    assert worker.compute(0).result().pictures == 4
    # In the batches of the run, and so with the plan that it had.
    assert double.log.count("build") == 1


class Elsewhere:
    """A runner on GPUs of other machines, where nothing is computed."""

    gpu = GPUS[0].name

    def run(self, *_: object) -> None: ...


def test_a_codecs_sample_is_computed_with_it_where_it_runs_and_else_on_the_cpu(
    double: Double, halves: Path, source: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(halves)
    for version in (double.__version__, "8.6.1"):
        double.__version__ = version
        given = settings(source, tmp_path / version, halves, codec={"int8": True})
        work_off(bundle, given, Elsewhere())
        state = open_run(open_tree(str(tmp_path / version))).state
        assert (state.asked.engine, state.calibration is None) == ("tensorrt", False)
        # Of the backbone, and of the two heads that take maps; the second time of none.
        assert double.log.count("build") == 3


def test_a_cluster_gives_each_replica_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from clsspec_cli.runner_options import RunnerOptions
    from clsspec_serve.dataset.runners import on_ray

    monkeypatch.setattr(on_ray, "connect", lambda: [Node(8, 2, "H200")])
    options = RunnerOptions("ray", None, None, None, None, 8)
    cluster = options._on_ray("tensorrt")
    assert isinstance(cluster, OnRay)
    assert (cluster.on_gpus, cluster.replicas) == (True, 2)
    assert not options._on_ray("openvino").on_gpus


_COMMAND = "import sys; from clsspec_cli.app import main; sys.exit(main())"


def test_each_device_has_a_replica_and_all_of_them_one_plan(
    halves: Path, source: Path, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(TESTS / "standins" / "tensorrt_gpus"), str(TESTS)])

    def run(out: Path, *options: str) -> dict[str, Any]:
        given = ["batch", source, "--out", out, "--model", halves, "--resize", "squash"]
        sizes = ["--shard-size", "4", "--batch-size", "3"]
        result = subprocess.run(
            [sys.executable, "-c", _COMMAND, *map(str, given), *sizes, *options],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert result.returncode == 0, result.stderr
        return {name: each for name, each in tree(out).items() if name != "run.json"}

    found = run(tmp_path / "gpus", "--engine", "tensorrt", "--devices", "all")
    assert found == run(tmp_path / "cpu", "--engine", "onnxruntime")
    said = json.loads((tmp_path / "gpus" / "run.json").read_text())["fingerprint"]
    assert (said["engine"].split()[0], said["gpu"]) == ("tensorrt", GPUS[0].name)
    assert len([*halves.rglob("*.plan")]) == 1
