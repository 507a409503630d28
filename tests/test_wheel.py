"""What a user's `pip install` puts on the disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.Path]:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(folder), str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield zipfile.Path(file)


def names(wheel: zipfile.Path) -> list[str]:
    return [name for name in wheel.root.namelist() if not name.endswith("/")]


def test_the_wheel_holds_three_packages(wheel: zipfile.Path) -> None:
    info = f"clsspec_serve-{version('clsspec-serve')}.dist-info"
    assert {name.partition("/")[0] for name in names(wheel)} == {
        *("clsspec_serve", "clsspec_export", "clsspec_cli"),
        info,
    }
    assert (wheel / info / "licenses" / "LICENSE").is_file()


def test_every_package_says_that_it_is_typed(wheel: zipfile.Path) -> None:
    for package in ("clsspec_serve", "clsspec_export", "clsspec_cli"):
        assert (wheel / package / "py.typed").is_file()


def test_every_module_is_shipped_and_nothing_else(wheel: zipfile.Path) -> None:
    homes = {"clsspec_serve": ROOT, "clsspec_export": ROOT / "export", "clsspec_cli": ROOT / "cli"}
    expected = {
        file.relative_to(home).as_posix()
        for package, home in homes.items()
        for file in (home / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    shipped = {name for name in names(wheel) if ".dist-info/" not in name}
    assert shipped == expected
    assert not any(re.search(r"(?<![a-z])tests?(?![a-z])", name) for name in shipped)


def test_the_photographs_of_the_parity_check_are_shipped(wheel: zipfile.Path) -> None:
    folder = wheel / "clsspec_export" / "photographs"
    shipped = {file.name for file in folder.iterdir()}
    assert shipped == {"README.md", "astronaut.jpg", "chelsea.jpg", "coffee.jpg"}


def test_the_command_is_an_entry_point(wheel: zipfile.Path) -> None:
    (info,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    text = (info / "entry_points.txt").read_text(encoding="utf-8")
    assert text.split() == ["[console_scripts]", "clsspec", "=", "clsspec_cli.app:main"]


def test_no_engine_and_no_torch_is_needed_to_install(wheel: zipfile.Path) -> None:
    (info,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    lines = (info / "METADATA").read_text(encoding="utf-8").splitlines()
    needed = {
        line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    for name in ("torch", "timm", "onnx", "openvino"):
        assert not any(line.startswith(f"Requires-Dist: {name}") for line in needed)


def test_an_embedded_bundle_is_shipped_whole_and_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__", "default_model")
    for name in ("clsspec_serve", "export", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    bundle = write_tiny_bundle(source / "clsspec_serve" / "default_model")
    expected = {file.relative_to(source).as_posix() for file in bundle.rglob("*") if file.is_file()}

    command = (sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", str(source))
    subprocess.run(command, check=True, capture_output=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        found = {name.partition("/")[2] for name in file.getnames()}
    assert expected <= found
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")

    code = "import sys; sys.argv = ['clsspec', 'inspect']; from clsspec_cli.app import main; main()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CLSSPEC_")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,  # not the checkout, which would be imported
        env=environment | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("model: tiny, the embedded one ")
