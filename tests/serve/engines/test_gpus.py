"""The driver's interface, as a made-up driver speaks it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from clsspec_serve.engines.gpus import Gpu, driver_cuda, gpu_at, gpus
from clsspec_serve.errors import EngineError

NAMES = ("NVIDIA H200", "NVIDIA A10G")
OUT_OF_ORDER, NO_DEVICE = 3, 100


class Driver:
    """`libcuda.so.1` with two GPUs, which answers nothing before `cuInit`."""

    def __init__(self, status: int = 0, count: int = len(NAMES)) -> None:
        self._status, self._count, self._begun = status, count, False

    def cuInit(self, flags: int) -> int:
        self._begun = flags == 0
        return self._status

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13020
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        return self._put(count, self._count)

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return self._put(device, index)

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        assert length == len(name)
        name.value = NAMES[device.value].encode()
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        if status != NO_DEVICE:
            return 1
        text._obj.value = b"no CUDA-capable device is detected"
        return 0

    def _put(self, pointer: Any, value: int) -> int:
        if not self._begun:
            return OUT_OF_ORDER
        pointer._obj.value = value
        return 0


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus.cache_clear()
    yield
    gpus.cache_clear()


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libcuda.so.1": driver}[name])


def refused() -> str:
    with pytest.raises(EngineError) as info:
        gpus()
    return str(info.value)


def test_the_gpus_are_as_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, Driver())
    assert gpus() == (Gpu(0, "NVIDIA H200"), Gpu(1, "NVIDIA A10G"))
    assert str(gpu_at(1)) == "NVIDIA A10G (cuda:1)"
    assert driver_cuda() == (13, 2)
    for wrong in (2, -1):
        with pytest.raises(EngineError, match=rf"there is no GPU {wrong}; there are NVIDIA H200"):
            gpu_at(wrong)


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert refused() == (
        "this machine has no NVIDIA driver (libcuda.so.1); a container needs --gpus all"
    )


def test_why_the_driver_gives_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, Driver(status=NO_DEVICE))
    words = "the NVIDIA driver gives no GPU: cuInit: no CUDA-capable device is detected"
    assert refused() == words
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert refused() == f"{words} (CUDA_VISIBLE_DEVICES is '')"
    with_driver(monkeypatch, Driver(status=803))
    assert "cuInit: error 803" in refused()
    with_driver(monkeypatch, Driver(count=0))
    assert "gives no GPU: it has no GPU" in refused()
