"""Runs on a Ray cluster, each a small one of its own in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import tree
from dataset_process import CODEC
from dataset_sources import as_folder, computed, named, picture
from long_cases import mostly_long

from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}
TESTS = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Thirty pictures, of which the seventh is none, and two were there before."""
    odd = {"006.png": b"no picture", "020.png": picture(3), "027.png": picture(3)}
    return as_folder(tmp_path / "set", named(30) | odd)


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process that finds the modules of the tests."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )


@pytest.mark.parametrize("runner", ["ray", "ray-decoders"])
def test_a_cluster_gives_the_bytes_of_this_process(
    bundle: Path, source: Path, tmp_path: Path, runner: str
) -> None:
    """With pictures decoded in the replicas, and in tasks beside them."""
    program = "import sys, dataset_process; dataset_process.main(*sys.argv[1:])"
    result = python(program, bundle, source, tmp_path / "ray", runner)
    assert result.returncode == 0, result.stderr
    assert "30 pictures in 8 shards" in result.stdout
    assert "; 2 duplicates; 1 failed: 1 no picture\ncodec: patches lose " in result.stdout
    computed(bundle, source, tmp_path / "here", OPTIONS, codec=CODEC, dedupe=True)
    assert tree(tmp_path / "ray") == tree(tmp_path / "here")


_SIZED = """
import ray
from clsspec_serve.dataset.runners.on_ray import OnRay, connect

ray.init(address="local", num_cpus=6, object_store_memory=100_000_000, include_dashboard=False)
for given in ((None, None, None), (None, 2, None), (None, 2, 1), (None, None, 4), (5, 1, 3)):
    sized = OnRay.sized(connect(), *given, 8)
    print(sized.replicas, sized.cpus, sized.decoders)
"""


def test_what_is_not_said_fills_the_cluster() -> None:
    result = python(_SIZED)
    assert result.stdout.splitlines() == ["1 6 0", "3 2 0", "2 2 1", "1 2 4", "5 1 3"], (
        result.stderr
    )


_OTHER_DECODER = """
import sys
import dataset_process
from clsspec_serve.errors import DatasetError

# The driver alone has another one.
from PIL import features
features.version = lambda name: "9.9"
try:
    dataset_process.main(*sys.argv[1:])
except DatasetError as error:
    print(error)
"""


@pytest.mark.parametrize("runner", mostly_long(["ray", "ray-decoders"], ["ray"]))
def test_a_node_that_would_give_other_bytes_is_refused(
    bundle: Path, source: Path, tmp_path: Path, runner: str
) -> None:
    result = python(_OTHER_DECODER, bundle, source, tmp_path / "out", runner)
    assert " computes otherwise: decoders was pillow " in result.stdout, result.stderr
    assert "libjpeg_turbo 9.9" in result.stdout
    assert "\n" not in result.stdout.strip().removeprefix("begun\n")
