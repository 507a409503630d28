"""The page at `/docs`, in a browser that reaches nothing but the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NEEDS_CHROMIUM, Visit, visiting
from http_server import Running, colour_bundle, serving
from playwright.sync_api import Browser

from clsspec_serve import load
from clsspec_serve.http.settings import Settings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture(scope="module")
def keyed(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=Settings(keys=("secret",))) as running:
        yield running


def routes(visit: Visit) -> set[str]:
    visit.page.wait_for_selector(".opblock")
    return set(visit.page.locator(".opblock-summary-path").all_inner_texts())


@NEEDS_CHROMIUM
def test_the_page_shows_every_route_without_anything_from_outside(
    bundle: Path, browser: Browser
) -> None:
    with (
        serving([load(bundle, threads=1)]) as server,
        visiting(browser, server.url) as visit,
    ):
        visit.page.goto(f"{server.url}/docs")
        shown = {path.replace("\u200b", "") for path in routes(visit)}
        assert shown == set(server.client.get("/openapi.json").json()["paths"])
        assert {"/embed", "/segment", "/v1/embeddings"} <= shown
        assert visit.page.locator("button.authorize").count() == 0
        assert visit.errors == []


@NEEDS_CHROMIUM
def test_the_page_sends_the_key_that_it_was_given(keyed: Running, browser: Browser) -> None:
    with visiting(browser, keyed.url) as visit:
        page = visit.page
        page.goto(f"{keyed.url}/docs")
        routes(visit)
        page.click("button.authorize")
        page.fill("#auth-bearer-value", "secret")
        page.click(".auth-container:has(#auth-bearer-value) button[type=submit]")
        page.click("button.btn-done")
        page.click(".opblock-summary-path[data-path='/model']")
        page.click("button.try-out__btn")
        with page.expect_response(f"{keyed.url}/model") as answer:
            page.click("button.execute")
        assert answer.value.status == 200


def test_the_document_says_which_keys_are_taken(keyed: Running) -> None:
    document = keyed.client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert document["security"] == [{name: []} for name in schemes]
    assert {(each["type"], each.get("name", each.get("scheme"))) for each in schemes.values()} == {
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    }


def test_the_document_names_neither_the_model_nor_its_classes(keyed: Running) -> None:
    text = keyed.client.get("/openapi.json").text
    assert keyed.client.get("/model").json()["name"] not in text
