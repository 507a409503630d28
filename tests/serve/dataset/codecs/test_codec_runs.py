"""Runs whose maps are kept in another form, read back with numpy and zarr."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import tree
from dataset_sources import as_folder, computed, named, picture, rows, samples, settings_of
from http_server import observed
from numpy.typing import NDArray

from clsspec_serve import Model, load
from clsspec_serve.dataset.codecs.codec import Codec, parse_codec
from clsspec_serve.dataset.planning import plan
from clsspec_serve.dataset.recomputing import Comparison, recompute
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.verification import verify_files
from clsspec_serve.dataset.worker import Resources
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.request import Options

SQUASH: Options = {"tasks": ("cls", "patches"), "policy": "squash"}
CODECS = ("int8", "pca:2", "pca:2,int8")
BAD = 6


def codec_of(text: str) -> dict[str, Codec]:
    return {"codec": parse_codec(text)}


def features(bundle: Path, name: str, **options: Any) -> NDArray[np.float32]:
    """A picture's patches, from the model itself."""
    return load(bundle, threads=1)(named(10)[name], tasks=("patches",), **options).patches


def read_back(out: Path, row: int, text: str) -> NDArray[Any]:
    """A map of a run, as the documents say it is read."""
    arrays = {name: zarr.open_array(out / f"{name}.zarr", mode="r") for name in names_of(text)}
    return restored(out, {name: array[row] for name, array in arrays.items()}, text)


def names_of(text: str) -> list[str]:
    factors = ["patches_scale", "patches_offset"] if "int8" in text else []
    return ["patches", *factors]


def restored(out: Path, arrays: dict[str, NDArray[Any]], text: str) -> NDArray[Any]:
    found = arrays["patches"]
    if "int8" in text:
        found = found * arrays["patches_scale"] + arrays["patches_offset"]
    if "pca" in text:
        components, mean = (
            np.load(out / "codec" / f"patches_{part}.npy") for part in ("components", "mean")
        )
        found = found @ components + mean
    return found


def state(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def again(bundle: Path, out: Path) -> Comparison:
    run = open_run(open_tree(str(out)))
    return recompute(run, run.records(), load(bundle, threads=1), Threads(2, 2), 10)


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


def test_with_all_directions_that_vary_nothing_but_rounding_is_lost(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, SQUASH, **codec_of("pca:3"))
    exact = features(bundle, "004.png", policy="squash")
    np.testing.assert_allclose(read_back(out, 4, "pca:3"), exact, atol=1e-4)
    loss = state(out)["calibration"]["maps"]["patches"]
    assert loss["variance"] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("text", CODECS)
def test_the_loss_that_is_said_is_that_of_the_pictures_that_it_was_measured_on(
    bundle: Path, tmp_path: Path, text: str
) -> None:
    pictures = named(10)
    source, out = as_folder(tmp_path / "set", pictures), tmp_path / "out"
    summary = computed(bundle, source, out, SQUASH, **codec_of(text))
    measured = [2, 7] if "pca" in text else [*range(10)]
    pairs = [
        (features(bundle, f"{row:03}.png", policy="squash"), read_back(out, row, text))
        for row in measured
    ]
    before, after = (np.array(each, np.float64).reshape(-1, 4) for each in zip(*pairs, strict=True))
    error = np.square(after - before).sum()
    cosines = (before * after).sum(1) / (
        np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    )
    found = state(out)["calibration"]
    assert found["pictures"] == len(measured)
    assert found["maps"]["patches"] == pytest.approx(
        {
            "variance": 1 - error / np.square(before - before.mean(0)).sum(),
            "cosine": cosines.mean(),
            "relative": np.sqrt(error / np.square(before).sum()),
        },
        rel=1e-4,
    )
    assert sorted(found["answers"]) == ["depth", "segment"]
    assert summary.text().splitlines()[1].startswith("codec: patches lose ")


def test_components_are_those_of_the_other_pictures(bundle: Path, tmp_path: Path) -> None:
    source, out = as_folder(tmp_path / "set", named(10)), tmp_path / "out"
    computed(bundle, source, out, SQUASH, **codec_of("pca:1"))
    fitted = [features(bundle, f"{row:03}.png", policy="squash") for row in range(10)]
    chosen = np.concatenate([fitted[row].reshape(-1, 4) for row in range(10) if row not in (2, 7)])
    np.testing.assert_allclose(
        np.load(out / "codec" / "patches_mean.npy"), chosen.mean(0), rtol=1e-5
    )


def test_what_heads_lose_is_found_by_giving_them_what_is_read_back(
    bundle: Path, tmp_path: Path
) -> None:
    source, out = as_folder(tmp_path / "set", named(10)), tmp_path / "out"
    computed(bundle, source, out, SQUASH, **codec_of("pca:1"))
    lost = []
    for row in (2, 7):
        before = features(bundle, f"{row:03}.png", policy="squash")
        red = read_back(out, row, "pca:1")[..., 0]
        # Depth is a 50th of red; each of 28 x 42 pixels lies between the depths of four patches.
        lost.append(np.abs(red / before[..., 0] - 1))
    found = state(out)["calibration"]["answers"]["depth"]
    assert 0.2 * np.mean(lost) < found < 2 * np.mean(lost)
    assert found > 0.001


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


def test_a_run_that_was_killed_before_its_components_were_kept_finds_them(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    computed(bundle, source, whole, SQUASH, **codec_of("pca:2"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("clsspec_serve.dataset.calibrating.write_bases", killed)
        with pytest.raises(KeyboardInterrupt):
            computed(bundle, source, out, SQUASH, **codec_of("pca:2"))
    assert state(out)["calibration"] is None
    computed(bundle, source, out, SQUASH, **codec_of("pca:2"))
    assert tree(out) == tree(whole)


def test_two_processes_give_the_bytes_of_one(bundle: Path, source: Path, tmp_path: Path) -> None:
    runner = Processes(2, Resources(1, Threads(2, 1)))
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


@pytest.mark.parametrize("text", CODECS)
def test_a_plan_says_the_loss_and_the_bytes_of_the_arrays(
    bundle: Path, source: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    model = load(bundle, threads=1)
    settings = settings_of(bundle, source, out, SQUASH, **codec_of(text))
    found = plan(model.bundle, settings, Here(model, Threads(2, 2)))
    assert not out.exists()
    computed(bundle, source, out, SQUASH, **codec_of(text))
    assert found.calibration is not None
    assert found.calibration.model_dump(mode="json") == state(out)["calibration"]
    for name in names_of(text):
        chunks = (out / f"{name}.zarr" / "c").rglob("0")
        there = sum(path.stat().st_size for path in chunks if path.is_file())
        # Of the picture that is none there is no chunk.
        each = (there - 3 * (16 * 4 + 4)) / 9
        assert found.sizes[f"{name}.zarr"] == there + each
    (out / "shards" / "000002.json").unlink()
    half = plan(model.bundle, settings, Here(model, Threads(2, 2)))
    assert half.calibration == found.calibration
    assert half.shards_done == 2


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


def test_too_few_pictures_for_components_are_refused_with_their_number(
    bundle: Path, tmp_path: Path
) -> None:
    source = as_folder(tmp_path / "set", named(2) | {"bad.png": b"no picture"})
    with pytest.raises(DatasetError) as caught:
        computed(bundle, source, tmp_path / "out", SQUASH, **codec_of("pca:2"))
    assert str(caught.value) == (
        f"{source}: 2 components take more patches than the 12 of the pictures that could be read, "
        "and a picture to measure on"
    )


def test_fewer_patches_than_components_are_refused(bundle: Path, tmp_path: Path) -> None:
    source = as_folder(tmp_path / "set", named(4))
    options: Options = {"tasks": ("patches",), "policy": "squash", "size": (14, 14)}
    with pytest.raises(DatasetError, match="3 components take more patches than the 3 of the"):
        computed(bundle, source, tmp_path / "out", options, **codec_of("pca:3"))


def test_without_a_picture_to_measure_on_the_loss_is_not_known(
    bundle: Path, tmp_path: Path
) -> None:
    source, out = as_folder(tmp_path / "set", {"bad.png": b"no picture"}), tmp_path / "out"
    summary = computed(bundle, source, out, SQUASH, **codec_of("int8"))
    assert summary.failures == {"no picture": 1}
    assert summary.text().splitlines()[1] == (
        "codec: what it loses is not known, as no picture of the sample could be computed"
    )
    assert computed(bundle, source, out, SQUASH, **codec_of("int8")).computed == 0
    assert again(bundle, out).problems == []


@pytest.mark.parametrize("text", CODECS)
def test_pictures_without_finite_features_are_not_measured_on(
    bundle: Path, tmp_path: Path, text: str
) -> None:
    source, out = as_folder(tmp_path / "set", named(60)), tmp_path / "out"
    computed(
        bundle,
        source,
        out,
        SQUASH,
        runner=Here(sometimes_nan(bundle), Threads(2, 2)),
        **codec_of(text),
    )
    found = open_run(open_tree(str(out))).state.calibration
    assert found is not None
    assert 0 < found.pictures < (12 if "pca" in text else 32)
    assert found.maps["patches"] is not None
    assert found.answers.keys() == {"segment", "depth"}


def test_components_of_duplicates_count_once(bundle: Path, tmp_path: Path) -> None:
    first = as_folder(tmp_path / "first", named(5))
    many = as_folder(
        tmp_path / "many", named(5) | {f"x{index:03}.png": picture(0) for index in range(40)}
    )
    computed(bundle, first, tmp_path / "a", SQUASH, **codec_of("pca:1"))
    summary = computed(bundle, many, tmp_path / "b", SQUASH, dedupe=True, **codec_of("pca:1"))
    assert summary.duplicates == 40
    means = [np.load(tmp_path / name / "codec" / "patches_mean.npy") for name in ("a", "b")]
    np.testing.assert_array_equal(*means)


def sometimes_nan(bundle: Path) -> Model:
    """A model whose engine gives NaN for some patches of some pictures."""
    model = observed(bundle, lambda inputs: None)
    run = model.engine.run

    def with_nan(inputs: Any, outputs: Any) -> dict[str, NDArray[Any]]:
        found = run(inputs, outputs)
        if "patches" in found:
            odd = found["patches"][:, :1, :1, :1] > 128
            found["patches"] = np.where(odd, np.nan, found["patches"])
        return found

    model.engine.run = with_nan  # type: ignore[method-assign]
    return model
