"""The part of the Hugging Face Hub's API that `snapshot_download` asks for, on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from standins.files import listening

_API = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/?]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Files by path, revisions by name, and the answer to those who may not read it."""

    files: dict[str, bytes]
    revisions: dict[str, str]
    refusal: tuple[int, str] | None = None
    """Status and X-Error-Code; None lets everyone in."""


@dataclass
class Hub:
    """What the Hub holds, and what was asked: method and path."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def add(self, owner_name: str, files: dict[str, bytes], *tags: str) -> Repository:
        """A repository whose `main`, and each tag, is one commit that holds these files."""
        commit = hashlib.sha1(owner_name.encode()).hexdigest()
        revisions = dict.fromkeys(("main", *tags, commit), commit)
        self.repositories[owner_name] = Repository(files, revisions)
        return self.repositories[owner_name]

    def fetched(self) -> list[str]:
        """The files whose content was asked for, in alphabetical order."""
        matches = (_FILE.fullmatch(path) for method, path in self.requests if method == "GET")
        return sorted(match[3] for match in matches if match)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path))
        api, file = _API.match(self.path), _FILE.fullmatch(self.path)
        match = api or file
        repository = self.hub.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            # The real one hides from strangers which repositories exist.
            return self._error(401, "RepoNotFound")
        if repository.refusal is not None:
            return self._error(*repository.refusal)
        commit = repository.revisions.get(match[3] if api else match[2])
        if commit is None:
            return self._error(404, "RevisionNotFound")
        if api and api[2] == "revision":
            return self._json({"id": match[1], "sha": commit, "siblings": []})
        if api:
            return self._json(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                    for path, content in repository.files.items()
                ]
            )
        if match[3] not in repository.files:
            return self._error(404, "EntryNotFound")
        content = repository.files[match[3]]
        return self._send(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit})

    do_HEAD = do_GET

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the tests read `requests`."""


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, and huggingface_hub pointed at it with an empty cache."""
    hub = Hub()
    with listening(type("Handler", (_Handler,), {"hub": hub})) as url:
        hub.url = url
        yield from _pointed_at(hub, tmp_path, monkeypatch)


@pytest.fixture
def unreachable_hub(
    closed_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """huggingface_hub pointed at an address where nobody listens."""
    yield from _pointed_at(Hub(closed_address), tmp_path, monkeypatch)


def _pointed_at(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub
    from huggingface_hub import constants

    # huggingface_hub reads its environment when it is imported, which may have happened.
    home = folder / "hugging-face"
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "AGENT_HARNESSES_PATH": str(home / "agents.json"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
