from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny_bundle as tiny
from standins.backbones import Exported

from clsspec_export.audit import execute
from clsspec_serve.bench import asked as module
from clsspec_serve.bench.asked import Case, cases, runners
from clsspec_serve.engines import select
from clsspec_serve.errors import EngineError, ImageError, UsageError

MANIFEST = tiny.tiny_manifest()
ORT = ("onnxruntime", "fp32")


@pytest.mark.parametrize(
    ("sizes", "batches", "expected"),
    [
        ([], [1], [Case((28, 42), 1)]),
        ([(28, 28)], [8, 1], [Case((28, 28), 8), Case((28, 28), 1)]),
        ([(20, 43)], [1], [Case((28, 56), 1)]),
        ([(14, 14), (28, 28)], [1], [Case((14, 14), 1), Case((28, 28), 1)]),
        ([(14, 14), (13, 14)], [2, 2], [Case((14, 14), 2)]),
    ],
    ids=["the model's own", "batches in order", "whole patches", "sizes in order", "once each"],
)
def test_every_size_with_every_batch(
    sizes: list[tuple[int, int]], batches: list[int], expected: list[Case]
) -> None:
    assert cases(tiny.tiny_manifest(), sizes, batches) == expected


@pytest.mark.parametrize(
    ("sizes", "batch", "message"),
    [
        ([], 0, "a batch of 0 inputs of 28x42; accepted are 1 and more, up to 89,478,485 pixels"),
        ([(1400, 1400)], 50, "a batch of 50 inputs of 1400x1400; accepted are 1 and more, up to"),
        ([(0, 14)], 1, r"size is \(0, 14\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    sizes: list[tuple[int, int]], batch: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        cases(tiny.tiny_manifest(), sizes, [batch])


def test_a_size_beyond_all_pictures_is_refused() -> None:
    with pytest.raises(ImageError):
        cases(tiny.tiny_manifest(), [(100_000, 100_000)], [1])


@pytest.mark.parametrize(
    "family", ["plain", "specialized", "registers with patch", "swiglu", "rotary", "attention bias"]
)
@pytest.mark.parametrize("grid", [(4, 5), (2, 7)])
def test_the_operations_of_a_picture_are_those_that_its_graph_executes(
    family: str, grid: tuple[int, int], exported: Callable[[str], Exported]
) -> None:
    item = exported(family)
    height, width = (n * item.architecture.patch_size for n in grid)
    executed = execute(item.graph, item.architecture, 3, grid).macs
    executed -= 3 * grid[0] * grid[1] * item.architecture.patch_size**2 * 72  # the coverage
    gflop = Case((height, width), 3).gflop(item.architecture)
    assert gflop == pytest.approx(2 * executed / 3 / 1e9, rel=1e-12)


def test_the_rows_of_the_products_are_the_tokens_of_the_batch() -> None:
    architecture = tiny.tiny_manifest().architecture.model_copy(update={"registers": 4})
    assert Case((28, 42), 3).rows(architecture) == 3 * (1 + 4 + 2 * 3)


def test_every_installed_engine_at_every_precision_unless_one_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "installed_engines", lambda: ["onnxruntime", "openvino"])
    assert runners(MANIFEST, None, None) == [ORT, ("openvino", "fp32"), ("openvino", "bf16")]
    assert runners(MANIFEST, None, "bf16") == [("openvino", "bf16")]
    assert runners(MANIFEST, "openvino", None) == [("openvino", "fp32"), ("openvino", "bf16")]
    assert runners(MANIFEST, "openvino", "fp32") == [("openvino", "fp32")]


def test_auto_is_the_engine_that_other_commands_would_take() -> None:
    assert runners(MANIFEST, "auto", "bf16") == [(select.choose_engine("auto", "bf16"), "bf16")]
    chosen = select.choose_engine("auto", "fp32")
    assert {name for name, _ in runners(MANIFEST, "auto", None)} == {chosen}


def test_an_engine_without_the_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="onnxruntime runs fp32, int8 here"):
        runners(MANIFEST, "onnxruntime", "bf16")


def test_without_an_engine_it_is_said_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install"):
        runners(MANIFEST, None, None)
