from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import clsspec_serve

HEAVY = {
    *("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "transformers"),
    *("numpy", "PIL", "pydantic", "safetensors", "httpx", "huggingface_hub"),
}
CLSSPEC = Path(sys.executable).with_name("clsspec")


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after the code."""
    ending = "\nimport json, sys; json.dump(sorted(sys.modules), sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True)
    return {name.partition(".")[0] for name in json.loads(result.stderr)}


def test_the_public_names_are_these() -> None:
    assert clsspec_serve.__all__ == [
        "ClsspecError",
        "Geometry",
        "ImageLimits",
        "Layer",
        "Model",
        "Prediction",
        "load",
    ]


def test_every_public_name_is_what_its_module_defines() -> None:
    for name in clsspec_serve.__all__:
        value = getattr(clsspec_serve, name)
        assert value.__name__ == name
        assert value.__module__.startswith("clsspec_serve.")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'clsspec_serve' has no attribute 'nonsense'"):
        _ = clsspec_serve.nonsense


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import clsspec_serve") & HEAVY == set()


@pytest.mark.parametrize("command", ["", "extract", "export", "inspect", "verify", "models"])
def test_help_loads_nothing_heavy(command: str) -> None:
    arguments = ["clsspec", *command.split(), "--help"]
    code = f"""
import sys
from clsspec_cli.app import main
sys.argv = {arguments}
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    loaded = loaded_by(code)
    assert "typer" in loaded
    # Typer parses the options of a subcommand with pydantic.
    assert loaded & HEAVY <= ({"pydantic"} if command else set())


def test_using_a_model_loads_no_torch(tiny_bundle: Path) -> None:
    code = f"import clsspec_serve; clsspec_serve.load({str(tiny_bundle)!r})"
    loaded = loaded_by(code)
    assert "onnxruntime" in loaded
    assert set() == loaded & {"torch", "timm", "onnx", "openvino", "clsspec_export"}


def test_the_installed_command_prints_its_version() -> None:
    result = subprocess.run([CLSSPEC, "--version"], capture_output=True, text=True)
    version = importlib.metadata.version("clsspec-serve")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{version}\n", "")
