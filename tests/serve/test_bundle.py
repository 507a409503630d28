from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from bundle_changes import change, refusal
from numpy.typing import NDArray

from clsspec_serve.bundle import MANIFEST, describe_folder, new_bundle, open_bundle
from clsspec_serve.errors import BundleError, OutputError
from clsspec_serve.manifest import SCHEMA_VERSION

FILES = ("README.md", "heads/segment.onnx", "model.onnx", "position.npy", "reference.npz")


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
