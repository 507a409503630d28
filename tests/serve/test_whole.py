from __future__ import annotations

import os
from pathlib import Path

import pytest

from clsspec_serve.errors import OutputError
from clsspec_serve.whole import new_folder, require_writable, write_whole


def test_a_new_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "bundle"
    with new_folder(destination) as folder:
        (folder / "a").write_text("a")
        assert not destination.exists()
    assert [file.name for file in destination.iterdir()] == ["a"]
    assert list(destination.parent.iterdir()) == [destination]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def work() -> None:
        with new_folder(tmp_path / "bundle") as folder:
            (folder / "a").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    # A file where a folder is needed: refused also for root, whom permissions do not stop.
    (tmp_path / "file").touch()
    destination = tmp_path / "file" / "bundle"
    with (
        pytest.raises(OutputError, match=f"^cannot write {destination}: "),
        new_folder(destination),
    ):
        pass


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
@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "pathlib.Path.open"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(call, fail)
    with pytest.raises(OutputError, match=f"^cannot write {path}: {error.strerror or error}$"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_folders_made_on_the_way_go_again_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def work() -> None:
        if kind == "file":
            monkeypatch.setattr("os.fsync", lambda _: 1 / 0)
            write_whole(tmp_path / "a" / "b" / "out", b"")
        else:
            with new_folder(tmp_path / "a" / "b" / "out"):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert list(tmp_path.iterdir()) == []


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
