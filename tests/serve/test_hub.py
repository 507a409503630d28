from __future__ import annotations

import subprocess
import sys

import pytest
from huggingface_hub import constants
from standins.hub import Hub

from clsspec_serve.errors import SourceError, UsageError
from clsspec_serve.hub import HubRef, parse_hub, snapshot

REF = HubRef("facebook/tiny", None)
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "onnx/model.onnx": b"graph"}


@pytest.mark.parametrize(
    ("text", "owner_name", "revision"),
    [
        ("hf:facebook/dinov2-small", "facebook/dinov2-small", None),
        ("hf:a/b@main", "a/b", "main"),
        ("hf:timm/vit_small.lvd142m@v1.0", "timm/vit_small.lvd142m", "v1.0"),
        ("hf:a/b@refs/pr/4", "a/b", "refs/pr/4"),
        ("hf:a/b@topic--two", "a/b", "topic--two"),
    ],
)
def test_a_reference_is_read_and_written_back(
    text: str, owner_name: str, revision: str | None
) -> None:
    ref = parse_hub(text)
    assert ref == HubRef(owner_name, revision)
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    [
        "facebook/dinov2-small",
        "hf:dinov2-small",
        "hf:a/b/c",
        "hf:a/b@",
        "hf:a/b@x y",
        "hf:a/b@../../x",
        "hf:a/..",
        "hf:a/b--c",
        "hf:-a/b",
        "hf:a/b\n",
        "hf:",
    ],
)
def test_what_is_no_reference_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"accepted is hf:owner/name\[@revision\]") as caught:
        parse_hub(text)
    assert "\n" not in str(caught.value)


def test_a_snapshot_holds_the_repositorys_files(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES)
    folder = snapshot(REF)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_plans_are_not_fetched_as_they_are_native_code(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES | {"engines/sm90-trt11/model.plan": b"code"})
    folder = snapshot(REF)
    assert hub.fetched() == sorted(FILES)
    assert not (folder / "engines").exists()


def test_only_files_that_match_a_pattern_are_fetched(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES)
    folder = snapshot(REF, ["*.json", "*.safetensors"])
    assert hub.fetched() == ["config.json", "model.safetensors"]
    assert not (folder / "onnx").exists()


def test_a_repository_without_a_matching_file_is_an_error(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES)
    snapshot(REF, ["*.json"])
    with pytest.raises(SourceError, match=r"hf:facebook/tiny holds no file that matches \*\.pth"):
        snapshot(REF, ["*.pth"])


def test_a_revision_is_the_one_that_is_fetched(hub: Hub) -> None:
    commit = hub.add("facebook/tiny", FILES, "v1").revisions["v1"]
    assert snapshot(HubRef("facebook/tiny", "v1")).name == commit
    assert snapshot(HubRef("facebook/tiny", commit)).name == commit


def test_a_second_snapshot_fetches_nothing(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES)
    snapshot(REF)
    hub.requests.clear()
    snapshot(REF)
    assert hub.fetched() == []


def test_a_repository_that_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(
        SourceError, match="hf:facebook/tiny does not exist or is private"
    ) as caught:
        snapshot(REF)
    assert f"{hub.url}/facebook/tiny" in str(caught.value)


def test_a_revision_that_is_not_there_is_named(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES)
    with pytest.raises(SourceError, match="facebook/tiny has no revision 'v9'"):
        snapshot(HubRef("facebook/tiny", "v9"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_where_to_accept_its_licence(hub: Hub, status: int) -> None:
    hub.add("facebook/tiny", FILES).refusal = (status, "GatedRepo")
    with pytest.raises(SourceError, match="is gated: accept its licence at") as caught:
        snapshot(REF)
    assert f"{hub.url}/facebook/tiny" in str(caught.value)
    assert "hf auth login" in str(caught.value)


def test_a_forbidden_repository_says_to_log_in(hub: Hub) -> None:
    hub.add("facebook/tiny", FILES).refusal = (403, "")
    with pytest.raises(SourceError, match=r"access refused \(HTTP 403\).*hf auth login"):
        snapshot(REF)


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails_says_how_to_bring_the_files_by_hand(hub: Hub, status: int) -> None:
    hub.add("facebook/tiny", FILES).refusal = (status, "")
    with pytest.raises(SourceError, match="give the folder's path instead") as caught:
        snapshot(REF)
    assert "\n" not in str(caught.value)


def test_a_refused_connection_says_how_to_bring_the_files_by_hand(unreachable_hub: Hub) -> None:
    with pytest.raises(SourceError, match="cannot be downloaded") as caught:
        snapshot(HubRef("facebook/tiny", "v1"))
    assert "download the files of facebook/tiny at revision v1" in str(caught.value)
    assert "give the folder's path instead" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_cached_is_found_without_a_network(
    hub: Hub, closed_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("facebook/tiny", FILES)
    folder = snapshot(REF)
    monkeypatch.setattr(constants, "ENDPOINT", closed_address)
    assert snapshot(REF) == folder


def test_what_is_cached_is_found_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("facebook/tiny", FILES)
    folder = snapshot(REF)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert snapshot(REF) == folder
    assert hub.requests == []


def test_what_is_not_cached_says_that_offline_is_switched_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("facebook/tiny", FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="not in the cache and HF_HUB_OFFLINE is set"):
        snapshot(REF)
    assert hub.requests == []


def test_a_snapshot_that_is_only_half_cached_is_refused_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("facebook/tiny", FILES)
    snapshot(REF, ["*.json"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="not in the cache and HF_HUB_OFFLINE is set"):
        snapshot(REF, ["*.safetensors"])


def test_importing_brings_no_network_library_along() -> None:
    heavy = {"huggingface_hub", "httpx", "rich"}
    modules = "clsspec_serve.hub, clsspec_serve.download, clsspec_serve.progress"
    code = f"import sys, {modules}; print(*({heavy!r} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
