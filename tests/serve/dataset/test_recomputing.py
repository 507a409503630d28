"""Pictures of a finished run, computed again; and vectors as one array beside the tables."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from dataset_sources import as_folder, computed, named, picture, vectors
from head_bundle import depth_head, nearest_colour_head, write_head_bundle
from http_server import COLOURS, observed
from PIL import Image

from clsspec_serve import load
from clsspec_serve.dataset.recomputing import Comparison, other_versions, recompute
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.sampling import evenly
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.verification import verify_files
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "segment", "depth"), "policy": "squash"}


def again(bundle: Path, out: Path, count: int = 10) -> Comparison:
    """What comes of computing again, with a batch that is not that of the run."""
    run = open_run(open_tree(str(out)))
    model = load(bundle, threads=1)
    assert other_versions(run, model) == []
    return recompute(run, run.records(), model, Threads(2, 2), count)


def problems(out: Path) -> tuple[str, ...]:
    run = open_run(open_tree(str(out)))
    return verify_files(run, run.records()).problems


def test_places_are_the_middles_of_equal_parts() -> None:
    assert evenly(10, 2) == [2, 7]
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(1000, 8) == [62, 187, 312, 437, 562, 687, 812, 937]
    assert evenly(0, 8) == []


@pytest.mark.parametrize("changes", [{}, {"dtype": "float16"}, {"policy": "fit"}])
def test_what_is_stored_is_found_again(
    bundle: Path, source: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, **changes)
    found = again(bundle, out)
    assert (found.pictures, found.problems, found.left) == (10, [], [])
    assert sorted(found.worst) == ["cls", "depth", "patches", "segment"]
    assert max(found.worst.values()) < 1e-6
    assert again(bundle, out, 3).pictures == 3


def test_what_is_stored_otherwise_is_told_by_picture_and_answer(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    array = zarr.open_array(out / "patches.zarr", mode="r+")
    array[1] = array[1] * 1.001
    table = out / "rows" / "000001.parquet"
    rows = pq.read_table(table).to_pylist()
    rows[0]["cls"] = [-each for each in rows[0]["cls"]]
    rows[2]["error"], rows[2]["kind"] = "is lost", "changed"
    rows[3]["error"], rows[3]["kind"] = "is lost", "changed"
    pq.write_table(pq.read_table(table).from_pylist(rows, pq.read_schema(table)), table)
    change_member(out / "samples" / "000002.tar", "000000000008.segment.png")
    found = again(bundle, out)
    assert found.problems == [
        "001.png: patches differs by 1.0e-03; accepted are 1.0e-04",
        "004.png: cls differs by 2.0e+00; accepted are 1.0e-04",
        "006.png: was stored as changed (is lost), and is no picture (is not an image; accepted "
        "are JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM)",
        "007.png: was stored as changed (is lost), and is an answer",
        "008.png: segment differs by 1.0e+00; accepted are 1.0e-03",
    ]


def change_member(tar: Path, name: str) -> None:
    """Give all pixels of a mask another class."""
    with tarfile.open(tar) as archive:
        contents = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    with Image.open(io.BytesIO(contents[name])) as mask:
        other = Image.fromarray(np.asarray(mask) ^ 1)
    file = io.BytesIO()
    other.save(file, "PNG")
    contents[name] = file.getvalue()
    with tarfile.open(tar, "w") as archive:
        for each, content in contents.items():
            member = tarfile.TarInfo(each)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_pictures_that_are_not_there_any_more_are_not_compared(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    (source / "001.png").unlink()
    (source / "002.png").write_bytes(picture(99, 42, 56))
    found = again(bundle, out)
    assert found.pictures == 8
    assert found.left == [
        "001.png: cannot be read: No such file or directory",
        "002.png: was changed after it had been listed",
    ]
    assert found.problems == []


def test_another_model_is_refused_and_another_version_is_told(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    run = open_run(open_tree(str(out)))
    heads = [nearest_colour_head(COLOURS), depth_head([1 / 40, 0, 0, 0])]
    other = load(write_head_bundle(tmp_path / "other", heads), threads=1)
    with pytest.raises(DatasetError, match=r"out was computed otherwise: bundle was "):
        other_versions(run, other)
    for name in ("version", "package_version"):
        monkeypatch.setattr(f"clsspec_serve.dataset.fingerprint.{name}", lambda name: "9.9")
    words = other_versions(run, load(bundle, threads=1))
    assert [each.split(" was ")[0] for each in words] == ["clsspec", "engine", "decoders"]


def test_vectors_are_one_array_by_row(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, npy=True)
    array = np.load(out / "cls.npy", mmap_mode="r")
    np.testing.assert_array_equal(array, vectors(out, "cls"))
    assert np.isnan(array[6]).all()
    assert problems(out) == ()


def test_the_array_grows_with_its_run_and_is_otherwise_left(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, npy=True, dtype="float16")
    before = (out / "cls.npy").stat()
    computed(bundle, source, out, OPTIONS, npy=True, dtype="float16")
    after = (out / "cls.npy").stat()  # it was read, which the file system may note
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    as_folder(source, {"a.png": picture(20), "b.png": picture(21)})
    computed(bundle, source, out, OPTIONS, append=True, dtype="float16")
    array = np.load(out / "cls.npy")
    # Three shards of four, the third one with two pictures, and one of two.
    assert array.shape[0] == 14
    assert np.isnan(array[10:12]).all()
    listed = [each["row"] for each in pq.read_table(out / "rows").to_pylist()]
    np.testing.assert_array_equal(array[listed], vectors(out, "cls").astype(np.float16))
    assert problems(out) == ()


def test_an_array_that_is_not_that_of_the_tables_is_a_problem(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, npy=True)
    file = out / "cls.npy"
    array = np.load(file)
    array[5, 0] += 1
    np.save(file, array)
    assert problems(out) == ("cls.npy: has other vectors than the table of shard 1",)
    np.save(file, np.load(file)[:9])
    assert problems(out) == ("cls.npy: has other vectors than the table of shard 1",)
    file.write_bytes(b"no array")
    (problem,) = problems(out)
    assert problem.startswith("cls.npy: cannot be read: ")


def test_another_engine_of_the_same_model_is_compared_by_what_it_computes(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    """An engine that computes otherwise is seen."""
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    run = open_run(open_tree(str(out)))
    model = observed(bundle, lambda inputs: inputs["pixels"].__imul__(0))
    found = recompute(run, run.records(), model, Threads(2, 2), 10)
    assert len(found.problems) >= 9


def test_a_table_that_is_not_there_is_what_the_error_names(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    table = out / "rows" / "000001.parquet"
    content = table.read_bytes()
    for change in (table.unlink, lambda: table.write_bytes(content[:-9])):
        change()
        with pytest.raises(DatasetError, match=r"out/rows/000001\.parquet cannot be read: "):
            computed(bundle, source, out, OPTIONS, npy=True)
        assert not (out / "cls.npy").exists()


def test_a_run_that_was_killed_while_it_grew_is_sound(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, npy=True)
    before = (out / "cls.npy").read_bytes()
    as_folder(source, named(20))
    (source / "006.png").write_bytes(b"no picture")
    computed(bundle, source, out, OPTIONS, append=True)
    (out / "cls.npy").write_bytes(before)
    (out / "shards" / "000005.json").unlink()
    assert problems(out) == ()


@pytest.mark.parametrize("change", ["lost", "no JSON", "other shards"])
def test_an_array_that_says_otherwise_is_a_problem_until_the_run_goes_on(
    bundle: Path, source: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    metadata = out / "patches.zarr" / "zarr.json"
    content = metadata.read_text()
    metadata.unlink()
    if change == "no JSON":
        metadata.write_text(content[:-20])
    elif change == "other shards":
        shape = json.loads(content)["shape"]
        metadata.write_text(json.dumps(json.loads(content) | {"shape": [4, *shape[1:]]}))
    (problem,) = problems(out)
    assert problem.startswith("patches.zarr/zarr.json: ")
    assert problem.isprintable()
    computed(bundle, source, out, OPTIONS)
    assert metadata.read_text() == content
    assert problems(out) == ()


def test_what_cannot_be_read_back_is_a_problem(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS)
    tar = out / "samples" / "000000.tar"
    tar.write_bytes(b"?" * len(tar.read_bytes()))
    found = again(bundle, out)
    assert [each.split(":")[:2] for each in found.problems] == [
        [f"{index:03}.png", " what is stored cannot be read"] for index in range(4)
    ]
