"""Tests that take an NVIDIA GPU, and the report of what they saw.

`make test-gpu` runs them on a machine with one; elsewhere each is skipped, and says why.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest

from clsspec_serve.engines.gpus import driver_cuda, gpus
from clsspec_serve.engines.select import installed_engines, package_version, why_not

Note = Callable[[str], None]
NOTES = pytest.StashKey[list[str]]()


def no_gpu() -> str | None:
    """Why the tests cannot run here."""
    if "cuda" not in installed_engines():
        return "onnxruntime-gpu is not installed"
    return why_not("cuda")


def pytest_configure(config: pytest.Config) -> None:
    """A place for what the tests see."""
    config.stash[NOTES] = []


@pytest.fixture(autouse=True, scope="session")
def _on_a_gpu() -> None:
    reason = no_gpu()
    if reason is not None:
        pytest.skip(f"{reason}; `make test-gpu` runs this on a machine with an NVIDIA GPU")


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Takes a line for the report."""
    return request.config.stash[NOTES].append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Markdown, as an issue would have it."""
    notes = config.stash[NOTES]
    if not notes:
        return
    places = ", ".join(str(gpu) for gpu in gpus())
    terminalreporter.section("report")
    terminalreporter.write_line(
        f"- {places}; driver for CUDA {'.'.join(map(str, driver_cuda()))}; onnxruntime-gpu "
        f"{package_version('cuda')}; TensorRT {package_version('tensorrt') or 'not installed'}; "
        f"Python {platform.python_version()}"
    )
    for line in notes:
        terminalreporter.write_line(f"- {line}")
