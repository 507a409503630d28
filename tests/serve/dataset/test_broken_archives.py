"""Archives and listings that are damaged in one place: a row says where, and the rest is read."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounded import within
from dataset_sources import (
    as_folder,
    as_tar,
    computed,
    named,
    picture,
    rows,
)

from clsspec_serve.dataset.batch import Summary
from clsspec_serve.errors import DatasetError
from clsspec_serve.request import Options

SQUASH: Options = {
    "tasks": ("cls", "patches", "segment", "depth", "classify"),
    "policy": "squash",
}
SECONDS = 30
"""For any run here."""


def run_over(
    bundle: Path, source: str | Path, out: Path, options: Options, **changes: Any
) -> Summary:
    """A run that has to end."""
    return within(SECONDS, lambda: computed(bundle, source, out, options, **changes))


def _tar_with(file: Path, change: Callable[[bytes, list[int]], bytes]) -> Path:
    """A tar of five pictures, changed by a function of its bytes and of where its headers are."""
    as_tar(file, named(5))
    with tarfile.open(file) as archive:
        headers = [member.offset for member in archive.getmembers()]
    file.write_bytes(change(file.read_bytes(), headers))
    return file


def _damaged(data: bytes, headers: list[int]) -> bytes:
    return data[: headers[2] + 150] + b"?" + data[headers[2] + 151 :]


def _sized(size: int, kind: bytes = tarfile.REGTYPE) -> Callable[[bytes, list[int]], bytes]:
    """The third member says that it has so many bytes, and is of that kind."""

    def change(data: bytes, headers: list[int]) -> bytes:
        header = bytearray(data[headers[2] : headers[2] + 512])
        header[156:157] = kind
        header[124:136] = size.to_bytes(12, "big", signed=True)
        header[124] |= 0x80
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return data[: headers[2]] + bytes(header) + data[headers[2] + 512 :]

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_damaged, id="a damaged header"),
        pytest.param(lambda data, headers: data[: headers[2] + 100], id="cut in a header"),
        pytest.param(lambda data, headers: data[: headers[2]], id="cut between two members"),
    ],
)
def test_a_tar_that_ends_or_breaks_at_a_header_says_that_it_is_not_whole(
    bundle: Path, tmp_path: Path, change: Callable[[bytes, list[int]], bytes]
) -> None:
    source = _tar_with(tmp_path / "set" / "a.tar", change)
    run_over(bundle, source, tmp_path / "out", SQUASH)
    found = [(row["id"], row["kind"]) for row in rows(tmp_path / "out")]
    assert found[:2] == [("a.tar/000.png", None), ("a.tar/001.png", None)]
    assert found[-1] == ("a.tar", "unreadable")


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, 1 << 70, -5, -512])
def test_a_member_that_claims_an_absurd_size_is_a_failure_of_its_own(
    bundle: Path, tmp_path: Path, size: int
) -> None:
    source = _tar_with(tmp_path / "set" / "a.tar", _sized(size))
    run_over(bundle, source, tmp_path / "out", SQUASH)
    found = rows(tmp_path / "out")
    assert [row["kind"] for row in found[:2]] == [None, None]
    assert found[-1]["id"] == "a.tar"
    assert {row["kind"] for row in found[2:]} == {"unreadable"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [1 << 33, -5])
def test_a_header_that_claims_an_absurd_size_is_not_read(
    bundle: Path, tmp_path: Path, kind: bytes, size: int
) -> None:
    source = _tar_with(tmp_path / "set" / "a.tar", _sized(size, kind))
    run_over(bundle, source, tmp_path / "out", SQUASH)
    found = [(row["id"], row["error"]) for row in rows(tmp_path / "out")]
    words = f"is no whole tar file: a header has {size} bytes"
    assert found == [("a.tar/000.png", None), ("a.tar/001.png", None), ("a.tar", words)]


def test_a_header_that_tarfile_does_not_foresee_is_a_failure_of_its_own(
    bundle: Path, tmp_path: Path
) -> None:
    def charset(data: bytes, headers: list[int]) -> bytes:
        data = _sized(512, tarfile.XHDTYPE)(data, headers)
        start = headers[2] + 512
        record = b"17 hdrcharset=\xff\n"
        return data[:start] + record + data[start + len(record) :]

    source = _tar_with(tmp_path / "set" / "a.tar", charset)
    run_over(bundle, source, tmp_path / "out", SQUASH)
    found = rows(tmp_path / "out")
    assert [row["kind"] for row in found] == [None, None, "unreadable"]
    assert found[2]["error"].startswith("is no whole tar file: 'utf-8' codec can't decode")


def test_a_member_that_is_not_in_one_piece_is_a_failure_of_its_own(
    bundle: Path, tmp_path: Path
) -> None:
    size = len(named(3)["002.png"])
    source = _tar_with(tmp_path / "set" / "a.tar", _sized(size, tarfile.GNUTYPE_SPARSE))
    run_over(bundle, source, tmp_path / "out", SQUASH)
    kinds = [row["kind"] for row in rows(tmp_path / "out")]
    assert kinds == [None, None, "unreadable", None, None]


@pytest.mark.parametrize("path", [b"a\0b.png", b"caf\xe9.png"])
def test_a_path_that_no_file_can_have_is_a_failure_of_its_own(
    bundle: Path, tmp_path: Path, path: bytes
) -> None:
    source = as_folder(tmp_path / "set", {"good.png": picture(0)})
    ends = np.cumsum([0, 8, len(path)], dtype=np.int32).tobytes()
    buffers = pa.py_buffer(ends), pa.py_buffer(b"good.png" + path)
    table = pa.table({"path": pa.StringArray.from_buffers(2, *buffers)})
    pq.write_table(table, source / "a.parquet")
    run_over(bundle, source / "a.parquet", tmp_path / "out", SQUASH)
    found = rows(tmp_path / "out")
    assert [row["kind"] for row in found] == [None, "unreadable"]
    assert found[1]["error"].isprintable()


def test_a_line_that_is_no_path_is_a_failure_of_its_own(bundle: Path, tmp_path: Path) -> None:
    source = as_folder(tmp_path / "set", {"good.png": picture(0)})
    lines = [b"good.png", b"a\0b.png", b"x" * 5000, b"good.png/x.png"]
    (source / "list.txt").write_bytes(b"\n".join(lines))
    run_over(bundle, source / "list.txt", tmp_path / "out", SQUASH)
    kinds = [row["kind"] for row in rows(tmp_path / "out")]
    assert kinds == [None, *["unreadable"] * 3]


def test_a_link_to_itself_is_not_the_end_of_a_folder(bundle: Path, tmp_path: Path) -> None:
    source = as_folder(tmp_path / "set", named(2))
    (source / "loop.jpg").symlink_to("loop.jpg")
    run_over(bundle, source, tmp_path / "out", SQUASH)
    found = [(row["id"], row["kind"]) for row in rows(tmp_path / "out")]
    assert found == [("000.png", None), ("001.png", None), ("loop.jpg", "unreadable")]


def test_members_of_one_name_do_not_keep_a_run_that_grew_from_going_on(
    bundle: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "set", tmp_path / "out"
    as_tar(source / "a.tar", [("x.png", picture(1)), ("x.png", picture(2))])
    run_over(bundle, source, out, SQUASH)
    assert run_over(bundle, source, out, SQUASH).computed == 0
    as_tar(source / "b.tar", named(2))
    assert run_over(bundle, source, out, SQUASH, append=True).computed == 2
    assert run_over(bundle, source, out, SQUASH).computed == 0
    as_tar(source / "a.tar", [("x.png", picture(seed)) for seed in (1, 2, 3)])
    with pytest.raises(
        DatasetError, match=r": 1 new \(a\.tar/x\.png\), 2 changed \(a\.tar/x\.png\);"
    ):
        run_over(bundle, source, out, SQUASH)
    assert run_over(bundle, source, out, SQUASH, append=True).computed == 1
    as_tar(source / "a.tar", [("x.png", picture(1))])
    with pytest.raises(
        DatasetError, match=r": 1 changed \(a\.tar/x\.png\), 2 gone \(a\.tar/x\.png\);"
    ):
        run_over(bundle, source, out, SQUASH)
