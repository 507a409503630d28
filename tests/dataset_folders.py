"""Tiny data sets in the published layouts, with labels that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (6, 8)
NYU_SIZE = (480, 640)
KITTI_SIZE = (375, 1242)
SUN_SIZE = (530, 730)

ADE20K_IDS = np.arange(48, dtype=np.uint8).reshape(SIZE)
VOC_IDS = np.asarray([[0, 1, 2, 20, 255, 0, 15, 15]] * 6, np.uint8)
CITY_LABEL_IDS = np.asarray([[0, 7, 8, 11, 33, 29, 31, 3]] * 6, np.uint8)
CITY_TRAIN_IDS = np.asarray([[255, 0, 1, 2, 18, 255, 16, 255]] * 6, np.uint8)
PALETTE = bytes(range(255, -1, -1)) * 3


def write_picture(path: Path, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A file of noise; its pixels come back exactly when the path ends in `.png`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    _save(Image.fromarray(pixels), path, compress_level=1)
    return pixels


def write_ids(path: Path, ids: NDArray[np.uint8], palette: bool = False) -> None:
    """An 8-bit PNG of ids: grey, or indices into a palette that is unlike any other order."""
    image = Image.fromarray(ids)
    if palette:
        image.putpalette(PALETTE)
    _save(image, path)


def write_depth(path: Path, stored: NDArray[np.uint16]) -> None:
    """A 16-bit grey PNG."""
    _save(Image.fromarray(stored), path, compress_level=1)


def write_ade20k(root: Path) -> Path:
    """Two validation pictures, one for training. Gives ADEChallengeData2016."""
    base = root / "ADEChallengeData2016"
    for split, names in (("validation", ("val_1", "val_2")), ("training", ("train_1",))):
        for name in names:
            write_picture(base / "images" / split / f"{name}.jpg", SIZE)
            write_ids(base / "annotations" / split / f"{name}.png", ADE20K_IDS)
    return base


def write_voc2012(root: Path) -> Path:
    """Two listed pictures, and one that is in no list. Gives VOC2012."""
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("2007_1", "2007_2", "2012_9"):
        write_picture(base / "JPEGImages" / f"{name}.jpg", SIZE)
    for name in ("2007_1", "2007_2"):
        write_ids(base / "SegmentationClass" / f"{name}.png", VOC_IDS, palette=True)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_1\n2007_2\n")
    (lists / "train.txt").write_text("2007_2\n")
    return base


def write_cityscapes(root: Path, train_ids: bool = True) -> Path:
    """A picture in each of two cities, with label ids and, where asked for, train ids."""
    for city in ("aachen", "zurich"):
        stem = f"val/{city}/{city}_0"
        write_picture(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", SIZE)
        write_ids(root / "gtFine" / f"{stem}_gtFine_labelIds.png", CITY_LABEL_IDS)
        if train_ids:
            write_ids(root / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", CITY_TRAIN_IDS)
    return root


def write_nyu(root: Path, split: str = "test") -> NDArray[np.uint16]:
    """Two pictures, and a line without depth. Gives the millimetres of both."""
    stored = ramp(NYU_SIZE, 12000)
    rows = []
    for name in ("bathroom/{}_00045", "kitchen_0028b/{}_00046"):
        image, depth = f"{name.format('rgb')}.jpg", f"{name.format('sync_depth')}.png"
        write_picture(root / image, NYU_SIZE)
        write_depth(root / depth, stored)
        rows.append(f"/{image} /{depth} 518.8579\n")
    rows.insert(1, "/kitchen/rgb_1.jpg None 518.8579\n")
    (root / f"nyu_{split}.txt").write_text("".join(rows))
    return stored


def write_kitti(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """One picture, and a line without depth. Gives the pixels and the depth in 1/256 m."""
    image = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png"
    depth = "2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png"
    pixels, stored = write_picture(root / "input" / image, KITTI_SIZE), ramp(KITTI_SIZE, 30000)
    write_depth(root / "gt_depth" / depth, stored)
    without = image.replace("69.png", "70.png")
    rows = f"{image} {depth} 721.5377\n{without} None 721.5377\n"
    (root / "kitti_eigen_test.txt").write_text(rows)
    return pixels, stored


def write_sun_rgbd(root: Path, millimetres: NDArray[np.uint16]) -> None:
    """One picture whose depth is stored as the data set stores it."""
    folder = "SUNRGBD/kv2/kinect2data/000002_2014-resize"
    image, depth = f"{folder}/image/0000103.jpg", f"{folder}/depth/0000103.png"
    write_picture(root / image, millimetres.shape)
    rotated = [((value << 3) & 0xFFFF) | (value >> 13) for value in millimetres.ravel().tolist()]
    write_depth(root / depth, np.asarray(rotated, np.uint16).reshape(millimetres.shape))
    (root / "SUNRGBD_val_splits.txt").write_text(f"{image} {depth}\n")


def write_imagenet(root: Path) -> None:
    """Two classes; two and one pictures to validate, one each to train."""
    for name in ("val/n02/ILSVRC_1.JPEG", "val/n02/ILSVRC_3.JPEG", "val/n01/ILSVRC_2.JPEG"):
        write_picture(root / name, SIZE)
    for name in ("train/n01/n01_7.JPEG", "train/n02/n02_8.JPEG"):
        write_picture(root / name, SIZE)


def ramp(size: tuple[int, int], last: int) -> NDArray[np.uint16]:
    """Depths that are all over the range from 0 to `last`."""
    return np.linspace(0, last, size[0] * size[1]).astype(np.uint16).reshape(size)


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Pillow names the JPEG format by its usual endings alone.
    image.save(path, "PNG" if path.suffix == ".png" else "JPEG", **options)
