"""A codec's components and its loss, found on a sample before the first shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from codec_runs import (
    CODECS,
    SQUASH,
    again,
    codec_of,
    features,
    names_of,
    read_back,
    sometimes_nan,
    state,
)
from command_line import tree
from dataset_sources import as_folder, computed, named, picture, settings_of

from clsspec_serve import load
from clsspec_serve.dataset.planning import plan
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError
from clsspec_serve.request import Options


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
