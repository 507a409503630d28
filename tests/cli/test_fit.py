from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Clsspec, Result, tree
from fit_pictures import write_classes, write_depth, write_segmentation
from PIL import Image

from clsspec_export.checkpoints.files import read_safetensors
from clsspec_serve.bundle import open_bundle

SIZE = (56, 56)
QUICK = ("--epochs", "3", "--lr", "1e-2", "--val-share", "0.25", "--size", "56")


@pytest.fixture
def segmentation(tmp_path: Path) -> Path:
    write_segmentation(tmp_path / "regions", 8, size=SIZE, block=28)
    (tmp_path / "regions" / "classes.txt").write_text("red\ngreen #00ff00\nblue\n")
    return tmp_path / "regions"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fit"


def last(result: Result) -> str:
    assert result.code == 0, result.err
    assert result.out == ""
    return result.err.splitlines()[-1]


def test_a_segmentation_is_trained_attached_and_used(
    clsspec: Clsspec, exported: Path, segmentation: Path, tmp_path: Path, cache: Path
) -> None:
    out, into = tmp_path / "head.safetensors", tmp_path / "with-head"
    result = clsspec(
        *("fit", "segment", segmentation, "--model", exported, "--out", out, "--into", into),
        *("--epochs", "40", "--lr", "1e-3,1e-2", "--val-share", "0.25", "--size", "56"),
    )
    line = last(result)
    assert line.startswith(f"{out} and {into}: mIoU ")
    assert "on 2 pictures after training on 6, learning rate 0.01" in line
    lines = result.err.splitlines()
    assert any(each.startswith("Features: 100 %, 8 images of 8") for each in lines)
    assert any(each.startswith("Training: 50 %, 20 epochs of 40 epochs, ") for each in lines)
    assert any(each.startswith("learning rate 0.001: mIoU ") for each in lines)
    manifest = open_bundle(into).manifest
    (head,) = manifest.heads
    assert [each.name for each in head.classes] == ["red", "green", "blue"]
    assert head.source.name == "regions, 6 pictures"
    assert not list((cache / "runs").iterdir())

    image = segmentation / "images" / "00.png"
    mask = tmp_path / "mask.png"
    assert clsspec("segment", image, "--model", into, "--out", mask).code == 0
    truth = np.asarray(Image.open(segmentation / "labels" / "00.png"))
    assert (np.asarray(Image.open(mask)) == truth).mean() > 0.9
    assert clsspec("verify", into).code == 0


def test_depths_are_trained_with_their_units(
    clsspec: Clsspec, exported: Path, tmp_path: Path
) -> None:
    write_depth(tmp_path / "depths", 8, size=SIZE, block=28, units=256)
    out = tmp_path / "head.safetensors"
    result = clsspec(
        *("fit", "depth", tmp_path / "depths", "--model", exported, "--out", out, *QUICK),
        *("--units", "256", "--max-depth", "6", "--bins", "32", "--with-cls"),
    )
    assert "RMSE" in last(result)
    assert "within 0.001 to 6 m" in result.err
    tensors, metadata = read_safetensors(out)
    assert tuple(tensors["weight"].shape) == (32, 64)
    assert '"maximum":6.0' in metadata["clsspec.head"]
    arguments = ("fit", "depth", tmp_path / "depths", "--model", exported, "--out", out, *QUICK)
    result = clsspec(*arguments, "--regression", "--units", "256", "--force")
    assert "RMSE" in last(result)
    assert read_safetensors(out)[0]["weight"].shape[0] == 1


def test_classes_are_trained_with_and_without_the_mean_patch(
    clsspec: Clsspec, exported: Path, tmp_path: Path
) -> None:
    write_classes(tmp_path / "colours", 4, size=SIZE)
    out = tmp_path / "head.safetensors"
    arguments = ("fit", "classify", tmp_path / "colours", "--model", exported, "--out", out)
    assert "top-1" in last(clsspec(*arguments, *QUICK))
    assert tuple(read_safetensors(out)[0]["weight"].shape) == (3, 64)
    assert "top-1" in last(clsspec(*arguments, *QUICK, "--cls-only", "--force"))
    assert tuple(read_safetensors(out)[0]["weight"].shape) == (3, 32)


def test_validation_pictures_of_their_own(
    clsspec: Clsspec, exported: Path, segmentation: Path, tmp_path: Path
) -> None:
    write_segmentation(tmp_path / "val", 3, size=SIZE, block=28, seed=5)
    out = tmp_path / "head.safetensors"
    result = clsspec(
        *("fit", "segment", segmentation, "--model", exported, "--out", out),
        *("--val", tmp_path / "val", "--epochs", "2", "--lr", "1e-2", "--size", "56"),
    )
    assert "on 3 pictures after training on 8" in last(result)


def test_the_same_command_writes_the_same_file(
    clsspec: Clsspec, exported: Path, segmentation: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        arguments = ("fit", "segment", segmentation, "--model", exported, "--out", file, *QUICK)
        last(clsspec(*arguments, "--cache", tmp_path / file.stem))
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("task", "more", "words"),
    [
        ("segment", ("--bins", "3"), "--bins is for depth, not for segment"),
        ("segment", ("--units", "3"), "--units is for depth, not for segment"),
        ("segment", ("--regression",), "--regression is for depth, not for segment"),
        ("segment", ("--max-depth", "3"), "--max-depth is for depth, not for segment"),
        ("segment", ("--cls-only",), "--cls-only is for classify, not for segment"),
        ("classify", ("--with-cls",), "--with-cls is for segment and depth, not for classify"),
        ("depth", ("--classes", "x"), "--classes is for segment, not for depth"),
        ("depth", ("--bins", "3", "--regression"), "--bins and --regression exclude each other"),
        ("depth", ("--max-depth", "0"), "depths up to 0.0 m; accepted are numbers above 0.001"),
        ("depth", ("--max-depth", "inf"), "depths up to inf m; accepted are numbers above"),
        ("depth", ("--max-depth", "nan"), "depths up to nan m; accepted are numbers above"),
        ("segment", ("--val", "x", "--val-share", "0.2"), "--val and --val-share exclude"),
        ("segment", ("--val-share", "0"), "a validation share of 0.0; accepted are numbers"),
        ("segment", ("--lr", "1e-3;1"), "--lr 1e-3;1; accepted are numbers above 0"),
        ("segment", ("--lr", "0"), "learning rates 0; accepted are numbers above 0"),
        ("segment", ("--layers", "0"), "layer 0 is not in this bundle; it has 1 "),
        ("segment", ("--dataset", "nyu"), "nyu is a data set for depth; accepted are ade20k"),
        (
            "segment",
            ("--dataset", "ade20k", "--classes", "x"),
            "--classes is for plain folders; ade20k says it itself",
        ),
        ("segment", ("--cache-size", "1e-9"), "the features take about "),
        ("segment", ("--cache-size", "nan"), "--cache-size nan; accepted are numbers above 0"),
        ("segment", ("--cache-size", "inf"), "--cache-size inf; accepted are numbers above 0"),
        ("segment", ("--val", "same"), "is the same picture as"),
        ("classify", (), "fewer than two"),
    ],
)
def test_what_leads_nowhere_ends_in_one_line_and_leaves_nothing(
    clsspec: Clsspec,
    exported: Path,
    segmentation: Path,
    tmp_path: Path,
    cache: Path,
    task: str,
    more: tuple[str, ...],
    words: str,
) -> None:
    data = segmentation
    if task == "depth":
        data = tmp_path / "depths"
        write_depth(data, 2, size=SIZE, block=28)
    if words == "fewer than two":
        data, words = tmp_path / "single", "single: has 1 class (red); accepted are 2 and more"
        (data / "red").mkdir(parents=True)
        (segmentation / "images" / "00.png").rename(data / "red" / "00.png")
    if more == ("--val", "same"):
        more = ("--val", str(data))
    out = tmp_path / "head.safetensors"
    result = clsspec("fit", task, data, "--model", exported, "--out", out, *more)
    assert result.code in (1, 2)
    assert words in result.error()
    assert not out.exists()
    assert not cache.exists()


def test_more_bins_than_can_be_told_apart_are_refused(
    clsspec: Clsspec, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "head.safetensors"
    result = clsspec("fit", "depth", tmp_path, "--model", exported, "--out", out, "--bins", "4097")
    assert result.code == 2
    assert "--bins" in result.err
    assert "4096" in result.err


def test_destinations_are_looked_at_before_any_work(
    clsspec: Clsspec, exported: Path, segmentation: Path, tmp_path: Path, cache: Path
) -> None:
    fit = ("fit", "segment", segmentation, "--model", exported)
    assert "nowhere to put the head" in clsspec(*fit).error()
    assert "ends in .safetensors" in clsspec(*fit, "--out", tmp_path / "head.pth").error()
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    assert "exists already; --force" in clsspec(*fit, "--out", there).error()
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "exists already; --force" in clsspec(*fit, "--into", folder).error()
    message = clsspec(*fit, "--into", folder, "--force").error()
    assert message == f"--into {folder} exists and is not a bundle; it is not replaced"
    assert there.read_bytes() == b"mine"
    assert "cannot write" in clsspec(*fit, "--out", there / "head.safetensors").error()
    assert not cache.exists()


def test_data_that_are_not_there_are_named(
    clsspec: Clsspec, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "head.safetensors"
    result = clsspec("fit", "segment", tmp_path / "gone", "--model", exported, "--out", out)
    assert result.code == 2
    assert f"{tmp_path / 'gone'}: is not a folder" in result.error()


def test_a_bundle_is_replaced_by_itself_with_the_head(
    clsspec: Clsspec, exported: Path, segmentation: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "own")
    before = tree(tmp_path / "own")
    own = tmp_path / "own"
    arguments = ("fit", "segment", segmentation, "--model", own, "--into", own, *QUICK)
    assert "--force" in clsspec(*arguments).error()
    assert tree(own) == before
    last(clsspec(*arguments, "--force"))
    assert [head.task for head in open_bundle(own).manifest.heads] == ["segment"]
