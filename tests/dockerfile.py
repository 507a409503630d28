"""A Dockerfile acted out without containers, in a folder that stands for the file system."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

USER = 10001
"""Another user than the one that builds, where that is root; nobody has this number."""
FOLDERS = re.compile(r"/(?=(?:build|opt/clsspec)\b)")
"""The paths in the Dockerfile that are of the image; all others are of any Linux."""
_KEPT = re.compile(r"PIP_.*|SSL_CERT_.*|.*_CA_BUNDLE|.*_proxy|LANG|HOME", re.IGNORECASE)


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction's name and the rest of it, on one line."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines())
        if name
    ]


@dataclass
class Stage:
    """What is set of an image."""

    environment: dict[str, str]
    folder: Path
    command: dict[str, list[str]] = field(default_factory=dict)
    user: str = ""


class Image:
    """The image of a Dockerfile, in `folder`, which is empty and can be seen by all users."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._base = folder / "base"
        self._stages: dict[str, Path] = {}
        self._path = f"{self._base / 'bin'}:/usr/bin:/bin"
        self.user = USER if os.geteuid() == 0 and (python := _python_for_all()) else None
        python = python if self.user else sys.executable
        subprocess.run([python, "-m", "venv", str(self._base)], check=True)
        self.stage = Stage({}, self.root)

    def build(self, text: str, context: Path) -> None:
        """Do what the instructions say; of a container's own only what can be done outside."""
        name = ""
        for instruction, rest in instructions(text):
            words = shlex.split(rest) if instruction in ("FROM", "COPY", "ENV") else []
            if instruction == "FROM":
                self._begin(name)
                name = words[-1]
            elif instruction == "WORKDIR":
                self.stage.folder = Path(self._inside(rest))
                self.stage.folder.mkdir(parents=True)
            elif instruction == "COPY":
                self._copy(words, context)
            elif instruction == "RUN":
                self._run(rest)
            elif instruction == "ARG":
                self._set([rest])
            elif instruction == "ENV":
                self._set(words)
            elif instruction in ("ENTRYPOINT", "CMD"):
                self.stage.command[instruction] = json.loads(rest)
            elif instruction == "HEALTHCHECK":
                self.stage.command[instruction] = json.loads(rest[rest.index("CMD ") + 4 :])
            elif instruction == "USER":
                self.stage.user = rest
            elif instruction != "EXPOSE":
                raise ValueError(f"{instruction} cannot be acted out")

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command in the container; its stderr is a pipe."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.stage.environment | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Path, length and date of all files, and of what the user has left elsewhere."""
        for place in (self.root, self._base):
            for path in sorted(place.rglob("*")):
                yield str(path), path.lstat().st_size, path.lstat().st_mtime_ns
        for place in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
            for path in place.iterdir() if self.user else ():
                if path.lstat().st_uid == self.user:
                    yield str(path), 0, 0

    def _begin(self, last: str) -> None:
        """A stage on a fresh file system; that of the last one is kept aside."""
        if self.root.exists():
            self._stages[last] = self.root.rename(self.root.with_name(f"stage-{last}"))
        self.root.mkdir()
        self.stage = Stage({"PATH": self._path}, self.root)

    def _copy(self, words: list[str], context: Path) -> None:
        *options, source, target = words
        if not options:
            if (source, target) != (".", "."):
                raise ValueError("only all of the context can be copied")
            _copy_context(context, self.stage.folder)
            return
        stage = self._stages[options[0].removeprefix("--from=")]
        shutil.copytree(f"{stage}{source}", self._inside(target), symlinks=True)

    def _run(self, line: str) -> None:
        kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
        subprocess.run(
            ["/bin/sh", "-c", self._inside(line)],
            cwd=self.stage.folder,
            env=kept | self.stage.environment,
            check=True,
        )

    def _set(self, words: list[str]) -> None:
        for word in words:
            name, _, value = word.partition("=")
            value = re.sub(r"\$(\w+)", lambda match: self.stage.environment[match[1]], value)
            self.stage.environment[name] = self._inside(value)

    def _inside(self, text: str) -> str:
        return FOLDERS.sub(f"{self.root}/", text)


def _copy_context(context: Path, target: Path) -> None:
    """What .dockerignore, in which everything is left out at first, lets in again."""
    lines = [line for line in (context / ".dockerignore").read_text().splitlines() if line]
    everything, *others = (line for line in lines if not line.startswith("#"))
    if everything != "*":
        raise ValueError("the first line of .dockerignore is not *")
    left_out = [line.removeprefix("**/") for line in others if line.startswith("**/")]
    for name in (line[1:] for line in others if line.startswith("!")):
        source = context / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(*left_out))
        else:
            shutil.copy(source, target / name)


def _python_for_all() -> str | None:
    """A Python of this version that another user can run, with pip to install."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        try:
            run = subprocess.run(
                [python, "-c", "import ensurepip, venv"], user=USER, group=USER, extra_groups=[]
            )
        except OSError:
            continue
        if run.returncode == 0:
            return python
    return None
