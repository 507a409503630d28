"""What becomes of each picture's answers, from any form of a data set."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import tree
from dataset_sources import (
    as_folder,
    as_table,
    as_tar,
    computed,
    named,
    picture,
    rows,
    samples,
    vectors,
)
from PIL import Image

from clsspec_serve import Geometry, load
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.request import Options

ALL: Options = {"tasks": ("cls", "patches", "segment", "depth", "classify")}
COUNT = 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten pictures, of which the seventh is none."""
    return as_folder(tmp_path / "set", named(COUNT) | {"006.png": b"no picture"})


def expected(bundle: Path, options: Options) -> list[dict[str, Any]]:
    found = load(bundle, threads=1).predict((picture(index) for index in range(COUNT)), **options)
    return [dict(each.arrays) for each in found]


def test_every_answer_of_a_picture_is_what_the_model_gives(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = computed(bundle, source, out, ALL | {"policy": "squash"})
    assert (summary.pictures, summary.shards, summary.computed) == (COUNT, 3, COUNT)
    assert summary.failures == {"no picture": 1}
    wanted = expected(bundle, ALL | {"policy": "squash"})
    maps = zarr.open_array(out / "patches.zarr", mode="r")
    grid = wanted[0]["patches"].shape
    assert (maps.shape, maps.chunks, maps.shards) == ((12, *grid), (1, *grid), (4, *grid))
    files = {sample["__key__"]: sample for sample in samples(out)}
    for index, row in enumerate(rows(out)):
        assert (row["row"], row["id"]) == (index, f"{index:03}.png")
        if index == 6:
            assert row["error"].startswith("is not an image; accepted are JPEG")
            assert row["kind"] == "no picture"
            assert row["cls"] is row["classify"] is row["geometry"] is row["height"] is None
            assert np.isnan(maps[index]).all()
            assert f"{index:012}" not in files
            continue
        assert row["error"] is row["kind"] is None
        for name in ("cls", "classify"):
            np.testing.assert_array_equal(np.float32(row[name]), wanted[index][name])
        np.testing.assert_array_equal(maps[index], wanted[index]["patches"])
        sample = files[f"{index:012}"]
        assert json.loads(sample["json"]) == {
            "id": row["id"],
            "geometry": json.loads(row["geometry"]),
        }
        mask, depth = (
            np.asarray(Image.open(io.BytesIO(sample[f"{name}.png"])))
            for name in ("segment", "depth")
        )
        np.testing.assert_array_equal(mask, wanted[index]["segment"])
        np.testing.assert_allclose(depth / 1000, wanted[index]["depth"], atol=0.00051)
        geometry = Geometry.from_dict(json.loads(row["geometry"]))
        assert geometry.image == (row["height"], row["width"]) == (28, 42)
    assert len(files) == COUNT - 1


def test_maps_of_many_grids_are_files_of_their_own(bundle: Path, tmp_path: Path) -> None:
    sizes = [(28, 42), (60, 30), (28, 84), (28, 42), (90, 30)]
    pictures = {f"{index}.png": picture(index, *size) for index, size in enumerate(sizes)}
    source, out = as_folder(tmp_path / "set", pictures), tmp_path / "out"
    options: Options = {"policy": "fit"}
    computed(bundle, source, out, options)
    assert not list(out.glob("*.zarr"))
    found = samples(out)
    model = load(bundle, threads=1)
    for sample, content in zip(found, pictures.values(), strict=True):
        patches = np.load(io.BytesIO(sample["patches.npy"]))
        np.testing.assert_array_equal(patches, model(content, **options).patches)
        geometry = Geometry.from_dict(json.loads(sample["json"])["geometry"])
        assert patches.shape[:2] == geometry.grid


@pytest.mark.parametrize("form", ["tar", "table", "list"])
def test_every_form_of_a_data_set_gives_the_same_rows(
    bundle: Path, source: Path, tmp_path: Path, form: str
) -> None:
    pictures = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    if form == "tar":
        other = as_tar(tmp_path / "other" / "a.tar", pictures)
    elif form == "table":
        other = as_table(tmp_path / "other" / "a.parquet", "image", list(pictures.values()))
    else:
        other = as_folder(source, {"list.txt": "\n".join(pictures).encode()}) / "list.txt"
    computed(bundle, source, tmp_path / "0")
    computed(bundle, other, tmp_path / "1")
    first, second = ([{**row, "id": None} for row in rows(tmp_path / name)] for name in ("0", "1"))
    assert first == second


def test_half_precision_halves_features_and_leaves_depth(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    options: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}
    computed(bundle, source, tmp_path / "full", options)
    computed(bundle, source, tmp_path / "half", options, dtype="float16")
    full, half = (
        zarr.open_array(tmp_path / n / "patches.zarr", mode="r") for n in ("full", "half")
    )
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half[:], full[:].astype(np.float16))
    np.testing.assert_array_equal(
        vectors(tmp_path / "half", "cls"), vectors(tmp_path / "full", "cls").astype(np.float16)
    )
    samples = [tmp_path / name / "samples" / "000000.tar" for name in ("full", "half")]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_what_half_precision_cannot_hold_is_a_failure_of_its_own(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = [float(each["cls"].max()) for each in expected(bundle, {"tasks": ("cls",)})]
    limit = float(np.median(above))
    large = [index for index, most in enumerate(above) if most > limit and index != 6]
    monkeypatch.setattr("clsspec_serve.delivery._FLOAT16", limit)
    summary = computed(bundle, source, tmp_path / "out", {"tasks": ("cls",)}, dtype="float16")
    assert summary.failures == {"beyond float16": len(large), "no picture": 1}
    assert 0 < len(large) < COUNT - 1
    found = [row["row"] for row in rows(tmp_path / "out") if row["kind"] == "beyond float16"]
    assert found == large


def test_another_batch_of_readers_and_threads_gives_the_same_bytes(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    computed(bundle, source, tmp_path / "0", ALL)
    many = Here(load(bundle, threads=1), Threads(7, 5))
    computed(bundle, source, tmp_path / "1", ALL, runner=many)
    assert tree(tmp_path / "0") == tree(tmp_path / "1")


def test_an_empty_source_is_refused(bundle: Path, tmp_path: Path) -> None:
    table = as_table(tmp_path / "set" / "a.parquet", "image", [], "binary")
    with pytest.raises(DatasetError, match=r"set: has no pictures"):
        computed(bundle, table.parent, tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"run.json"}


def test_layers_have_columns_and_arrays_of_their_own(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    from clsspec_serve.layers import parse_layers

    options: Options = {"layers": parse_layers("0:raw,1"), "policy": "squash"}
    computed(bundle, source, tmp_path / "out", options)
    wanted = expected(bundle, options)
    maps = zarr.open_array(tmp_path / "out" / "patches_0_raw.zarr", mode="r")
    np.testing.assert_array_equal(maps[3], wanted[3]["patches_0_raw"])
    np.testing.assert_array_equal(vectors(tmp_path / "out", "cls_0_raw")[3], wanted[3]["cls_0_raw"])


def test_masks_of_more_classes_than_a_png_has_are_refused_first(
    tmp_path: Path, source: Path
) -> None:
    from head_bundle import segment_head, write_head_bundle

    from clsspec_serve.heads import Category

    classes = [Category(name=str(index), colour=(0, 0, 0)) for index in range(256)]
    bundle = write_head_bundle(
        tmp_path / "many", [segment_head(classes, np.zeros((4, 256)), np.zeros(256))]
    )
    with pytest.raises(UsageError, match="masks are PNGs of up to 255 classes, this head has 256"):
        computed(bundle, source, tmp_path / "out", {"tasks": ("segment",)})
    assert not (tmp_path / "out").exists()
