from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from standins.backbones import DINOV2, DINOV3, families, made_once, tiny, write_bundle

from clsspec_export.audit import audit
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.heads.attach import attach
from clsspec_export.heads.linear import LinearHead
from clsspec_export.storage import LEAST_VALUES, round_to_fp16
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.choices import Storage
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import Category, Protocol, SegmentationHead, Source
from clsspec_serve.loading import start
from clsspec_serve.manifest import SCHEMA_VERSION
from clsspec_serve.schema import Output
from clsspec_serve.verification import verify_engines

FAMILIES = ("specialized", pytest.param("swiglu", marks=pytest.mark.stress), "rotary")
STORAGES: tuple[Storage, ...] = ("fp32", "fp16")


def state_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in checkpoint.model.state_dict().items()}


def holds(values: torch.Tensor) -> bool:
    """Whether fp16 holds every value exactly."""
    return torch.equal(values.half().float(), values)


def test_matrices_and_positions_are_rounded_and_vectors_are_not() -> None:
    checkpoint = families()["specialized"]()
    before = state_of(checkpoint)
    rounded = round_to_fp16(checkpoint)
    assert rounded.storage == "fp16"
    assert rounded.table.dtype == torch.float32
    assert torch.equal(rounded.table, checkpoint.table.half().float())
    for key, value in rounded.model.state_dict().items():
        assert not holds(before[key]), key
        expected = before[key].half().float() if before[key].ndim > 1 else before[key]
        assert value.dtype == torch.float32
        assert torch.equal(value, expected), key


def test_rotary_periods_are_not_rounded() -> None:
    checkpoint = tiny(DINOV3)
    table = checkpoint.table * 1.0001
    assert not holds(table)
    assert torch.equal(round_to_fp16(replace(checkpoint, table=table)).table, table)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_tensor_beyond_fp16_is_named_and_nothing_is_rounded(sign: int) -> None:
    checkpoint = families()["specialized"]()
    with torch.no_grad():
        checkpoint.model.blocks[1].mlp.fc1.weight[3, 5] = sign * 7e4
    before = state_of(checkpoint)
    with pytest.raises(UsageError) as caught:
        round_to_fp16(checkpoint)
    assert str(caught.value) == (
        "blocks.1.mlp.fc1.weight holds values up to 70000, fp16 up to 65504; "
        "accepted for this checkpoint is --storage fp32"
    )
    assert all(torch.equal(value, before[key]) for key, value in state_of(checkpoint).items())


@pytest.fixture(scope="module", params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Storage, Bundle]:
    """Bundles of one rounded checkpoint, stored in both ways. Not to be changed."""

    def make(folder: Path) -> None:
        rounded = round_to_fp16(families()[request.param]())
        for storage in STORAGES:
            write_bundle(replace(rounded, storage=storage), folder / storage)

    folder = made_once(tmp_path_factory, f"storage of {request.param}", make)
    return {storage: open_bundle(folder / storage) for storage in STORAGES}


def initializers(bundle: Bundle) -> dict[str, np.ndarray]:
    model = onnx.load(bundle.graph)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_what_fp16_holds_exactly_is_stored_in_it_and_nothing_else(
    pair: dict[Storage, Bundle],
) -> None:
    plain, halved = initializers(pair["fp32"]), initializers(pair["fp16"])
    large = {
        name: value
        for name, value in plain.items()
        if value.dtype == np.float32 and value.size >= LEAST_VALUES
    }
    assert not any(value.dtype == np.float16 for value in plain.values())
    exact = {name for name, value in large.items() if holds(torch.from_numpy(value.copy()))}
    columns = 4 * pair["fp32"].manifest.architecture.patch_size ** 2
    (folded,) = (name for name, value in large.items() if value.shape[0] == columns)
    assert folded not in exact  # mean and deviation are in it
    assert len(exact) >= 8
    stored = {name: value for name, value in halved.items() if value.dtype == np.float16}
    assert stored.keys() == {f"{name}.fp16" for name in exact}
    for name in plain:
        value = stored[f"{name}.fp16"].astype(np.float32) if name in exact else halved[name]
        assert np.array_equal(value, plain[name])
    sizes = [bundle.manifest.files["model.onnx.data"].size for bundle in pair.values()]
    saved = 2 * sum(plain[name].size for name in exact)
    assert sizes[0] - sizes[1] == pytest.approx(saved, rel=0.01)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_engine_computes_anything_else(pair: dict[Storage, Bundle], engine: Any) -> None:
    patch = pair["fp16"].manifest.architecture.patch_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4 * patch, 6 * patch), np.uint8)
    pixels[:, 3] = 1
    plain, halved = (
        start(pair[storage], engine=engine).infer(pixels, ["cls", "patches"], [])
        for storage in ("fp32", "fp16")
    )
    for name, value in plain.items():
        np.testing.assert_array_equal(halved[name], value)


def test_the_bundle_says_so_and_its_products_are_those_of_the_architecture(
    pair: dict[Storage, Bundle],
) -> None:
    said = "weights: fp16: the backbone's matrices are rounded to half precision"
    for storage, bundle in pair.items():
        assert bundle.manifest.storage == storage
        assert (said in (bundle.path / "README.md").read_text()) == (storage == "fp16")
        audit(bundle.graph, bundle.manifest.architecture)


def test_the_reference_is_of_the_rounded_weights(pair: dict[Storage, Bundle]) -> None:
    plain, halved = (np.load(pair[storage].path / "reference.npz") for storage in ("fp32", "fp16"))
    with plain, halved:
        assert all(np.array_equal(plain[name], halved[name]) for name in plain.files)
    reports = verify_engines(pair["fp16"])
    assert [report.passed for report in reports if report.precision == "fp32"] == [True, True]


def test_a_head_is_attached_to_it(pair: dict[Storage, Bundle], tmp_path: Path) -> None:
    given = open_bundle(pair["fp16"].path)
    patches = Output(name="patches", kind="patches", layer=1, norm=True)
    description = SegmentationHead(
        inputs=(patches,),
        protocol=Protocol(size=(56, 56), policy="squash"),
        source=Source(name="made up", format="clsspec"),
        classes=tuple(Category(name=f"c{i}", colour=(i, 0, 0)) for i in range(4)),
    )
    older = given.manifest.model_copy(update={"schema_version": SCHEMA_VERSION - 1})
    attach(
        Bundle(given.path, older),
        [LinearHead(description, torch.randn(4, 72), torch.zeros(4))],
        tmp_path / "new",
    )
    manifest = open_bundle(tmp_path / "new").manifest
    assert (manifest.storage, manifest.schema_version) == ("fp16", SCHEMA_VERSION)
    assert manifest.files["model.onnx.data"] == given.manifest.files["model.onnx.data"]
    assert "weights: fp16" in (tmp_path / "new" / "README.md").read_text()


def test_a_checkpoint_is_stored_as_it_is_unless_asked(tmp_path: Path) -> None:
    checkpoint = tiny(DINOV2)
    assert checkpoint.storage == "fp32"
    write_bundle(checkpoint, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.storage == "fp32"
    assert {value.dtype.name for value in initializers(bundle).values()} == {"float32", "int64"}
