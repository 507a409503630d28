from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from standins.backbones import DINOV2, families, tiny, write_bundle

from clsspec_export import export as export_module
from clsspec_export.export import lift
from clsspec_export.features import features
from clsspec_export.reference import REFERENCE_BYTES, Reference, shrink
from clsspec_export.samples import check_inputs
from clsspec_export.specialize import PLAIN, specialization_of
from clsspec_serve.bundle import Bundle, describe
from clsspec_serve.errors import UsageError
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import Specialization
from clsspec_serve.parity import Sample, reference_samples, save_samples
from clsspec_serve.schema import Output

FILES = {
    "LICENSE",
    "README.md",
    "clsspec.json",
    "model.onnx",
    "model.onnx.data",
    "model.openvino.onnx",
    "position.npy",
    "reference.npz",
}


def test_a_bundle_has_these_files_and_their_hashes(exported_bundle: Bundle) -> None:
    folder, manifest = exported_bundle.path, exported_bundle.manifest
    assert {file.name for file in folder.iterdir()} == FILES
    assert manifest.files == {n: describe(folder / n) for n in FILES - {"clsspec.json"}}
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "LICENSE").read_text() == "You may.\n"
    assert (folder / "reference.npz").stat().st_size < 2_000_000


def test_the_manifest_says_what_was_exported(exported_bundle: Bundle) -> None:
    manifest = exported_bundle.manifest
    assert manifest.name == "tiny"
    assert manifest.architecture.name == f"{DINOV2}_clsspec"
    assert manifest.architecture.specialization == Specialization(qkv_blocks=1)
    assert manifest.architecture.parameters == sum(
        p.numel() for p in families()["specialized"]().model.parameters()
    )
    assert manifest.outputs == (
        Output(name="cls", kind="cls", layer=1, norm=True),
        Output(name="patches", kind="patches", layer=1, norm=True),
        Output(name="cls_0", kind="cls", layer=0, norm=True),
        Output(name="patches_0", kind="patches", layer=0, norm=True),
    )
    assert not json.loads((exported_bundle.path / "clsspec.json").read_text())["name"].count("/")


def test_the_manifest_says_where_it_came_from(exported_bundle: Bundle) -> None:
    provenance = exported_bundle.manifest.provenance
    assert (provenance.source, provenance.format) == ("random:tiny", "random")
    assert (provenance.sha256, provenance.licence) == ("0" * 64, "MIT")
    packages = ("clsspec-serve", "torch", "timm", "onnxscript", "onnxruntime", "openvino")
    assert provenance.versions == {name: version(name) for name in packages}


def test_the_parity_of_both_engines_is_recorded(exported_bundle: Bundle) -> None:
    parity = exported_bundle.manifest.parity
    assert [(p.engine, p.precision) for p in parity] == [
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
    ]
    for record in parity:
        assert record.sizes == ((56, 56), (224, 224), (98, 140))
        assert 0 < record.cls <= 1e-4
        assert 0 < record.patches <= 1e-4


def test_the_model_card_states_that_the_weights_are_random(exported_bundle: Bundle) -> None:
    card = (exported_bundle.path / "README.md").read_text()
    assert "**The weights are random: the features mean nothing.**" in card
    assert "licence of the weights: MIT" in card
    assert "norms, final norm, LayerScale, QKV of the first 1 blocks" in card


def test_the_checks_cover_three_sizes_and_batches_with_padding_in_one(
    exported_bundle: Bundle,
) -> None:
    own, square, long = check_inputs(exported_bundle.manifest.preprocessing, 14)
    assert [x.shape for x in (own, square, long)] == [
        (1, 4, 56, 56),
        (2, 4, 224, 224),
        (5, 4, 98, 140),
    ]
    assert own[:, 3].all()
    assert (long[:, 3].sum(axis=(1, 2)) == 95 * 135).all()
    assert len({picture.tobytes() for picture in long}) == 3


def test_the_reference_is_one_picture_of_each_but_the_own_size(exported_bundle: Bundle) -> None:
    samples = list(reference_samples(exported_bundle))
    assert [sample.pixels.shape for sample in samples] == [(1, 4, 224, 224), (1, 4, 98, 140)]
    assert all(set(s.outputs) == {"cls", "patches", "cls_0", "patches_0"} for s in samples)
    assert samples[1].outputs["patches"].shape == (1, 7, 10, 72)


@pytest.mark.parametrize(("width", "layers"), [(384, 12), (1536, 40)])
def test_the_reference_stays_below_2_mb(
    width: int, layers: int, exported_bundle: Bundle, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    samples = []
    for pixels in list(check_inputs(exported_bundle.manifest.preprocessing, 14))[1:]:
        batch, _, height, _ = pixels.shape
        grid = (height // 14, pixels.shape[3] // 14)
        outputs = {}
        for suffix in ("", *(f"_{layer}" for layer in range(layers))):
            outputs[f"cls{suffix}"] = random.standard_normal((batch, width), np.float32)
            outputs[f"patches{suffix}"] = random.standard_normal((batch, *grid, width), np.float32)
        samples.append(Sample(pixels, outputs))
    kept = shrink(samples)
    save_samples(kept, tmp_path / "reference.npz")
    assert (tmp_path / "reference.npz").stat().st_size < 2_000_000
    assert sum(v.nbytes for s in kept for v in s.outputs.values()) > REFERENCE_BYTES / 2
    assert "patches" in kept[0].outputs
    for before, after in zip(samples, kept, strict=True):
        for name, value in after.outputs.items():
            assert np.array_equal(value, before.outputs[name][:1])


def outputs_of(layers: list[Layer], **kwargs: object) -> list[str]:
    checkpoint = tiny(**kwargs)
    architecture = export_module.describe("tiny", checkpoint.model)
    return [output.name for output in features(architecture, layers)]


def test_layers_become_outputs_and_the_default_is_not_repeated() -> None:
    layers = [Layer(0, False), Layer(1, True), Layer(1, False)]
    names = ["cls", "patches", "cls_0_raw", "patches_0_raw", "cls_1_raw", "patches_1_raw"]
    assert outputs_of(layers) == names


def test_without_a_final_norm_the_raw_last_layer_is_the_default() -> None:
    assert outputs_of([Layer(1, False)], final_norm=False) == ["cls", "patches"]
    with pytest.raises(UsageError, match="no final norm; ask for raw layers"):
        outputs_of([Layer(0, True)], final_norm=False)


def test_a_layer_that_does_not_exist_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layer 2 does not exist; accepted are 0 to 1"):
        write_bundle(tiny(), tmp_path / "bundle", [Layer(2, True)])
    assert list(tmp_path.iterdir()) == []


def test_lifting_splits_as_the_paper_does_and_changes_no_output() -> None:
    checkpoint = tiny(depth=3)
    pixels = next(check_inputs(checkpoint.preprocessing, 14))
    outputs = [Output(name="patches", kind="patches", layer=2, norm=True)]
    before = Reference(checkpoint, outputs).sample(pixels).outputs["patches"]
    lifted = lift(checkpoint)
    after = Reference(lifted, outputs).sample(pixels).outputs["patches"]
    assert specialization_of(lifted.model) == Specialization(qkv_blocks=1)
    assert np.abs(after - before).max() < 1e-5


def test_a_plain_checkpoint_stays_plain_on_request() -> None:
    assert specialization_of(lift(tiny(), plain=True).model) == PLAIN


def test_a_specialized_checkpoint_is_lifted_no_further() -> None:
    checkpoint = tiny(DINOV2, Specialization(layer_scale=False, qkv_blocks=2))
    weights = {key: value.clone() for key, value in checkpoint.model.state_dict().items()}
    lifted = lift(checkpoint).model
    assert specialization_of(lifted) == Specialization(layer_scale=False, qkv_blocks=2)
    assert all(torch.equal(value, weights[key]) for key, value in lifted.state_dict().items())


def test_a_specialized_checkpoint_cannot_be_plain() -> None:
    with pytest.raises(UsageError, match="cannot be exported as plain"):
        lift(tiny(DINOV2, Specialization(qkv_blocks=1)), plain=True)


@pytest.mark.parametrize("part", ["norms", "layer_scale"])
def test_a_checkpoint_whose_blocks_are_specialized_is_not_specialized_further(part: str) -> None:
    given = PLAIN.model_copy(update={part: True})
    assert specialization_of(lift(tiny(DINOV2, given)).model) == given
