"""Runs whose maps are kept in another form: read back, verified, gone on with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import zarr
from codec_runs import (
    BAD,
    CODECS,
    SQUASH,
    again,
    codec_of,
    features,
    names_of,
    read_back,
    restored,
    sometimes_nan,
    state,
)
from command_line import tree
from dataset_sources import as_folder, computed, named, rows, samples

from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.verification import verify_files
from clsspec_serve.dataset.worker import Resources
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, UsageError


@pytest.mark.parametrize("text", CODECS)
def test_a_map_is_read_back_with_numpy_and_zarr(
    bundle: Path, source: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, SQUASH, **codec_of(text))
    array = zarr.open_array(out / "patches.zarr", mode="r")
    assert array.dtype == ("int8" if "int8" in text else "float32")
    assert array.shape == (12, 2, 3, 2 if "pca" in text else 4)
    for row in (0, 3, 9):
        exact = features(bundle, f"{row:03}.png", policy="squash")
        back = read_back(out, row, text)
        assert back.dtype == np.float32
        ranges = np.ptp(exact, axis=(0, 1))
        if text == "int8":
            assert (np.abs(back - exact) <= ranges / 500).all()
        else:
            # Of four channels one is constant, and noise has no direction of its own.
            assert np.abs(back - exact).max() < ranges.max()
            assert not np.array_equal(back, exact)
    failed = read_back(out, BAD, text)
    assert "int8" not in text or not array[BAD].any()
    assert np.isnan(failed).all()
    assert rows(out)[BAD]["kind"] == "no picture"


@pytest.mark.parametrize("text", CODECS)
def test_maps_of_many_grids_are_files_in_that_form(
    bundle: Path, source: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, {"tasks": ("patches",), "policy": "fit"}, **codec_of(text))
    found = {each["__key__"]: each for each in samples(out)}
    assert len(found) == 9
    files = found[f"{4:012}"]
    arrays = {name: np.load(io.BytesIO(files[f"{name}.npy"])) for name in names_of(text)}
    exact = features(bundle, "004.png", policy="fit")
    assert restored(out, arrays, text).shape == exact.shape
    if text == "int8":
        np.testing.assert_allclose(restored(out, arrays, text), exact, atol=0.3)
    assert again(bundle, out).problems == []


@pytest.mark.parametrize("text", CODECS)
def test_verify_compares_maps_as_they_are_read_back(
    bundle: Path, source: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, SQUASH, **codec_of(text))
    found = again(bundle, out)
    assert (found.pictures, found.problems, sorted(found.worst)) == (10, [], ["cls", "patches"])
    array = zarr.open_array(out / "patches.zarr", mode="r+")
    array[3] = array[3] // 2 if "int8" in text else array[3] * 1.01
    (problem,) = again(bundle, out).problems
    assert problem.startswith("003.png: patches differs by ")


def test_what_a_codec_takes_is_verified_and_its_loss_of_a_file_is_told(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, SQUASH, **codec_of("pca:2"))
    run = open_run(open_tree(str(out)))
    report = verify_files(run, run.records())
    assert report.problems == ()
    # Three tables, three files of maps, what the array says of itself, and two of the codec.
    assert report.files == 3 + 3 + 1 + 2
    path = out / "codec" / "patches_components.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    words = "codec/patches_components.npy: was changed: its sha256 is another one"
    assert verify_files(run, run.records()).problems == (words,)
    (out / "shards" / "000001.json").unlink()
    with pytest.raises(DatasetError, match=r"codec/patches_components\.npy: was changed"):
        computed(bundle, source, out, SQUASH, **codec_of("pca:2"))


@pytest.mark.parametrize("text", CODECS)
def test_a_run_that_goes_on_keeps_its_components(
    bundle: Path, source: Path, tmp_path: Path, text: str
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    computed(bundle, source, whole, SQUASH, **codec_of(text))
    with pytest.raises(DatasetError, match="1 picture failed"):
        computed(bundle, source, out, SQUASH, max_errors=0, **codec_of(text))
    computed(bundle, source, out, SQUASH, **codec_of(text))
    assert tree(out) == tree(whole)
    before = state(out)["calibration"]
    as_folder(source, {f"z{index}.png": content for index, content in enumerate(named(3).values())})
    assert computed(bundle, source, out, SQUASH, append=True, **codec_of(text)).computed == 3
    assert state(out)["calibration"] == before
    assert np.isfinite(read_back(out, 14, text)).all()


def test_two_processes_give_the_bytes_of_one(bundle: Path, source: Path, tmp_path: Path) -> None:
    runner = Processes([Resources(1, Threads(2, 1))] * 2)
    computed(bundle, source, tmp_path / "one", SQUASH, **codec_of("pca:2,int8"))
    computed(bundle, source, tmp_path / "two", SQUASH, runner=runner, **codec_of("pca:2,int8"))
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_half_precision_is_for_what_is_no_byte(bundle: Path, source: Path, tmp_path: Path) -> None:
    for text in ("pca:2", "int8"):
        out = tmp_path / text
        computed(bundle, source, out, SQUASH, dtype="float16", **codec_of(text))
        assert again(bundle, out).problems == []
    assert zarr.open_array(tmp_path / "pca:2" / "patches.zarr").dtype == "float16"
    assert zarr.open_array(tmp_path / "int8" / "patches_scale.zarr").dtype == "float32"


def test_pictures_with_values_that_have_no_byte_are_failures_of_their_own(
    bundle: Path, tmp_path: Path
) -> None:
    source, out = as_folder(tmp_path / "set", named(10)), tmp_path / "out"
    model = sometimes_nan(bundle)
    computed(bundle, source, out, SQUASH, runner=Here(model, Threads(2, 2)), **codec_of("int8"))
    failed = [row for row in rows(out) if row["kind"] == "beyond int8"]
    assert 0 < len(failed) < 10
    assert failed[0]["error"] == "patches holds NaN or infinity, which int8 cannot hold"


def test_another_codec_is_another_run(bundle: Path, source: Path, tmp_path: Path) -> None:
    computed(bundle, source, tmp_path / "out", SQUASH, **codec_of("int8"))
    with pytest.raises(DatasetError, match="begun otherwise: codec was int8 and is none"):
        computed(bundle, source, tmp_path / "out", SQUASH)


def test_a_codec_without_maps_or_with_too_many_components_is_refused(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="codec int8 is for patch maps, which are not asked for"):
        computed(bundle, source, out, {"tasks": ("cls",)}, **codec_of("int8"))
    with pytest.raises(
        UsageError, match="codec pca:4; patches have 4 channels, accepted are fewer"
    ):
        computed(bundle, source, out, SQUASH, **codec_of("pca:4"))
    assert not out.exists()
