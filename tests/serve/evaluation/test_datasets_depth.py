from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_folders import (
    KITTI_SIZE,
    NYU_SIZE,
    SIZE,
    SUN_SIZE,
    ramp,
    write_depth,
    write_ids,
    write_kitti,
    write_nyu,
    write_picture,
    write_sun_rgbd,
)

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.plain_folders import depth_folders
from clsspec_serve.evaluation.datasets.published import open_dataset
from clsspec_serve.evaluation.datasets.samples import DepthDataset
from clsspec_serve.evaluation.datasets.windows import eigen, kitti_benchmark, nyu_without_border
from clsspec_serve.images import read_image


def opened(name: str, root: Path, split: str | None = None) -> DepthDataset:
    dataset = open_dataset(name, root, split)
    assert isinstance(dataset, DepthDataset)
    return dataset


def refused(call: Any, error: type[Exception] = DatasetError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nyu_lists_millimetres_below_its_root(tmp_path: Path) -> None:
    stored = write_nyu(tmp_path)
    dataset = opened("nyu", tmp_path)
    assert [sample.name for sample in dataset.samples] == [
        "bathroom/rgb_00045",
        "kitchen_0028b/rgb_00046",
    ]
    assert (dataset.minimum, dataset.maximum, dataset.cap) == (0.001, 10, None)
    assert (dataset.without_depth, dataset.size) == (1, None)
    for sample in dataset.samples:
        pixels, metres = sample.load()
        assert (pixels.shape, metres.dtype) == ((*NYU_SIZE, 3), np.float32)
        np.testing.assert_array_equal(pixels, read_image(sample.image))
        np.testing.assert_allclose(metres, stored.astype(float) / 1000, rtol=1e-7)


def test_nyu_is_scored_in_eigens_window(tmp_path: Path) -> None:
    write_nyu(tmp_path)
    inside = np.zeros(NYU_SIZE, bool)
    inside[opened("nyu", tmp_path).region(NYU_SIZE)] = True
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    assert inside.sum() == (471 - 45) * (601 - 41)


def test_nyu_is_trained_without_its_white_border(tmp_path: Path) -> None:
    stored = write_nyu(tmp_path, "train")
    dataset = opened("nyu", tmp_path, "train")
    sample = dataset.samples[0]
    pixels, metres = sample.load()
    np.testing.assert_array_equal(pixels, read_image(sample.image)[45:472, 43:608])
    np.testing.assert_allclose(metres, stored[45:472, 43:608] / 1000, rtol=1e-6)
    assert dataset.region(metres.shape) == (slice(0, 427), slice(0, 565))


def test_kitti_is_cropped_at_the_bottom_in_the_middle(tmp_path: Path) -> None:
    pixels, stored = write_kitti(tmp_path)
    dataset = opened("kitti", tmp_path)
    assert (dataset.minimum, dataset.maximum, dataset.without_depth) == (0.001, 80, 1)
    (sample,) = dataset.samples
    seen, metres = sample.load()
    # 375 - 352 = 23 rows above; 1242 - 1216 = 26 columns, 13 at each side.
    np.testing.assert_array_equal(seen, pixels[23:, 13:-13])
    np.testing.assert_array_equal(metres, stored[23:, 13:-13].astype(np.float32) / 256)
    assert metres.shape == (352, 1216)
    assert dataset.region((352, 1216)) == (slice(143, 349), slice(43, 1172))


def test_kittis_crop_gives_the_odd_column_to_the_right() -> None:
    assert kitti_benchmark((370, 1227)) == (slice(18, 370), slice(5, 1221))


def test_sun_rgbds_rotated_bits_are_turned_back(tmp_path: Path) -> None:
    millimetres = ramp(SUN_SIZE, 65535)
    write_sun_rgbd(tmp_path, millimetres)
    dataset = opened("sun_rgbd", tmp_path)
    (sample,) = dataset.samples
    _, metres = sample.load()
    np.testing.assert_allclose(metres, millimetres.astype(float) / 1000, rtol=1e-7)
    assert (dataset.minimum, dataset.maximum, dataset.cap) == (0.001, 10, 8)
    assert (dataset.region, dataset.size) == (eigen, (640, 480))


def test_below_eight_metres_sun_rgbd_is_an_eighth_of_a_millimetre(tmp_path: Path) -> None:
    write_sun_rgbd(tmp_path, ramp(SUN_SIZE, 8191))
    (sample,) = opened("sun_rgbd", tmp_path).samples
    stored = np.asarray(read_stored(sample.depth), float)
    np.testing.assert_allclose(sample.load()[1], stored / 8000, rtol=1e-6)


def read_stored(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def test_a_small_depth_map_is_scored_as_far_as_the_window_reaches() -> None:
    assert eigen((427, 561)) == (slice(45, 427), slice(41, 561))


def test_plain_folders_hold_millimetres_or_arrays_of_metres(tmp_path: Path) -> None:
    for name in "ab":
        write_picture(tmp_path / f"images/{name}.jpg", SIZE)
    stored = ramp(SIZE, 65535)
    write_depth(tmp_path / "depth/a.png", stored)
    floats = np.full(SIZE, 2.5)
    floats[0, :2] = 0, math.nan
    np.save(tmp_path / "depth/b.npy", floats)
    dataset = depth_folders(tmp_path, 0.1, 70)
    (_, one), (_, other) = (sample.load() for sample in dataset.samples)
    np.testing.assert_allclose(one, stored.astype(float) / 1000, rtol=1e-6)
    np.testing.assert_array_equal(other, floats.astype(np.float32))
    assert (dataset.minimum, dataset.maximum, other.dtype) == (0.1, 70, np.float32)


def test_stated_units_hold_for_pngs_and_arrays(tmp_path: Path) -> None:
    for name in "ab":
        write_picture(tmp_path / f"images/{name}.jpg", SIZE)
    stored = ramp(SIZE, 65535)
    write_depth(tmp_path / "depth/a.png", stored)
    np.save(tmp_path / "depth/b.npy", stored)
    for sample in depth_folders(tmp_path, 0.1, 300, 256).samples:
        np.testing.assert_array_equal(sample.load()[1], stored.astype(np.float32) / 256)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("nyu", "nyu_test.txt"),
        ("kitti", "kitti_eigen_test.txt"),
        ("sun_rgbd", "SUNRGBD_val_splits.txt"),
    ],
)
def test_a_wrong_root_is_one_line(tmp_path: Path, name: str, lacking: str) -> None:
    line = refused(lambda: open_dataset(name, tmp_path), UsageError)
    assert f"{tmp_path}: it holds no {lacking}; accepted is the folder that" in line


@pytest.mark.parametrize("folder", ["input", "gt_depth"])
def test_kitti_without_one_of_its_folders_is_a_wrong_root(tmp_path: Path, folder: str) -> None:
    write_kitti(tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    line = refused(lambda: opened("kitti", tmp_path), UsageError)
    assert f"it holds no {folder}" in line


@pytest.mark.parametrize("path", ["bathroom/rgb_00045.jpg", "bathroom/sync_depth_00045.png"])
def test_what_is_listed_and_missing_is_named(tmp_path: Path, path: str) -> None:
    write_nyu(tmp_path)
    (tmp_path / path).unlink()
    line = refused(lambda: opened("nyu", tmp_path))
    assert line == f"{tmp_path / path}: is missing; {tmp_path}/nyu_test.txt lists it"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", "nyu_test.txt: is empty; accepted is a list of files"),
        (b"rgb.jpg\n", "has the line 'rgb.jpg'; accepted is PICTURE DEPTH [FOCAL]"),
        (b"rgb.jpg None 1\n", "nyu_test.txt: lists no picture with a depth"),
        (b"\xff\xfe\n", "nyu_test.txt: cannot be read: 'utf-8' codec"),
    ],
)
def test_a_list_of_another_kind_is_named(tmp_path: Path, text: bytes, line: str) -> None:
    (tmp_path / "nyu_test.txt").write_bytes(text)
    assert line in refused(lambda: opened("nyu", tmp_path))


def test_a_depth_of_8_bits_is_refused(tmp_path: Path) -> None:
    write_nyu(tmp_path)
    sample = opened("nyu", tmp_path).samples[0]
    write_ids(sample.depth, np.zeros(NYU_SIZE, np.uint8))
    line = refused(sample.load)
    assert line == f"{sample.depth}: is a PNG of mode L; accepted is a 16-bit grey PNG of depths"


def test_a_depth_of_another_size_is_named(tmp_path: Path) -> None:
    write_kitti(tmp_path)
    (sample,) = opened("kitti", tmp_path).samples
    write_depth(sample.depth, ramp((376, 1242), 9))
    line = refused(sample.load)
    assert line == f"{sample.depth}: is 376x1242; accepted is 375x1242, the size of {sample.image}"


@pytest.mark.parametrize(
    ("name", "size", "accepted"),
    [("nyu", (427, 561), "480x640"), ("kitti", (351, 1242), "352x1216 and larger")],
)
def test_a_picture_that_the_protocol_does_not_fit_is_named(
    tmp_path: Path, name: str, size: tuple[int, int], accepted: str
) -> None:
    write_nyu(tmp_path) if name == "nyu" else write_kitti(tmp_path)
    sample = opened(name, tmp_path).samples[0]
    write_picture(sample.image, size)
    write_depth(sample.depth, ramp(size, 9))
    line = refused(sample.load)
    assert line.startswith(f"{sample.image}: is {size[0]}x{size[1]}; accepted ")
    assert line.endswith(accepted)


def test_the_border_of_a_picture_that_is_not_nyus_is_not_cut_off() -> None:
    with pytest.raises(ValueError, match="is 375x1242; accepted is 480x640"):
        nyu_without_border(KITTI_SIZE)


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.zeros((1, 6, 8)), "has shape (1, 6, 8); accepted is an .npy of (H, W)"),
        (np.zeros((0, 8)), "has shape (0, 8)"),
        (np.zeros((6, 8), complex), "holds complex128"),
        (np.zeros((6, 8), bool), "holds bool"),
        (np.asarray([["x"]]), "holds <U1"),
        (np.asarray([[None]]), "cannot be read as an .npy: Object arrays cannot be loaded"),
    ],
)
def test_an_array_of_another_kind_is_refused(tmp_path: Path, array: Any, line: str) -> None:
    write_picture(tmp_path / "images/a.jpg", SIZE)
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth/a.npy", array, allow_pickle=True)
    (sample,) = depth_folders(tmp_path, 0.1, 10).samples
    assert refused(sample.load).startswith(f"{tmp_path}/depth/a.npy: {line}")


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/a.jpg", SIZE)
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(SIZE))
    (tmp_path / "depth").mkdir()
    path = tmp_path / "depth/a.npy"
    for data in (b"", b"no array", archive.getvalue()):
        path.write_bytes(data)
        (sample,) = depth_folders(tmp_path, 0.1, 10).samples
        assert refused(sample.load).startswith(f"{path}: cannot be read as an .npy: ")
    path.unlink()
    assert refused(sample.load).startswith(f"{path}: is missing; accepted is an .npy")


@pytest.mark.parametrize("units", [0, -1, math.nan, math.inf])
def test_units_are_positive(tmp_path: Path, units: float) -> None:
    line = refused(lambda: depth_folders(tmp_path, 0.1, 10, units), UsageError)
    assert line.endswith("units in a metre; accepted are numbers above 0")
