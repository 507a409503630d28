"""The GPUs of this machine that CUDA sees, in CUDA's own order."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

from clsspec_serve.choices import EngineName
from clsspec_serve.errors import EngineError

ON_GPUS: tuple[EngineName, ...] = ("cuda", "tensorrt")
"""The engines that run there; all others run on the CPU."""
_DRIVER = "libcuda.so.1"


@dataclass(frozen=True)
class Gpu:
    """`index`: among those that are visible."""

    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (cuda:{self.index})"


@cache
def gpus() -> tuple[Gpu, ...]:
    """All of them, at least one; `CUDA_VISIBLE_DEVICES` hides some.

    Raises `EngineError` that says why there is none.
    """
    driver = _driver()
    _ask(driver, "cuInit", 0)
    count = ctypes.c_int()
    _ask(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise _none("it has no GPU")
    return tuple(_gpu(driver, index) for index in range(count.value))


def driver_cuda() -> tuple[int, int]:
    """The newest CUDA that the driver runs, (13, 0); raises `EngineError` where there is none."""
    found = ctypes.c_int()
    _ask(_driver(), "cuDriverGetVersion", ctypes.byref(found))
    return found.value // 1000, found.value % 1000 // 10


def gpu_at(index: int) -> Gpu:
    """One of them; raises `EngineError`."""
    found = gpus()
    if not 0 <= index < len(found):
        there = ", ".join(str(each) for each in found)
        raise EngineError(f"there is no GPU {index}; there are {there}")
    return found[index]


def _gpu(driver: Any, index: int) -> Gpu:
    device = ctypes.c_int()
    _ask(driver, "cuDeviceGet", ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    _ask(driver, "cuDeviceGetName", name, len(name), device)
    return Gpu(index, name.value.decode(errors="replace"))


def _driver() -> Any:
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise EngineError(
            f"this machine has no NVIDIA driver ({_DRIVER}); a container needs --gpus all"
        ) from error


def _ask(driver: Any, function: str, *arguments: Any) -> None:
    status = getattr(driver, function)(*arguments)
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode(errors="replace") if text.value else f"error {status}"
        raise _none(f"{function}: {reason}")


def _none(reason: str) -> EngineError:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    words = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    return EngineError(f"the NVIDIA driver gives no GPU: {reason}{words}")
