from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors

from clsspec_serve.choices import Format
from clsspec_serve.errors import UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.outputs import NpzStream, encode, encode_many
from clsspec_serve.predictor import Prediction

GEOMETRY = Geometry(
    image=(40, 60),
    resized=(28, 42),
    crop=(0, 1, 28, 40),
    padding=(0, 1, 0, 1),
    input=(28, 42),
    patch=14,
    grid=(2, 3),
)
MAP = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
PREDICTION = Prediction({"cls": MAP[0, 0], "patches": MAP}, GEOMETRY)
# A view with strides, as a picture of a batch may be.
OTHER = Prediction({"patches": MAP.transpose(1, 0, 2)[::-1]}, GEOMETRY)


def metadata(content: bytes, folder: Path) -> dict[str, str]:
    path = folder / "read.safetensors"
    path.write_bytes(content)
    with safe_open(path, "numpy") as file:
        return dict(file.metadata())


def test_npy_holds_the_only_array() -> None:
    found = np.load(io.BytesIO(encode(OTHER, "npy")), allow_pickle=False)
    np.testing.assert_array_equal(found, OTHER.patches)
    assert found.dtype == np.float32


def test_npy_refuses_two_arrays() -> None:
    with pytest.raises(UsageError, match="one array, not cls, patches; choose one"):
        encode(PREDICTION, "npy")


def test_npz_holds_arrays_and_geometry() -> None:
    with np.load(io.BytesIO(encode(PREDICTION, "npz")), allow_pickle=False) as found:
        assert set(found) == {"cls", "patches", "geometry"}
        np.testing.assert_array_equal(found["cls"], PREDICTION.cls)
        np.testing.assert_array_equal(found["patches"], PREDICTION.patches)
        assert Geometry.from_dict(json.loads(str(found["geometry"]))) == GEOMETRY


def test_safetensors_hold_arrays_and_geometry(tmp_path: Path) -> None:
    content = encode(PREDICTION, "safetensors")
    found = load_safetensors(content)
    assert set(found) == {"cls", "patches"}
    np.testing.assert_array_equal(found["patches"], PREDICTION.patches)
    assert Geometry.from_dict(json.loads(metadata(content, tmp_path)["geometry"])) == GEOMETRY


def test_safetensors_keep_the_order_of_a_view() -> None:
    found = load_safetensors(encode(OTHER, "safetensors"))
    np.testing.assert_array_equal(found["patches"], OTHER.patches)


def test_several_pictures_share_one_npz() -> None:
    content = encode_many({"a.jpg": PREDICTION, "b/ö.jpg": OTHER}, "npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        assert set(found) == {
            *("a.jpg/cls", "a.jpg/patches", "a.jpg/geometry"),
            *("b/ö.jpg/patches", "b/ö.jpg/geometry"),
        }
        np.testing.assert_array_equal(found["b/ö.jpg/patches"], OTHER.patches)
        assert Geometry.from_dict(json.loads(str(found["b/ö.jpg/geometry"]))) == GEOMETRY


def test_several_pictures_share_one_safetensors(tmp_path: Path) -> None:
    content = encode_many({"a.jpg": PREDICTION, "b.jpg": OTHER}, "safetensors")
    assert set(load_safetensors(content)) == {"a.jpg/cls", "a.jpg/patches", "b.jpg/patches"}
    texts = metadata(content, tmp_path)
    assert set(texts) == {"a.jpg/geometry", "b.jpg/geometry"}


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_a_name_that_is_no_utf8_is_written_as_text(form: Format) -> None:
    # What Python makes of a file called b"caf\xe9.jpg".
    content = encode_many({"caf\udce9.jpg": OTHER}, form)
    if form == "npz":
        with np.load(io.BytesIO(content)) as arrays:
            names = set(arrays)
    else:
        names = set(load_safetensors(content))
    assert "caf\\xe9.jpg/patches" in names


def test_several_pictures_do_not_fit_in_one_npy() -> None:
    with pytest.raises(UsageError, match=r"do not fit in one \.npy"):
        encode_many({"a.jpg": OTHER, "b.jpg": OTHER}, "npy")


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_the_same_features_give_the_same_bytes(form: Format) -> None:
    assert encode(PREDICTION, form) == encode(PREDICTION, form)


def test_a_file_written_picture_by_picture_is_that_written_at_once() -> None:
    buffer = io.BytesIO()
    with NpzStream(buffer) as archive:
        archive.add("a.jpg", PREDICTION)
        archive.add("b.jpg", OTHER)
    streamed = np.load(io.BytesIO(buffer.getvalue()), allow_pickle=False)
    at_once = encode_many({"a.jpg": PREDICTION, "b.jpg": OTHER}, "npz")
    whole = np.load(io.BytesIO(at_once), allow_pickle=False)
    assert sorted(streamed) == sorted(whole)
    for name in whole:
        np.testing.assert_array_equal(streamed[name], whole[name])
        assert streamed[name].dtype == whole[name].dtype
