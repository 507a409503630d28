"""Every command and every line of Python in the README, typed as written."""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import run
from PIL import Image
from server_process import running

from clsspec_export.random_weights import randomize
from clsspec_serve.errors import SourceError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for line in README.splitlines()
    if line.startswith("    clsspec")
]
CURL = [line.strip() for line in README.splitlines() if line.startswith("    curl")]
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

NAMES = """
architecture = "vit_small_patch14_dinov2"
arguments = { img_size = 28, depth = 1 }
[specialization]
qkv_blocks = 0
norms = false
final_norm = false
layer_scale = false
[[rule]]
match = 'backbone\\.(.*)'
name = '\\1'
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's photograph, and what it calls `mine.pth` and `my-...`."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    model = timm.create_model("vit_small_patch14_dinov2", img_size=28, depth=1, num_classes=0)
    randomize(model)
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    (tmp_path / "names.toml").write_text(NAMES)
    photograph = Image.open(ROOT / "examples" / "coffee.jpg").resize((150, 100))
    grey = np.asarray(photograph.convert("L"))
    truths = {
        "my-labels/labels": Image.fromarray((grey > 128).astype(np.uint8)),
        "my-depths/depth": Image.fromarray(1000 + 30 * grey.astype(np.uint16)),
    }
    for kind, truth in truths.items():
        for folder, picture in ((Path(kind), truth), (Path(kind).parent / "images", photograph)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / "one.png")
            mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mirrored.save(tmp_path / folder / "two.png")
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "cache"))
    # The command as written trains for minutes.
    monkeypatch.setattr("clsspec_cli.fit_options.FEWEST", 2)
    monkeypatch.setattr("clsspec_cli.fit_options.MOST", 2)
    monkeypatch.setattr("clsspec_cli.bench.SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(command: str) -> tuple[str, ...]:
    """The arguments as a shell would pass them."""
    parts = shlex.split(command)[1:]
    return tuple(name for part in parts for name in (sorted(glob.glob(part)) or [part]))


@pytest.mark.usefixtures("unreachable_hub")
def test_the_readme_works_from_top_to_bottom(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No test reaches the network; what is to be downloaded is refused, in the usual words.
    monkeypatch.setattr("clsspec_export.fetch.download", _refuse)
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        if words(command)[0] == "serve":
            with running(*words(command)[1:]) as server:
                for line in CURL:
                    here = line.replace("http://127.0.0.1:8000", server.url)
                    subprocess.run(["sh", "-c", f"{here} --fail --no-progress-meter"], check=True)
            continue
        result = run(words(command), monkeypatch, capsys)
        if words(command)[1].startswith(("dinov2_", "hf:")):
            assert result.code == 1, result.err
            assert "download" in result.err.splitlines()[-1]
        else:
            assert result.code == 0, f"{command}: {result.err}"
    assert np.load("feats.npy").ndim == 3
    assert np.load("cls.npy").ndim == 1
    assert Path("features/coffee.features.npz").is_file()
    names = ("mask.png", "mask.overlay.png", "depth.png", "depth.colors.png", "view.png")
    assert [name for name in names if not Path(name).is_file()] == []
    assert Path("analysis/analysis.csv").is_file()
    assert len(CURL) == 3
    with Image.open("mask.png") as mask:
        assert mask.mode == "P"
    assert [each["name"] for each in json.loads(Path("cls.json").read_text())["results"]] == [
        *("coffee.jpg", "bedroom.jpg")
    ]
    assert np.load("coffee.npz")["patches"].dtype == np.float16
    assert PYTHON
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), {})


def _refuse(url: str, *_: object, **__: object) -> Path:
    raise SourceError(f"cannot download {url}: download it by hand")


def test_the_readme_links_to_files_that_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_the_two_opening_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    opening = re.findall(r"^    make (\w+)", README, flags=re.MULTILINE)
    assert opening == ["demo", "test"]
    assert set(opening) <= set(targets)
