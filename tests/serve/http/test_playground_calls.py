"""The calls that the page offers give what the page shows."""

from __future__ import annotations

import base64
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, Visit, visiting
from head_bundle import depth_head, nearest_colour_head, write_head_bundle
from http_server import COLOURS, Running, serving
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser

from clsspec_serve import load
from clsspec_serve.heads import Protocol
from clsspec_serve.http.settings import Settings

pytestmark = NEEDS_CHROMIUM

ROOM = Path(__file__).parents[3] / "examples" / "waiting-room.jpg"
NAME = "it's a room.jpg"
KEY = "only-for-tests"


@pytest.fixture(scope="module")
def indoor() -> Iterator[Running]:
    with serving([load(threads=1)]) as running:
        yield running


@pytest.fixture(scope="module")
def room(browser: Browser, indoor: Running) -> Iterator[Visit]:
    permissions = ["clipboard-read", "clipboard-write"]
    with visiting(browser, indoor.url, permissions=permissions) as visit:
        visit.drop(NAME, ROOM.read_bytes())
        visit.click(0.78, 0.65)
        yield visit
        assert visit.errors == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the calls are run; the photograph is there."""
    (tmp_path / NAME).write_bytes(ROOM.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("CLSSPEC_API_KEY", KEY)
    return tmp_path


def call(visit: Visit, title: str, language: str) -> str:
    """What the button copies."""
    visit.page.locator("#what").get_by_text(title, exact=True).click()
    visit.page.locator("#how").get_by_text(language).click()
    visit.page.click("#copy")
    visit.page.wait_for_selector("#copy:text('Copied')")
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied == visit.page.text_content("#code")
    return str(copied)


def run_shell(command: str) -> None:
    """In a POSIX shell, where curl is."""
    quiet = command.replace("curl ", "curl --silent --show-error --fail ", 1)
    subprocess.run(["/bin/sh", "-c", quiet], check=True)


def run_python(code: str) -> dict[str, Any]:
    """The names that it has made."""
    names: dict[str, Any] = {}
    exec(compile(code, "the call", "exec"), names)
    return names


def shown_array(visit: Visit, name: str) -> NDArray[Any]:
    """`patches`, `ids` or `depth` as the page has them."""
    kind, shape, url = visit.shown(
        f"""new Promise((resolve) => {{
            const {{ values, shape }} = shown.{name};
            const reader = new FileReader();
            reader.onload = () => resolve([values.constructor.name, shape, reader.result]);
            reader.readAsDataURL(new Blob([values]));
        }})"""
    )
    dtype = np.dtype(kind.removesuffix("Array").lower())
    return np.frombuffer(base64.b64decode(url.partition(",")[2]), dtype).reshape(shape)


def millimetres(metres: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.rint(metres.astype(np.float64) * 1000)


def shown_png(visit: Visit, task: str) -> bytes:
    return base64.b64decode(visit.shown(f"shown.result.{task}.png"))


def test_there_is_a_call_for_each_panel_and_one_for_everything(room: Visit) -> None:
    titles = room.text("#what").split()
    assert titles == ["Everything", "Patches", "Similarity", "Mask", "Depth"]


def test_a_call_is_short(room: Visit, indoor: Running) -> None:
    url = f"'{indoor.url}/segment?resize=fit' --output mask.png"
    assert call(room, "Mask", "curl") == f"curl --data-binary '@it'\\''s a room.jpg' \\\n  {url}"


@pytest.mark.parametrize("task", ["segment", "depth"])
def test_curl_writes_the_very_file_that_the_page_shows(
    room: Visit, folder: Path, task: str
) -> None:
    title = {"segment": "Mask", "depth": "Depth"}[task]
    run_shell(call(room, title, "curl"))
    assert (folder / f"{title.lower()}.png").read_bytes() == shown_png(room, task)


def test_curl_writes_the_picture_of_the_patches(room: Visit, folder: Path) -> None:
    run_shell(call(room, "Patches", "curl"))
    written = np.asarray(Image.open(folder / "pca.png").convert("RGBA"))
    np.testing.assert_array_equal(written, room.pixels("#pca .map"))


def test_curl_writes_the_patches_that_are_compared(room: Visit, folder: Path) -> None:
    run_shell(call(room, "Similarity", "curl"))
    np.testing.assert_array_equal(np.load(folder / "patches.npy"), shown_array(room, "patches"))


def test_curl_writes_everything(room: Visit, folder: Path) -> None:
    run_shell(call(room, "Everything", "curl"))
    with np.load(folder / "answer.npz") as found:
        np.testing.assert_array_equal(found["patches"], shown_array(room, "patches"))
        np.testing.assert_array_equal(found["segment"], shown_array(room, "ids"))
        np.testing.assert_array_equal(millimetres(found["depth"]), shown_array(room, "depth"))


def test_python_has_what_the_page_shows(room: Visit, folder: Path) -> None:
    found = run_python(call(room, "Everything", "Python"))
    ids, depth = shown_array(room, "ids"), shown_array(room, "depth")
    np.testing.assert_array_equal(found["patches"], shown_array(room, "patches"))
    np.testing.assert_array_equal(found["mask"], ids)
    np.testing.assert_array_equal(millimetres(found["depth"]), depth)
    found["found"].close()

    np.testing.assert_array_equal(run_python(call(room, "Mask", "Python"))["mask"], ids)
    metres = run_python(call(room, "Depth", "Python"))["depth"]
    np.testing.assert_array_equal(millimetres(metres), depth)
    run_python(call(room, "Patches", "Python"))
    written = np.asarray(Image.open(folder / "pca.png").convert("RGBA"))
    np.testing.assert_array_equal(written, room.pixels("#pca .map"))


def test_python_compares_the_patch_that_was_clicked(room: Visit, folder: Path) -> None:
    for place in ((0.2, 0.3), (0.9, 0.8)):
        room.click(*place)
        cosines = run_python(call(room, "Similarity", "Python"))["similarity"]
        shown = np.array(room.shown("[...shown.cosines]")).reshape(cosines.shape)
        np.testing.assert_allclose(cosines, shown, atol=1e-5)


def test_the_choice_stays_when_another_photograph_comes(room: Visit) -> None:
    before = call(room, "Depth", "Python")
    room.drop(NAME, ROOM.read_bytes())
    assert room.page.text_content("#code") == before


def test_heads_with_protocols_of_their_own_are_asked_for_what_all_tasks_see(
    browser: Browser, folder: Path
) -> None:
    framed = Protocol(size=(56, 56), policy="squash", window=28, stride=14, flip=True)
    other = Protocol(size=(28, 28), policy="crop", flip=True)
    bundle = write_head_bundle(
        folder / "protocols",
        [nearest_colour_head(COLOURS, framed), depth_head([1 / 50, 0, 0, 0], protocol=other)],
    )
    room = ROOM.read_bytes()
    with serving([load(bundle, threads=1)]) as running, visiting(browser, running.url) as visit:
        visit.drop(NAME, room)
        for title in ("Mask", "Depth", "Similarity", "Patches"):
            visit.page.locator("#what").get_by_text(title).click()
            run_shell(visit.page.text_content("#code") or "")
        for task, name in (("segment", "mask.png"), ("depth", "depth.png")):
            assert (folder / name).read_bytes() == shown_png(visit, task)
            alone = running.client.post(f"/{task}?resize=fit", content=room)
            assert alone.content != shown_png(visit, task), "what the call says makes no difference"
        np.testing.assert_array_equal(
            np.load(folder / "patches.npy"), shown_array(visit, "patches")
        )
        written = np.asarray(Image.open(folder / "pca.png").convert("RGBA"))
        np.testing.assert_array_equal(written, visit.pixels("#pca .map"))
        assert len(np.unique(written.reshape(-1, 4), axis=0)) == visit.shown("shown.cosines.length")
        assert visit.errors == []


def test_what_would_be_resampled_otherwise_has_no_call_of_its_own(
    browser: Browser, tmp_path: Path
) -> None:
    nearest = Protocol(size=(28, 28), policy="squash", interpolation="nearest")
    heads = [nearest_colour_head(COLOURS), depth_head([1 / 50, 0, 0, 0], protocol=nearest)]
    bundle = write_head_bundle(tmp_path / "nearest", heads)
    with serving([load(bundle, threads=1)]) as running, visiting(browser, running.url) as visit:
        visit.drop(NAME, ROOM.read_bytes())
        titles = visit.text("#what").split()
        assert "Mask" in titles
        assert "Depth" not in titles


def test_a_key_is_named_and_not_shown(browser: Browser, folder: Path) -> None:
    bundle = write_head_bundle(folder / "keyed", [nearest_colour_head(COLOURS)])
    settings = Settings(keys=(KEY,))
    with (
        serving([load(bundle, threads=1)], settings=settings) as running,
        visiting(browser, running.url) as visit,
    ):
        visit.page.fill("#key", KEY)
        visit.page.press("#key", "Enter")
        visit.page.wait_for_selector("#model:not(:empty)")
        visit.drop(NAME, ROOM.read_bytes())
        visit.page.click("#what >> text=Mask")
        command = visit.page.text_content("#code") or ""
        assert "$CLSSPEC_API_KEY" in command
        run_shell(command)
        assert (folder / "mask.png").read_bytes() == shown_png(visit, "segment")
        visit.page.click("#how >> text=Python")
        code = visit.page.text_content("#code") or ""
        np.testing.assert_array_equal(run_python(code)["mask"], shown_array(visit, "ids"))
        assert KEY not in command + code
        assert os.environ["CLSSPEC_API_KEY"] == KEY


def test_without_a_clipboard_the_call_is_selected(browser: Browser, indoor: Running) -> None:
    with visiting(browser, indoor.url) as visit:
        # Browsers have none where the address is neither https nor this machine.
        visit.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, "PNG")
        visit.drop("black.png", file.getvalue(), "image/png")
        visit.page.click("#copy")
        visit.page.wait_for_selector("#copy:text('Copied')")
        selected = visit.page.evaluate("getSelection().toString()")
        assert selected == visit.page.text_content("#code")
        assert visit.errors == []
