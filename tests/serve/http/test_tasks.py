"""What the five routes answer, against the same model called from Python."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from http_exchange import WIDE, npz
from http_server import Running, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import Geometry, Layer, Model, load
from clsspec_serve.delivery import Delivery
from clsspec_serve.http.answers import pca_picture
from clsspec_serve.service import Capacity


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    capacity = Capacity(view_patches=10_000, threads=2)
    with serving([load(bundle, threads=1)], capacity) as running:
        yield running


def post(server: Running, path: str, content: bytes = WIDE, **rest: Any) -> httpx.Response:
    answer = server.client.post(path, content=content, **rest)
    assert answer.status_code == 200, answer.text
    return answer


def image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_embed_gives_the_embedding_as_json(server: Running, model: Model) -> None:
    answer = post(server, "/embed")
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    (result,) = body["results"]
    wanted = model(WIDE)
    assert body["model"] == "tiny"
    assert list(result) == ["index", "name", "geometry", "cls"]
    np.testing.assert_array_equal(np.float32(result["cls"]), wanted.cls)
    assert Geometry.from_dict(result["geometry"]) == wanted.geometry


def test_embed_gives_the_embedding_as_npy(server: Running, model: Model) -> None:
    answer = post(server, "/embed?format=npy")
    assert answer.headers["content-type"] == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), model(WIDE).cls)


def test_features_give_both_kinds_with_the_geometry(server: Running, model: Model) -> None:
    answer = post(server, "/features")
    found, wanted = npz(answer), model(WIDE)
    assert sorted(found) == ["cls", "geometry", "patches"]
    np.testing.assert_array_equal(found["cls"], wanted.cls)
    np.testing.assert_array_equal(found["patches"], wanted.patches)
    for text in (str(found["geometry"]), answer.headers["clsspec-geometry"]):
        assert Geometry.from_dict(json.loads(text)) == wanted.geometry


def test_features_as_safetensors_carry_the_geometry_in_the_metadata(
    server: Running, model: Model, tmp_path: Path
) -> None:
    answer = post(server, "/features", headers={"Accept": "application/vnd.safetensors"})
    found = safetensors.numpy.load(answer.content)
    np.testing.assert_array_equal(found["patches"], model(WIDE).patches)
    length = int.from_bytes(answer.content[:8], "little")
    metadata = json.loads(answer.content[8 : 8 + length])["__metadata__"]
    assert Geometry.from_dict(json.loads(metadata["geometry"])) == model(WIDE).geometry


def test_features_as_npy_are_the_patches_unless_something_else_is_asked_for(
    server: Running, model: Model
) -> None:
    answer = post(server, "/features", headers={"Accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), model(WIDE).patches)
    answer = post(server, "/features?format=npy&tasks=cls")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), model(WIDE).cls)


def test_features_as_png_are_the_principal_components_where_they_lie(
    server: Running, model: Model
) -> None:
    wanted = model(WIDE)
    found = np.asarray(image(post(server, "/features?format=png").content))
    assert found.shape == (120, 180, 3)
    np.testing.assert_array_equal(found, pca_picture(wanted.patches, wanted.geometry))


def test_layers_are_chosen_by_the_client(server: Running, model: Model) -> None:
    found = npz(post(server, "/features?layers=0,0:raw"))
    wanted = model(WIDE, layers=(Layer(0, True), Layer(0, False)))
    assert sorted(found) == sorted([*wanted.arrays, "geometry"])
    for name, array in wanted.arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_features_come_pooled_normalized_and_in_half_precision(
    server: Running, model: Model
) -> None:
    query = "/features?pool=2&normalize=true&dtype=float16&size=56x70"
    found = npz(post(server, query))
    wanted = Delivery(2, True, "float16").apply(model(WIDE, size=(56, 70)).arrays)
    assert found["patches"].shape == (2, 3, 4)
    for name, array in wanted.items():
        assert found[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors", "json"])
def test_the_geometry_is_that_of_the_pooled_map(server: Running, model: Model, form: str) -> None:
    answer = post(server, f"/features?tasks=patches&pool=3&format={form}")
    wanted = model(WIDE).geometry.pooled(3)
    assert wanted.patch == 42
    if form == "json":
        found = answer.json()["results"][0]["geometry"]
    else:
        found = json.loads(answer.headers["clsspec-geometry"])
    assert Geometry.from_dict(found) == wanted
    if form == "npz":
        assert json.loads(str(npz(answer)["geometry"])) == found


def test_features_as_json_have_maps_in_base64(server: Running, model: Model) -> None:
    (result,) = post(server, "/features?format=json&dtype=float16&pool=2").json()["results"]
    wanted = Delivery(2, dtype="float16").apply(model(WIDE).arrays)
    patches = result["patches"]
    found = np.frombuffer(base64.b64decode(patches["base64"]), patches["dtype"])
    np.testing.assert_array_equal(found.reshape(patches["shape"]), wanted["patches"])
    assert Geometry.from_dict(result["geometry"]) == model(WIDE).geometry.pooled(2)


def test_segment_gives_an_indexed_png_of_the_pictures_own_size(
    server: Running, model: Model
) -> None:
    answer = post(server, "/segment")
    assert answer.headers["content-type"] == "image/png"
    mask = image(answer.content)
    wanted = model(WIDE, tasks=("segment",))
    assert mask.mode == "P"
    assert mask.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
    np.testing.assert_array_equal(np.asarray(mask), wanted.segment)
    geometry = json.loads(answer.headers["clsspec-geometry"])
    assert Geometry.from_dict(geometry) == wanted.geometry


def test_segment_as_json_has_the_legend(server: Running, model: Model) -> None:
    picture = np.zeros((28, 56, 3), np.uint8)
    picture[:, :14, 0] = picture[:, 14:, 2] = 255
    content = encoded(Image.fromarray(picture), "PNG")
    (result,) = post(server, "/segment?format=json", content).json()["results"]
    ids = np.asarray(image(base64.b64decode(result["segment"]["png"])))
    np.testing.assert_array_equal(ids, model(content, tasks=("segment",)).segment)
    blue, red = result["segment"]["classes"]
    assert (blue["name"], blue["id"], blue["colour"]) == ("blue", 2, [0, 0, 255])
    assert (red["name"], red["id"], red["colour"]) == ("red", 0, [255, 0, 0])
    assert blue["pixels"] == int((ids == 2).sum())
    assert blue["share"] + red["share"] == 1


def test_depth_gives_a_16_bit_png_with_its_scale(server: Running, model: Model) -> None:
    answer = post(server, "/depth")
    png = image(answer.content)
    scale = int(answer.headers["clsspec-depth-scale"])
    assert scale == int(png.info["depth_scale"]) == 1000
    metres = np.asarray(png) / scale
    np.testing.assert_allclose(metres, model(WIDE, tasks=("depth",)).depth, atol=0.5 / scale)


def test_depth_as_npy_is_in_metres(server: Running, model: Model) -> None:
    answer = post(server, "/depth", headers={"Accept": "application/x-npy"})
    found = np.load(io.BytesIO(answer.content))
    np.testing.assert_array_equal(found, model(WIDE, tasks=("depth",)).depth)
    half = np.load(io.BytesIO(post(server, "/depth?format=npy&dtype=float16").content))
    np.testing.assert_array_equal(half, found.astype(np.float16))


def test_depth_as_json_says_how_near_and_far(server: Running, model: Model) -> None:
    (result,) = post(server, "/depth?format=json").json()["results"]
    wanted = model(WIDE, tasks=("depth",)).depth
    found = np.asarray(image(base64.b64decode(result["depth"]["png"])))
    np.testing.assert_allclose(found / result["depth"]["scale"], wanted, atol=0.0005)
    assert result["depth"]["nearest"] == float(wanted.min())
    assert result["depth"]["farthest"] == float(wanted.max())


def test_windows_mirror_images_and_framing_are_the_clients_to_choose(
    server: Running, model: Model
) -> None:
    query = "/depth?format=npy&window=28&stride=14&flip=true&size=42&resize=short"
    found = np.load(io.BytesIO(post(server, query).content))
    wanted = model(
        WIDE, tasks=("depth",), window=28, stride=14, flip=True, size=(42, 42), policy="short"
    )
    np.testing.assert_allclose(found, wanted.depth, rtol=1e-5)


def test_predict_gives_everything_from_one_forward_pass(server: Running, model: Model) -> None:
    found = npz(post(server, "/predict"))
    tasks = ("cls", "patches", "segment", "depth", "classify")
    wanted = model(WIDE, tasks=tasks)
    assert sorted(found) == sorted([*tasks, "geometry"])
    for name, array in wanted.arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_predict_gives_what_is_asked_for(server: Running, model: Model) -> None:
    (result,) = post(server, "/predict?tasks=cls,classify&format=json").json()["results"]
    wanted = model(WIDE, tasks=("cls", "classify"))
    np.testing.assert_array_equal(np.float32(result["cls"]), wanted.cls)
    first, second = result["classify"]
    assert first["logit"] == float(wanted.classify.max())
    assert first["probability"] + second["probability"] == pytest.approx(1)
    assert first["probability"] > second["probability"]
    assert first["name"] == ["dark", "bright"][int(wanted.classify.argmax())]
    assert "patches" not in result


def test_transparency_is_laid_over_the_colour_that_is_asked_for(server: Running) -> None:
    clear = encoded(Image.new("RGBA", (28, 28), (0, 0, 0, 0)), "PNG")
    for colour, name in (("ff0000", "red"), ("00ff00", "green")):
        answer = post(server, f"/segment?format=json&background={colour}", clear).json()
        (only,) = answer["results"][0]["segment"]["classes"]
        assert only["name"] == name


def test_exif_orientation_is_applied(server: Running) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = encoded(PHOTO, "JPEG", exif=tags.tobytes())
    mask = image(post(server, "/segment", turned).content)
    assert mask.size == (120, 180)


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_long_binary_answer_is_hardly_longer_than_its_numbers(
    server: Running, form: str, dtype: str
) -> None:
    query = f"/features?tasks=patches&size=1400&dtype={dtype}&format={form}"
    tensor = 100 * 100 * 4 * np.dtype(dtype).itemsize
    assert tensor > 1 << 16
    assert len(post(server, query).content) <= 1.05 * tensor


@pytest.mark.parametrize(
    ("path", "accept", "media_type"),
    [
        ("/segment", "*/*", "image/png"),
        ("/segment", "image/*", "image/png"),
        ("/segment", "text/html, image/png;q=0.3, application/x-npy;q=0.7", "application/x-npy"),
        ("/segment", "application/*;q=0.5, image/png;q=0.4", "application/x-npy"),
        ("/segment", "*/*;q=0.1, image/png;q=0", "application/x-npy"),
        ("/features", "text/html,application/xhtml+xml,*/*;q=0.8", "application/x-npz"),
        ("/embed", "APPLICATION/JSON", "application/json"),
        ("/predict", "application/vnd.safetensors", "application/vnd.safetensors"),
    ],
)
def test_the_accept_header_chooses(
    server: Running, path: str, accept: str, media_type: str
) -> None:
    answer = post(server, path, headers={"Accept": accept})
    assert answer.headers["content-type"] == media_type


def test_the_format_goes_before_the_header(server: Running) -> None:
    answer = post(server, "/segment?format=npy", headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "application/x-npy"
