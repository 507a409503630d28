"""The page's files over HTTP, and its arithmetic by itself."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, Visit, chromium, visiting
from http_server import Running, serving
from numpy.typing import NDArray
from pictures import encoded, png
from PIL import Image
from tiny_bundle import write_tiny_bundle

from clsspec_serve import Geometry, load
from clsspec_serve.http.playground.router import PATHS
from clsspec_serve.http.settings import Settings
from clsspec_serve.pictures.alignment import visible
from clsspec_serve.pictures.colormap import colour
from clsspec_serve.pictures.depths import COLORMAP, CONTRAST

MOST = 40_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    with serving([load(bundle, threads=1)]) as running:
        yield running


@pytest.fixture(scope="module")
def visit(server: Running) -> Iterator[Visit]:
    with chromium() as browser, visiting(browser, server.url) as visit:
        yield visit


def call(visit: Visit, module: str, expression: str, argument: Any = None) -> Any:
    """A JavaScript expression of `m`, a module of the page, and `x`, the argument."""
    return visit.page.evaluate(
        f"async (x) => {{ const m = await import('/playground/{module}'); return {expression}; }}",
        argument,
    )


def test_the_page_and_its_files_are_small(server: Running) -> None:
    answers = [server.client.get(path) for path in PATHS]
    assert all(answer.headers["content-encoding"] == "gzip" for answer in answers)
    assert sum(int(answer.headers["content-length"]) for answer in answers) < MOST


def test_a_client_that_cannot_unpack_gets_the_files_as_they_are(server: Running) -> None:
    for path in PATHS:
        plain = server.client.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.text == server.client.get(path).text


def test_nothing_but_the_servers_own_files_may_be_loaded(server: Running) -> None:
    for path in PATHS:
        headers = server.client.get(path).headers
        rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["img-src"] == "blob: data:"
        assert {rules[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
        assert headers["x-content-type-options"] == "nosniff"


def test_files_are_asked_for_again_and_sent_when_they_have_changed(server: Running) -> None:
    for path in PATHS:
        first = server.client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = server.client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = server.client.get(path, headers={"If-None-Match": '"other"'})
        assert other.status_code == 200


@pytest.mark.parametrize(
    "name", ["router.py", "__init__.py", "page.html", "none.js", "..%2fapp.py"]
)
def test_what_is_no_file_of_the_page_is_not_served(server: Running, name: str) -> None:
    assert server.client.get(f"/playground/{name}").status_code == 404


def test_the_page_is_there_without_a_key_and_the_model_is_not(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with serving([load(bundle, threads=1)], settings=Settings(keys=("key",))) as running:
        known = {"Authorization": "Bearer key"}
        unknown = {"Authorization": ""}
        for path in PATHS:
            assert running.client.get(path, headers=unknown).status_code == 200
        assert running.client.get("/model", headers=unknown).status_code == 401
        assert running.client.get("/model", headers=known).json()["name"] == "tiny"


@NEEDS_CHROMIUM
def test_the_browser_refuses_what_is_from_elsewhere(visit: Visit, server: Running) -> None:
    refused = visit.page.evaluate(
        """() => new Promise((resolve) => {
            addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
            document.body.append(Object.assign(new Image(), { src: "http://192.0.2.1/a.png" }));
        })"""
    )
    assert refused == "http://192.0.2.1/a.png"
    visit.requests[:] = [each for each in visit.requests if each != refused]


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("depth", "kind"), [(8, 3), (8, 0), (16, 0)])
@pytest.mark.parametrize("filter", range(5))
def test_pngs_are_read_with_all_their_bits(
    visit: Visit, depth: int, kind: int, filter: int
) -> None:
    random = np.random.default_rng(filter)
    values = random.integers(0, 1 << depth, (7, 11)).astype(">u2" if depth == 16 else "u1")
    rows = b"".join(bytes([filter]) + row for row in filtered(values, filter))
    palette = chunk(b"PLTE", random.bytes(768)) if kind == 3 else b""
    data = png(11, 7, depth, kind, rows, palette)
    found = decoded(visit, data)
    np.testing.assert_array_equal(found, values)


@NEEDS_CHROMIUM
def test_pngs_of_pillow_are_read(visit: Visit) -> None:
    smooth = np.add.outer(np.arange(300), np.arange(400)).astype(np.uint16) * 90
    np.testing.assert_array_equal(decoded(visit, encoded(Image.fromarray(smooth), "PNG")), smooth)


@NEEDS_CHROMIUM
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((90, 61), (56, 42), (0, 0, 56, 42), (0, 0, 0, 0), (56, 42), 14, (4, 3)),
        Geometry((90, 61), (90, 61), (17, 2, 56, 56), (0, 0, 0, 0), (56, 56), 14, (4, 4)),
        Geometry((20, 61), (20, 61), (0, 0, 20, 61), (4, 4, 4, 5), (28, 70), 14, (2, 5)),
        Geometry((20, 61), (20, 61), (-18, 2, 56, 56), (0, 0, 0, 0), (56, 56), 14, (4, 4)),
    ],
    ids=["fit", "crop", "padded", "beyond"],
)
def test_points_lie_in_the_patches_of_the_python_api(visit: Visit, geometry: Geometry) -> None:
    points = [(y, x) for y in np.linspace(-3, 93, 25) for x in np.linspace(-3, 64, 21)]
    places = [[float(y), float(x)] for y, x in points]
    argument = {"geometry": geometry.to_dict(), "places": places}
    expression = "x.places.map(([py, px]) => m.patchAt(x.geometry, py, px))"
    found = call(visit, "patches.js", expression, argument)
    expected = [geometry.image_to_patch(*place) for place in places]
    assert [each and tuple(each) for each in found] == expected
    ranges = call(visit, "patches.js", "[0, 1].map((a) => m.visible(x, a))", geometry.to_dict())
    assert [slice(*each) for each in ranges] == [*visible(geometry)]


@NEEDS_CHROMIUM
def test_patches_without_a_length_are_like_nothing(visit: Visit) -> None:
    patches = {"values": [0, 0, 3, 4, -6, -8], "shape": [1, 3, 2]}
    expression = "[...m.similarity({ ...x, values: new Float32Array(x.values) }, 0, 1)]"
    assert call(visit, "patches.js", expression, patches) == [0, 1, -1]


@NEEDS_CHROMIUM
@pytest.mark.parametrize("most", [1, 3, 65535])
@pytest.mark.parametrize("count", [1, 2, 51, 1000])
def test_percentiles_are_those_of_numpy_over_what_has_a_value(
    visit: Visit, count: int, most: int
) -> None:
    values = np.random.default_rng(count).integers(1, most + 1, count)
    given = [0, *values.tolist(), 0]
    found = call(visit, "paint.js", f"m.percentiles(x, {[*CONTRAST]})", given)
    assert found == pytest.approx(np.percentile(values, CONTRAST).tolist(), rel=1e-12)
    assert call(visit, "paint.js", "m.percentiles(x, [2, 98])", [0, 0]) == [0, 0]


@NEEDS_CHROMIUM
def test_numbers_have_the_colours_of_the_python_api(visit: Visit) -> None:
    values = np.linspace(-0.5, 1.5, 801, dtype=np.float64)
    for low, high in ((0.0, 1.0), (0.25, 0.25)):
        found = visit.page.evaluate(
            """async ([values, low, high]) => {
                const { DEPTH } = await import("/playground/colours.js");
                const { colourOf, levelsOf } = await import("/playground/paint.js");
                const levels = levelsOf(DEPTH);
                return values.map((value) => colourOf(value, low, high, levels));
            }""",
            [values.tolist(), low, high],
        )
        rgba = np.array(found, "<u4").view(np.uint8).reshape(-1, 4)
        np.testing.assert_array_equal(rgba[:, :3], colour(values[None], COLORMAP, low, high)[0])
        assert (rgba[:, 3] == 255).all()


def decoded(visit: Visit, data: bytes) -> NDArray[np.int64]:
    given = base64.b64encode(data).decode()
    found = call(visit, "png.js", "m.decode({ png: x })", given)
    kept = call(visit, "png.js", "[...(await m.decode({ png: x })).values]", given)
    return np.array(kept).reshape(found["shape"])


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + check


def filtered(values: NDArray[Any], filter: int) -> list[bytes]:
    """The rows of a PNG under one filter of its specification, 9.2."""
    step = values.dtype.itemsize
    pixels = values.view(np.uint8).reshape(len(values), -1).astype(int)
    rows = []
    for index, row in enumerate(pixels):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        above = pixels[index - 1] if index else np.zeros_like(row)
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        far = [abs(guess - each) for each in (left, above, corner)]
        paeth = np.select(
            [(far[0] <= far[1]) & (far[0] <= far[2]), far[1] <= far[2]], [left, above], corner
        )
        told = [0 * row, left, above, (left + above) // 2, paeth][filter]
        rows.append(((row - told) % 256).astype(np.uint8).tobytes())
    return rows
