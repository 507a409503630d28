"""Broken pictures in data sets of each form, and files that are none."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from broken_pictures import EMPTY, NO_IMAGE, Picture
from dataset_sources import (
    as_folder,
    as_table,
    as_tar,
    picture,
)


class Wanted(NamedTuple):
    """A row that there has to be: of good pictures their bytes, of others a kind and a pattern."""

    id: str
    content: bytes | None
    failure: tuple[str, str] | None = None


class Made(NamedTuple):
    """A data set, and what is to become of it."""

    source: str
    wanted: list[Wanted]


def wanted_of(one: Picture, before: str = "") -> Wanted:
    return Wanted(before + one.name, None if one.failure else one.content, one.failure)


def unreadable(id: str, words: str) -> Wanted:
    return Wanted(id, None, ("unreadable", words))


def folder_of(root: Path, pictures: Sequence[Picture]) -> Made:
    """Files, and what else is called like one."""
    as_folder(root, {each.name: each.content for each in pictures})
    wanted = [wanted_of(each) for each in pictures]
    # The other half of a file that was copied from a Mac.
    as_folder(root, {"00/._00001.jpg": b"\0\5\x16\7\0\2\0\0Mac OS X        "})
    wanted.append(Wanted("00/._00001.jpg", None, ("no picture", NO_IMAGE)))
    as_folder(root, {"zz/folder.jpg/inside.png": picture(1), "zz/secret.jpg": picture(2)})
    wanted.append(Wanted("zz/folder.jpg/inside.png", picture(1)))
    os.chmod(root / "zz" / "secret.jpg", 0)
    wanted.append(unreadable("zz/secret.jpg", "cannot be read: Permission denied"))
    elsewhere = as_folder(root.parent / "elsewhere", {"one.png": picture(3)})
    (root / "zz" / "link.png").symlink_to(elsewhere / "one.png")
    wanted.append(Wanted("zz/link.png", picture(3)))
    (root / "zz" / "nowhere.jpg").symlink_to(root / "no such file.jpg")
    wanted.append(unreadable("zz/nowhere.jpg", "there is no such file"))
    # What is no file has no row, and is not waited for.
    (root / "zz" / "empty.jpg").mkdir()
    os.mkfifo(root / "zz" / "pipe.jpg")
    as_folder(root, {"zz/Thumbs.db": b"\xd0\xcf", "zz/notes.jpg.txt": b"x", "zz/.jpg": b"x"})
    wanted.sort(key=lambda each: [part.encode() for part in each.id.split("/")])
    return Made(str(root), wanted)


def tars_of(root: Path, pictures: Sequence[Picture]) -> Made:
    """WebDataset tars of all kinds, and files that are none."""
    plain, long, doubled, cut = _quarters(pictures)
    wanted: list[Wanted] = []

    def take(some: Sequence[Picture], tar: str) -> None:
        wanted.extend(wanted_of(each, f"{tar}/") for each in some)

    members: dict[str, bytes] = {}
    for each in plain:
        stem = each.name.rpartition(".")[0]
        members |= {each.name: each.content, f"{stem}.json": b"{}", f"{stem}.cls": b"3"}
    as_tar(root / "a.tar", members)
    take(plain, "a.tar")
    # Names that the oldest header has no room for, and no letters.
    for form, tar in ((tarfile.PAX_FORMAT, "b-pax.tar"), (tarfile.GNU_FORMAT, "c-gnu.tar")):
        some = [
            each._replace(name=f"{'ñandú ' * 40}/{each.name}")
            for each in (long[::2] if form == tarfile.PAX_FORMAT else long[1::2])
        ]
        as_tar(root / tar, _pairs(some), format=form, pax_headers={"comment": "x" * 2000})
        take(some, tar)
    twice = [each for one in doubled for each in (one, _other(one))]
    as_tar(root / "d-doubled.tar", _pairs(twice))
    take(twice, "d-doubled.tar")
    size = _cut_in_the_last(as_tar(root / "e-cut.tar", _pairs(cut)), len(cut[-1].content))
    take(cut[:-1], "e-cut.tar")
    words = rf"the tar ends after {size} of {len(cut[-1].content)} bytes"
    wanted.append(unreadable(f"e-cut.tar/{cut[-1].name}", words))
    wanted.append(unreadable("e-cut.tar", "is no whole tar file: unexpected end of data"))
    as_folder(root, {"f-empty.tar": b"", "g-text.tar": b"not a tar at all\n" * 99})
    as_folder(root, {"h.tar": gzip.compress((root / "a.tar").read_bytes(), 1)})
    wanted.append(unreadable("f-empty.tar", "is no whole tar file: empty file"))
    wanted += [
        unreadable(tar, "is no whole tar file: invalid header") for tar in ("g-text.tar", "h.tar")
    ]
    as_folder(root, {"i-ended.tar": b"\0" * 10_240})
    with tarfile.open(root / "j-no-files.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.jpg")
            member.type, member.linkname = kind, "a.jpg"
            archive.addfile(member)
    return Made(str(root), wanted)


def tables_of(root: Path, pictures: Sequence[Picture]) -> Made:
    """Parquet of all kinds, and files that are none."""
    plain, both, paths, cut = _quarters(pictures)
    wanted: list[Wanted] = []

    def take(file: str, values: Sequence[Any], some: Sequence[Wanted], kind: Any = None) -> None:
        as_table(root / file, "image", values, kind)
        wanted.extend(each._replace(id=f"{file}#{row}") for row, each in enumerate(some))

    nothing = unreadable("", "the table has nothing there")
    empty = Wanted("", None, ("no picture", EMPTY))
    values: list[Any] = [each.content for each in plain]
    some = [wanted_of(each) for each in plain]
    for place, value, row in ((3, None, nothing), (10, b"", empty), (11, None, nothing)):
        values.insert(place, value)
        some.insert(place, row)
    take("a.parquet", [*values, None], [*some, nothing], pa.large_binary())

    # As Hugging Face has them: bytes, or a path, or bytes and the path that they once had.
    as_folder(root, {f"files/{each.name}": each.content for each in [*both, *paths]})
    values, some = [], []
    for index, each in enumerate(both):
        path, absent = f"files/{each.name}", index % 3 == 0
        values.append({"bytes": None if absent else each.content, "path": path if absent else "x"})
        some.append(wanted_of(each))
    missing = unreadable("", r"cannot be read: \[Errno 2\] No such file .+/files/gone\.png'")
    a_folder = unreadable("", r"cannot be read: \[Errno 21\] Is a directory: .+/files'")
    values += [{"bytes": None, "path": "files/gone.png"}, {"bytes": b"", "path": "files"}, None]
    values += [{"bytes": None, "path": None}, {"bytes": None, "path": "files"}]
    take("b.parquet", values, [*some, missing, empty, nothing, nothing, a_folder])
    values = [f"files/{each.name}" for each in paths]
    some = [wanted_of(each) for each in paths]
    take("c.parquet", [*values, "files/gone.png", None], [*some, missing, nothing])

    whole = as_table(root / "d-cut.parquet", "image", [each.content for each in cut])
    whole.write_bytes(whole.read_bytes()[:-100])
    as_folder(root, {"e-empty.parquet": b"", "f-text.parquet": b"id,url\n1,http://x\n" * 9})
    parquet = r".*[Pp]arquet.*"
    for file in ("d-cut.parquet", "e-empty.parquet", "f-text.parquet"):
        wanted.append(unreadable(file, parquet))
    as_table(root / "g-other.parquet", "caption", ["x"])
    words = r"has the columns label, caption; wanted is one of image, img, .+ that --column names"
    wanted.append(unreadable("g-other.parquet", words))
    as_table(root / "g-terminal.parquet", "\x1b[31m", ["x"])
    wanted.append(unreadable("g-terminal.parquet", r"has the columns label, \\x1b\[31m; .+"))
    as_table(root / "h-number.parquet", "image", [1, 2], pa.int32())
    words = r"has int32 in the column image; accepted are bytes, paths, or a struct of both"
    wanted.append(unreadable("h-number.parquet", words))
    as_table(root / "i-no-rows.parquet", "image", [], pa.binary())
    return Made(f"{root}/*.parquet", wanted)


def _quarters(pictures: Sequence[Picture]) -> list[Sequence[Picture]]:
    step = len(pictures) // 4
    return [pictures[start : start + step] for start in range(0, 4 * step, step)]


def _pairs(some: Sequence[Picture]) -> list[tuple[str, bytes]]:
    return [(each.name, each.content) for each in some]


def _other(one: Picture) -> Picture:
    """Another picture of the same name."""
    return Picture(one.name, picture(len(one.content)))


def _cut_in_the_last(file: Path, size: int) -> int:
    """Cut a tar in the middle of its last member, of `size` bytes; how many of those are left."""
    with tarfile.open(file) as archive:
        last = archive.getmembers()[-1]
    assert last.size == size > 20
    os.truncate(file, last.offset_data + size // 2)
    return size // 2
