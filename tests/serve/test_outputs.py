from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors

from clsspec_serve.choices import Format
from clsspec_serve.errors import OutputError, UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.outputs import encode, encode_many, require_writable, write_whole
from clsspec_serve.predictor import Prediction

GEOMETRY = Geometry(
    image=(40, 60),
    resized=(28, 42),
    crop=(0, 1, 28, 40),
    padding=(0, 1, 0, 1),
    input=(28, 42),
    patch=14,
    grid=(2, 3),
)
MAP = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
PREDICTION = Prediction({"cls": MAP[0, 0], "patches": MAP}, GEOMETRY)
# A view with strides, as a picture of a batch may be.
OTHER = Prediction({"patches": MAP.transpose(1, 0, 2)[::-1]}, GEOMETRY)


def metadata(content: bytes, folder: Path) -> dict[str, str]:
    path = folder / "read.safetensors"
    path.write_bytes(content)
    with safe_open(path, "numpy") as file:
        return dict(file.metadata())


def test_npy_holds_the_only_array() -> None:
    found = np.load(io.BytesIO(encode(OTHER, "npy")), allow_pickle=False)
    np.testing.assert_array_equal(found, OTHER.patches)
    assert found.dtype == np.float32


def test_npy_refuses_two_arrays() -> None:
    with pytest.raises(UsageError, match="one array, not cls, patches; choose one"):
        encode(PREDICTION, "npy")


def test_npz_holds_arrays_and_geometry() -> None:
    with np.load(io.BytesIO(encode(PREDICTION, "npz")), allow_pickle=False) as found:
        assert set(found) == {"cls", "patches", "geometry"}
        np.testing.assert_array_equal(found["cls"], PREDICTION.cls)
        np.testing.assert_array_equal(found["patches"], PREDICTION.patches)
        assert Geometry.from_dict(json.loads(str(found["geometry"]))) == GEOMETRY


def test_safetensors_hold_arrays_and_geometry(tmp_path: Path) -> None:
    content = encode(PREDICTION, "safetensors")
    found = load_safetensors(content)
    assert set(found) == {"cls", "patches"}
    np.testing.assert_array_equal(found["patches"], PREDICTION.patches)
    assert Geometry.from_dict(json.loads(metadata(content, tmp_path)["geometry"])) == GEOMETRY


def test_safetensors_keep_the_order_of_a_view() -> None:
    found = load_safetensors(encode(OTHER, "safetensors"))
    np.testing.assert_array_equal(found["patches"], OTHER.patches)


def test_several_pictures_share_one_npz() -> None:
    content = encode_many({"a.jpg": PREDICTION, "b/ö.jpg": OTHER}, "npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        assert set(found) == {
            *("a.jpg/cls", "a.jpg/patches", "a.jpg/geometry"),
            *("b/ö.jpg/patches", "b/ö.jpg/geometry"),
        }
        np.testing.assert_array_equal(found["b/ö.jpg/patches"], OTHER.patches)
        assert Geometry.from_dict(json.loads(str(found["b/ö.jpg/geometry"]))) == GEOMETRY


def test_several_pictures_share_one_safetensors(tmp_path: Path) -> None:
    content = encode_many({"a.jpg": PREDICTION, "b.jpg": OTHER}, "safetensors")
    assert set(load_safetensors(content)) == {"a.jpg/cls", "a.jpg/patches", "b.jpg/patches"}
    texts = metadata(content, tmp_path)
    assert set(texts) == {"a.jpg/geometry", "b.jpg/geometry"}


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_a_name_that_is_no_utf8_is_written_as_text(form: Format) -> None:
    # What Python makes of a file called b"caf\xe9.jpg".
    content = encode_many({"caf\udce9.jpg": OTHER}, form)
    if form == "npz":
        with np.load(io.BytesIO(content)) as arrays:
            names = set(arrays)
    else:
        names = set(load_safetensors(content))
    assert "caf\\xe9.jpg/patches" in names


def test_several_pictures_do_not_fit_in_one_npy() -> None:
    with pytest.raises(UsageError, match=r"do not fit in one \.npy"):
        encode_many({"a.jpg": OTHER, "b.jpg": OTHER}, "npy")


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_the_same_features_give_the_same_bytes(form: Format) -> None:
    assert encode(PREDICTION, form) == encode(PREDICTION, form)


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.npz"
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "out", b"")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("odd")])
@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "os.chmod", "os.fdopen.write"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    if call == "os.fdopen.write":
        real = os.fdopen

        class Full:
            def __init__(self, handle: int, mode: str) -> None:
                self.stream = real(handle, mode)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                self.stream.close()

            write = fail

        monkeypatch.setattr(os, "fdopen", Full)
    else:
        monkeypatch.setattr(call, fail)
    with pytest.raises(OutputError, match=f"^cannot write {path}: {error.strerror or error}$"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "out", b"new")
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_whole_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    seen = []
    real = os.fsync

    def fsync(handle: int) -> None:
        seen.append(path.read_bytes())
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)
    write_whole(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_a_folder_is_not_overwritten_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Is a directory"):
        write_whole(tmp_path, b"")
    assert list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []


def test_a_parent_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    # Refused also for root, whom permissions do not stop.
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "out.npz"
    with pytest.raises(OutputError, match=f"^cannot write {path}: \\w"):
        write_whole(path, b"")


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"File name too long$"):
        write_whole(tmp_path / ("x" * 300), b"")


def test_a_place_that_cannot_be_written_is_known_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "folder" / "file.npy")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "file/x", "Not a directory")):
        with pytest.raises(OutputError, match=reason):
            require_writable(path)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputError, match="Permission denied"):
        require_writable(tmp_path / "x.npy")


def test_nothing_is_computed_for_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("clsspec_serve.predictor.load", refuse)
    photo = tmp_path / "a.png"
    photo.touch()
    result = run(("extract", photo, "--model", "m", "--out", photo / "x"), monkeypatch, capsys)
    assert result.code == 1
