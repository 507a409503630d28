"""A bundle on disk: what its files are, and that they are those of its manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clsspec_serve.choices import EngineName, HeadTask, Precision
from clsspec_serve.errors import BundleError, EngineError, OutputError, first_problem
from clsspec_serve.manifest import OF_FP32, SCHEMA_VERSION, File, LearnedPosition, Manifest
from clsspec_serve.whole import new_folder

MANIFEST = "clsspec.json"
GRAPH = "model.onnx"
HEADS = "heads"
POSITION = "position.npy"
REFERENCE = "reference.npz"
PLANS = "engines"
"""TensorRT's plans, which are this machine's and no part of the bundle."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there and have the hashes that its manifest gives."""

    path: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The backbone's ONNX file."""
        return self.path / GRAPH

    def graph_for(self, engine: EngineName, precision: Precision) -> Path:
        """The ONNX file of the backbone that an engine runs.

        Raises `EngineError` where that precision takes a graph of its own, and there is none.
        """
        for variant in self.manifest.variants_of(engine):
            if precision in variant.precisions:
                return self.path / variant.graph
        if precision not in OF_FP32[engine]:
            raise EngineError(
                f"{self.path} has no graph in {precision} for {engine}; it has "
                f"{', '.join(self.manifest.precisions(engine))} for it, and `clsspec export "
                f"--precision {precision}` writes one"
            )
        return self.graph

    def head(self, task: HeadTask) -> Path:
        """A head's ONNX file."""
        return self.path / HEADS / f"{task}.onnx"

    def position_table(self) -> NDArray[np.float32]:
        """What `position_map` resizes: `(h0, w0, D)`, or the `(head_dim / 4,)` rotary periods.

        Raises `BundleError` for another shape or dtype, and for values that are not finite.
        """
        rule = self.manifest.position
        expected = (
            (*rule.grid, self.manifest.architecture.embed_dim)
            if isinstance(rule, LearnedPosition)
            else (rule.head_dim // 4,)
        )
        try:
            table: NDArray[np.float32] = np.load(self.path / POSITION, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{self.path}: {POSITION} cannot be read: {error}") from error
        if table.shape != expected or table.dtype != np.float32 or not np.isfinite(table).all():
            raise BundleError(
                f"{self.path}: {POSITION} is {table.shape} {table.dtype}; "
                f"expected is {expected} float32, finite"
            )
        return table


def open_bundle(path: Path) -> Bundle:
    """Read the manifest and check every file's size and hash.

    Raises `BundleError` naming the first file that is missing or altered, or the newer schema.
    """
    manifest = _read_manifest(path)
    for name, expected in manifest.files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise BundleError(f"{path}: {MANIFEST} names {name!r}, a path outside the bundle")
        file = path / pure
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing")
        try:
            found = describe(file)
        except OSError as error:
            raise BundleError(f"{path}: {name} cannot be read: {error.strerror}") from error
        if found.size != expected.size:
            raise BundleError(f"{path}: {name} has {found.size} bytes, expected {expected.size}")
        if found.sha256 != expected.sha256:
            raise BundleError(
                f"{path}: {name} was changed: its sha256 is {found.sha256}, "
                f"expected {expected.sha256}"
            )
    for name in _graph_files(path):
        if name not in manifest.files:
            raise BundleError(f"{path}: {name} is there, but {MANIFEST} does not list it")
    heads = (f"{HEADS}/{head.task}.onnx" for head in manifest.heads)
    variants = (variant.graph for variant in manifest.variants)
    for name in (GRAPH, POSITION, *heads, *variants):
        if name not in manifest.files:
            raise BundleError(f"{path}: {MANIFEST} does not list {name}")
    return Bundle(path, manifest)


def _graph_files(path: Path) -> Iterator[str]:
    """The ONNX files below a folder, by POSIX path, but for plans: others may be writing there."""
    for folder, folders, names in os.walk(path):
        place = Path(folder).relative_to(path)
        if place == Path():
            folders[:] = [name for name in folders if name != PLANS]
        yield from ((place / name).as_posix() for name in names if ".onnx" in name)


def describe(file: Path) -> File:
    """Size and sha256 of a file, read in pieces."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return File(sha256=digest.hexdigest(), size=file.stat().st_size)


def describe_folder(folder: Path) -> dict[str, File]:
    """Every file below a folder but the manifest and plans, by POSIX path, in order."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    named = {file.relative_to(folder): file for file in files}
    return {
        path.as_posix(): describe(file)
        for path, file in named.items()
        if path.parts[0] not in (MANIFEST, PLANS)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `clsspec.json`."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def new_bundle(destination: Path, *, replace: bool = False) -> AbstractContextManager[Path]:
    """`new_folder` for a bundle, which replaces nothing but a bundle; raises `OutputError`."""
    if replace and os.path.exists(destination) and not (destination / MANIFEST).is_file():
        raise OutputError(f"{destination} exists and is not a bundle; it is not replaced")
    return new_folder(destination, replace=replace)


def _read_manifest(path: Path) -> Manifest:
    # Not Path's own methods, which raise for a name that is too long.
    if not os.path.isdir(path):
        kind = "is a file" if os.path.exists(path) else "does not exist"
        raise BundleError(f"{path} {kind}; a bundle is a folder with {MANIFEST}")
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle: {MANIFEST} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} cannot be read: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{path}: {MANIFEST} has no schema_version")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} was written by a newer clsspec: schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}; upgrade clsspec-serve"
        )
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise BundleError(f"{path}: {MANIFEST}, field {first_problem(error)}") from error
