"""The client in the documentation gets its answer from a repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from numpy.typing import NDArray
from PIL import Image
from triton_server import TritonServer

from clsspec_export.triton.repository import write_repository
from clsspec_serve.bundle import Bundle
from clsspec_serve.loading import start
from clsspec_serve.models import find_bundle

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "triton.md").read_text(encoding="utf-8")


class Answer:
    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def as_numpy(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


class Client:
    """tritonclient's, whose server is a repository in this process."""

    server: TritonServer

    def __init__(self, url: str) -> None:
        assert url == "127.0.0.1:8000"

    def get_model_config(self, name: str) -> Any:
        parameters = self.server.configs[name].parameters
        texts = {key: {"string_value": each.string_value} for key, each in parameters.items()}
        return {"parameters": texts}

    def infer(self, name: str, inputs: list[Any], outputs: list[Any]) -> Answer:
        (pixels,) = inputs
        assert pixels.datatype() == "UINT8"
        array = np.frombuffer(pixels._get_binary_data(), np.uint8).reshape(pixels.shape())
        found = self.server.infer(name, {pixels.name(): array})
        return Answer({each.name(): found[each.name()] for each in outputs})


def test_it_gets_what_the_bundle_itself_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    embedded = find_bundle(None)
    bundle = Bundle(embedded.path, embedded.manifest.model_copy(update={"name": "dinov2-s"}))
    write_repository(bundle, tmp_path / "models")
    monkeypatch.setattr(Client, "server", TritonServer(tmp_path / "models"), raising=False)
    monkeypatch.setattr(tritonclient.http, "InferenceServerClient", Client)
    picture = ROOT / "examples" / "coffee.jpg"
    Image.open(picture).save(tmp_path / "photo.jpg", quality="keep")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "triton.md", "exec"), names)

    model = start(embedded, engine="onnxruntime")
    # The head's own policy gives each picture another size.
    request = model.request(tasks=("cls", "patches", "segment"), policy="squash")
    prepared = model.prepare(tmp_path / "photo.jpg", request)
    np.testing.assert_array_equal(names["pixels"], prepared.pixels)
    assert names["geometry"] == prepared.geometry
    (expected,) = model.forward(prepared.pixels[None], request)
    np.testing.assert_array_equal(names["classes"], expected["segment"].argmax(axis=-1))
    cls = names["answer"].as_numpy("cls")[0]
    np.testing.assert_allclose(cls, expected["cls"], rtol=0, atol=1e-6 * np.abs(cls).max())


def test_every_kind_of_model_that_is_described_is_written(tmp_path: Path) -> None:
    found = write_repository(find_bundle(None), tmp_path / "models", size=(32, 48))
    names = {model.name.replace("indoor-tiny", "NAME") for model in found.models}
    described = set(re.findall(r"`(NAME\w*)`", PAGE))
    assert names - described == {"NAME_depth_head"}
    assert described - names == {"NAME_classify"}
