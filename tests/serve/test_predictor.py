from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from command_line import pixels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve import Layer, Model, load, loading
from clsspec_serve import predictor as module
from clsspec_serve.bundle import open_bundle
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import BundleError, EngineError, ImageError, UsageError
from clsspec_serve.images import ImageLimits
from clsspec_serve.layers import FEATURES
from clsspec_serve.predictor import batches

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


class Recording:
    """An engine without a graph: the same arithmetic in NumPy, and what it was asked for."""

    name = "recording"
    precision = "fp32"

    def __init__(self) -> None:
        self.runs: list[tuple[dict[str, NDArray[Any]], list[str]]] = []

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        self.runs.append((dict(inputs), list(outputs)))
        values = tiny.features(inputs["pixels"], inputs["position"])
        return {name: values[name] for name in outputs}


def recorded(bundle: Path, engine: Recording) -> Model:
    """A model without heads on that engine."""

    def no_head(task: str) -> Any:
        pytest.fail(f"a head for {task} was loaded")

    return Model(open_bundle(bundle), engine, no_head)  # type: ignore[arg-type]  # a str precision


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def model(tiny_bundle: Path, engine: Recording) -> Model:
    return recorded(tiny_bundle, engine)


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_loaded_bundle_computes_its_graph(tiny_bundle: Path) -> None:
    prediction = load(tiny_bundle)(picture(*tiny.SIZE, 0))
    pixels = np.ones((1, 4, *tiny.SIZE), np.uint8)
    pixels[0, :3] = picture(*tiny.SIZE, 0).transpose(2, 0, 1)
    expected = tiny.features(pixels, tiny.POSITIONS)
    assert list(prediction.arrays) == ["cls", "patches"]
    np.testing.assert_allclose(prediction.cls, expected["cls"][0], rtol=1e-5)
    np.testing.assert_allclose(prediction.patches, expected["patches"][0], rtol=1e-5, atol=1e-5)
    assert (prediction.cls.shape, prediction.patches.shape) == ((4,), (2, 3, 4))
    assert prediction.cls.dtype == prediction.patches.dtype == np.float32


def test_load_takes_the_engine_asked_for(tiny_bundle: Path) -> None:
    assert load(str(tiny_bundle), engine="openvino", threads=1).engine.name == "openvino"
    with pytest.raises(EngineError, match="bf16 needs --engine cuda or openvino"):
        load(tiny_bundle, engine="onnxruntime", precision="bf16")


def test_a_broken_bundle_is_refused_before_the_engine_sees_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_engine", lambda *_, **__: pytest.fail("reached"))
    (tiny_bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.onnx has 5 bytes"):
        load(tiny_bundle)


def test_every_kind_of_picture_gives_the_same_features(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png(PHOTO))
    first = model(PHOTO)
    for source in (path, str(path), png(PHOTO), Image.fromarray(PHOTO)):
        found = model(source)
        np.testing.assert_array_equal(found.cls, first.cls)
        np.testing.assert_array_equal(found.patches, first.patches)
        assert found.geometry == first.geometry


@pytest.mark.parametrize("task", FEATURES)
def test_the_engine_is_asked_for_the_tasks_only(model: Model, engine: Recording, task: Any) -> None:
    prediction = model(PHOTO, tasks=[task])
    assert [outputs for _, outputs in engine.runs] == [[task]]
    assert list(prediction.arrays) == [task]
    (other,) = set(FEATURES) - {task}
    with pytest.raises(UsageError, match=f"^{other} was not asked for; there are {task}$"):
        getattr(prediction, other)


@pytest.mark.parametrize("tasks", [(), ("masks",), ("cls", "masks"), "cls,"])
def test_tasks_that_do_not_exist_are_refused(model: Model, tasks: Any) -> None:
    with pytest.raises(UsageError, match="accepted are cls, patches"):
        model(PHOTO, tasks=tasks)


def test_layers_are_those_asked_for_in_that_order(model: Model, engine: Recording) -> None:
    prediction = model(PHOTO, layers=[Layer(0, False), Layer(1, True)])
    assert engine.runs[0][1] == ["cls_0_raw", "patches_0_raw", "cls", "patches"]
    np.testing.assert_allclose(prediction.arrays["cls_0_raw"], 3 * prediction.cls, rtol=1e-6)


@pytest.mark.parametrize("layer", [Layer(7, True), Layer(1, False)])
def test_an_unknown_layer_names_those_that_exist(model: Model, layer: Layer) -> None:
    with pytest.raises(UsageError, match=rf"^layer {layer} .* it has 1, 0, 0:raw .*--layers"):
        model(PHOTO, layers=[layer])


@settings(max_examples=40, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(10, 50), st.integers(10, 50)), max_size=9),
    batch_size=st.integers(1, 5),
)
def test_predict_keeps_the_order_and_the_numbers(
    tmp_path_factory: pytest.TempPathFactory, sides: list[tuple[int, int]], batch_size: int
) -> None:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    engine = Recording()
    model = recorded(tiny.write_tiny_bundle(folder), engine)
    pictures = [picture(*side, seed) for seed, side in enumerate(sides)]
    # `fit` gives every aspect ratio a grid of its own.
    found = list(model.predict(pictures, policy="fit", batch_size=batch_size))
    assert max((len(inputs["pixels"]) for inputs, _ in engine.runs), default=0) <= batch_size
    assert len(found) == len(pictures)
    for prediction, pixels in zip(found, pictures, strict=True):
        alone = model(pixels, policy="fit")
        assert prediction.geometry == alone.geometry
        np.testing.assert_array_equal(prediction.cls, alone.cls)
        np.testing.assert_array_equal(prediction.patches, alone.patches)


def test_neighbours_of_one_shape_share_a_forward_pass(model: Model, engine: Recording) -> None:
    wide, tall = picture(20, 40, 0), picture(40, 20, 1)
    list(model.predict([wide, wide, wide, tall, tall, wide], policy="fit", batch_size=2))
    assert [len(inputs["pixels"]) for inputs, _ in engine.runs] == [2, 1, 2, 1]


def test_predict_reads_no_further_than_the_batch_at_hand(model: Model) -> None:
    seen: list[int] = []

    def pictures() -> Any:
        for index in range(10):
            seen.append(index)
            yield PHOTO

    next(iter(model.predict(pictures(), batch_size=2)))
    assert len(seen) <= 3


def test_a_batch_size_below_one_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="batch size is 0; accepted are 1 and more"):
        list(model.predict([PHOTO], batch_size=0))
    assert list(batches([], 1)) == []


def test_a_position_map_is_computed_once_per_grid(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = []
    real = module.position_map

    def position_map(position: Any, table: Any, grid: tuple[int, int]) -> Any:
        grids.append(grid)
        return real(position, table, grid)

    monkeypatch.setattr(module, "position_map", position_map)
    for size in ((28, 42), (28, 28), (28, 42), (28, 28)):
        model(PHOTO, size=size)
    assert grids == [(2, 3), (2, 2)]


def test_the_position_map_is_that_of_the_grid(model: Model, engine: Recording) -> None:
    model(PHOTO)
    np.testing.assert_array_equal(engine.runs[0][0]["position"], tiny.POSITIONS)
    model(PHOTO, size=(70, 28))
    assert engine.runs[1][0]["position"].shape == (5, 2, tiny.WIDTH)


def test_size_and_policy_replace_the_bundles_own(model: Model) -> None:
    assert model(PHOTO).geometry.input == tiny.SIZE
    assert model(PHOTO).geometry.crop == (0, 0, *tiny.SIZE)
    resized = model(PHOTO, size=(30, 56))
    assert resized.geometry.resized == (30, 56)
    assert resized.geometry.input == (42, 56)
    assert resized.patches.shape == (3, 4, tiny.WIDTH)
    cropped = model(PHOTO, size=(28, 28), policy="crop").geometry
    assert (cropped.resized, cropped.crop) == ((28, 42), (0, 7, 28, 28))


def test_limits_reach_the_picture(model: Model) -> None:
    with pytest.raises(ImageError, match="accepted are 2399"):
        model.prepare(PHOTO, model.request(limits=ImageLimits(max_pixels=2399)))
    clear = Image.new("RGBA", (42, 28))
    request = model.request(limits=ImageLimits(background=(1, 2, 3)))
    prepared = model.prepare(clear, request)
    assert [prepared.pixels[channel].max() for channel in range(4)] == [1, 2, 3, 1]


@pytest.mark.parametrize("wrong", [{"size": 28}, {"size": (28,)}, {"policy": "center"}])
def test_words_that_mean_no_size_or_policy_are_refused(model: Model, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="accepted are \\(H, W\\) in pixels and squash, crop, fit"):
        model(pixels_of(0), **wrong)


def test_limits_reach_the_reader(model: Model) -> None:
    with pytest.raises(ImageError, match="accepted are 10"):
        model(pixels_of(0), limits=ImageLimits(max_pixels=10))
    with pytest.raises(ImageError, match="accepted are 10"):
        list(model.predict([pixels_of(0)], limits=ImageLimits(max_pixels=10)))


def test_a_task_may_be_given_as_one_word(model: Model) -> None:
    assert list(model(pixels_of(0), tasks="cls").arrays) == ["cls"]


def test_a_refused_picture_leaves_the_others_beside_their_own_features(model: Model) -> None:
    images: list[Any] = [pixels_of(0), b"no image", pixels_of(1), b"", pixels_of(2)]
    refused: list[bytes] = []
    found = list(model.predict_each(images, lambda image, _: refused.append(image), batch_size=2))
    assert refused == [b"no image", b""]
    assert [id(image) for image, _ in found] == [id(images[n]) for n in (0, 2, 4)]
    for image, prediction in found:
        np.testing.assert_array_equal(prediction.patches, model(image).patches)
    with pytest.raises(ImageError, match="image bytes: is not an image"):
        list(model.predict(images))


def test_a_strip_is_not_shown_at_once_by_its_short_side(model: Model) -> None:
    longest, longer = picture(2, 32, 0), picture(2, 33, 0)
    assert model(longest, policy="short", size=(14, 14)).geometry.input == (14, 224)
    message = "^a picture of 2x33 is too elongated .* at most 16 times; accepted are windows, or"
    with pytest.raises(ImageError, match=message):
        model(longer, policy="short", size=(14, 14))
    assert model(longer, policy="fit", size=(14, 14)).patches.shape[0] == 1
