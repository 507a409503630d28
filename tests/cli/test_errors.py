from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from command_line import Clsspec, save_picture, tree

CLSSPEC = Path(sys.executable).with_name("clsspec")


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and has no pixels."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = data + struct.pack(">I", zlib.crc32(data))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(data) - 4)
    return start + checked + struct.pack(">I", 1000) + b"IDAT"


def broken(path: Path, kind: str) -> Path:
    """A picture that cannot be read, in one of the ways in which that happens."""
    whole = save_picture(path).read_bytes()
    contents = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "not an image": b"%PDF-1.7 and so on",
        "header only": whole[:20],
        "huge": png_header(30_000, 30_000),
    }
    if kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
    else:
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("out", ["out.npz", "out.npy", "out.safetensors", "folder", None])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "cannot be opened: No such file or directory"),
        ("empty", "is empty; accepted are JPEG, PNG"),
        ("truncated", "PNG is truncated or damaged: "),
        ("not an image", "is not an image; accepted are JPEG, PNG"),
        ("header only", "header is truncated or damaged: "),
        ("huge", "has 30000x30000 = 900000000 pixels; accepted are 89478485"),
        ("directory", "is a directory; accepted is an image file"),
    ],
)
def test_a_picture_that_cannot_be_read_is_one_line_and_no_file(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, kind: str, reason: str, out: str | None
) -> None:
    picture = broken(tmp_path / "picture.png", kind)
    before = tree(tmp_path)
    target = () if out is None else ("--out", tmp_path / out)
    result = clsspec("extract", picture, "-m", tiny_bundle, *target)
    assert result.code == 1
    assert reason in result.error().removeprefix(f"{picture}: ")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "out.h5"], "--out out.h5: accepted are .npy, .npz, .safetensors, or a folder"),
        (["--out", "file"], "--out file is a file; accepted are .npy, .npz, .safetensors"),
        (["--out", "out.npy", "--tasks", "cls,patches"], "one array, not cls, patches; choose"),
        (["--out", "out.npy", "--layers", "0,1"], "one array, not patches_0, patches; choose"),
        (["b.png", "--out", "out.npy"], "several images do not fit in one .npy; use .npz"),
        (["a.jpg"], "a.png and a.jpg would both be written to a.features.npz"),
        (["x/a.png", "--out", "new"], "a.png and x/a.png would both be written to new/a.feat"),
        (["a.png"], "a.png is given more than once"),
        (["./a.png", "--out", "out.npz"], "a.png is given more than once"),
        (["--size", "0x5"], "size '0x5'; accepted is HxW in pixels, such as 480x640"),
        (["--size", "big"], "size 'big'; accepted is HxW"),
        (["--layers", "last"], "layers 'last'; accepted are block numbers from 0"),
        (["--layers", "12"], "layer 12 is not in this bundle; it has 1, 0, 0:raw"),
        (["--tasks", "masks"], "tasks 'masks'; accepted are cls, patches"),
        (["--background", "white"], "colour 'white'; accepted is RRGGBB, such as ffffff"),
        (["--model", "hf:tiny"], "not a Hugging Face Hub reference: got 'hf:tiny'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    clsspec: Clsspec,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "a.jpg", "x/a.png"):
        save_picture(Path(name))
    Path("file").touch()
    before = tree(tmp_path)
    result = clsspec("extract", "a.png", "--model", tiny_bundle, *options)
    assert result.code == 2
    assert message in result.error()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "gone"], "gone does not exist; a bundle is a folder with clsspec.json"),
        (["--model", "m" * 300], "m does not exist; a bundle is a folder"),
        (["--model", "a.png"], "a.png is a file; a bundle is a folder with clsspec.json"),
        (
            ["--engine", "onnxruntime", "--precision", "bf16"],
            "bf16 needs --engine cuda or openvino",
        ),
        (
            ["--size", "100000"],
            "a.png: a picture of 28x42 would be resampled to 100000x100000 with",
        ),
        (["--max-pixels", "1175"], "has 42x28 = 1176 pixels; accepted are 1175"),
        (["--out", "a.png/x/out.npz"], "cannot write a.png/x/out.npz: Not a directory"),
        (["--out", "a.png/x"], "cannot write a.png/x/a.features.npz: Not a directory"),
        (["--out", "y" * 300 + ".npz"], "File name too long"),
    ],
)
def test_failed_work_is_one_line_and_exit_code_1(
    clsspec: Clsspec,
    tiny_bundle: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(photo.parent)
    photo.rename("a.png")
    before = tree(photo.parent)
    result = clsspec("extract", "a.png", "--model", tiny_bundle, *options)
    assert result.code == 1
    assert message in result.error()
    assert tree(photo.parent) == before


@pytest.mark.parametrize("command", ["inspect", "verify", "extract"])
def test_an_altered_bundle_is_refused_by_every_command(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, command: str
) -> None:
    (tiny_bundle / "position.npy").write_bytes(b"")
    arguments = (photo, "-m", tiny_bundle) if command == "extract" else (tiny_bundle,)
    result = clsspec(command, *arguments)
    assert result.code == 1
    assert result.error().startswith(f"{tiny_bundle}: position.npy has 0 bytes")


def test_a_file_that_cannot_be_put_in_place_is_named(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    taken = photo.parent / "photo.features.npz"
    taken.mkdir()
    result = clsspec("extract", photo, "-m", tiny_bundle)
    assert result.code == 1
    assert result.error() == f"cannot write {taken}: Is a directory"
    assert tree(photo.parent) == {"photo.png": photo.read_bytes(), "photo.features.npz": None}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["extract"],
        ["extract", "x.png", "--nonsense"],
        ["extract", "x.png", "--engine", "nonsense"],
        ["extract", "x.png", "--batch-size", "0"],
        ["extract", "x.png", "--threads", "many"],
        ["export", "x.pth"],
    ],
)
def test_a_command_that_cannot_be_parsed_is_exit_code_2(
    clsspec: Clsspec, arguments: list[str]
) -> None:
    result = clsspec(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert result.err


@pytest.mark.parametrize("switch", ["option", "environment"])
def test_a_traceback_is_shown_on_demand(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    if switch == "environment":
        monkeypatch.setenv("CLSSPEC_TRACEBACK", "1")
    options = ["--traceback"] if switch == "option" else []
    result = clsspec(*options, "inspect", tmp_path)
    assert result.code == 1
    assert result.err.startswith("Traceback (most recent call last):\n")
    assert result.err.splitlines()[
        -1
    ] == f"clsspec: {tmp_path} is not a bundle: clsspec.json is " + ("missing")
    monkeypatch.delenv("CLSSPEC_TRACEBACK", raising=False)
    assert len(clsspec("inspect", tmp_path).err.splitlines()) == 1


@pytest.mark.parametrize(
    ("picture", "size", "code"), [("a", "28x42", 0), ("b", "28x42", 1), ("a", "big", 2)]
)
def test_the_installed_command_ends_with_the_same_codes(
    tiny_bundle: Path, tmp_path: Path, picture: str, size: str, code: int
) -> None:
    save_picture(tmp_path / "a.png")
    arguments = ["extract", f"{picture}.png", "--model", str(tiny_bundle), "--size", size]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CLSSPEC_")}
    result = subprocess.run(
        [CLSSPEC, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == (1 if code else 0)
    assert (tmp_path / "a.features.npz").exists() == (code == 0)
