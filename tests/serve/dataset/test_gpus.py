"""Runs on GPUs that are not there: a replica on each, with the bytes of the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import tree
from cuda_double import GPUS, LOG, install
from dataset_sources import as_folder, computed, named

from clsspec_serve import load
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.on_ray import Node, OnRay
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.worker import Resources, same_bundle
from clsspec_serve.dataset.working import Threads
from clsspec_serve.engines import gpus as gpus_module
from clsspec_serve.engines import pinned, select
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.errors import DatasetError, EngineError
from clsspec_serve.request import Options

TESTS = Path(__file__).parents[2]
OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}
ASKED = {**OPTIONS, "shard_size": 4, "batch_size": 3}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return as_folder(tmp_path / "set", named(30) | {"006.png": b"no picture"})


def answers(out: Path) -> dict[str, Any]:
    """All files but for what the run says of itself."""
    return {name: content for name, content in tree(out).items() if name != "run.json"}


def fingerprint(out: Path) -> dict[str, str]:
    return json.loads((out / "run.json").read_text())["fingerprint"]


def here(bundle: Path, source: Path, out: Path, device: int = 0) -> None:
    model = load(bundle, device=device)
    asked = Asked.model_validate(ASKED)
    work_off(model.bundle, Settings(str(source), str(out), asked), Here(model, Threads(2, 2)))


def on_the_cpu(bundle: Path, source: Path, out: Path) -> dict[str, Any]:
    computed(bundle, source, out, OPTIONS, shard_size=4, batch_size=3)
    return answers(out)


def test_a_run_on_a_gpu_is_that_of_the_cpu_and_says_where_it_was(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = on_the_cpu(bundle, source, tmp_path / "cpu")
    double = install(monkeypatch.setattr)
    here(bundle, source, tmp_path / "gpu", device=1)
    assert {session.device for session in double.sessions} == {1}
    assert answers(tmp_path / "gpu") == expected
    found = fingerprint(tmp_path / "gpu")
    assert (found["engine"], found["gpu"]) == ("cuda 1.99", "NVIDIA Double")
    assert "gpu" not in fingerprint(tmp_path / "cpu")


def test_batches_lie_where_the_gpu_copies_them_from(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In page-locked memory, of which a few batches' worth is used again and again."""
    monkeypatch.setattr(pinned, "SMALLEST", 1)
    double = install(monkeypatch.setattr)
    model = load(bundle, device=0)
    passes: list[bool] = []
    run = model.engine.run

    def seen(inputs: Any, outputs: Any) -> Any:
        address = inputs["pixels"].ctypes.data
        passes.append(any(0 <= address - at < m.size for at, m in double.cuda.pinned.items()))
        return run(inputs, outputs)

    monkeypatch.setattr(model.engine, "run", seen)
    settings = Settings(str(source), str(tmp_path / "gpu"), Asked.model_validate(ASKED))
    work_off(model.bundle, settings, Here(model, Threads(2, 2)))
    assert passes
    assert all(passes)


def test_two_passes_are_under_way_at_once(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for another one's beginning."""
    expected = on_the_cpu(bundle, source, tmp_path / "cpu")
    install(monkeypatch.setattr)
    model = load(bundle, device=0)
    run, meeting, met = model.engine.run, threading.Barrier(2), [False]

    def wait(inputs: Any, outputs: Any) -> Any:
        if not met[0]:
            meeting.wait(20)
            met[0] = True
        return run(inputs, outputs)

    monkeypatch.setattr(model.engine, "run", wait)
    settings = Settings(str(source), str(tmp_path / "gpu"), Asked.model_validate(ASKED))
    work_off(model.bundle, settings, Here(model, Threads(2, 2)))
    assert met == [True]
    assert answers(tmp_path / "gpu") == expected


def test_a_run_is_not_continued_on_another_kind_of_gpu_or_on_the_cpu(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    install(monkeypatch.setattr)
    here(bundle, source, out)
    before = tree(out)
    here(bundle, source, out, device=1)
    monkeypatch.setattr(gpus_module, "gpus", lambda: (Gpu(0, "NVIDIA Other"),))
    with pytest.raises(DatasetError, match="gpu was NVIDIA Double and is NVIDIA Other"):
        here(bundle, source, out)
    monkeypatch.undo()
    with pytest.raises(DatasetError, match=r"engine was cuda 1.99 and is onnxruntime "):
        computed(bundle, source, out, OPTIONS, shard_size=4, batch_size=3)
    assert tree(out) == before


def test_a_worker_on_another_kind_of_gpu_is_refused(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)
    out = tmp_path / "out"
    model = load(bundle, device=0)
    settings = Settings(str(source), str(out), Asked.model_validate(ASKED), str(bundle))
    work_off(model.bundle, settings, Here(model, Threads(2, 2)))
    state = open_run(open_tree(str(out))).state
    assert same_bundle(state, "NVIDIA Double").path == bundle
    with pytest.raises(DatasetError, match="computes otherwise: gpu was NVIDIA Double and is NV"):
        same_bundle(state, "NVIDIA Other")


def process(program: str, log: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """One in which, and in whose children, there are two GPUs; `log` is of their sessions."""
    path = os.pathsep.join([str(TESTS / "standins" / "gpus"), str(TESTS)])
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path, LOG: str(log)},
    )


def places(log: Path) -> list[tuple[str, str]]:
    """The device of each process that had a session, and those that it saw."""
    found = {line.split()[0]: line.split()[1:] for line in log.read_text().splitlines()}
    return sorted((device, visible) for device, visible in found.values())


_COMMAND = "import sys; from clsspec_cli.app import main; sys.exit(main())"


def test_each_device_has_a_replica(bundle: Path, source: Path, tmp_path: Path) -> None:
    expected = on_the_cpu(bundle, source, tmp_path / "cpu")
    command = ["batch", source, "--out", tmp_path / "gpu", "--model", bundle, "--resize", "squash"]
    sizes = ["--tasks", "cls,patches,depth", "--shard-size", 4, "--batch-size", 3]
    log = tmp_path / "sessions"
    result = process(_COMMAND, log, *command, *sizes, "--devices", "all")
    assert result.returncode == 0, result.stderr
    assert answers(tmp_path / "gpu") == expected
    assert places(log) == [("0", "all"), ("1", "all")]


@pytest.mark.parametrize(
    ("nodes", "given", "expected"),
    [
        ([Node(16, 8, "H200")], (None, None, None), (8, 2, 0)),
        ([Node(16, 2, "H200")] * 3, (None, None, 6), (6, 2, 6)),
        ([Node(16, 2, "H200"), Node(64)], (None, None, 0), (2, 8, 0)),
        ([Node(4, 1, "A10G")] * 2 + [Node(8, 4, "H200")], (None, None, None), (4, 2, 0)),
        ([Node(16, 8)], (3, 5, 1), (3, 5, 1)),
        ([], (None, None, None), (1, 1, 0)),
        ([Node(16)], (20, 4, None), (20, 4, 0)),
    ],
)
def test_a_cluster_is_filled_by_its_gpus(
    nodes: list[Node], given: tuple[int | None, ...], expected: tuple[int, int, int]
) -> None:
    sized = OnRay.sized(nodes, *given, 8, gpus=True)  # type: ignore[arg-type]  # three of them
    assert (sized.replicas, sized.cpus, sized.decoders) == expected


_ON_RAY = """
import sys
import ray
from clsspec_cli.app import main

kinds = {f"accelerator_type:{kind}": 1 for kind in sys.argv.pop(1).split()}
ray.init(address="local", num_cpus=4, num_gpus=2, resources=kinds,
         object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
sys.exit(main())
"""


@pytest.mark.stress
@pytest.mark.parametrize(
    ("kinds", "options", "cpus"), [("", (), "2 CPUs"), ("Double", ("--decoders", "1"), "1 CPU")]
)
def test_on_a_cluster_each_replica_has_a_gpu_of_its_own(
    bundle: Path, source: Path, tmp_path: Path, kinds: str, options: tuple[str, ...], cpus: str
) -> None:
    expected = on_the_cpu(bundle, source, tmp_path / "cpu")
    command = ["batch", source, "--out", tmp_path / "gpu", "--model", bundle, "--resize", "squash"]
    sizes = ["--tasks", "cls,patches,depth", "--shard-size", 4, "--batch-size", 3]
    log = tmp_path / "sessions"
    result = process(_ON_RAY, log, kinds, *command, *sizes, "--runner", "ray", *options)
    assert result.returncode == 0, result.stderr
    assert f"ray: 2 x {cpus} and a GPU, NVIDIA Double" in result.stderr
    assert answers(tmp_path / "gpu") == expected
    assert fingerprint(tmp_path / "gpu")["gpu"] == "NVIDIA Double"
    # One of them may have done it all before the other one had begun.
    seen = places(log)
    assert {*seen} <= {("0", "0"), ("0", "1")}
    assert len({*seen}) == len(seen)


def test_of_as_many_of_each_kind_it_is_always_the_same_one() -> None:
    nodes = [Node(4, 4, "A10G"), Node(8, 4, "H200")]
    for order in (nodes, nodes[::-1]):
        assert OnRay.sized(order, None, None, None, 8, gpus=True).cpus == 2


def test_a_codecs_sample_is_computed_where_the_replicas_are(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replicas of this test are never begun."""
    double = install(monkeypatch.setattr)
    monkeypatch.setattr(Processes, "run", lambda *_: None)
    runner = Processes([Resources(1, Threads(2, 1), 1)])
    asked = Asked.model_validate(ASKED | {"codec": {"int8": True}})
    settings = Settings(str(source), str(tmp_path / "out"), asked, str(bundle))
    work_off(load(bundle, engine="onnxruntime").bundle, settings, runner)
    assert {session.device for session in double.sessions} == {1}


def test_the_versions_of_cuda_libraries_are_part_of_a_run(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)
    packages = {"onnxruntime-gpu": "1.99", "nvidia-cublas": "13.4", "nvidia-cudnn-cu13": "9.26"}
    monkeypatch.setattr(select, "_distribution", packages.get)
    here(bundle, source, tmp_path / "out")
    engine = "cuda 1.99, nvidia-cublas 13.4, nvidia-cudnn-cu13 9.26"
    assert fingerprint(tmp_path / "out")["engine"] == engine


def test_replicas_take_gpus_of_their_machine(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)
    assert Processes([Resources(1, Threads(), 1)]).gpu == GPUS[1].name
    assert Processes([Resources(1, Threads())]).gpu is None
    with pytest.raises(EngineError, match="there is no GPU 7"):
        Processes([Resources(1, Threads(), 7)])
