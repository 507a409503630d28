from __future__ import annotations

import json
from pathlib import Path

from command_line import Clsspec
from standins.hub import Hub
from tiny_bundle import tiny_manifest, write_tiny_bundle

from clsspec_serve.arithmetic import total_macs
from clsspec_serve.bundle import describe_folder, open_bundle, write_manifest
from clsspec_serve.categories import categories
from clsspec_serve.heads import Protocol, SegmentationHead, Source
from clsspec_serve.manifest import Parity


def rows(text: str) -> dict[str, str]:
    """The lines by their first column."""
    start = text.index(text.splitlines()[0].split(maxsplit=1)[1])
    return {line[:start].strip(): line[start:] for line in text.splitlines()}


def test_a_specialized_bundle_says_what_it_is(clsspec: Clsspec, exported: Path) -> None:
    result = clsspec("inspect", exported)
    assert (result.code, result.err) == (0, "")
    found = rows(result.out)
    manifest = open_bundle(exported).manifest
    assert found["name"] == "toy"
    assert found["architecture"] == "vit_toy_patch14_dinov2_clsspec"
    assert found["specialized"].startswith("norms, ")
    assert found["tokens"] == "[CLS], 0 registers, patches of 14 px"
    assert found["parameters"] == f"{manifest.architecture.parameters:,}"
    assert found["outputs"] == "cls, patches"
    assert found["source"] == "random:vit_toy_patch14_dinov2 (random)"
    assert found["licence"] == "not stated by the source"
    assert found["work"].endswith(" GFLOPs at 56x56")
    for name, file in manifest.files.items():
        assert found[name] == f"{file.size:,} bytes"
    for parity in manifest.parity:
        assert f"patches {parity.patches:.1e} from PyTorch" in found[f"{parity.engine} fp32"]


def test_a_plain_bundle_says_so(clsspec: Clsspec, tiny_bundle: Path) -> None:
    found = rows(clsspec("inspect", tiny_bundle).out)
    assert found["specialized"] == "plain: no weights of its own for [CLS]"
    assert found["sliced GEMMs"].startswith("0 blocks")
    assert found["outputs"] == "cls, patches, cls_0, patches_0, cls_0_raw, patches_0_raw"


def test_json_is_the_manifest_and_what_follows_from_it(clsspec: Clsspec, exported: Path) -> None:
    result = clsspec("inspect", exported, "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    manifest = open_bundle(exported).manifest
    architecture = manifest.architecture
    assert architecture.specialization is not None
    assert found.pop("path") == str(exported)
    assert found.pop("sliced_qkv_blocks") == architecture.specialization.qkv_blocks
    assert found.pop("gflops") == 2 * total_macs(architecture, (4, 4)) / 1e9
    assert found == manifest.model_dump(mode="json")


def test_heads_are_listed_with_their_parity(clsspec: Clsspec, tmp_path: Path) -> None:
    head = SegmentationHead(
        inputs=(tiny_manifest().outputs[1],),
        protocol=Protocol(size=(56, 56), policy="short"),
        source=Source(name="x", format="plain"),
        classes=categories("voc2012"),
    )
    parity = Parity(
        engine="onnxruntime",
        precision="fp32",
        sizes=((28, 42),),
        cls=1e-7,
        patches=2e-7,
        heads={"segment": 3e-7},
        mask_agreement=1.0,
    )
    folder = write_tiny_bundle(tmp_path / "tiny")
    update = {"heads": (head,), "parity": (parity,), "files": describe_folder(folder)}
    write_manifest(folder, tiny_manifest().model_copy(update=update))
    found = rows(clsspec("inspect", folder).out)
    assert found["head: segment"] == "21 classes, from patches"
    assert (
        found["onnxruntime fp32"] == "[CLS] 1.0e-07, patches 2.0e-07, segment 3.0e-07 from PyTorch"
    )
    facts = json.loads(clsspec("inspect", folder, "--json").out)
    assert facts["heads"][0]["classes"][1]["name"] == "aeroplane"


def test_a_bundle_on_the_hub_is_inspected(clsspec: Clsspec, tiny_bundle: Path, hub: Hub) -> None:
    files = [file for file in tiny_bundle.rglob("*") if file.is_file()]
    hub.add("me/x", {f.relative_to(tiny_bundle).as_posix(): f.read_bytes() for f in files})
    result = clsspec("inspect", "hf:me/x")
    assert result.code == 0
    assert rows(result.out)["name"] == "tiny"
