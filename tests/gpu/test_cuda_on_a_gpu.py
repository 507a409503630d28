"""The engine for CUDA on a real one: exact, all of it there, the same each time."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command_line import tree
from dataset_sources import as_folder, named

from clsspec_export.checkpoints.source import load_checkpoint
from clsspec_export.export import export_bundle, lift
from clsspec_serve import load
from clsspec_serve.bundle import Bundle
from clsspec_serve.engines.gpus import gpus
from clsspec_serve.models import find_bundle
from clsspec_serve.parity import compare, reference_samples, run_sample

from .conftest import Note

NAMES = (
    "vit_small_patch14_dinov2_clsspec",
    "vit_small_patch16_dinov3_clsspec",
    "deit3_base_patch16_224_clsspec",
)
NUMBERS = np.random.default_rng(0)


@pytest.fixture(scope="module", params=("embedded", *NAMES))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The model inside, and one of each family with random weights."""
    if request.param == "embedded":
        return find_bundle(None)
    folder = tmp_path_factory.mktemp("bundle") / request.param
    checkpoint, origin = load_checkpoint(f"random:{request.param}")
    export_bundle(lift(checkpoint), folder, origin)
    return find_bundle(folder)


def test_the_gpu_gives_what_pytorch_gave_at_the_export(bundle: Bundle, note: Note) -> None:
    model = load(bundle.path, engine="cuda")
    found = [each for sample in reference_samples(bundle) for each in run_sample(model, sample)]
    worst = max(found, key=lambda difference: difference.relative)
    note(f"{bundle.manifest.name}: {worst.describe('fp32')}")
    assert all(each.within("fp32") for each in found), [each.describe("fp32") for each in found]


@pytest.mark.parametrize(("batch", "patches"), [(1, (7, 10)), (5, (16, 16)), (2, (37, 28))])
def test_the_gpu_gives_what_the_cpu_gives_at_any_size(
    bundle: Bundle, batch: int, patches: tuple[int, int], note: Note
) -> None:
    side = bundle.manifest.architecture.patch_size
    shape = (batch, 4, patches[0] * side, patches[1] * side)
    pixels = NUMBERS.integers(0, 256, shape, np.uint8)
    names = [output.name for output in bundle.manifest.outputs]
    tasks = [head.task for head in bundle.manifest.heads]
    here, there = (
        load(bundle.path, engine=engine).infer(pixels, names, tasks)
        for engine in ("onnxruntime", "cuda")
    )
    found = [
        compare(name, shape[2:], there[name].reshape(batch, -1), here[name].reshape(batch, -1))
        for name in here
    ]
    worst = max(found, key=lambda difference: difference.relative)
    note(f"{bundle.manifest.name}, batch {batch}, beside the CPU: {worst.describe('fp32')}")
    assert all(each.within("fp32") for each in found)


def test_nothing_that_counts_runs_on_the_cpu(bundle: Bundle, note: Note) -> None:
    """Shapes are worked out there; products, attention and norms are not."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        bundle.graph, options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    nodes = [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    left = sorted({kind for provider, kind in nodes if provider.startswith("CPU")})
    note(f"{bundle.manifest.name}: {len(nodes)} nodes, on the CPU: {', '.join(left) or 'none'}")
    heavy = {"MatMul", "Gemm", "Conv", "Attention", "LayerNormalization", "Softmax", "Gelu"}
    assert not heavy & {*left}


def test_two_passes_at_once_and_two_sessions_give_the_same_bytes(bundle: Bundle) -> None:
    side = 16 * bundle.manifest.architecture.patch_size
    pixels = NUMBERS.integers(0, 256, (8, 3, 4, side, side), np.uint8)
    model, other = (load(bundle.path, engine="cuda") for _ in range(2))
    request = model.request(tasks=("cls", "patches"))
    alone = [model.forward(batch, request) for batch in pixels]
    with ThreadPoolExecutor(2) as pool:
        for again in (model, other):
            found = [*pool.map(lambda batch: again.forward(batch, request), pixels)]  # noqa: B023
            for before, now in zip(alone, found, strict=True):
                for one, two in zip(before, now, strict=True):
                    for name, value in one.items():
                        np.testing.assert_array_equal(two[name], value)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return as_folder(tmp_path / "set", named(40) | {"006.png": b"no picture"})


def batch(source: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run it in a process of its own; its files but for `run.json`."""
    command = [sys.executable, "-c", "from clsspec_cli.app import main; main()", "batch"]
    sizes = ["--resize", "squash", "--shard-size", "8", "--batch-size", "3"]
    subprocess.run([*command, source, "--out", out, *sizes, *options], check=True)
    return {name: content for name, content in tree(out).items() if name != "run.json"}


def test_runs_have_the_same_bytes_each_time_and_by_any_replicas(
    source: Path, tmp_path: Path, note: Note
) -> None:
    first = batch(source, tmp_path / "first", "--devices", "0")
    assert batch(source, tmp_path / "again", "--devices", "0") == first
    everywhere = ",".join(2 * [str(gpu.index) for gpu in gpus() if gpu.name == gpus()[0].name])
    assert batch(source, tmp_path / "many", "--devices", everywhere) == first
    said = json.loads((tmp_path / "first" / "run.json").read_text())["fingerprint"]
    assert (said["engine"].split()[0], said["gpu"]) == ("cuda", gpus()[0].name)
    note(f"clsspec batch: the same bytes twice, and by replicas on GPUs {everywhere}")
