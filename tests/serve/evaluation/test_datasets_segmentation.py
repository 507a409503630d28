from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_folders import (
    ADE20K_IDS,
    CITY_TRAIN_IDS,
    SIZE,
    VOC_IDS,
    write_ade20k,
    write_cityscapes,
    write_ids,
    write_picture,
    write_voc2012,
)
from pictures import png
from PIL import Image

from clsspec_serve.categories import categories, default_categories
from clsspec_serve.errors import DatasetError, ImageError, UsageError
from clsspec_serve.evaluation.datasets.label_maps import ranges, read_ids
from clsspec_serve.evaluation.datasets.plain_folders import segmentation_folders
from clsspec_serve.evaluation.datasets.published import open_dataset
from clsspec_serve.evaluation.datasets.samples import SegmentationDataset


def opened(name: str, root: Path, split: str | None = None) -> SegmentationDataset:
    dataset = open_dataset(name, root, split)
    assert isinstance(dataset, SegmentationDataset)
    return dataset


def loaded(dataset: SegmentationDataset) -> list[tuple[str, list[list[int]]]]:
    return [(sample.name, sample.load()[1].tolist()) for sample in dataset.samples]


def test_ade20ks_labels_count_from_zero_and_its_zero_is_ignored(tmp_path: Path) -> None:
    base = write_ade20k(tmp_path)
    # The files hold 0, 1, 2, ... 47.
    expected = [255, *range(47)]
    assert [value for row in ADE20K_IDS.tolist() for value in row] == list(range(48))
    for root in (base, tmp_path):
        dataset = opened("ade20k", root)
        assert [name for name, _ in loaded(dataset)] == ["val_1", "val_2"]
        for sample in dataset.samples:
            pixels, ids = sample.load()
            assert (pixels.shape, ids.dtype) == ((*SIZE, 3), np.uint8)
            assert ids.ravel().tolist() == expected
        assert dataset.categories == categories("ade20k")


def test_ade20ks_last_class_is_149(tmp_path: Path) -> None:
    base = write_ade20k(tmp_path)
    write_ids(base / "annotations/validation/val_1.png", np.full(SIZE, 150, np.uint8))
    assert set(np.unique(opened("ade20k", base).samples[0].load()[1])) == {149}


def test_the_training_pictures_are_another_split(tmp_path: Path) -> None:
    dataset = opened("ade20k", write_ade20k(tmp_path), "train")
    assert [sample.name for sample in dataset.samples] == ["train_1"]


def test_voc_lists_its_pictures_and_ignores_255(tmp_path: Path) -> None:
    base = write_voc2012(tmp_path)
    for root in (base, base.parent, tmp_path):
        dataset = opened("voc2012", root)
        assert loaded(dataset) == [("2007_1", VOC_IDS.tolist()), ("2007_2", VOC_IDS.tolist())]
        assert dataset.categories == categories("voc2012")
    assert [sample.name for sample in opened("voc2012", base, "train").samples] == ["2007_2"]


def test_cityscapes_train_ids_are_read_as_they_are(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    # Where both are there, it is the train ids that are read.
    for path in tmp_path.glob("gtFine/val/*/*_labelIds.png"):
        write_ids(path, np.zeros(SIZE, np.uint8))
    dataset = opened("cityscapes", tmp_path)
    names = ["aachen/aachen_0", "zurich/zurich_0"]
    assert loaded(dataset) == [(name, CITY_TRAIN_IDS.tolist()) for name in names]
    assert dataset.categories == categories("cityscapes")


def test_cityscapes_label_ids_are_converted_where_there_is_nothing_else(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, train_ids=False)
    for _, ids in loaded(opened("cityscapes", tmp_path)):
        assert ids == CITY_TRAIN_IDS.tolist()


def test_every_cityscapes_id_has_its_published_train_id(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, train_ids=False)
    # trainId of the ids 0 to 33, in the order of cityscapesScripts' table.
    published = [
        *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255),
        *(5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
    ]
    write_picture(tmp_path / "leftImg8bit/val/aachen/aachen_0_leftImg8bit.png", (2, 17))
    stored = np.arange(34, dtype=np.uint8).reshape(2, 17)
    write_ids(tmp_path / "gtFine/val/aachen/aachen_0_gtFine_labelIds.png", stored)
    _, ids = opened("cityscapes", tmp_path).samples[0].load()
    assert ids.ravel().tolist() == published


def test_plain_folders_pair_by_name(tmp_path: Path) -> None:
    pixels = write_picture(tmp_path / "images/b.png", SIZE)
    write_picture(tmp_path / "images/a.JPG", SIZE)
    (tmp_path / "images/._a.JPG").write_text("")
    (tmp_path / "images/notes.txt").write_text("")
    ids = np.asarray([[0, 1, 2, 255, 0, 0, 0, 0]] * 6, np.uint8)
    for name in "ab":
        write_ids(tmp_path / f"labels/{name}.png", ids, palette=name == "a")
    dataset = segmentation_folders(tmp_path, default_categories(3))
    assert loaded(dataset) == [("a", ids.tolist()), ("b", ids.tolist())]
    np.testing.assert_array_equal(dataset.samples[1].load()[0], pixels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_ids_of_few_bits_are_not_scaled(tmp_path: Path, bits: int, colour: int) -> None:
    # One row of eight ids, packed from the highest bit down; colour type 3 has a palette.
    row = [i % 2**bits for i in (0, 1, 3, 2, 1, 0, 3, 1)]
    packed = int("".join(f"{i:0{bits}b}" for i in row), 2).to_bytes(bits, "big")
    palette = b"" if colour == 0 else chunk_of_colours(2**bits)
    (tmp_path / "a.png").write_bytes(png(8, 1, bits, colour, b"\0" + packed, palette))
    assert read_ids(tmp_path / "a.png", {i: i for i in range(4)}).tolist() == [row]


def chunk_of_colours(count: int) -> bytes:
    from struct import pack
    from zlib import crc32

    body = b"PLTE" + bytes(range(200, 201)) * 3 * count
    return pack(">I", 3 * count) + body + pack(">I", crc32(body))


def test_grey_of_16_bits_may_hold_ids_too(tmp_path: Path) -> None:
    Image.fromarray(np.asarray([[0, 7], [255, 1]], np.uint16)).save(tmp_path / "a.png")
    meaning = {0: 0, 1: 1, 7: 7, 255: 255}
    assert read_ids(tmp_path / "a.png", meaning).tolist() == [[0, 7], [255, 1]]


def test_ids_are_named_in_ranges() -> None:
    assert ranges([255, *range(21)]) == "0..20, 255"
    assert ranges([5]) == "5"
    assert ranges([3, 1, 7, 8]) == "1, 3, 7..8"


def refused(call: Any, error: type[Exception] = DatasetError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        (
            "ade20k",
            "it holds no images/validation; accepted is the folder ADEChallengeData2016",
        ),
        ("voc2012", "it holds no JPEGImages; accepted is the folder VOC2012, VOCdevkit, or"),
        (
            "cityscapes",
            "it holds no leftImg8bit/val; accepted is the folder that leftImg8bit",
        ),
    ],
)
def test_a_wrong_root_is_one_line(tmp_path: Path, name: str, accepted: str) -> None:
    assert f"{tmp_path}: {accepted}" in refused(lambda: open_dataset(name, tmp_path), UsageError)
    nowhere = tmp_path / "nowhere"
    line = refused(lambda: open_dataset(name, nowhere), UsageError)
    assert line.startswith(f"{nowhere}: is not a folder; accepted is ")


def test_a_picture_without_a_label_and_the_reverse_are_named(tmp_path: Path) -> None:
    base = write_ade20k(tmp_path)
    extra = base / "images/validation/val_3.jpg"
    write_picture(extra, SIZE)
    counts = "there are 3 pictures and 2 labels"
    line = refused(lambda: opened("ade20k", base))
    assert line == f"{extra}: has no label of the same name; {counts}"
    extra.unlink()
    (base / "images/validation/val_1.jpg").unlink()
    line = refused(lambda: opened("ade20k", base))
    assert "annotations/validation/val_1.png: has no picture of the same name" in line


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    base = write_ade20k(tmp_path)
    for path in (base / "images/validation").iterdir():
        path.unlink()
    line = refused(lambda: opened("ade20k", base))
    assert line.endswith("images/validation: has no files in it that end in .jpg")


def test_cityscapes_without_cities_is_named(tmp_path: Path) -> None:
    for folder in ("leftImg8bit/val", "gtFine/val"):
        (tmp_path / folder).mkdir(parents=True)
    line = refused(lambda: opened("cityscapes", tmp_path))
    assert line.endswith("leftImg8bit/val: has no folders in it; accepted is one for each city")


def test_a_cityscapes_picture_without_its_train_ids_is_named(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    write_picture(tmp_path / "leftImg8bit/val/zurich/zurich_1_leftImg8bit.png", SIZE)
    line = refused(lambda: opened("cityscapes", tmp_path))
    assert "zurich_1_leftImg8bit.png: has no label of the same name" in line


@pytest.mark.parametrize("path", ["JPEGImages/2007_2.jpg", "SegmentationClass/2007_2.png"])
def test_what_voc_lists_and_has_not_is_named(tmp_path: Path, path: str) -> None:
    base = write_voc2012(tmp_path)
    (base / path).unlink()
    line = refused(lambda: opened("voc2012", base))
    assert line == f"{base / path}: is missing; {base}/ImageSets/Segmentation/val.txt lists it"


@pytest.mark.parametrize(
    ("text", "line"), [("", "is empty"), ("2007_1 1\n", "has the line '2007_1 1'")]
)
def test_a_list_of_another_kind_is_named(tmp_path: Path, text: str, line: str) -> None:
    base = write_voc2012(tmp_path)
    (base / "ImageSets/Segmentation/val.txt").write_text(text)
    assert f"val.txt: {line}" in refused(lambda: opened("voc2012", base))


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        write_picture(tmp_path / "images" / name, SIZE)
    write_ids(tmp_path / "labels/a.png", VOC_IDS)
    line = refused(lambda: segmentation_folders(tmp_path, default_categories(3)))
    assert line.endswith("images/a.png: has the name of a.jpg")


def test_more_classes_than_bytes_hold_are_refused(tmp_path: Path) -> None:
    line = refused(lambda: segmentation_folders(tmp_path, default_categories(256)), UsageError)
    assert line == "there are 256 classes; accepted are up to 255"


@pytest.mark.parametrize(
    ("name", "bad", "accepted"),
    [("ade20k", 151, "0..150"), ("ade20k", 255, "0..150"), ("voc2012", 21, "0..20, 255")],
)
def test_an_unknown_id_is_named_with_its_place(
    tmp_path: Path, name: str, bad: int, accepted: str
) -> None:
    base = write_ade20k(tmp_path) if name == "ade20k" else write_voc2012(tmp_path)
    ids = np.zeros(SIZE, np.uint8)
    ids[2, 5:] = bad
    sample = opened(name, base).samples[0]
    write_ids(sample.label, ids)
    line = refused(sample.load)
    assert line == f"{sample.label}: has the id {bad} in row 2, column 5; accepted are {accepted}"


def test_an_id_beyond_8_bits_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.asarray([[0, 256]], np.uint16)).save(path)
    assert "has the id 256 in row 0, column 1" in refused(lambda: read_ids(path, {0: 0}))


def test_a_label_of_another_size_is_named(tmp_path: Path) -> None:
    sample = opened("ade20k", write_ade20k(tmp_path)).samples[0]
    write_ids(sample.label, np.zeros((8, 6), np.uint8))
    line = refused(sample.load)
    assert line == f"{sample.label}: is 8x6; accepted is 6x8, the size of {sample.image}"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_label_in_colours_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (4, 3)).save(path)
    line = refused(lambda: read_ids(path, {0: 0}))
    assert (
        line == f"{path}: is a PNG of mode {mode}; accepted is a PNG of class ids, indexed or grey"
    )


def test_what_is_no_whole_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_ids(path, np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8))
    whole = path.read_bytes()
    for data in (b"", b"JFIF", whole[:20], whole[: len(whole) // 2]):
        path.write_bytes(data)
        line = refused(lambda: read_ids(path, {0: 0, 1: 1}))
        assert line.startswith(f"{path}: cannot be read as a PNG: ")
    path.unlink()
    assert refused(lambda: read_ids(path, {0: 0})).startswith(f"{path}: is missing; accepted is")


def test_a_label_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(20000, 20000, 8, 0, b""))
    line = refused(lambda: read_ids(path, {0: 0}))
    assert line == f"{path}: has 20000x20000 pixels; accepted are 89478485"


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    sample = opened("ade20k", write_ade20k(tmp_path)).samples[0]
    sample.image.write_bytes(b"no picture")
    assert str(sample.image) in refused(sample.load, ImageError)


def test_unknown_names_and_splits_are_one_line(tmp_path: Path) -> None:
    line = refused(lambda: open_dataset("coco", tmp_path), UsageError)
    assert line == (
        "there is no data set 'coco'; accepted are "
        "ade20k, voc2012, cityscapes, nyu, kitti, sun_rgbd, imagenet"
    )
    line = refused(lambda: open_dataset("ade20k", tmp_path, "test"), UsageError)
    assert line == "ade20k has no split 'test'; accepted are val, train"
