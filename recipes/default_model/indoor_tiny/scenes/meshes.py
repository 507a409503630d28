"""OBJ models as triangles of real size, with materials that a shader can look up by number."""

from __future__ import annotations

import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from indoor_tiny.scenes.catalogue import Piece

MOST_MATERIALS = 32
"""More share the last one's number."""

MOST_FACES = 120_000

VERTEX = np.dtype([("position", "f4", 3), ("normal", "f4", 3), ("uv", "f4", 2), ("material", "u4")])
"""Metres, x to the right, y up, the front towards +z; the origin below the middle, on the floor."""


@dataclass(frozen=True)
class Material:
    """`colour`: sRGB in [0, 1]; `opacity`: 1 is opaque; `texture`: `(T, T, 3) uint8` or None."""

    colour: tuple[float, float, float]
    opacity: float
    texture: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Mesh:
    """`vertices`: `(3 F,)` of `VERTEX`, three in a row a triangle; the materials they number."""

    vertices: NDArray[np.void]
    materials: tuple[Material, ...]


def unpack(furniture: Path, folder: Path) -> None:
    """Unzip the libraries of a folder, each into a folder of its name, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for library in sorted(furniture.glob("*.sh3f")):
        if not (folder / library.stem).is_dir():
            part = folder / f".{library.stem}.tmp"
            with zipfile.ZipFile(library) as archive:
                archive.extractall(part)
            part.rename(folder / library.stem)


def load_mesh(piece: Piece, unpacked: Path, texture_side: int) -> Mesh | None:
    """The piece at its catalogue's size; None for one of over `MOST_FACES` triangles."""
    logging.getLogger("trimesh").setLevel(logging.ERROR)  # it notes every odd material
    loaded = trimesh.load_scene(unpacked / piece.library.stem / piece.model, process=False)
    parts = [part for part in loaded.geometry.values() if len(getattr(part, "faces", ()))]
    if not 0 < sum(len(part.faces) for part in parts) <= MOST_FACES:
        return None
    vertices = np.concatenate(
        [_triangles(part, min(i, MOST_MATERIALS - 1)) for i, part in enumerate(parts)]
    )
    _resize(vertices, piece)
    materials = tuple(_material(part, texture_side) for part in parts[:MOST_MATERIALS])
    return Mesh(vertices, materials)


def quads(
    corners: NDArray[np.float64], uv: NDArray[np.float64], material: int = 0
) -> NDArray[np.void]:
    """`(Q, 4, 3)` corners, counter-clockwise from outside, and `(Q, 4, 2)` as `(6 Q,)` vertices."""
    order = [0, 1, 2, 0, 2, 3]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    vertices = np.zeros(6 * len(corners), VERTEX)
    vertices["position"] = corners[:, order].reshape(-1, 3)
    vertices["uv"] = uv[:, order].reshape(-1, 2)
    vertices["normal"] = np.repeat(normals, 6, axis=0)
    vertices["material"] = material
    return vertices


def _triangles(part: trimesh.Trimesh, material: int) -> NDArray[np.void]:
    faces = part.faces.reshape(-1)
    vertices = np.zeros(len(faces), VERTEX)
    vertices["position"] = part.vertices[faces]
    vertices["normal"] = part.vertex_normals[faces]
    uv = getattr(part.visual, "uv", None)
    if uv is not None and len(uv) == len(part.vertices):
        vertices["uv"] = uv[faces]
    vertices["material"] = material
    return vertices


def _resize(vertices: NDArray[np.void], piece: Piece) -> None:
    position = vertices["position"].astype(np.float64) @ piece.rotation.T
    low, high = position.min(axis=0), position.max(axis=0)
    scale = np.array(piece.size) / np.maximum(high - low, 1e-9)
    anchor = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    vertices["position"] = (position - anchor) * scale
    normal = vertices["normal"] @ piece.rotation.T / scale
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    vertices["normal"] = np.where(length > 0, normal / np.maximum(length, 1e-12), (0, 1, 0))


def _material(part: trimesh.Trimesh, side: int) -> Material:
    material = getattr(part.visual, "material", None)
    diffuse = np.asarray(getattr(material, "diffuse", (200, 200, 200, 255)), np.float64) / 255
    image = getattr(material, "image", None)
    texture = None
    if image is not None:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
        texture = np.asarray(resized)[::-1].copy()  # a texture's first row is its lowest
    red, green, blue = map(float, diffuse[:3])
    return Material((red, green, blue), _opacity(material), texture)


def _opacity(material: object) -> float:
    """MTL's `d`, which trimesh keeps beside what it understands."""
    value = getattr(material, "kwargs", {}).get("d", ["1"])
    return float(value[0] if isinstance(value, list) else value)
