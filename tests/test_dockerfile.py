"""The Dockerfile's own lines, without a container engine.

What only a container can do is left out: the base image, for which a fresh virtual environment
stands, a file system and a network of its own, and `useradd`, which the Dockerfile does without.
"""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dockerfile import USER, Image, instructions
from PIL import Image as Pictures

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text()
SECONDS = 60


@pytest.fixture
def image() -> Iterator[Image]:
    # Not `tmp_path`, which is for the eyes of its owner only.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Image(Path(folder))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_image_builds_serves_writes_nothing_and_stops(image: Image) -> None:
    image.build(TEXT, ROOT)
    assert image.stage.user == f"{USER}:{USER}"
    before = set(image.files())
    port = str(free_port())
    command = image.stage.command
    if image.user is None:
        subprocess.run(["chmod", "-R", "a-w", image.root], check=True)

    def healthy() -> bool:
        check = image.start(command["HEALTHCHECK"], CLSSPEC_PORT=port)
        check.communicate(timeout=SECONDS)
        return check.returncode == 0

    assert not healthy()
    server = image.start(command["ENTRYPOINT"] + command["CMD"], CLSSPEC_PORT=port)
    lines: list[str] = []
    stderr = server.stderr
    assert stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(stderr))
    reader.start()
    try:
        end = time.monotonic() + SECONDS
        while not healthy():
            assert server.poll() is None, lines
            assert time.monotonic() < end, lines
            time.sleep(0.2)
        (key,) = re.findall(
            r"^clsspec: clients need this key: (\S+)$", "".join(lines), re.MULTILINE
        )
        photograph = (ROOT / "examples" / "waiting-room.jpg").read_bytes()
        url = f"http://127.0.0.1:{port}/depth"
        assert httpx.post(url, content=photograph, trust_env=False).status_code == 401
        answer = httpx.post(
            url, content=photograph, headers={"X-API-Key": key}, timeout=SECONDS, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        with Pictures.open(io.BytesIO(answer.content)) as depth:
            assert (depth.format, depth.size) == ("PNG", (640, 480))
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS) == 0, lines
    finally:
        if server.poll() is None:
            server.kill()
        server.wait(SECONDS)
        reader.join(SECONDS)
        stderr.close()
    assert not healthy()
    assert set(image.files()) == before
    assert not [line for line in lines if "telemetry" in line]  # it complains where it cannot write


def test_the_base_image_is_named_without_a_registry() -> None:
    bases = {rest.split()[0] for name, rest in instructions(TEXT) if name == "FROM"}
    assert bases == {"python:3.11-slim"}


def test_processes_are_started_without_a_shell_that_would_keep_signals() -> None:
    forms = {name: rest for name, rest in instructions(TEXT) if name in ("ENTRYPOINT", "CMD")}
    assert forms == {"ENTRYPOINT": '["clsspec"]', "CMD": '["serve"]'}
