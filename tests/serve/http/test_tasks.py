from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from http_server import Running, colour_bundle, serving
from PIL import Image

from clsspec_serve import load


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")
    with serving([load(bundle, threads=1)]) as running:
        yield running


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_mask(server: Running) -> None:
    picture = np.zeros((28, 56, 3), np.uint8)
    picture[:, :28, 0] = 255
    picture[:, 28:, 2] = 255
    answer = server.client.post("/segment", content=png(picture))
    assert answer.status_code == 200, answer.text
    mask = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert mask.shape == (28, 56)
