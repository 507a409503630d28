from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as plain_bundle
from long_cases import mostly_long
from standins.backbones import DINOV2, FAMILIES, REG4, families, tiny

from clsspec_export.architectures import describe
from clsspec_export.audit import execute
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.export import architecture_of
from clsspec_export.specialize import PLAIN, specialization_of
from clsspec_export.twin import plain_model, write_twin
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.errors import UsageError
from clsspec_serve.loading import start
from clsspec_serve.manifest import Manifest, Specialization


def manifest_of(checkpoint: Checkpoint, **changes: Any) -> Manifest:
    architecture = architecture_of(checkpoint).model_copy(update=changes)
    return plain_bundle.tiny_manifest().model_copy(
        update={"architecture": architecture, "position": checkpoint.position}
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "plain"])
def test_the_twin_is_the_model_with_nothing_split(family: str) -> None:
    checkpoint = families()[family]()
    twin = plain_model(manifest_of(checkpoint))
    assert specialization_of(twin) == PLAIN
    own, other = (describe("x", model) for model in (checkpoint.model, twin))
    changes = {"specialization": None, "parameters": other.parameters}
    assert other == own.model_copy(update=changes)
    whole = {name: tuple(value.shape) for name, value in twin.state_dict().items()}
    split = checkpoint.model.state_dict()
    merged = {name.replace(".patch.", "."): tuple(value.shape) for name, value in split.items()}
    assert whole == {name: shape for name, shape in merged.items() if ".cls." not in name}


@pytest.mark.parametrize(
    "specialization",
    [
        Specialization(qkv_blocks=2, norms=False),
        Specialization(qkv_blocks=0, layer_scale=False),
        Specialization(qkv_blocks=1, final_norm=False, registers_with="patch"),
    ],
)
def test_whatever_is_split(specialization: Specialization) -> None:
    checkpoint = tiny(REG4, specialization)
    twin = plain_model(manifest_of(checkpoint))
    assert {*twin.state_dict()} == {*tiny(REG4).model.state_dict()}


def test_layer_scales_that_the_name_does_not_stand_for_are_found() -> None:
    base = "vit_base_patch16_clip_224"
    checkpoint = tiny(base, Specialization(qkv_blocks=1), init_values=1e-5)
    assert "blocks.0.ls1.gamma" in plain_model(manifest_of(checkpoint)).state_dict()


def test_so_are_other_widths_of_the_mlp() -> None:
    checkpoint = tiny(DINOV2, Specialization(qkv_blocks=1), mlp_ratio=2)
    assert plain_model(manifest_of(checkpoint)).blocks[0].mlp.fc1.out_features == 2 * 72


@pytest.mark.parametrize("changes", [{"parameters": 1}, {"name": "vit_of_my_own_clsspec"}])
def test_without_a_model_of_that_description_there_is_no_twin(changes: dict[str, Any]) -> None:
    manifest = manifest_of(tiny(DINOV2, Specialization(qkv_blocks=1)), **changes)
    with pytest.raises(UsageError, match=r"the plain twin of .*_clsspec cannot be built: timm has"):
        plain_model(manifest)


def test_a_plain_bundle_has_no_twin() -> None:
    with pytest.raises(UsageError, match="tiny is plain; it is its own plain twin"):
        plain_model(manifest_of(tiny()))


@pytest.mark.parametrize("storage", mostly_long(["fp32", "fp16"], ["fp32"]))
def test_it_runs_in_the_bundles_place(
    exported_bundle: Bundle, tmp_path: Path, storage: str
) -> None:
    changed = exported_bundle.manifest.model_copy(update={"storage": storage})
    twin = write_twin(Bundle(exported_bundle.path, changed), tmp_path)
    pixels = np.ones((2, 4, 56, 70), np.uint8)
    names = [output.name for output in changed.outputs]
    shapes = [
        {name: value.shape for name, value in start(bundle).infer(pixels, names, ()).items()}
        for bundle in (exported_bundle, twin)
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == len(names) == 4
    sizes = [(bundle.path / "model.onnx.data").stat().st_size for bundle in (exported_bundle, twin)]
    assert (sizes[1] < 0.7 * sizes[0]) == (storage == "fp16")


def test_its_products_are_those_of_an_unsplit_model(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    twin = write_twin(exported_bundle, tmp_path)
    architecture = exported_bundle.manifest.architecture
    own, other = (
        execute(bundle.graph, architecture, 2, (4, 5)) for bundle in (exported_bundle, twin)
    )
    assert other.macs == own.macs
    assert own.weights[2, 72, 216] == 1  # of [CLS], in the block that is split
    assert other.weights[2, 72, 216] == 0
    assert other.weights[2 * 21, 72, 216] == 2


def test_it_is_not_opened_as_a_bundle(exported_bundle: Bundle, tmp_path: Path) -> None:
    from clsspec_serve.errors import BundleError

    write_twin(exported_bundle, tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
