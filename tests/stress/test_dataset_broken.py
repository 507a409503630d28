"""Data sets in which one picture in twenty is broken: each has its row, and the others theirs."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from bounded import within
from broken_pictures import EMPTY, LIMIT, NO_IMAGE, Picture, mixed
from capabilities import permissions_that_count
from command_line import tree
from dataset_sources import (
    as_folder,
    as_table,
    as_tar,
    computed,
    named,
    picture,
    rows,
    samples,
)
from http_server import colour_bundle
from PIL import Image

from clsspec_serve import load
from clsspec_serve.dataset.batch import Summary
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.verification import verify_files
from clsspec_serve.errors import DatasetError
from clsspec_serve.images import ImageLimits
from clsspec_serve.request import Options

COUNT = 2000
SEED = 20260208
SECONDS = 100
"""For any run here; a whole one took less than a tenth of it on two cores."""
SHARDS = {"shard_size": 50, "batch_size": 8}
SQUASH: Options = {
    "tasks": ("cls", "patches", "segment", "depth", "classify"),
    "policy": "squash",
    "limits": ImageLimits(max_pixels=LIMIT),
}
FIT: Options = {**SQUASH, "policy": "fit"}
VECTORS = ("cls", "classify")
EVERY = 7
"""Of the good ones, which are compared with what the model gives for one alone."""


class Wanted(NamedTuple):
    """A row that there has to be: of good pictures their bytes, of others a kind and a pattern."""

    id: str
    content: bytes | None
    failure: tuple[str, str] | None = None


class Made(NamedTuple):
    """A data set, and what is to become of it."""

    source: str
    wanted: list[Wanted]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundle(tmp_path / "colours")


@pytest.fixture(scope="module")
def pictures(tenth: bool) -> list[Picture]:
    return mixed(COUNT // 10 if tenth else COUNT, SEED)


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
        _write_tar(root / tar, some, format=form, pax_headers={"comment": "x" * 2000})
        take(some, tar)
    twice = [each for one in doubled for each in (one, _other(one))]
    _write_tar(root / "d-doubled.tar", twice)
    take(twice, "d-doubled.tar")
    size = _cut_in_the_last(_write_tar(root / "e-cut.tar", cut), len(cut[-1].content))
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


def _other(one: Picture) -> Picture:
    """Another picture of the same name."""
    return Picture(one.name, picture(len(one.content)))


def _write_tar(file: Path, members: Sequence[Picture], **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as archive:
        for each in members:
            member = tarfile.TarInfo(each.name)
            member.size = len(each.content)
            archive.addfile(member, io.BytesIO(each.content))
    return file


def _cut_in_the_last(file: Path, size: int) -> int:
    """Cut a tar in the middle of its last member, of `size` bytes; how many of those are left."""
    with tarfile.open(file) as archive:
        last = archive.getmembers()[-1]
    assert last.size == size > 20
    os.truncate(file, last.offset_data + size // 2)
    return size // 2


FORMS: dict[str, tuple[Callable[[Path, Sequence[Picture]], Made], Options]] = {
    "a folder": (folder_of, SQUASH),
    "a folder, many grids": (folder_of, FIT),
    "tars": (tars_of, SQUASH),
    "tables": (tables_of, FIT),
}


def run_over(
    bundle: Path, source: str | Path, out: Path, options: Options, **changes: Any
) -> Summary:
    """A run that may not read what its user may not, and has to end."""

    def work() -> Summary:
        with permissions_that_count():
            return computed(bundle, source, out, options, **SHARDS, **changes)

    return within(SECONDS, work)


@pytest.mark.parametrize("form", FORMS)
def test_each_broken_picture_has_a_row_that_says_why_and_spoils_no_other(
    bundle: Path, tmp_path: Path, pictures: list[Picture], form: str
) -> None:
    make, options = FORMS[form]
    made = make(tmp_path / "set", pictures)
    out, clean = tmp_path / "out", tmp_path / "clean"
    summary = run_over(bundle, made.source, out, options)
    kinds = Counter(each.failure[0] for each in made.wanted if each.failure)
    assert summary.failures == kinds
    assert summary.pictures == summary.computed == len(made.wanted)
    assert summary.text().endswith(
        f"; {kinds.total()} failed: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    )
    assert kinds.total() >= len(pictures) // 20 * 3 / 4
    has_the_rows(out, made.wanted)
    has_what_the_model_gives(bundle, out, made.wanted, options)
    good = [each.content for each in made.wanted if each.content is not None]
    files = {f"{index:06}.png": content for index, content in enumerate(good)}
    run_over(bundle, as_folder(tmp_path / "good", files), clean, options)
    has_the_answers_of(out, clean)
    run = open_run(open_tree(str(out)))
    report = verify_files(run, run.records())
    assert (report.problems, report.failed) == ((), kinds.total())


def has_the_rows(out: Path, wanted: Sequence[Wanted]) -> None:
    """Each in its place: a whole answer, or a failure and nothing else."""
    found = rows(out)
    assert [row["id"] for row in found] == [each.id for each in wanted]
    assert [row["row"] for row in found] == list(range(len(wanted)))
    for row, each in zip(found, wanted, strict=True):
        answers = [row[name] for name in (*VECTORS, "geometry", "height", "width")]
        if each.failure is None:
            assert row["error"] is row["kind"] is None, row
            assert None not in answers
            assert np.isfinite([*row["cls"], *row["classify"]]).all()
            assert each.content is not None
            with Image.open(io.BytesIO(each.content)) as image:
                assert (row["width"], row["height"]) == image.size
            continue
        kind, words = each.failure
        assert row["kind"] == kind, row
        assert re.fullmatch(words, row["error"]), (row["id"], row["error"], words)
        assert row["error"].isprintable()
        assert answers == [None] * 5
    good = [row for row, each in enumerate(wanted) if each.failure is None]
    by_name = {int(sample["__key__"]): sample for sample in samples(out)}
    assert list(by_name) == good
    about = [json.loads(sample["json"]) for sample in by_name.values()]
    assert [each["id"] for each in about] == [wanted[row].id for row in good]
    if (out / "patches.zarr").exists():
        maps = zarr.open_array(out / "patches.zarr", mode="r")[:]
        there = np.isfinite(maps).all((1, 2, 3))
        assert np.flatnonzero(there).tolist() == good
        assert np.isnan(maps[~there]).all()


def has_what_the_model_gives(
    bundle: Path, out: Path, wanted: Sequence[Wanted], options: Options
) -> None:
    """Bit by bit, for some of the good ones, each of which was computed alone."""
    found, model = rows(out), load(bundle, threads=1)
    maps = out / "patches.zarr"
    stored = zarr.open_array(maps, mode="r")[:] if maps.exists() else None
    files = {int(sample["__key__"]): sample for sample in samples(out)}
    good = [row for row, each in enumerate(wanted) if each.content is not None]
    for row in good[::EVERY]:
        content = wanted[row].content
        assert content is not None
        alone = model(content, **options).arrays
        for name in VECTORS:
            np.testing.assert_array_equal(np.float32(found[row][name]), alone[name])
        own = files[row]
        patches = np.load(io.BytesIO(own["patches.npy"])) if stored is None else stored[row]
        np.testing.assert_array_equal(patches, alone["patches"])
        mask = np.asarray(Image.open(io.BytesIO(own["segment.png"])))
        np.testing.assert_array_equal(mask, alone["segment"])


def has_the_answers_of(out: Path, clean: Path) -> None:
    """The good rows are those of a run over the good pictures alone."""
    left, right = rows(out), rows(clean)
    good = [row["row"] for row in left if row["error"] is None]
    assert len(good) == len(right)
    without = {"row": None, "id": None}
    assert [{**left[row], **without} for row in good] == [{**row, **without} for row in right]

    def files(folder: Path) -> list[dict[str, Any]]:
        return [
            {name: content for name, content in sample.items() if name.endswith((".png", ".npy"))}
            for sample in samples(folder)
        ]

    assert files(out) == files(clean)
    if (out / "patches.zarr").exists():
        with_bad, alone = (
            zarr.open_array(folder / "patches.zarr", mode="r")[:] for folder in (out, clean)
        )
        np.testing.assert_array_equal(with_bad[good], alone[: len(good)])


def test_too_many_broken_pictures_end_a_run_at_the_first_one_that_is_too_many(
    bundle: Path, tmp_path: Path, pictures: list[Picture]
) -> None:
    source = as_folder(tmp_path / "set", {each.name: each.content for each in pictures})
    broken = [index for index, each in enumerate(pictures) if each.failure]
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_over(bundle, source, whole, SQUASH, max_errors=len(broken))
    for accepted in (0, len(broken) // 2, len(broken) - 1):
        over = pictures[broken[accepted]]
        assert over.failure is not None
        with pytest.raises(DatasetError) as caught:
            run_over(bundle, source, out, SQUASH, max_errors=accepted)
        noun = "picture" if accepted == 0 else "pictures"
        begin = f"{accepted + 1} {noun} failed, the last one {over.name}: "
        end = f"; accepted are {accepted} (--max-errors)"
        assert re.fullmatch(
            f"{re.escape(begin)}{over.failure[1]}{re.escape(end)}", str(caught.value)
        )
        shards = out / "shards"
        done = len(list(shards.iterdir())) if shards.exists() else 0
        assert done == broken[accepted] // SHARDS["shard_size"]
    run_over(bundle, source, out, SQUASH)
    assert tree(out) == tree(whole)


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
    _write_tar(source / "a.tar", [Picture("x.png", picture(1)), Picture("x.png", picture(2))])
    run_over(bundle, source, out, SQUASH)
    assert run_over(bundle, source, out, SQUASH).computed == 0
    as_tar(source / "b.tar", named(2))
    assert run_over(bundle, source, out, SQUASH, append=True).computed == 2
    assert run_over(bundle, source, out, SQUASH).computed == 0
    _write_tar(source / "a.tar", [Picture("x.png", picture(seed)) for seed in (1, 2, 3)])
    with pytest.raises(
        DatasetError, match=r": 1 new \(a\.tar/x\.png\), 2 changed \(a\.tar/x\.png\);"
    ):
        run_over(bundle, source, out, SQUASH)
    assert run_over(bundle, source, out, SQUASH, append=True).computed == 1
    _write_tar(source / "a.tar", [Picture("x.png", picture(1))])
    with pytest.raises(
        DatasetError, match=r": 1 changed \(a\.tar/x\.png\), 2 gone \(a\.tar/x\.png\);"
    ):
        run_over(bundle, source, out, SQUASH)
