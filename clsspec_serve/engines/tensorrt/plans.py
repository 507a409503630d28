"""Plans on disk: what each is for, where they are, and that one is never taken for another."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

import clsspec_serve
from clsspec_serve.bundle import HEADS, PLANS, describe
from clsspec_serve.choices import Precision
from clsspec_serve.engines.tensorrt.buckets import Bucket
from clsspec_serve.engines.tensorrt.inspection import Layers
from clsspec_serve.errors import EngineError, os_reason
from clsspec_serve.schema import Count, Strict
from clsspec_serve.whole import write_whole

LOG = logging.getLogger("clsspec.engine")

TIMINGS = "timing.cache"


class Made(Strict):
    """All that a plan depends on; `gpu` by name, as a plan is for one model of an architecture.

    `graph`: of the graph and its weights. `sizes`: see `Bucket`.
    """

    graph: str
    precision: str
    architecture: str
    gpu: str
    tensorrt: str
    sizes: tuple[tuple[str, tuple[Count, ...]], ...]
    largest: Count


class PlanManifest(Strict):
    """What is written beside a plan. `checked`: whether its answers were compared with others'.

    `sha256`: the plan's own. `seconds`: how long the build took.
    """

    made: Made
    sha256: str
    checked: bool
    seconds: float
    layers: Layers


class Plans:
    """The plans of one architecture and version of TensorRT, in a folder.

    Processes take turns in building: timings that are taken while another one builds are wrong,
    and who waited finds the plan that it wanted. Where a file system has no locks the last one
    wins; every file is whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str, made: Made, *, checked: bool) -> bytes | str:
        """The plan of that name, or why there is none that is right.

        `checked`: accept only one whose answers were compared.
        """
        file = self._plan(name)
        try:
            manifest = PlanManifest.model_validate_json(self._manifest(name).read_bytes())
            content = file.read_bytes()
        except FileNotFoundError:
            return "there is none yet"
        except (OSError, ValidationError) as error:
            return f"{file} cannot be read: {type(error).__name__}"
        for field in Made.model_fields:
            was, now = getattr(manifest.made, field), getattr(made, field)
            if was != now:
                return f"{file} is of another {field}: {was}, not {now}"
        if hashlib.sha256(content).hexdigest() != manifest.sha256:
            return f"{file} was changed"
        if checked and not manifest.checked:
            return f"the answers of {file} were never compared"
        return content

    def keep(self, name: str, content: bytes, manifest: PlanManifest) -> None:
        """Write a plan and what it is; raises `OutputError`."""
        write_whole(self._plan(name), content)
        text = manifest.model_dump_json(indent=2)
        write_whole(self._manifest(name), f"{text}\n".encode())

    def timings(self) -> bytes:
        """How long each kernel took in earlier builds; none when there were none."""
        try:
            return (self.folder / TIMINGS).read_bytes()
        except OSError:
            return b""

    def keep_timings(self, content: bytes) -> None:
        """For the builds to come; raises `OutputError`."""
        write_whole(self.folder / TIMINGS, content)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nobody else builds here."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((self.folder / ".lock").open("wb"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    LOG.info("tensorrt: waits for another build to end")
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _plan(self, name: str) -> Path:
        return self.folder / f"{name}.plan"

    def _manifest(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def plan_name(graph: Path, precision: Precision, bucket: Bucket, gpu: str) -> str:
    """`model-bf16-4x518x518-b8-nvidia-h200`: one file for each, so that none replaces another's."""
    model = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return f"{graph.stem}-{precision}-{bucket.label}-{model}"


def digest(graph: Path) -> str:
    """The sha256 of a graph and of all weights that lie beside it; raises `EngineError`."""
    whole = hashlib.sha256()
    try:
        for file in sorted({graph, *graph.parent.glob("*.data")}):
            whole.update(f"{file.name} {describe(file).sha256}\n".encode())
    except OSError as error:
        raise EngineError(f"tensorrt cannot load {graph}: {os_reason(error)}") from error
    return whole.hexdigest()


def plans_of(graph: Path, graph_digest: str, architecture: str, version: str) -> Plans:
    """Where a graph's plans are: in its bundle, or in the user's cache where that is not to be
    written: the one in this package, one in the Hub's cache, and what the system forbids.
    """
    root = graph.parent.parent if graph.parent.name == HEADS else graph.parent
    package = Path(clsspec_serve.__file__).resolve().parent
    ours = package in graph.resolve().parents
    if ours or graph.is_symlink() or not os.access(root, os.W_OK | os.X_OK):
        place = _cache() / PLANS / graph_digest[:16]
    else:
        place = root / PLANS
    return Plans(place / f"{architecture}-trt{version}")


def _cache() -> Path:
    """CLSSPEC_CACHE, else `clsspec` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    own, shared = os.environ.get("CLSSPEC_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path.home() / ".cache") / "clsspec"
