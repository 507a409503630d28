"""Killed, without power, on a full disk: what is there is whole, and the next run ends the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from command_line import tree
from dataset_sources import computed

from clsspec_serve.dataset.trees import local
from clsspec_serve.errors import OutputError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}


class PowerCut(Exception):
    """Nothing more happens."""


class Seen(NamedTuple):
    """What a name stood for: an inode and, of a file, its content."""

    inode: int
    content: bytes | None


class Disk:
    """What a disk would still have after a power cut before the `last` call of fsync or later.

    Of a file what was synced, by its inode; of a folder the names at its last sync.
    """

    def __init__(self, last: int | None = None) -> None:
        self.calls = 0
        self._last = last
        self._files: set[int] = set()
        self._folders: dict[int, dict[str, Seen]] = {}
        self._real = local._sync

    def sync(self, path: Path) -> None:
        """In place of the real one."""
        if self.calls == self._last:
            raise PowerCut
        self.calls += 1
        self._real(path)
        inode = path.stat().st_ino
        if path.is_dir():
            self._folders[inode] = {each.name: _seen(each) for each in path.iterdir()}
        else:
            self._files.add(inode)

    def after_power_cut(self, folder: Path) -> None:
        """Drop what was not synced, and bring back what it had replaced."""
        names = self._folders.get(folder.stat().st_ino, {})
        for each in list(folder.iterdir()):
            if each.name not in names or names[each.name].inode != each.stat().st_ino:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            elif each.is_dir():
                self.after_power_cut(each)
        for name, seen in names.items():
            if seen.content is not None:
                content = seen.content if seen.inode in self._files else b""
                (folder / name).write_bytes(content)


def _seen(path: Path) -> Seen:
    return Seen(path.stat().st_ino, None if path.is_dir() else path.read_bytes())


def test_a_power_cut_at_any_moment_leaves_a_run_that_goes_on(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    disk = Disk()
    monkeypatch.setattr(local, "_sync", disk.sync)
    computed(bundle, source, whole, OPTIONS)
    assert disk.calls > 30
    for last in range(disk.calls):
        cut = Disk(last)
        monkeypatch.setattr(local, "_sync", cut.sync)
        out.mkdir()
        with pytest.raises(PowerCut):
            computed(bundle, source, out, OPTIONS)
        cut.after_power_cut(out)
        monkeypatch.setattr(local, "_sync", cut._real)
        computed(bundle, source, out, OPTIONS)
        assert tree(out) == tree(whole), last
        shutil.rmtree(out)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk has to be mounted, which root can do")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_in_one_line_and_with_more_room_the_run_goes_on(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    computed(bundle, source, whole, OPTIONS)
    said: list[str] = []
    for kilobytes in range(24, 120, 8):
        with small_disk(tmp_path / f"{kilobytes}", kilobytes) as folder:
            out = folder / "out"
            try:
                computed(bundle, source, out, OPTIONS)
                said.append("")
                assert tree(out) == tree(whole)
                break
            except OutputError as error:
                said.append(str(error))
            subprocess.run(["mount", "-o", "remount,size=10m", str(folder)], check=True)
            computed(bundle, source, out, OPTIONS)
            assert tree(out) == tree(whole)
    *full, enough = said
    assert enough == ""
    assert len(full) > 3  # at several moments
    assert all("No space left on device" in each for each in full)
