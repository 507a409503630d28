from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import pytest
import tiny_bundle as tiny
from numpy.typing import NDArray
from variant_bundle import INT8, add_variant

from clsspec_serve.bundle import MANIFEST, describe_folder, new_bundle, open_bundle
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.errors import BundleError, EngineError, OutputError
from clsspec_serve.manifest import SCHEMA_VERSION, Parity

FILES = ("README.md", "heads/segment.onnx", "model.onnx", "position.npy", "reference.npz")


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as info:
        open_bundle(folder)
    message = str(info.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(str(folder))


def test_a_whole_bundle_is_opened(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.graph == tiny_bundle / "model.onnx"
    assert bundle.manifest.name == "tiny"
    np.testing.assert_array_equal(bundle.position_table(), tiny.POSITIONS)


def test_the_manifest_lists_every_file_but_itself(tiny_bundle: Path) -> None:
    assert tuple(open_bundle(tiny_bundle).manifest.files) == FILES
    assert open_bundle(tiny_bundle).manifest.files == describe_folder(tiny_bundle)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone") == " does not exist; a bundle is a folder with clsspec.json"


def test_a_file_is_no_bundle(tiny_bundle: Path) -> None:
    assert refusal(tiny_bundle / "model.onnx").startswith(" is a file; a bundle is a folder")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert refusal(tmp_path) == " is not a bundle: clsspec.json is missing"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1]", "has no schema_version"),
        (b"{}", "has no schema_version"),
        (b'{"schema_version": "1"}', "has no schema_version"),
        (b'{"schema_version": 1}', "field name: Field required"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tiny_bundle: Path, text: bytes, reason: str) -> None:
    (tiny_bundle / MANIFEST).write_bytes(text)
    assert reason in refusal(tiny_bundle)


def test_a_newer_schema_asks_for_an_upgrade(tiny_bundle: Path) -> None:
    # Even where the newer manifest has fields that this version cannot check.
    newer = SCHEMA_VERSION + 1
    change(tiny_bundle, lambda manifest: manifest.update(schema_version=newer, novelty=[]))
    assert refusal(tiny_bundle) == (
        f" was written by a newer clsspec: schema {newer}, this one reads up to {SCHEMA_VERSION}; "
        "upgrade clsspec-serve"
    )


def test_a_bundle_of_the_second_schema_is_still_opened(tiny_bundle: Path) -> None:
    # The second schema had no description, and stored weights in one way.
    def as_second(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 2
        del manifest["description"], manifest["storage"]

    change(tiny_bundle, as_second)
    manifest = open_bundle(tiny_bundle).manifest
    assert (manifest.description, manifest.storage) == (None, "fp32")


def test_a_bundle_of_the_first_schema_is_still_opened(tiny_bundle: Path) -> None:
    # The first schema had no heads, and nothing about them in what was measured.
    def as_first(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 1
        del manifest["heads"], manifest["description"], manifest["storage"]
        manifest["parity"] = [
            {
                "engine": "onnxruntime",
                "precision": "fp32",
                "sizes": [[28, 42]],
                "cls": 1e-6,
                "patches": 2e-6,
            }
        ]

    change(tiny_bundle, as_first)
    manifest = open_bundle(tiny_bundle).manifest
    assert manifest.heads == ()
    assert manifest.parity[0].heads == {}
    assert manifest.parity[0].summary() == "[CLS] 1.0e-06, patches 2.0e-06"


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda manifest: manifest.update(novelty=1), "novelty"),
        (lambda manifest: manifest["architecture"].update(novelty=1), "architecture.novelty"),
        (lambda manifest: manifest["preprocessing"].update(policy="bend"), "preprocessing.policy"),
        (lambda manifest: manifest["architecture"].update(patch_size=0), "architecture.patch_size"),
        (lambda manifest: manifest.pop("outputs"), "outputs"),
        (lambda manifest: manifest.update(outputs=[]), "outputs"),
        (lambda manifest: manifest.update(storage="int8"), "storage"),
        (lambda manifest: manifest.update(description="two\nlines"), "description"),
        (lambda manifest: manifest.update(description=""), "description"),
    ],
)
def test_a_wrong_field_is_named(
    tiny_bundle: Path, edit: Callable[[dict[str, Any]], object], field: str
) -> None:
    change(tiny_bundle, edit)
    assert f"clsspec.json, field {field}: " in refusal(tiny_bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tiny_bundle: Path, name: str) -> None:
    (tiny_bundle / name).unlink()
    assert refusal(tiny_bundle) == f": {name} is missing"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(tiny_bundle: Path, name: str) -> None:
    content = bytearray((tiny_bundle / name).read_bytes())
    content[-1] ^= 1
    (tiny_bundle / name).write_bytes(content)
    assert f": {name} was changed: its sha256 is " in refusal(tiny_bundle)


def test_a_file_of_another_size_is_named_with_both_sizes(tiny_bundle: Path) -> None:
    (tiny_bundle / "README.md").write_bytes(b"12345")
    assert refusal(tiny_bundle) == ": README.md has 5 bytes, expected 7"


def test_a_file_that_cannot_be_read_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clsspec_serve.bundle.describe", refuse)
    assert refusal(tiny_bundle) == ": README.md cannot be read: Permission denied"


@pytest.mark.parametrize("name", ["../secret", "heads/../../secret", "/{}/secret"])
def test_a_path_outside_of_the_bundle_is_never_read(
    tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    entry = describe_folder(tmp_path)["secret"].model_dump()
    path = name.format(tmp_path)
    change(tiny_bundle, lambda manifest: manifest["files"].update({path: entry}))
    assert refusal(tiny_bundle).endswith(f"names {path!r}, a path outside the bundle")


@pytest.mark.parametrize("name", ["model.onnx", "position.npy"])
def test_a_manifest_must_list_what_every_run_needs(tiny_bundle: Path, name: str) -> None:
    change(tiny_bundle, lambda manifest: manifest["files"].pop(name))
    assert "clsspec.json does not list" in refusal(tiny_bundle)


def test_weights_that_the_manifest_does_not_list_are_refused(tiny_bundle: Path) -> None:
    (tiny_bundle / "model.onnx.data").write_bytes(b"unchecked")
    expected = ": model.onnx.data is there, but clsspec.json does not list it"
    assert refusal(tiny_bundle) == expected


@pytest.mark.parametrize(
    "table",
    [np.zeros((2, 2, 3), np.float32), np.full((1,), np.nan, np.float32), np.zeros(3, np.float64)],
)
def test_a_position_table_that_does_not_fit_is_refused(
    tiny_bundle: Path, table: NDArray[Any]
) -> None:
    bundle = open_bundle(tiny_bundle)
    np.save(tiny_bundle / "position.npy", table)
    with pytest.raises(BundleError, match=r"position\.npy is .* expected is"):
        bundle.position_table()
    (tiny_bundle / "position.npy").write_bytes(b"no array")
    with pytest.raises(BundleError, match=r"position\.npy cannot be read"):
        bundle.position_table()


def test_links_are_followed_as_in_the_hubs_cache(tiny_bundle: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (tiny_bundle / "model.onnx").rename(blob)
    (tiny_bundle / "model.onnx").symlink_to(blob)
    assert open_bundle(tiny_bundle).manifest.name == "tiny"
    blob.write_bytes(b"")
    assert ": model.onnx has 0 bytes" in refusal(tiny_bundle)


def test_an_existing_folder_is_not_replaced_unasked(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already; --force"), new_bundle(tiny_bundle):
        pass
    assert open_bundle(tiny_bundle)
    assert list(tmp_path.iterdir()) == [tiny_bundle]


def test_a_bundle_is_replaced_on_demand(tiny_bundle: Path, tmp_path: Path) -> None:
    with new_bundle(tiny_bundle, replace=True) as folder:
        (folder / "a").write_text("a")
        assert open_bundle(tiny_bundle)
    assert [file.name for file in tiny_bundle.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [tiny_bundle]


@pytest.mark.parametrize("moves", [0, 1])
def test_a_replacement_that_fails_leaves_the_old_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    real, calls = Path.rename, iter(range(10))

    def rename(path: Path, target: Path) -> Path:
        if next(calls) == moves:
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(OutputError, match="No space left on device"),
        new_bundle(tiny_bundle, replace=True),
    ):
        pass
    assert open_bundle(tiny_bundle)
    assert list(tmp_path.iterdir()) == [tiny_bundle]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    if kind == "file":
        home.write_text("precious")
    else:
        home.mkdir()
        (home / "precious").touch()
    with pytest.raises(OutputError, match="is not a bundle"), new_bundle(home, replace=True):
        pass
    assert home.read_text() == "precious" if kind == "file" else (home / "precious").exists()


def test_a_copied_bundle_is_still_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    assert open_bundle(Path(shutil.copytree(tiny_bundle, tmp_path / "copy")))


# Heads

SEGMENT = by_hand.nearest_colour_head({"red": (255, 0, 0), "green": (0, 255, 0)})
DEPTH = by_hand.depth_head([0.01, 0, 0, 0])
CLASSIFY = by_hand.classify_head(["dark", "light"], np.ones((4, 2)), [1, 0])


@pytest.fixture
def with_heads(tmp_path: Path) -> Path:
    return by_hand.write_head_bundle(tmp_path / "heads", [SEGMENT, DEPTH, CLASSIFY])


def test_heads_are_found_in_their_files(with_heads: Path) -> None:
    bundle = open_bundle(with_heads)
    described = [head.description for head in (SEGMENT, DEPTH, CLASSIFY)]
    assert list(bundle.manifest.heads) == described
    for head in (SEGMENT, DEPTH, CLASSIFY):
        assert bundle.head(head.description.task).read_bytes() == head.graph


def test_two_heads_for_one_task_are_refused(with_heads: Path) -> None:
    change(with_heads, lambda manifest: manifest["heads"].append(manifest["heads"][1]))
    assert refusal(with_heads).endswith("Value error, two heads answer depth")


@pytest.mark.parametrize(
    "changed", [{"name": "patches_7", "layer": 7}, {"norm": False}, {"kind": "cls"}]
)
def test_a_head_must_take_what_the_backbone_gives(
    with_heads: Path, changed: dict[str, Any]
) -> None:
    change(with_heads, lambda manifest: manifest["heads"][0]["inputs"][0].update(changed))
    name = changed.get("name", "patches")
    expected = f"Value error, the head for segment takes {name}, which is no output"
    assert refusal(with_heads).endswith(expected)


@pytest.mark.parametrize(
    ("index", "edit", "field"),
    [
        (0, lambda head: head.update(task="paint"), "heads.0"),
        (0, lambda head: head.pop("classes"), "heads.0.segment.classes"),
        (0, lambda head: head.update(classes=[]), "heads.0.segment.classes"),
        (0, lambda head: head["protocol"].pop("stride", head["protocol"].update(window=9)), None),
        (1, lambda head: head.update(minimum=11), "heads.1.depth"),
        (1, lambda head: head.update(bins=3), "heads.1.depth"),
        (2, lambda head: head.update(novelty=1), "heads.2.classify.novelty"),
    ],
)
def test_a_wrong_field_of_a_head_is_named(
    with_heads: Path, index: int, edit: Callable[[Any], object], field: str | None
) -> None:
    change(with_heads, lambda manifest: edit(manifest["heads"][index]))
    assert f"clsspec.json, field {field or 'heads.0.segment.protocol'}: " in refusal(with_heads)


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_a_heads_file_must_be_there_and_listed_and_its_own(with_heads: Path, task: str) -> None:
    name = f"heads/{task}.onnx"
    file = with_heads / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f": {name} was changed" in refusal(with_heads)
    file.unlink()
    assert refusal(with_heads) == f": {name} is missing"
    change(with_heads, lambda manifest: manifest["files"].pop(name))
    assert refusal(with_heads) == f": clsspec.json does not list {name}"
    file.write_bytes(content)
    assert refusal(with_heads) == f": {name} is there, but clsspec.json does not list it"


# Variants

OPENVINO = "model.openvino.onnx"


@pytest.fixture
def with_variants(tiny_bundle: Path) -> Path:
    add_variant(tiny_bundle, OPENVINO, ("openvino",), ("fp32", "bf16"))
    add_variant(tiny_bundle)
    add_variant(tiny_bundle, "model.fp16.onnx", ("cuda", "tensorrt"), ("fp16",))
    add_variant(tiny_bundle, "model.second.onnx", ("openvino",), ("int8",))
    return tiny_bundle


@pytest.mark.parametrize(
    ("engine", "precision", "graph"),
    [
        ("onnxruntime", "fp32", "model.onnx"),
        ("onnxruntime", "int8", INT8),
        ("openvino", "fp32", OPENVINO),
        ("openvino", "bf16", OPENVINO),
        ("openvino", "int8", INT8),
        ("cuda", "fp32", "model.onnx"),
        ("cuda", "fp16", "model.fp16.onnx"),
        ("tensorrt", "fp16", "model.fp16.onnx"),
    ],
)
def test_an_engine_gets_the_first_graph_that_fits_or_else_the_main_one(
    with_variants: Path, engine: EngineName, precision: Precision, graph: str
) -> None:
    assert open_bundle(with_variants).graph_for(engine, precision) == with_variants / graph


def test_without_variants_it_is_the_main_one(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    for engine, precision in (("onnxruntime", "fp32"), ("openvino", "bf16"), ("cuda", "fp32")):
        assert bundle.graph_for(engine, precision) == bundle.graph


@pytest.mark.parametrize(
    ("engine", "precision", "has"),
    [
        ("cuda", "bf16", "fp32, fp16"),
        ("onnxruntime", "fp16", "fp32, int8"),
        ("tensorrt", "int8", "fp32, fp16"),
        ("openvino", "fp16", "fp32, bf16, int8"),
    ],
)
def test_a_precision_without_a_graph_is_refused_with_those_that_have_one(
    with_variants: Path, engine: EngineName, precision: Precision, has: str
) -> None:
    with pytest.raises(EngineError) as info:
        open_bundle(with_variants).graph_for(engine, precision)
    assert str(info.value) == (
        f"{with_variants} has no graph in {precision} for {engine}; it has {has} for it, and "
        f"`clsspec export --precision {precision}` writes one"
    )


def test_a_variants_file_must_be_there_and_listed_and_its_own(with_variants: Path) -> None:
    file = with_variants / INT8
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f": {INT8} was changed" in refusal(with_variants)
    file.unlink()
    assert refusal(with_variants) == f": {INT8} is missing"
    change(with_variants, lambda manifest: manifest["files"].pop(INT8))
    assert refusal(with_variants) == f": clsspec.json does not list {INT8}"
    file.write_bytes(content)
    assert refusal(with_variants) == f": {INT8} is there, but clsspec.json does not list it"


def test_a_variants_weights_must_be_listed(with_variants: Path) -> None:
    (with_variants / f"{INT8}.data").write_bytes(b"unchecked")
    expected = f": {INT8}.data is there, but clsspec.json does not list it"
    assert refusal(with_variants) == expected


def test_a_variants_graph_is_never_outside_of_the_bundle(
    with_variants: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.onnx").write_bytes(tiny.tiny_graph())
    change(with_variants, lambda manifest: manifest["variants"][1].update(graph="../outside.onnx"))
    assert refusal(with_variants) == ": clsspec.json does not list ../outside.onnx"


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"engines": []}, "engines"),
        ({"engines": ["tpu"]}, "engines.0"),
        ({"precisions": []}, "precisions"),
        ({"precisions": ["fp8"]}, "precisions.0"),
        ({"calibration": "two\nlines"}, "calibration"),
        ({"novelty": 1}, "novelty"),
    ],
)
def test_a_wrong_field_of_a_variant_is_named(
    with_variants: Path, edit: dict[str, Any], field: str
) -> None:
    change(with_variants, lambda manifest: manifest["variants"][1].update(edit))
    assert f"clsspec.json, field variants.1.{field}: " in refusal(with_variants)


def test_a_bundle_of_the_third_schema_is_still_opened(tiny_bundle: Path) -> None:
    # The third schema had one graph for all, and no cosine beside what was measured.
    def as_third(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 3
        del manifest["variants"]
        measured = {"engine": "onnxruntime", "precision": "fp32", "sizes": [[28, 42]]}
        found = {"cls": 1e-6, "patches": 2e-6, "heads": {}, "mask_agreement": None}
        manifest["parity"] = [measured | found]

    change(tiny_bundle, as_third)
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.variants == ()
    assert bundle.manifest.parity[0].cosine is None
    assert bundle.manifest.precisions("openvino") == ("fp32", "bf16")
    assert bundle.graph_for("openvino", "bf16") == bundle.graph


def test_the_cosine_is_said_of_what_is_less_than_fp32() -> None:
    sizes = ((28, 42),)
    found = {
        precision: Parity(
            engine="e", precision=precision, sizes=sizes, cls=0.01, patches=0.02, cosine=0.9981234
        ).summary()
        for precision in ("fp32", "int8")
    }
    assert found["fp32"] == "[CLS] 1.0e-02, patches 2.0e-02"
    assert found["int8"] == "[CLS] 1.0e-02, patches 2.0e-02; lowest cosine 0.998123"
