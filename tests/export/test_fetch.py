from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from standins.files import FileServer
from standins.hub import Hub

from clsspec_export import fetch as module
from clsspec_export.catalog import CatalogEntry, find
from clsspec_export.fetch import LocalCheckpoint, cache_folder, resolve, resolve_head
from clsspec_export.heads.catalog import BY_NAME as HEADS
from clsspec_export.heads.catalog import HeadEntry
from clsspec_serve.errors import SourceError, UsageError

CONTENT = b"weights" * 1000


@pytest.fixture
def entry(file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    """The catalogue's smallest model, on a server of this machine."""
    path = "/dinov2/dinov2_vits14_pretrain.pth"
    file_server.files[path] = CONTENT
    entry = replace(
        find("dinov2_vits14"),
        address=file_server.url + path,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(module, "find", {entry.name: entry}.__getitem__)
    return entry


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.touch()
    assert resolve(str(path)) == LocalCheckpoint(str(path), path)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)).path == tmp_path


def test_a_path_in_the_home_folder_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.pth").touch()
    assert resolve("~/model.pth").path == tmp_path / "model.pth"


def test_a_catalogue_name_is_downloaded_and_described(entry: CatalogEntry, tmp_path: Path) -> None:
    checkpoint = resolve(entry.name, cache=tmp_path)
    assert checkpoint == LocalCheckpoint(
        "dinov2_vits14",
        tmp_path / "checkpoints" / "dinov2_vits14_pretrain.pth",
        "Apache-2.0",
    )
    assert checkpoint.path.read_bytes() == CONTENT


def test_what_is_in_the_cache_is_not_downloaded_again(
    entry: CatalogEntry, tmp_path: Path, file_server: FileServer
) -> None:
    resolve(entry.name, cache=tmp_path)
    resolve(entry.name, cache=tmp_path)
    assert len(file_server.requests) == 1


def test_an_altered_file_in_the_cache_is_downloaded_again(
    entry: CatalogEntry, tmp_path: Path, file_server: FileServer
) -> None:
    path = resolve(entry.name, cache=tmp_path).path
    assert path is not None
    path.write_bytes(b"altered")
    assert resolve(entry.name, cache=tmp_path).path == path
    assert path.read_bytes() == CONTENT


def test_a_file_on_the_server_that_is_another_one_is_refused(
    entry: CatalogEntry, tmp_path: Path, file_server: FileServer
) -> None:
    file_server.files["/dinov2/dinov2_vits14_pretrain.pth"] = b"another"
    with pytest.raises(SourceError, match="sha256 expected"):
        resolve(entry.name, cache=tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_catalogue_name_goes_before_a_folder_of_that_name(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dinov2_vits14").mkdir()
    assert resolve("dinov2_vits14", cache=tmp_path).licence == "Apache-2.0"


def test_a_dotted_path_means_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dinov2_vits14").mkdir()
    assert resolve("./dinov2_vits14").path == Path("dinov2_vits14")


def test_a_hub_reference_brings_configuration_and_safetensors(hub: Hub) -> None:
    names = ("config.json", "model.safetensors", "pytorch_model.bin")
    hub.add("someone/model", {name: name.encode() for name in names}, "v1")
    checkpoint = resolve("hf:someone/model@v1")
    assert hub.fetched() == ["config.json", "model.safetensors"]
    assert checkpoint == LocalCheckpoint("hf:someone/model@v1", checkpoint.path)


def test_pickled_weights_are_brought_where_there_are_no_others(hub: Hub) -> None:
    hub.add("someone/model", dict.fromkeys(("config.json", "pytorch_model.bin"), b"{}"))
    path = resolve("hf:someone/model").path
    assert (path / "pytorch_model.bin").is_file()


@pytest.mark.parametrize(
    "reference", ["dinov3_vits16", "hf:facebook/dinov3-vits16-pretrain-lvd1689m"]
)
def test_a_gated_model_is_described_under_both_its_names(hub: Hub, reference: str) -> None:
    hub.add("facebook/dinov3-vits16-pretrain-lvd1689m", {"model.safetensors": b"weights"})
    checkpoint = resolve(reference)
    assert checkpoint.reference == reference
    assert checkpoint.licence == "dinov3-license"


def test_what_is_nothing_says_in_one_line_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(str(tmp_path / "absent.pth"))
    message = str(caught.value)
    assert "absent.pth" in message
    for accepted in ("an existing path", "hf:owner/name[@revision]", "timm:NAME"):
        assert accepted in message
    assert "\n" not in message


@pytest.mark.parametrize("reference", ["timm:", "hf:", "hf:model", ""])
def test_half_a_reference_is_refused(reference: str) -> None:
    with pytest.raises(UsageError):
        resolve(reference)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"CLSSPEC_CACHE": "own", "XDG_CACHE_HOME": "shared"}, "own"),
        ({"XDG_CACHE_HOME": "shared"}, "shared/clsspec"),
        ({"HOME": "home"}, "home/.cache/clsspec"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    variables: dict[str, str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLSSPEC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache_folder() == tmp_path / folder


def test_resolve_uses_the_cache_of_the_environment(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "own"))
    path = resolve(entry.name).path
    assert path is not None
    assert path.parent == tmp_path / "own" / "checkpoints"


@pytest.fixture
def head(file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> HeadEntry:
    """A head of the catalogue, on a server of this machine."""
    path = "/dinov2/dinov2_vits14/dinov2_vits14_nyu_linear4_head.pth"
    file_server.files[path] = CONTENT
    entry = replace(HEADS["dinov2_vits14_nyu_linear4"], address=file_server.url + path)
    monkeypatch.setitem(module.HEADS, entry.name, entry)
    return entry


def test_a_head_of_the_catalogue_is_downloaded_once_and_described(
    head: HeadEntry, tmp_path: Path, file_server: FileServer
) -> None:
    for _ in range(2):
        found = resolve_head(head.name, "depth", backbone="dinov2_vits14", cache=tmp_path)
        path = tmp_path / "checkpoints" / "dinov2_vits14_nyu_linear4_head.pth"
        assert found == LocalCheckpoint(head.name, path, "Apache-2.0")
        assert path.read_bytes() == CONTENT
    assert len(file_server.requests) == 1


def test_a_head_that_the_server_does_not_have_is_refused(
    head: HeadEntry, tmp_path: Path, file_server: FileServer
) -> None:
    file_server.files.clear()
    with pytest.raises(SourceError):
        resolve_head(head.name, "depth", cache=tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_head_of_another_task_is_refused_before_it_is_downloaded(
    head: HeadEntry, tmp_path: Path, file_server: FileServer
) -> None:
    with pytest.raises(UsageError, match=r"linear4 is a head for depth, not for segment$"):
        resolve_head(head.name, "segment", cache=tmp_path)
    assert file_server.requests == []


@pytest.mark.parametrize("backbone", ["dinov2_vits14_reg", "dinov2_vitb14"])
def test_a_head_of_another_checkpoint_is_refused_before_it_is_downloaded(
    backbone: str, head: HeadEntry, tmp_path: Path, file_server: FileServer
) -> None:
    """With and without registers the widths are the same: nothing later would notice."""
    with pytest.raises(UsageError, match=f"is a head of dinov2_vits14, not of {backbone}$"):
        resolve_head(head.name, "depth", backbone=backbone, cache=tmp_path)
    assert file_server.requests == []


def test_a_checkpoint_of_ones_own_may_take_any_head(head: HeadEntry, tmp_path: Path) -> None:
    found = resolve_head(head.name, "depth", backbone="my/training.pth", cache=tmp_path)
    assert found.path.read_bytes() == CONTENT


def test_what_is_no_name_of_a_head_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_head("~/head.pth#lr", "classify").path == tmp_path / "head.pth#lr"
    assert resolve_head("a.pth", "depth") == LocalCheckpoint("a.pth", Path("a.pth"))
