"""How photographs come to the page at `/`, and what it says where no answer comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from browser import NEEDS_CHROMIUM, visiting
from http_server import COLOURS, Running, colour_bundle, serving
from pictures import encoded, exif
from PIL import Image, ImageOps
from playwright.sync_api import Browser, Route
from quarters import figures, png, quarters

from clsspec_serve import Geometry, load
from clsspec_serve.http.settings import Settings

pytestmark = NEEDS_CHROMIUM


def test_a_file_may_be_chosen_or_pasted(browser: Browser, colours: Running) -> None:
    data = png(quarters())
    with visiting(browser, colours.url) as visit:
        visit.page.set_input_files("#file", {"name": "a.png", "mimeType": "", "buffer": data})
        visit.page.wait_for_selector("body.seen:not(.busy)")
        assert visit.text("#status").startswith("a.png")
        visit.page.evaluate(
            """async () => {
                const blob = await new Promise((done) => {
                    const canvas = document.createElement("canvas");
                    canvas.width = canvas.height = 28;
                    canvas.toBlob(done);
                });
                const clipboardData = new DataTransfer();
                clipboardData.items.add(new File([blob], "pasted.png"));
                document.body.dispatchEvent(
                    new ClipboardEvent("paste", { clipboardData, bubbles: true }),
                );
            }"""
        )
        visit.wait()
        assert visit.text("#status").startswith("pasted.png")
        assert visit.text("#size") == "28 \u00d7 28"
        assert visit.errors == []


def test_a_photograph_that_a_camera_marked_as_turned_is_upright(
    browser: Browser, colours: Running
) -> None:
    with visiting(browser, colours.url) as visit:
        for orientation in range(1, 9):
            image = Image.fromarray(quarters())
            data = encoded(image, "JPEG", quality=95, subsampling=0, exif=exif(orientation))
            image.getexif()[0x0112] = orientation
            upright = np.asarray(ImageOps.exif_transpose(image))
            visit.drop(f"turned-{orientation}.jpg", data)
            browser_shows = visit.pixels("#photograph .photo")
            assert browser_shows.shape[:2] == upright.shape[:2]
            for y, x in ((0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)):
                pixel = visit.click(y, x)
                assert np.abs(browser_shows[pixel][:3].astype(int) - upright[pixel]).max() < 60
                name = visit.text("#readout").split(" · ")[1]
                assert COLOURS[name] == tuple(upright[pixel]), orientation
                geometry = Geometry.from_dict(visit.shown("shown.result.geometry"))
                patch = geometry.image_to_patch(pixel[0] + 0.5, pixel[1] + 0.5)
                assert tuple(visit.shown("shown.point.patch")) == patch
        assert visit.errors == []


def test_what_the_browser_cannot_show_as_the_server_reads_it_has_no_photograph(
    browser: Browser, colours: Running
) -> None:
    image = Image.fromarray(quarters())
    # Chromium reads no TIFF, and does not turn WebP.
    files = [encoded(image, "TIFF"), encoded(image, "WEBP", lossless=True, exif=exif(6))]
    with visiting(browser, colours.url) as visit:
        for data, (y, x) in zip(files, [(0.2, 0.8), (0.8, 0.8)], strict=True):
            visit.drop("quarters", data)
            visit.page.wait_for_selector("#results.blind")
            assert not visit.page.is_visible("#photograph .photo")
            visit.click(y, x, "#segment")
            assert visit.text("#readout").split(" · ")[1] == "green"
            visit.drop("quarters.png", png(quarters()))
            visit.page.wait_for_selector("#results:not(.blind)")
        assert visit.errors == []


def test_a_text_file_shows_the_servers_one_line(browser: Browser, colours: Running) -> None:
    expected = colours.client.post("/predict", content=b"hello").json()["error"]["message"]
    with visiting(browser, colours.url) as visit:
        visit.drop("hello.txt", b"hello", "text/plain")
        assert visit.text("#problem") == expected
        assert figures(visit) == []
        visit.drop("quarters.png", png(quarters()))
        assert not visit.page.is_visible("#problem")
        visit.drop("hello.txt", b"hello", "text/plain")
        assert visit.text("#problem") == expected
        assert visit.text("#status").startswith("quarters.png")
        # The browser's own notes of the answers; nothing of the page's.
        assert {error.partition(":")[0] for error in visit.errors} == {"Failed to load resource"}


def test_a_server_that_is_gone_is_told_in_a_line(browser: Browser, colours: Running) -> None:
    with visiting(browser, colours.url) as visit:
        visit.page.wait_for_selector("#model:not(:empty)")
        visit.page.route("**/predict*", lambda route: route.abort())
        visit.drop("quarters.png", png(quarters()))
        assert "the server could not be reached" in visit.text("#problem")


def test_of_two_photographs_the_later_one_is_shown(browser: Browser, colours: Running) -> None:
    held: list[Route] = []
    with visiting(browser, colours.url) as visit:
        visit.page.route("**/predict*", lambda route: held.append(route))
        visit.drop_only("first.png", png(quarters()))
        while not held:
            visit.page.wait_for_timeout(20)
        visit.page.unroute("**/predict*")
        visit.drop("second.png", png(quarters()[:28]))
        assert visit.text("#status").startswith("second.png")
        assert visit.text("#size") == "84 \u00d7 28"
        assert visit.errors == []


def test_where_the_server_asks_for_a_key_the_page_does(browser: Browser, tmp_path: Path) -> None:
    settings = Settings(keys=("open-sesame",))
    bundle = colour_bundle(tmp_path / "colours")
    with (
        serving([load(bundle, threads=1)], settings=settings) as running,
        visiting(browser, running.url) as visit,
    ):
        page = visit.page
        for key, refused in (("wrong", False), (settings.keys[0], True)):
            page.wait_for_selector("dialog[open]")
            assert page.is_visible("#key-problem") == refused
            page.fill("#key", key)
            page.press("#key", "Enter")
        page.wait_for_selector("#model:not(:empty)")
        assert not page.is_visible("dialog")
        visit.drop("quarters.png", png(quarters()))
        assert "segment" in figures(visit)

        page.reload()
        page.wait_for_selector("#model:not(:empty)")
        visit.drop("quarters.png", png(quarters()))
        assert "segment" in figures(visit)
        page.click("#change-key")
        assert not page.is_visible("#key-problem")
        page.click("text=Cancel")
        visit.drop("quarters.png", png(quarters()))
        assert "segment" in figures(visit)
