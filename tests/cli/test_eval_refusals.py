"""What `clsspec eval` refuses: a wrong request, and data of which no number can be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dataset_folders as folders
import numpy as np
import pytest
from command_line import Clsspec
from eval_data import (
    COLOURS,
    ONLY_RED,
    RED,
    class_data,
    colour_classifier,
    depth_data,
    plain,
    save,
    segment_bundle,
    segment_data,
    table,
)
from head_bundle import (
    classify_head,
    depth_head,
    nearest_colour_head,
    segment_head,
    write_head_bundle,
)

from clsspec_serve.bundle import open_bundle
from clsspec_serve.evaluation.segmentation_score import SegmentationScore
from clsspec_serve.heads import Category


def prepared(tmp_path: Path) -> dict[str, Path]:
    """Data of every kind, by name, and a bundle with a head for each task."""
    heads = [nearest_colour_head(COLOURS), depth_head(ONLY_RED), colour_classifier()]
    folders.write_ade20k(tmp_path / "ade")
    folders.write_imagenet(tmp_path / "imagenet")
    folders.write_nyu(tmp_path / "nyu")
    class_data(tmp_path / "odd", 1, 2)
    (tmp_path / "odd/blue").rename(tmp_path / "odd/azure")
    return {
        "ODD": tmp_path / "odd",
        "BUNDLE": write_head_bundle(tmp_path / "bundle", heads),
        "BARE": write_head_bundle(tmp_path / "bare"),
        "SEGMENT": segment_data(tmp_path / "segment"),
        "DEPTH": depth_data(tmp_path / "depth"),
        "CLASSES": class_data(tmp_path / "classes", 2, 0),
        "TRAIN": class_data(tmp_path / "train", 4, 1),
        "ADE": tmp_path / "ade",
        "IMAGENET": tmp_path / "imagenet",
        "NYU": tmp_path / "nyu",
        "GONE": tmp_path / "gone",
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("SEGMENT", "--dataset folders needs a --task; accepted are segment, depth, classify, knn"),
        ("ADE --dataset ade20k --task depth", "ade20k has no labels for depth; accepted is seg"),
        ("IMAGENET --dataset imagenet --task segment", "accepted is classify or knn"),
        ("SEGMENT --task segment --split val", "--split val: folders have no splits"),
        ("ADE --dataset ade20k --split test", "ade20k has no split 'test'; accepted are val, tr"),
        ("CLASSES --task classify --train TRAIN", "--train is for --task knn, not classify"),
        ("CLASSES --task knn", "--task knn of folders needs --train, a folder with the same"),
        ("SEGMENT --task segment --units 5", "--units is for --dataset folders --task depth"),
        ("NYU --dataset nyu --units 5", "--units is for --dataset folders --task depth"),
        ("DEPTH --task depth --units 0", "0.0 units in a metre; accepted are numbers above 0"),
        ("DEPTH --task depth --per-class", "--per-class is for --task segment, not depth"),
        ("GONE --task segment", "gone: is not a folder; accepted is a folder with images and lab"),
        ("DEPTH --task segment", "depth: it holds no labels; accepted is a folder with"),
        ("ADE --dataset nyu", "ade: it holds no nyu_test.txt; accepted is the folder that"),
        ("ADE --dataset ade20k", "this bundle's head has 4 classes, ade20k has 150; accepted"),
        ("IMAGENET --dataset imagenet", "this bundle's head has 3 classes, imagenet has 2; acc"),
        ("SEGMENT --task segment -m BARE", "this bundle has no head for segment; its heads are"),
        ("NYU --dataset nyu -m BARE", "this bundle has no head for depth; its heads are: none"),
        ("CLASSES --task classify --flip", "flip is for segment and depth"),
        ("CLASSES --task knn --train TRAIN --window 28", "windows are for segment and depth; cls"),
        ("SEGMENT --task segment --size big", "size 'big'; accepted is HxW"),
        ("SEGMENT --task segment --stride 9", "a stride needs a window"),
        ("SEGMENT --task segment --resize crop", "a.png: the model would be shown 28x28 of 28x42"),
        ("DEPTH --task depth --resize crop", "pixels, and all are scored; accepted is what shows"),
        ("CLASSES --task knn --train CLASSES", "is among the pictures to train on, where it would"),
        ("CLASSES --task knn --train GONE", "gone: is not a folder; accepted is a folder with one"),
        ("CLASSES --task knn --train ODD", "the class 'azure' is only among the pictures to trai"),
        ("ODD --task knn --train CLASSES", "the class 'azure' is only among the pictures to eval"),
        (
            "ODD --task classify",
            "class 0 of this bundle's head is 'blue', of folders it is 'azure'",
        ),
    ],
)
def test_a_wrong_request_is_one_line(
    clsspec: Clsspec, tmp_path: Path, words: str, line: str
) -> None:
    places = prepared(tmp_path)
    arguments = [places.get(word, word) for word in words.split()]
    model = () if "-m" in words else ("-m", places["BUNDLE"])
    result = clsspec("eval", *arguments, *model)
    assert line in result.error()
    assert result.code == 2


def test_a_link_to_the_pictures_does_not_hide_them(clsspec: Clsspec, tmp_path: Path) -> None:
    places = prepared(tmp_path)
    (tmp_path / "link").symlink_to(places["TRAIN"])
    result = clsspec(
        "eval", places["TRAIN"], "--task", "knn", "--train", tmp_path / "link", "-m", places["BARE"]
    )
    assert "blue/0.png: is among the pictures to train on" in result.error()


@pytest.mark.parametrize(
    ("kind", "file", "content", "line"),
    [
        ("segment", "images/a.png", b"", "a.png: is empty; accepted are JPEG, PNG"),
        ("segment", "images/b.png", b"\x89PNG\r\n\x1a\n", "b.png: PNG header is truncated"),
        ("segment", "labels/a.png", b"no", "a.png: cannot be read as a PNG: "),
        ("depth", "depth/b.npy", b"no", "b.npy: cannot be read as an .npy: "),
    ],
)
def test_a_file_that_cannot_be_read_ends_it(
    clsspec: Clsspec, tmp_path: Path, kind: str, file: str, content: bytes, line: str
) -> None:
    places = prepared(tmp_path)
    data = places[kind.upper()]
    (data / file).write_bytes(content)
    result = clsspec("eval", data, "--task", kind, "-m", places["BUNDLE"], "--batch-size", 1)
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith(f"clsspec: {data / file}")
    assert line in last


def test_a_picture_without_its_label_ends_it_before_it_starts(
    clsspec: Clsspec, tmp_path: Path
) -> None:
    data, bundle = segment_data(tmp_path / "data"), segment_bundle(tmp_path)
    (data / "labels/b.png").unlink()
    result = clsspec("eval", data, "--task", "segment", "-m", bundle)
    assert result.error().startswith(f"{data}/images/b.png: has no label of the same name")
    assert result.code == 1


def test_an_id_that_is_no_class_of_the_head_is_named(clsspec: Clsspec, tmp_path: Path) -> None:
    data, bundle = segment_data(tmp_path / "data"), segment_bundle(tmp_path)
    save(data / "labels/a.png", np.full((28, 42), 4, np.uint8))
    line = clsspec("eval", data, "--task", "segment", "-m", bundle).error()
    assert line == (f"{data}/labels/a.png: has the id 4 in row 0, column 0; accepted are 0..3, 255")


def test_too_few_pictures_to_train_on_are_one_line(clsspec: Clsspec, tmp_path: Path) -> None:
    folders.write_imagenet(tmp_path / "data")
    bundle = write_head_bundle(tmp_path / "bundle")
    result = clsspec(
        "eval", tmp_path / "data", "--dataset", "imagenet", "--task", "knn", "-m", bundle
    )
    assert result.error() == "there are 2 pictures to train on; accepted are 10 and more"
    assert result.code == 1


def test_a_picture_too_long_for_its_protocol_is_named(clsspec: Clsspec, tmp_path: Path) -> None:
    save(tmp_path / "data/images/a.png", plain(RED, 1, 9000))
    save(tmp_path / "data/labels/a.png", np.zeros((1, 9000), np.uint8))
    bundle = segment_bundle(tmp_path)
    ask = ("eval", tmp_path / "data", "--task", "segment", "-m", bundle, "--size", 518)
    line = clsspec(*ask).error()
    assert line.startswith(f"{tmp_path}/data/images/a.png: a picture of 1x9000 would be resampled")


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("segment", "the segmentation head gave logits from nan to nan"),
        ("depth", "a head gave values that are not finite numbers"),
        ("classify", "scores are (1, 3) for 1 labels, or NaN"),
    ],
)
def test_a_head_that_answers_nan_has_no_number(
    clsspec: Clsspec, tmp_path: Path, task: str, line: str
) -> None:
    places = prepared(tmp_path)
    weight = np.full((4, 3), np.nan)
    names = ["blue", "green", "red"]
    heads = {
        "segment": lambda: segment_head(
            [Category(name=name, colour=RED) for name in names], weight, weight[0]
        ),
        "depth": lambda: depth_head(weight[:, 0]),
        "classify": lambda: classify_head(names, weight, weight[0]),
    }
    bundle = write_head_bundle(tmp_path / "nan", [heads[task]()])
    data = places["CLASSES" if task == "classify" else task.upper()]
    result = clsspec("eval", data, "--task", task, "-m", bundle)
    assert line in result.error()


def test_depths_that_never_count_are_no_number(clsspec: Clsspec, tmp_path: Path) -> None:
    data = depth_data(tmp_path / "data")
    bundle = write_head_bundle(tmp_path / "bundle", [depth_head(ONLY_RED)])
    save(data / "depth/a.png", np.zeros((28, 42), np.uint16))
    ask = ("eval", data, "--task", "depth", "-m", bundle)
    result = clsspec(*ask)
    assert table(result)["pictures"] == f"1 of 2 of folders ({data}); 1 without a depth that counts"
    np.save(data / "depth/b.npy", np.full((28, 28), np.nan))
    last = clsspec(*ask).err.splitlines()[-1]
    assert last.startswith("clsspec: no pixel of 2 images has a depth between 0.001 and 10.0 m")


def test_an_interrupted_evaluation_prints_no_number(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, bundle = segment_data(tmp_path / "data"), segment_bundle(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    add = SegmentationScore.add

    def interrupted(self: SegmentationScore, predicted: Any, truth: Any) -> None:
        if truth.shape == (28, 28):
            raise KeyboardInterrupt
        add(self, predicted, truth)

    monkeypatch.setattr(SegmentationScore, "add", interrupted)
    result = clsspec("eval", data, "--task", "segment", "-m", bundle, "--json")
    assert (result.code, result.out) == (130, "")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("listed", "line"),
    [
        ("{1}\n{0}\n{2}\n{3}\n", "class 0 of this bundle's head is '{0}', of folders it is '{1}'"),
        ("{0}\n{1}\n", "this bundle's head has 4 classes, folders has 2; accepted"),
    ],
)
def test_a_list_of_classes_beside_the_pictures_must_be_the_heads(
    clsspec: Clsspec, tmp_path: Path, listed: str, line: str
) -> None:
    places = prepared(tmp_path)
    folder, bundle = Path(places["SEGMENT"]), places["BUNDLE"]
    (head,) = [h for h in open_bundle(Path(bundle)).manifest.heads if h.task == "segment"]
    names = [category.name for category in head.classes]
    (folder / "classes.txt").write_text(listed.format(*names))
    result = clsspec("eval", folder, "--task", "segment", "-m", bundle)
    assert line.format(*names) in result.error()
    (folder / "classes.txt").write_text("\n".join(names))
    assert clsspec("eval", folder, "--task", "segment", "-m", bundle).code == 0
