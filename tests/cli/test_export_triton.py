"""`clsspec export --triton`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import Clsspec, tree
from triton_server import TritonServer

from clsspec_serve.bundle import open_bundle
from clsspec_serve.manifest import Manifest
from clsspec_serve.models import EMBEDDED


def test_a_checkpoint_becomes_a_bundle_and_models_for_triton(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_architecture import NAME

    def export_bundle(checkpoint: object, destination: Path, *_: object, **__: object) -> Manifest:
        shutil.copytree(EMBEDDED, destination)
        return open_bundle(destination).manifest

    # Exporting takes seconds, and has tests of its own.
    monkeypatch.setattr("clsspec_export.export.export_bundle", export_bundle)
    out, models = tmp_path / "indoor-tiny", tmp_path / "models"
    result = clsspec(
        *("export", f"random:{NAME}", "--out", out, "--triton", models),
        *("--triton-size", "112x224"),
    )
    assert (result.code, result.out) == (0, ""), result.err
    lines = result.err.splitlines()
    assert lines[-4:-2] == ["writing Triton's models at 112x224", "comparing them with the bundle"]
    assert lines[-2].startswith("largest difference to the bundle ")
    assert lines[-1] == (
        f"{models}: indoor-tiny, indoor-tiny_segment_head, indoor-tiny_depth_head, "
        "indoor-tiny_segment, indoor-tiny_depth, indoor-tiny_predict"
    )
    assert [*TritonServer(models).configs["indoor-tiny"].input[0].dims] == [4, 112, 224]
    open_bundle(out)


def test_a_bundle_becomes_models_for_triton(clsspec: Clsspec, tmp_path: Path) -> None:
    models, bundle = tmp_path / "models", EMBEDDED
    assert clsspec("export", bundle, "--triton", models).code == 0
    config = TritonServer(models).configs["indoor-tiny"]
    size = open_bundle(bundle).manifest.preprocessing.size
    assert [*config.input[0].dims] == [4, *size]
    refused = clsspec("export", bundle, "--triton", models)
    assert (refused.code, refused.error()) == (
        2,
        f"{models / 'indoor-tiny'} exists already; --force replaces it",
    )
    smaller = ("--triton-size", "32", "--force")
    assert clsspec("export", bundle, "--triton", models, *smaller).code == 0
    assert [*TritonServer(models).configs["indoor-tiny"].input[0].dims] == [4, 32, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["BUNDLE", "--triton", "m", "--out", "x"],
            "BUNDLE is a bundle, which --triton and --tensorrt take as",
        ),
        (
            ["BUNDLE", "--triton", "m", "--storage", "fp16"],
            "accepted beside them are --triton-size",
        ),
        (["BUNDLE", "--triton", "m", "--triton-size", "30x28"], "multiples of 14"),
        (["BUNDLE", "--triton", "m", "--triton-size", "big"], "accepted is HxW in pixels"),
        (["BUNDLE", "--triton", "BUNDLE/models"], "has a bundle in it; --triton takes a folder"),
        (["BUNDLE", "--triton", "file"], "file is a file; --triton takes a folder"),
        (["random:x", "--triton", "m"], "--out is missing: the folder of the bundle to write"),
        (["random:x"], "--out is missing: the folder of the bundle to write"),
        (["random:x", "--out", "new", "--triton-size", "28"], "--triton-size is for --triton"),
        (["random:x", "--out", "new", "--triton", "new"], "new has a bundle in it"),
        (["random:x", "--out", "new", "--triton", "file"], "file is a file"),
        (["random:x", "--out", "new", "--triton", "there"], "there/new exists already; --force"),
        (
            ["random:vit_toy_patch14_dinov2", "--out=new", "--triton=m", "--triton-size=30"],
            "size 30x30 is not of whole patches; --triton-size accepts multiples of 14",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(
    clsspec: Clsspec,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    import tiny_architecture  # noqa: F401  # registers the name with timm

    monkeypatch.chdir(tmp_path)
    tiny_bundle.rename("BUNDLE")
    Path("file").touch()
    Path("there/new").mkdir(parents=True)
    before = tree(tmp_path)
    result = clsspec("export", *arguments)
    lines = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert lines[-1].startswith("clsspec: ")
    assert message in lines[-1]
    assert lines[:-1] in ([], [f"reading {arguments[0]}"])
    assert tree(tmp_path) == before


def test_a_damaged_bundle_is_one_line(clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path) -> None:
    (tiny_bundle / "position.npy").unlink()
    result = clsspec("export", tiny_bundle, "--triton", tmp_path / "models")
    assert (result.code, result.error()) == (1, f"{tiny_bundle}: position.npy is missing")
    assert not (tmp_path / "models").exists()


def test_a_head_that_no_engine_can_read_leaves_nothing(
    clsspec: Clsspec, colours: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    result = clsspec("export", colours, "--triton", tmp_path / "models", "--force")
    lines = result.err.splitlines()
    assert result.code == 1
    assert lines[-1].startswith("clsspec: ")
    assert "segment" in lines[-1]
    assert tree(tmp_path) == before


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A bundle whose head's file is whole, and no graph."""
    from head_bundle import HeadGraph, nearest_colour_head, write_head_bundle

    head = HeadGraph(nearest_colour_head({"red": (255, 0, 0)}).description, b"no graph")
    return write_head_bundle(tmp_path / "colours", [head])
