"""A real browser for the page of the server, and what a person does in it."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium; `apt-get install chromium` installs it"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium, without a window."""
    with sync_playwright() as playwright:
        flags = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page, the addresses that it asked for and the errors on its console.

    An address is the server's, or the page's own `blob:` and `data:`.
    """

    page: Page
    context: BrowserContext
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def drop(self, name: str, data: bytes, kind: str = "image/jpeg") -> None:
        """Let a file fall onto the page, and wait for what it says."""
        self.drop_only(name, data, kind)
        self.wait()

    def drop_only(self, name: str, data: bytes, kind: str = "image/jpeg") -> None:
        """Let a file fall onto the page."""
        self.page.evaluate(
            """([name, base64, type]) => {
                const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name, { type }));
                const options = { dataTransfer, bubbles: true, cancelable: true };
                document.querySelector("#intake").dispatchEvent(new DragEvent("drop", options));
            }""",
            [name, base64.b64encode(data).decode(), kind],
        )

    def wait(self) -> None:
        """Until the page works on nothing."""
        self.page.wait_for_selector("body:not(.busy)")

    def shown(self, expression: str) -> Any:
        """A JavaScript expression of `shown`, what the page has of an answer."""
        return self.page.evaluate(
            "async () => { const { shown } = await import('/playground/page.js');"
            f"return {expression}; }}"
        )

    def text(self, selector: str) -> str:
        """What a visible element says."""
        return self.page.inner_text(selector)

    def pixels(self, selector: str) -> NDArray[np.uint8]:
        """A canvas or a picture of the page, `(H, W, 4)`, RGBA."""
        url = self.page.evaluate(
            """async (selector) => {
                const element = document.querySelector(selector);
                if (element instanceof HTMLCanvasElement) return element.toDataURL();
                await element.decode();  // a picture has no size before
                const canvas = document.createElement("canvas");
                canvas.width = element.naturalWidth;
                canvas.height = element.naturalHeight;
                canvas.getContext("2d").drawImage(element, 0, 0);
                return canvas.toDataURL();
            }""",
            selector,
        )
        data = base64.b64decode(url.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))

    def place(self, selector: str, y: float, x: float) -> tuple[float, float]:
        """The window's x, y of shares of an element's height and width."""
        element = self.page.locator(selector)
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def point(self, y: float, x: float, panel: str = "#photograph") -> tuple[int, int]:
        """Point at shares of the photograph's sides; (y, x) of the pixel that the page names."""
        self.page.mouse.move(*self.place(f"{panel} .picture", y, x))
        return self.named()

    def click(self, y: float, x: float, panel: str = "#photograph") -> tuple[int, int]:
        """The same, and click."""
        self.page.mouse.click(*self.place(f"{panel} .picture", y, x))
        return self.named()

    def named(self) -> tuple[int, int]:
        """(y, x) of the pixel that the page speaks of."""
        x, y = self.text("#readout").split(" · ")[0].split(", ")
        return int(y.removeprefix("y ")), int(x.removeprefix("x "))


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """The page at `url`, opened anew; whatever it asks for has to be the server's."""
    opened = browser.new_context(viewport={"width": 1280, "height": 1000}, **context)
    visit = Visit(opened.new_page(), opened)
    visit.page.set_default_timeout(20_000)
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on(
        "console",
        lambda said: visit.errors.append(said.text) if said.type in ("error", "warning") else None,
    )
    try:
        visit.page.goto(url)
        yield visit
    finally:
        opened.close()
    outside = [each for each in visit.requests if not each.startswith((url, "blob:", "data:"))]
    assert not outside, outside
