from __future__ import annotations

from pathlib import Path

import pytest
from standins.hub import Hub

from clsspec_serve import load, models
from clsspec_serve.errors import BundleError, SourceError, UsageError
from clsspec_serve.models import find_bundle


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_a_folder_is_read_in_place(tiny_bundle: Path) -> None:
    assert find_bundle(tiny_bundle).path == tiny_bundle
    assert find_bundle(str(tiny_bundle)).path == tiny_bundle


def test_the_manifest_stands_for_its_folder(tiny_bundle: Path) -> None:
    assert find_bundle(tiny_bundle / "clsspec.json").path == tiny_bundle


def test_a_path_in_the_home_folder_is_expanded(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_bundle.parent))
    assert find_bundle("~/tiny").path == tiny_bundle


def test_a_home_folder_that_nobody_has_is_a_missing_bundle() -> None:
    with pytest.raises(BundleError, match=r"^~nobody-of-that-name/tiny does not exist"):
        find_bundle("~nobody-of-that-name/tiny")


def test_without_a_name_it_is_the_embedded_one(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "EMBEDDED", tiny_bundle)
    assert find_bundle(None).path == tiny_bundle
    assert load().manifest.name == "tiny"


def test_an_embedded_bundle_is_checked_like_any_other(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "EMBEDDED", tiny_bundle)
    (tiny_bundle / "position.npy").unlink()
    with pytest.raises(BundleError, match=r"position\.npy is missing"):
        find_bundle(None)


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_a_bundle_comes_from_the_hub(hub: Hub, tiny_bundle: Path, revision: str) -> None:
    hub.add("someone/tiny", contents(tiny_bundle), "v1")
    bundle = find_bundle(f"hf:someone/tiny{revision}")
    assert contents(bundle.path) == contents(tiny_bundle)
    assert hub.fetched() == sorted(contents(tiny_bundle))


def test_a_bundle_in_the_cache_is_not_fetched_again(hub: Hub, tiny_bundle: Path) -> None:
    hub.add("someone/tiny", contents(tiny_bundle))
    find_bundle("hf:someone/tiny")
    before = hub.fetched()
    find_bundle("hf:someone/tiny")
    assert hub.fetched() == before


def test_an_altered_file_on_the_hub_is_refused(hub: Hub, tiny_bundle: Path) -> None:
    hub.add("someone/tiny", contents(tiny_bundle) | {"model.onnx": b"other"})
    with pytest.raises(BundleError, match=r"model\.onnx has 5 bytes"):
        find_bundle("hf:someone/tiny")


def test_a_repository_that_is_no_bundle_is_refused(hub: Hub) -> None:
    hub.add("someone/other", {"config.json": b"{}"})
    with pytest.raises(SourceError, match=r"holds no file that matches clsspec\.json"):
        find_bundle("hf:someone/other")
    assert hub.fetched() == []


def test_a_repository_that_does_not_exist_is_a_source_error(hub: Hub) -> None:
    with pytest.raises(SourceError, match=r"^hf:someone/gone does not exist or is private"):
        find_bundle("hf:someone/gone")


def test_a_reference_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a Hugging Face Hub reference"):
        find_bundle("hf:tiny")
