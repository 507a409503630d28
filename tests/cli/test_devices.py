"""`--devices`: which GPUs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Clsspec, save_picture
from cuda_double import install

from clsspec_cli.devices import chosen_devices, chosen_engine
from clsspec_serve.engines.gpus import gpus
from clsspec_serve.errors import EngineError, UsageError


@pytest.mark.parametrize(
    ("devices", "replicas", "expected"),
    [
        (None, None, [0]),
        (None, 3, [0, 0, 0]),
        ("1", None, [1]),
        ("0,1", None, [0, 1]),
        ("1,0,1", None, [1, 0, 1]),
        ("0,1", 5, [0, 1, 0, 1, 0]),
        ("all", None, [0, 1]),
    ],
)
def test_each_device_has_a_model(
    monkeypatch: pytest.MonkeyPatch,
    devices: str | None,
    replicas: int | None,
    expected: list[int],
) -> None:
    install(monkeypatch.setattr)
    assert chosen_engine("auto", "fp32", devices) == "cuda"
    assert chosen_devices("cuda", devices, replicas) == expected


def test_on_the_cpu_there_are_replicas_without_devices() -> None:
    assert chosen_devices("onnxruntime", None, None) == [None]
    assert chosen_devices("openvino", None, 2) == [None, None]


def test_more_devices_than_replicas_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch.setattr)
    with pytest.raises(UsageError, match="--devices 0,1 are 2, and --replicas 1 fewer"):
        chosen_devices("cuda", "0,1", 1)


@pytest.mark.parametrize("command", ["batch", "serve"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("0",), "cuda is not installed; install it with: pip uninstall --yes onnxruntime; "),
        (("0", "--engine", "openvino"), "--devices are for --engine cuda and tensorrt; openvino r"),
    ],
)
def test_devices_without_their_engine_are_refused(
    clsspec: Clsspec,
    tiny_bundle: Path,
    tmp_path: Path,
    command: str,
    options: tuple[str, ...],
    words: str,
) -> None:
    save_picture(tmp_path / "set" / "0.png", 0)
    given = (tmp_path / "set", "--out", tmp_path / "out") if command == "batch" else ()
    result = clsspec(command, *given, "--model", tiny_bundle, "--devices", *options)
    assert result.code != 0
    assert result.error().startswith(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("devices", ["x", "0,", "0;1", ""])
def test_what_is_no_index_is_refused(
    clsspec: Clsspec,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: str,
) -> None:
    install(monkeypatch.setattr)
    save_picture(tmp_path / "set" / "0.png", 0)
    out = tmp_path / "out"
    given = ("--out", out, "--model", tiny_bundle, "--devices", devices)
    result = clsspec("batch", tmp_path / "set", *given)
    assert result.code == 2
    assert result.error() == f"--devices {devices}: accepted are indices such as 0,1, and all"
    assert not out.exists()


def test_a_device_that_is_not_there_leaves_nothing(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)
    save_picture(tmp_path / "set" / "0.png", 0)
    out = tmp_path / "out"
    given = (tmp_path / "set", "--out", out, "--model", tiny_bundle)
    for devices in ("4", "4,5"):
        result = clsspec("batch", *given, "--devices", devices)
        assert result.error().startswith("there is no GPU 4; there are NVIDIA Double (cuda:0)")
        assert not out.exists()


def test_devices_are_not_those_of_a_cluster(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    save_picture(tmp_path / "set" / "0.png", 0)
    given = (tmp_path / "set", "--out", tmp_path / "out", "--model", tiny_bundle)
    result = clsspec("batch", *given, "--runner", "ray", "--devices", "0")
    assert result.code == 2
    assert result.error() == "--devices are of this machine; a Ray cluster has its own"


def test_a_picture_on_a_gpu(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = install(monkeypatch.setattr)
    image = save_picture(tmp_path / "0.png", 0)
    result = clsspec("extract", image, "--model", tiny_bundle, "--out", tmp_path / "f.npz")
    assert result.code == 0, result.err
    assert "run" in double.cuda.log
    assert "engine: cuda, on NVIDIA Double (cuda:0)\n" in result.err


def test_auto_says_on_stderr_why_it_is_the_cpu(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and nothing else: here it is the driver that is missing."""
    install(monkeypatch.setattr)
    for module in ("gpus", "select"):
        monkeypatch.setattr(f"clsspec_serve.engines.{module}.gpus", gpus.__wrapped__)

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    image = save_picture(tmp_path / "0.png", 0)
    given = ("extract", image, "--model", tiny_bundle, "--out", tmp_path / "f.npz")
    result = clsspec(*given)
    assert result.code == 0
    assert result.err.count("engine: onnxruntime, on the CPU, as cuda does not run: this mach") == 1
    refused = clsspec(*given, "--engine", "cuda")
    assert refused.error().startswith("this machine has no NVIDIA driver (libcuda.so.1)")


def test_a_bundle_is_not_at_fault_where_there_is_no_gpu(
    clsspec: Clsspec, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)
    assert "cuda fp32: passed" in clsspec("verify", exported).out
    monkeypatch.setattr("clsspec_serve.engines.select.gpus", no_driver)
    result = clsspec("verify", exported)
    assert result.code == 0, result.err
    assert "cuda" not in result.out
    assert result.err.startswith("engine: cuda is left out: this machine has no NVIDIA driver")


def no_driver() -> None:
    raise EngineError("this machine has no NVIDIA driver")
