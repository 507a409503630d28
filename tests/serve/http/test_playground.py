"""The page at `/` in a browser: what it shows is what the Python API gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, Visit, visiting
from head_bundle import write_head_bundle
from http_server import Running, serving
from PIL import Image
from playwright.sync_api import Browser
from quarters import figures, png, quarters

from clsspec_serve import Model, Prediction, load
from clsspec_serve.heads import SegmentationHead
from clsspec_serve.layers import require_head
from clsspec_serve.pictures.alignment import enlarge
from clsspec_serve.pictures.colormap import colour
from clsspec_serve.pictures.depths import colour_depth
from clsspec_serve.pictures.look import SIMILARITY_COLORMAP
from clsspec_serve.pictures.masks import areas, palette
from clsspec_serve.pictures.similarity import similarity

pytestmark = NEEDS_CHROMIUM

ROOM = Path(__file__).parents[3] / "examples" / "waiting-room.jpg"


@pytest.fixture(scope="module")
def model() -> Model:
    return load(threads=1)


@pytest.fixture(scope="module")
def indoor(model: Model) -> Iterator[Running]:
    with serving([model]) as running:
        yield running


@pytest.fixture(scope="module")
def found(model: Model) -> Prediction:
    return model(ROOM, tasks=("patches", "segment", "depth"), policy="fit")


@pytest.fixture(scope="module")
def room(browser: Browser, indoor: Running) -> Iterator[Visit]:
    """The waiting room, dropped; tests move the pointer and click."""
    with visiting(browser, indoor.url) as visit:
        visit.drop(ROOM.name, ROOM.read_bytes())
        yield visit
        assert visit.errors == []


def test_a_dropped_photograph_shows_a_panel_for_all_that_the_model_has(room: Visit) -> None:
    assert figures(room) == ["photograph", "pca", "similarity", "segment", "depth"]
    assert room.text("#size") == "640 \u00d7 480"
    assert room.text("#model").startswith("indoor-tiny")
    for part in ("waiting-room.jpg", "decode", "model", "encode", "ms"):
        assert part in room.text("#status")


def test_the_patches_are_the_servers_own_picture(room: Visit, indoor: Running) -> None:
    query = {"resize": "fit", "format": "png"}
    answer = indoor.client.post("/features", params=query, content=ROOM.read_bytes())
    expected = Image.open(io.BytesIO(answer.content)).convert("RGBA")
    np.testing.assert_array_equal(room.pixels("#pca .map"), np.asarray(expected))


def test_the_legend_has_the_classes_and_shares_of_the_python_api(
    room: Visit, model: Model, found: Prediction
) -> None:
    classes = require_head(model.manifest.heads, SegmentationHead).classes
    of_name = {each.name: each.colour for each in classes}
    expected = areas(found.segment, classes)
    entries = room.page.locator("#segment li").all()
    texts = [entry.inner_text().split("\n") for entry in entries]
    assert texts == [[area.name, f"{100 * area.share:.1f} %"] for area in expected]
    shares = [float(entry.locator("data").get_attribute("value") or "") for entry in entries]
    assert shares == [area.share for area in expected]
    swatches = [
        entry.locator("i").evaluate("(swatch) => getComputedStyle(swatch).backgroundColor")
        for entry in entries
    ]
    assert swatches == [f"rgb{of_name[area.name]}" for area in expected]


def test_the_mask_is_painted_in_the_colours_of_the_classes(
    room: Visit, model: Model, found: Prediction
) -> None:
    classes = require_head(model.manifest.heads, SegmentationHead).classes
    painted = room.pixels("#segment .map")
    np.testing.assert_array_equal(painted[..., :3], palette(classes, np.uint8)[found.segment])
    assert (painted[..., 3] == 255).all()


def test_a_class_is_shown_alone_and_with_all_others_again(
    room: Visit, model: Model, found: Prediction
) -> None:
    floor = room.page.get_by_role("button", name="floor")
    names = [each.name for each in require_head(model.manifest.heads, SegmentationHead).classes]
    floor.click()
    assert floor.get_attribute("aria-pressed") == "true"
    alone = room.pixels("#segment .map")[..., 3] > 0
    np.testing.assert_array_equal(alone, found.segment == names.index("floor"))
    floor.click()
    assert (room.pixels("#segment .map")[..., 3] == 255).all()


@pytest.mark.parametrize("panel", ["#photograph", "#depth"])
@pytest.mark.parametrize(("y", "x"), [(0.02, 0.01), (0.5, 0.5), (0.78, 0.65), (0.99, 0.99)])
def test_a_click_compares_the_patch_there_with_all_others(
    room: Visit, found: Prediction, panel: str, y: float, x: float
) -> None:
    pixel = room.click(y, x, panel)
    assert pixel == (pytest.approx(480 * y, abs=3), pytest.approx(640 * x, abs=3))
    patch = found.geometry.image_to_patch(pixel[0] + 0.5, pixel[1] + 0.5)
    assert patch is not None
    expected = similarity(found.patches, *patch)
    cosines = np.array(room.shown("[...shown.cosines]"), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(cosines, expected, rtol=0, atol=1e-6)
    assert room.shown("shown.point.patch") == list(patch)

    low, high = float(expected.min()), float(expected.max())
    assert room.text("#similarity .scale").split() == [f"{low:.2f}", f"{high:.2f}"]
    coloured = colour(expected, SIMILARITY_COLORMAP, low, high)
    black = np.zeros((480, 640, 3), np.uint8)
    painted = room.pixels("#similarity .map")[..., :3]
    np.testing.assert_array_equal(painted, enlarge(coloured, found.geometry, black))


def test_under_the_pointer_are_the_class_the_metres_and_the_cosine(
    room: Visit, model: Model, found: Prediction
) -> None:
    names = [each.name for each in require_head(model.manifest.heads, SegmentationHead).classes]
    chosen = found.geometry.image_to_patch(*room.click(0.8, 0.3))
    assert chosen is not None
    cosines = similarity(found.patches, *chosen)
    seen = set()
    for y in np.linspace(0.03, 0.97, 7):
        for panel, x in (("#photograph", 0.1), ("#pca", 0.45), ("#depth", 0.6), ("#segment", 0.9)):
            pixel = room.point(float(y), x, panel)
            name, metres, cosine = room.text("#readout").split(" · ")[1:]
            assert name == names[found.segment[pixel]]
            assert metres == f"{round(float(found.depth[pixel]), 3):.3f} m"
            patch = found.geometry.image_to_patch(pixel[0] + 0.5, pixel[1] + 0.5)
            assert float(cosine.removeprefix("cosine ")) == pytest.approx(cosines[patch], abs=6e-4)
            seen.add(name)
    assert len(seen) > 3


def test_depth_has_its_colours_and_its_range_in_metres(room: Visit, found: Prediction) -> None:
    painted = room.pixels("#depth .map")[..., :3].astype(int)
    # Whole millimetres move a colour by one level of 256 at most.
    assert np.abs(painted - colour_depth(found.depth)).max() <= 8
    low, high = np.percentile(found.depth, (2, 98))
    assert room.text("#depth .scale").split("\n") == [f"{low:.2f} m", f"{high:.2f} m"]
    nearest, farthest = found.depth.min(), found.depth.max()
    assert room.text("#depth .note").startswith(f"{nearest:.2f} to {farthest:.2f} m")


def test_arrow_keys_move_the_point_by_a_patch_and_with_shift_by_a_pixel(
    room: Visit, found: Prediction
) -> None:
    y, x = room.click(0.5, 0.5)
    row, column = room.shown("shown.point.patch")
    room.page.mouse.move(0, 0)
    room.page.focus("#photograph .picture")
    for key in ("ArrowRight", "ArrowDown"):
        room.page.keyboard.press(key)
    assert room.shown("shown.point.patch") == [row + 1, column + 1]
    assert room.text("#spoken") == room.text("#readout")
    for key in ("ArrowLeft", "ArrowUp"):
        room.page.keyboard.press(key)
    assert room.named() == (pytest.approx(y, abs=1), pytest.approx(x, abs=1))
    y, x = room.named()
    room.page.keyboard.press("Shift+ArrowLeft")
    assert room.named() == (y, x - 1)
    for _ in range(found.geometry.grid[0]):
        room.page.keyboard.press("ArrowUp")
    assert room.named() == (0, x - 1)


def test_the_opacity_of_a_map_is_a_slider(room: Visit) -> None:
    slider = room.page.locator("#segment").get_by_label("Opacity")
    assert slider.input_value() == "55"
    slider.fill("20")
    opacity = room.page.locator("#segment .map").evaluate("(map) => map.style.opacity")
    assert float(opacity) == 0.2


def test_classes_of_the_whole_picture_are_listed_with_their_probability(
    browser: Browser, colours: Running
) -> None:
    data = png(quarters())
    answer = colours.client.post("/predict?resize=fit&format=json", content=data).json()
    expected = answer["results"][0]["classify"]
    with visiting(browser, colours.url) as visit:
        visit.drop("quarters.png", data)
        assert figures(visit)[-1] == "classify"
        entries = visit.page.locator("#classify li").all()
        assert [entry.inner_text().split()[0] for entry in entries] == ["dark", "bright"]
        values = [float(entry.locator("data").get_attribute("value") or "") for entry in entries]
        assert values == [each["probability"] for each in expected]
        assert visit.errors == []


def test_heads_that_the_model_lacks_have_no_panel(browser: Browser, tmp_path: Path) -> None:
    bundle = write_head_bundle(tmp_path / "bare")
    with (
        serving([load(bundle, threads=1)]) as running,
        visiting(browser, running.url) as visit,
    ):
        visit.drop("quarters.png", png(quarters()))
        assert figures(visit) == ["photograph", "pca", "similarity"]
        assert visit.text("#readout").endswith("cosine 1.000")
        assert visit.text("#what").split() == ["Everything", "Patches", "Similarity"]
        assert visit.errors == []
