from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from dataset_sources import as_folder, as_table, as_tar, named, picture

from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.sources.source import Changed, Raw, Source, Unreadable
from clsspec_serve.errors import DatasetError, UsageError

PICTURES = named(7)


def contents(source: Source) -> dict[str, Raw]:
    reader = open_reader(source.place)
    return {item.id: reader.read(item) for item in source.items()}


def problems(source: Source) -> dict[str, str]:
    """Each picture's id and why it cannot be read; an empty text where it can."""
    found, reader = {}, open_reader(source.place)
    for item in source.items():
        reason = item.problem or ""
        if not reason:
            try:
                reader.read(item)
            except Unreadable as error:
                reason = str(error)
        found[item.id] = reason
    return found


def test_a_folder_has_every_picture_below_it_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b/2.PNG", "b/10.jpeg", "a.png", "Z.webp", "b-1.tif", "c/d/e.bmp"]
    as_folder(tmp_path, {name: name.encode() for name in [*names, "notes.md", ".png", "c/x"]})
    found = contents(find_source(str(tmp_path)))
    assert list(found) == ["Z.webp", "a.png", "b/10.jpeg", "b/2.PNG", "b-1.tif", "c/d/e.bmp"]
    assert all(content == name.encode() for name, content in found.items())


def test_links_are_followed_and_a_link_to_a_folder_above_is_not(tmp_path: Path) -> None:
    as_folder(tmp_path / "elsewhere", {"1.png": b"1"})
    as_folder(tmp_path / "set" / "deep", {"2.png": b"2"})
    (tmp_path / "set" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "deep" / "up").symlink_to(tmp_path / "set")
    found = contents(find_source(str(tmp_path / "set")))
    assert found == {"deep/2.png": b"2", "other/1.png": b"1"}


def test_links_to_nothing_are_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    as_folder(tmp_path, {"1.png": b"1"})
    (tmp_path / "2.png").symlink_to(tmp_path / "no.png")
    (tmp_path / "3.png").symlink_to(tmp_path / "3.png")
    nothing = "there is no such file"
    found = problems(find_source(str(tmp_path)))
    assert found == {"1.png": "", "2.png": nothing, "3.png": nothing}


def test_a_pattern_and_a_single_file_name_pictures_too(tmp_path: Path) -> None:
    as_folder(tmp_path, {"a/1.png": b"1", "a/2.jpg": b"2", "b/3.png": b"3", "c.png": b"c"})
    assert contents(find_source(f"{tmp_path}/*/*.png")) == {"a/1.png": b"1", "b/3.png": b"3"}
    assert contents(find_source(f"{tmp_path}/a/[12].*")) == {"1.png": b"1", "2.jpg": b"2"}
    assert contents(find_source(f"{tmp_path}/c.png")) == {"c.png": b"c"}


def test_a_list_names_files_beside_it_in_its_own_order(tmp_path: Path) -> None:
    as_folder(tmp_path, {"b.png": b"b", "d/a.png": b"a", "list.txt": b"d/a.png\n\nb.png\nno.png\n"})
    source = find_source(f"{tmp_path}/list.txt")
    assert problems(source) == {"d/a.png": "", "b.png": "", "no.png": "there is no such file"}
    (tmp_path / "list.txt").write_text("b.png\nb.png\n")
    with pytest.raises(DatasetError, match=r"list\.txt: has b\.png twice"):
        list(find_source(f"{tmp_path}/list.txt").items())


def test_tars_have_members_with_the_suffix_of_a_picture(tmp_path: Path) -> None:
    as_tar(tmp_path / "t-1.tar", {"x/b.png": b"b", "x/b.json": b"{}", "a.jpg": b"a"})
    as_tar(tmp_path / "t-0.tar", {"a.jpg": b"0"})
    expected = {"t-0.tar/a.jpg": b"0", "t-1.tar/x/b.png": b"b", "t-1.tar/a.jpg": b"a"}
    assert contents(find_source(str(tmp_path))) == expected
    assert contents(find_source(f"{tmp_path}/t-0.tar")) == {"t-0.tar/a.jpg": b"0"}


def test_a_tar_that_ends_too_soon_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    whole = as_tar(tmp_path / "whole.tar", PICTURES)
    size = len(picture(0))
    short = tmp_path / "set" / "short.tar"
    short.parent.mkdir()
    short.write_bytes(whole.read_bytes()[: 3 * 512 + 2 * 4096 + 300])
    as_folder(tmp_path / "set", {"none.tar": b"not a tar at all" * 64})
    found = problems(find_source(str(tmp_path / "set")))
    assert found.pop("none.tar").startswith("is no whole tar file: ")
    assert found.pop("short.tar") == "is no whole tar file: unexpected end of data"
    assert found.pop("short.tar/000.png") == found.pop("short.tar/001.png") == ""
    assert found == {"short.tar/002.png": f"the tar ends after 300 of {size} bytes"}


@pytest.mark.parametrize("column", ["image", "img", "bytes"])
def test_tables_have_bytes(tmp_path: Path, column: str) -> None:
    as_table(tmp_path / "b.parquet", column, list(PICTURES.values()))
    found = contents(find_source(str(tmp_path)))
    assert list(found) == [f"b.parquet#{row}" for row in range(7)]
    assert list(found.values()) == list(PICTURES.values())


def test_tables_have_paths_or_both_as_hugging_face_writes_them(tmp_path: Path) -> None:
    as_folder(tmp_path, {"data/x.png": b"x"})
    both = [
        {"bytes": b"1", "path": "no/such/file.png"},
        {"bytes": None, "path": "data/x.png"},
        {"bytes": None, "path": "data/no.png"},
        {"bytes": None, "path": None},
        None,
    ]
    as_table(tmp_path / "hf.parquet", "image", both)
    as_table(tmp_path / "paths.parquet", "path", ["data/x.png", None])
    source = find_source(f"{tmp_path}/hf.parquet")
    assert problems(source) == {
        "hf.parquet#0": "",
        "hf.parquet#1": "",
        "hf.parquet#2": "cannot be read: [Errno 2] No such file or directory: "
        f"'{tmp_path}/data/no.png'",
        "hf.parquet#3": "the table has nothing there",
        "hf.parquet#4": "the table has nothing there",
    }
    items = list(source.items())
    assert [open_reader(source.place).read(item) for item in items[:2]] == [b"1", b"x"]
    paths = find_source(f"{tmp_path}/paths.parquet")
    assert list(problems(paths).values()) == ["", "the table has nothing there"]


def test_a_column_is_chosen_and_files_without_it_say_so(tmp_path: Path) -> None:
    as_table(tmp_path / "0.parquet", "photograph", [b"p"])
    as_table(tmp_path / "1.parquet", "other", [b"p"])
    as_table(tmp_path / "2.parquet", "photograph", [1.5], pa.float64())
    as_folder(tmp_path, {"3.parquet": b"no table"})
    found = problems(find_source(str(tmp_path), "photograph"))
    assert found.pop("0.parquet#0") == ""
    assert found.pop("1.parquet") == "has the columns label, other; wanted is photograph"
    assert found.pop("2.parquet") == (
        "has double in the column photograph; accepted are bytes, paths, or a struct of both"
    )
    assert "Parquet" in found.pop("3.parquet")
    assert found == {}
    wanted = problems(find_source(f"{tmp_path}/1.parquet"))
    assert "wanted is one of image, img, picture" in wanted["1.parquet"]
    assert "or another one that --column names" in wanted["1.parquet"]


@pytest.mark.parametrize("kind", ["file", "tar", "table"])
def test_what_was_changed_after_the_listing_is_not_read(tmp_path: Path, kind: str) -> None:
    path = {"file": "a.png", "tar": "a.tar", "table": "a.parquet"}[kind]
    if kind == "file":
        as_folder(tmp_path, {path: b"a"})
    elif kind == "tar":
        as_tar(tmp_path / path, {"a.png": b"a"})
    else:
        as_table(tmp_path / path, "image", [b"a"])
    source = find_source(str(tmp_path))
    (item,) = source.items()
    status = os.stat(tmp_path / path)
    os.utime(tmp_path / path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    reader = open_reader(source.place)
    with pytest.raises(Changed, match="changed after it had been listed"):
        reader.read(item)
    os.remove(tmp_path / path)
    with pytest.raises(Unreadable, match="cannot be read"):
        reader.read(item)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"", "b.tar": b"", "c.tar": b""}, "has 1 pictures, 2 .tar; name one kind"),
        ({"a.txt": b""}, "no pictures, no .tar, no .parquet and no videos among 1 files"),
        ({}, "no pictures, no .tar, no .parquet and no videos among 0 files"),
    ],
)
def test_folders_without_one_kind_are_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    as_folder(tmp_path, files)
    with pytest.raises(DatasetError, match=message):
        find_source(str(tmp_path))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no/such: there is no such folder or file"):
        find_source(f"{tmp_path}/no/such")
    with pytest.raises(UsageError, match="Protocol not known: nothing"):
        find_source("nothing://bucket/folder")
    as_folder(tmp_path, {"a.png": b""})
    with pytest.raises(UsageError, match="--column is for Parquet tables"):
        find_source(str(tmp_path), "image")


def test_names_that_are_no_utf8_are_ids_all_the_same(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    source = find_source(str(tmp_path))
    assert contents(source) == {"caf\\xe9.png": b"x"}
