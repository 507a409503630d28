"""`clsspec eval` on the published layouts, against their protocols worked out in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dataset_folders as folders
import numpy as np
import pytest
from command_line import Clsspec
from eval_data import (
    ONLY_RED,
    class_data,
    depth_errors,
    enlarged,
    flipped_depth,
    mean_iou,
    means_of,
    metrics,
    nearest_by_hand,
    read,
    seen_depth,
    short,
    shown,
)
from head_bundle import (
    classify_head,
    depth_head,
    patch_means,
    segment_head,
    write_head_bundle,
)
from PIL import Image

from clsspec_serve.categories import categories
from clsspec_serve.heads import Protocol

LAYOUTS: dict[str, tuple[Any, Any, list[Path]]] = {
    "ade20k": (
        folders.write_ade20k,
        np.where(folders.ADE20K_IDS == 0, 255, folders.ADE20K_IDS - 1),
        [Path(f"ADEChallengeData2016/images/validation/val_{n}.jpg") for n in (1, 2)],
    ),
    "voc2012": (
        folders.write_voc2012,
        folders.VOC_IDS,
        [Path(f"VOCdevkit/VOC2012/JPEGImages/2007_{n}.jpg") for n in (1, 2)],
    ),
    "cityscapes": (
        folders.write_cityscapes,
        folders.CITY_TRAIN_IDS,
        [Path(f"leftImg8bit/val/{c}/{c}_0_leftImg8bit.png") for c in ("aachen", "zurich")],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_segmentation(clsspec: Clsspec, tmp_path: Path, name: str) -> None:
    write, truth, images = LAYOUTS[name]
    write(tmp_path / "data")
    for seed, image in enumerate(images):
        folders.write_picture(tmp_path / "data" / image, folders.SIZE, seed)
    classes = categories(name)
    random = np.random.default_rng(3)
    weight = random.normal(size=(4, len(classes)))
    bias = -np.asarray([127, 127, 127, 1]) @ weight  # so that many classes win somewhere
    protocol = Protocol(size=(42, 42), policy="short", window=28, stride=20)
    head = segment_head(classes, weight, bias, protocol)
    bundle = write_head_bundle(tmp_path / "bundle", [head])
    predicted = []
    for image in images:
        seen = short(read(tmp_path / "data" / image), 42)  # 42x56
        total, count = np.zeros((42, 56, len(classes))), np.zeros((42, 56, 1))
        for y in (0, 14):  # 42 - 28; at 20 the window would reach over the edge
            for x in (0, 20, 28):
                part = np.s_[y : y + 28, x : x + 28]
                total[part] += enlarged(patch_means(seen[part]) @ weight + bias, (28, 28))
                count[part] += 1
        predicted.append(enlarged(total / count, folders.SIZE).argmax(axis=2))
    result = clsspec("eval", tmp_path / "data", "--dataset", name, "-m", bundle, "--json")
    expected = mean_iou(predicted, [truth] * 2, len(classes))
    assert metrics(result)["mean_iou"] == pytest.approx(expected)
    assert 0 < expected < 100
    facts = json.loads(result.out)
    assert facts["pictures"] == {
        "name": name,
        "root": str(tmp_path / "data"),
        "split": "val",
        "used": 2,
        "labelled": 2,
        "left_out": {},
    }


def test_nyu_by_its_protocol(clsspec: Clsspec, tmp_path: Path) -> None:
    stored = folders.write_nyu(tmp_path / "data")
    weight = [0.02, 0.01, 0, 0]
    protocol = Protocol(size=(95, 95), policy="short", flip=True)  # an odd pixel of padding
    bundle = write_head_bundle(tmp_path / "bundle", [depth_head(weight, protocol=protocol)])
    result = clsspec("eval", tmp_path / "data", "--dataset", "nyu", "-m", bundle, "--json")
    counts = np.zeros((480, 640), bool)
    counts[45:471, 41:601] = True
    counts &= (stored > 1) & (stored < 10000)
    rows = []
    for name in ("bathroom/rgb_00045.jpg", "kitchen_0028b/rgb_00046.jpg"):
        pixels = short(read(tmp_path / "data" / name), 95)
        rows.append(depth_errors(flipped_depth(pixels, weight, (480, 640)), stored / 1000, counts))
    found = metrics(result)
    assert tuple(found.values()) == pytest.approx(tuple(np.mean(rows, axis=0)), rel=1e-5)
    assert json.loads(result.out)["pictures"]["left_out"] == {
        "without a depth that counts": 0,
        "listed without a depth file": 1,
    }
    assert result.err.count("warning") == 0


def test_kitti_by_its_protocol(clsspec: Clsspec, tmp_path: Path) -> None:
    pixels, stored = folders.write_kitti(tmp_path / "data")
    weight = [0.1, 0.05, 0.02, 0]
    protocol = Protocol(size=(121, 121), policy="short")
    head = depth_head(weight, maximum=80, protocol=protocol)
    bundle = write_head_bundle(tmp_path / "bundle", [head])
    result = clsspec("eval", tmp_path / "data", "--dataset", "kitti", "-m", bundle, "--json")
    cropped, truth = pixels[-352:, 13:-13], stored[-352:, 13:-13] / 256
    counts = np.zeros((352, 1216), bool)
    counts[143:349, 43:1172] = True
    counts &= (truth > 0.001) & (truth < 80)
    predicted = seen_depth(short(cropped, 121), weight, (352, 1216))
    expected = depth_errors(predicted, truth, counts)
    assert tuple(metrics(result).values()) == pytest.approx(expected, rel=1e-5)
    assert result.err == ""


def test_sun_rgbd_by_its_protocol(clsspec: Clsspec, tmp_path: Path) -> None:
    millimetres = folders.ramp(folders.SUN_SIZE, 12000)
    folders.write_sun_rgbd(tmp_path / "data", millimetres)
    image = next((tmp_path / "data").rglob("*.jpg"))
    weight = [0.06, 0.01, 0, 0]  # up to 17 m, so that both caps count
    gradient = np.linspace(0, 255, 530 * 730).astype(np.uint8).reshape(530, 730, 1)
    Image.fromarray(np.repeat(gradient, 3, axis=2)).save(image, "JPEG")
    bundle = write_head_bundle(
        tmp_path / "bundle", [depth_head(weight, protocol=Protocol(size=(95, 95), policy="short"))]
    )
    result = clsspec("eval", tmp_path / "data", "--dataset", "sun_rgbd", "-m", bundle, "--json")
    truth = np.minimum(millimetres / 1000, 8)
    counts = np.zeros(folders.SUN_SIZE, bool)
    counts[45:471, 41:601] = True
    counts &= truth > 0.001
    features = patch_means(shown(read(image), (640, 480)))
    answers = np.clip(features @ np.asarray(weight), 0.001, 10)
    predicted = enlarged(answers[..., None], folders.SUN_SIZE)[..., 0]
    assert (predicted > 8).any()
    expected = depth_errors(np.minimum(predicted, 8), truth, counts)
    assert tuple(metrics(result).values()) == pytest.approx(expected, rel=1e-5)
    facts = json.loads(result.out)["shown"]
    assert (facts["size"], facts["policy"]) == ([640, 480], "squash")
    assert result.err == ""
    other = clsspec(
        "eval",
        tmp_path / "data",
        "--dataset",
        "sun_rgbd",
        "-m",
        bundle,
        "--json",
        "--size",
        "56x70",
    )
    facts = json.loads(other.out)["shown"]
    assert (facts["size"], facts["policy"]) == ([56, 70], "squash")


def test_imagenet_by_its_protocol(clsspec: Clsspec, tmp_path: Path) -> None:
    tench, goldfish = "val/n01440764", "val/n01443537"
    names = (f"{tench}/2.JPEG", f"{goldfish}/1.JPEG", f"{goldfish}/3.JPEG")
    for seed, name in enumerate(names):
        folders.write_picture(tmp_path / "data" / name, (80, 60), seed)
    weight = np.random.default_rng(1).normal(size=(4, 2))
    protocol = Protocol(size=(28, 28), resize=(32, 32), policy="crop", interpolation="bicubic")
    seen = []
    for name in names:
        with Image.open(tmp_path / "data" / name) as image:
            small = image.convert("RGB").resize((32, 42), Image.Resampling.BICUBIC)
        # (42 - 28) / 2 = 7 rows and (32 - 28) / 2 = 2 columns at each side.
        centre = np.asarray(small)[7:35, 2:30]
        seen.append([*centre.mean(axis=(0, 1)), 1] @ weight)
    bias = -np.mean(seen, axis=0)
    head = classify_head(["tench", "goldfish"], weight, bias, protocol)
    bundle = write_head_bundle(tmp_path / "bundle", [head])
    result = clsspec("eval", tmp_path / "data", "--dataset", "imagenet", "-m", bundle, "--json")
    right = (np.asarray(seen) + bias).argmax(axis=1) == [0, 1, 1]
    assert metrics(result)["top1"] == pytest.approx(100 * right.mean())


def test_imagenets_neighbours_are_of_its_train_split(clsspec: Clsspec, tmp_path: Path) -> None:
    class_data(tmp_path / "val", 2, 0)
    class_data(tmp_path / "train", 8, 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bundle = write_head_bundle(tmp_path / "bundle")
    ask = ("eval", tmp_path, "--dataset", "imagenet", "--task", "knn", "-m", bundle, "--json")
    own = clsspec(*ask)
    expected = nearest_by_hand(*means_of(tmp_path / "train"), *means_of(tmp_path / "val"), 20)
    assert metrics(own)["knn20_top1"] == pytest.approx(expected)
    facts = json.loads(own.out)
    assert (facts["pictures"]["split"], facts["neighbours"]["split"]) == ("val", "train")
    assert metrics(clsspec(*ask, "--train", "train")) == metrics(own)
    (tmp_path / "train").rename(elsewhere / "train")
    assert metrics(clsspec(*ask, "--train", elsewhere)) == metrics(own)


def test_a_head_for_other_depths_is_warned_of_and_scored(clsspec: Clsspec, tmp_path: Path) -> None:
    folders.write_kitti(tmp_path / "data")
    bundle = write_head_bundle(tmp_path / "bundle", [depth_head(ONLY_RED)])
    result = clsspec("eval", tmp_path / "data", "--dataset", "kitti", "-m", bundle)
    assert (result.code, result.err) == (
        0,
        "clsspec: warning: this bundle's head answers 0.001 to 10 m, kitti is scored from 0.001 "
        "to 80 m\n",
    )
