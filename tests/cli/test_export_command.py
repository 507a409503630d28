from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Clsspec, tree

from clsspec_cli import options
from clsspec_serve import load
from clsspec_serve.bundle import open_bundle


def test_an_architecture_with_random_weights_becomes_a_bundle(
    clsspec: Clsspec, tmp_path: Path
) -> None:
    from tiny_architecture import NAME

    out = tmp_path / "toy"
    result = clsspec("export", f"random:{NAME}", "--out", out, "--layers", "0:raw")
    assert (result.code, result.out) == (0, "")
    lines = result.err.splitlines()
    assert lines[0] == f"reading random:{NAME}"
    said = " fp32: difference to PyTorch, of the largest value: [CLS] "
    assert sum(said in line for line in lines) == 2
    manifest = open_bundle(out).manifest
    architecture = manifest.architecture
    assert lines[-1] == f"{out}: {NAME}_clsspec, {architecture.parameters:,} parameters"
    assert architecture.specialization is not None
    assert [output.name for output in manifest.outputs] == [
        *("cls", "patches"),
        *("cls_0_raw", "patches_0_raw"),
    ]
    assert all(parity.cls <= 1e-4 and parity.patches <= 1e-4 for parity in manifest.parity)
    assert "The weights are random" in (out / "README.md").read_text()
    assert list(tmp_path.iterdir()) == [out]

    found = load(out)(Path(__file__).parents[2] / "examples" / "coffee.jpg", size=(56, 70))
    assert (found.cls.shape, found.patches.shape) == ((32,), (4, 5, 32))


def test_a_plain_export_stays_plain_and_replaces_on_demand(
    clsspec: Clsspec, tiny_bundle: Path
) -> None:
    from tiny_architecture import NAME

    arguments = (f"random:{NAME}", "--out", tiny_bundle, "--plain")
    refused = clsspec("export", *arguments)
    assert (refused.code, refused.error()) == (
        2,
        f"{tiny_bundle} exists already; --force replaces it",
    )
    assert open_bundle(tiny_bundle).manifest.name == "tiny"
    assert clsspec("export", *arguments, "--force").code == 0
    manifest = open_bundle(tiny_bundle).manifest
    assert (manifest.architecture.name, manifest.architecture.specialization) == (NAME, None)
    assert manifest.provenance.format == "random"


def test_a_folder_that_is_no_bundle_is_never_replaced(clsspec: Clsspec, tmp_path: Path) -> None:
    from tiny_architecture import NAME

    (tmp_path / "precious").touch()
    result = clsspec("export", f"random:{NAME}", "--out", tmp_path, "--force")
    assert result.code == 1
    assert result.err.splitlines()[-1] == (
        f"clsspec: {tmp_path} exists and is not a bundle; it is not replaced"
    )
    assert tree(tmp_path) == {"precious": b""}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.pth"], 2, "gone.pth"),
        (["random:nonsense"], 2, "'nonsense' is not an architecture that timm or clsspec knows"),
        (["random:resnet18"], 2, "accepted are timm's VisionTransformer and Eva"),
        (["random:vit_toy_patch14_dinov2", "--layers", "7"], 2, "accepted are 0 to 1"),
        (["random:vit_toy_patch14_dinov2", "--layers", "x"], 2, "accepted are block numbers"),
        (["hf:nonsense"], 2, "not a Hugging Face Hub reference"),
        (["damaged.pth"], 1, "damaged.pth"),
    ],
)
def test_a_refused_export_leaves_nothing(
    clsspec: Clsspec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    import tiny_architecture  # noqa: F401  # registers the name with timm

    monkeypatch.chdir(tmp_path)
    Path("damaged.pth").write_bytes(b"no weights")
    before = tree(tmp_path)
    result = clsspec("export", *arguments, "--out", "new/bundle")
    lines = result.err.splitlines()
    assert (result.code, result.out) == (code, "")
    assert lines[-1].startswith("clsspec: ")
    assert message in lines[-1]
    assert "Traceback" not in result.err
    assert tree(tmp_path) == before


def test_a_missing_extra_names_the_command_that_installs_it(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ("torch", "timm")
    monkeypatch.setattr(
        options.importlib.util, "find_spec", lambda name: None if name in absent else True
    )
    result = clsspec("export", "x.pth", "--out", tmp_path / "bundle")
    assert result.code == 2
    assert result.error() == (
        'this command needs torch, timm; install with: pip install "clsspec-serve[export]"'
    )


def test_weights_are_stored_in_half_precision_on_request(
    clsspec: Clsspec, exported: Path, tmp_path: Path
) -> None:
    from tiny_architecture import NAME

    out = tmp_path / "half"
    assert clsspec("export", f"random:{NAME}", "--out", out, "--storage", "fp16").code == 0
    half, whole = open_bundle(out).manifest, open_bundle(exported).manifest
    assert (half.storage, whole.storage) == ("fp16", "fp32")
    weights = "model.onnx.data"
    assert half.files[weights].size < 0.8 * whole.files[weights].size  # half is the folded kernel
    assert "half precision" in clsspec("inspect", out).out
    assert "half precision" not in clsspec("inspect", exported).out


def native(path: Path, largest: float = 1.0) -> Path:
    """A specialized checkpoint with a description, its largest weight where it is told."""
    import timm
    import torch
    from tiny_architecture import NAME

    from clsspec_export.checkpoints.native import save_native
    from clsspec_export.specialize import paper_specialization, specialize

    model = specialize(timm.create_model(NAME, num_classes=0), paper_specialization(2))
    with torch.no_grad():
        model.blocks[1].attn.proj.weight[0, 0] = largest
    save_native(model, path, architecture=NAME, description="trained on 7 rooms")
    return path


def test_a_description_travels_from_the_checkpoint_into_the_bundle(
    clsspec: Clsspec, tmp_path: Path
) -> None:
    out = tmp_path / "rooms"
    assert clsspec("export", native(tmp_path / "a.safetensors"), "--out", out).code == 0
    assert open_bundle(out).manifest.description == "trained on 7 rooms"
    assert "\ntrained on 7 rooms\n" in (out / "README.md").read_text()
    lines = clsspec("inspect", out).out.splitlines()
    assert "description trained on 7 rooms" in [" ".join(line.split()) for line in lines]


def test_a_weight_beyond_half_precision_is_one_line_and_no_bundle(
    clsspec: Clsspec, tmp_path: Path
) -> None:
    file, out = native(tmp_path / "a.safetensors", largest=-1e5), tmp_path / "rooms"
    result = clsspec("export", file, "--out", out, "--storage", "fp16")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        f"reading {file}",
        "clsspec: blocks.1.attn.proj.weight holds values up to 100000, fp16 up to 65504; "
        "accepted for this checkpoint is --storage fp32",
    ]
    assert not out.exists()


def test_an_exported_manifest_is_json_for_people(exported: Path) -> None:
    text = (exported / "clsspec.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "schema_version": 4,')
    assert json.loads(text)["name"] == "toy"
