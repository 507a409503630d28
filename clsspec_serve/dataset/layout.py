"""Where each answer goes: vectors into tables, maps of one grid into arrays, the rest into tars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clsspec_serve.choices import DType
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.codecs.codec import Codec
from clsspec_serve.dataset.codecs.maps import Kept, kept
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import AnyHead, ClassificationHead, DepthHead, SegmentationHead
from clsspec_serve.manifest import Manifest
from clsspec_serve.pictures.depths import depth_scale
from clsspec_serve.pictures.masks import VOID_BYTE
from clsspec_serve.preparation import frame
from clsspec_serve.request import Request

_ANY = (64, 64)
"""A picture's size, where the grid is that of every picture."""


@dataclass(frozen=True)
class Layout:
    """Names of the answers, by what becomes of them.

    `vectors`: columns of a table, with their lengths. `maps`: arrays of maps. `files`: a file for
    each picture, by name, with its suffix. `encoded`: the patch maps, in whichever of these they
    are kept. `heads`: what made masks and depth. `dtype`: of the floats. `contents`: whether
    tables say what is known of the pictures' bytes.
    """

    vectors: dict[str, int]
    maps: dict[str, Kept]
    files: dict[str, str]
    encoded: tuple[str, ...]
    heads: tuple[AnyHead, ...]
    dtype: DType
    contents: bool


def layout_of(manifest: Manifest, request: Request, asked: Asked) -> Layout:
    """The layout for a request; raises `UsageError` for what no file can hold."""
    width = manifest.architecture.embed_dim
    patches = tuple(output.name for output in request.outputs if output.kind == "patches")
    _check_codec(asked.codec, patches, width)
    vectors = {output.name: width for output in request.outputs if output.kind == "cls"}
    files: dict[str, str] = {}
    for head in request.heads:
        if isinstance(head, ClassificationHead):
            vectors[head.task] = len(head.classes)
        elif isinstance(head, SegmentationHead):
            if len(head.classes) > VOID_BYTE:
                raise UsageError(
                    f"masks are PNGs of up to {VOID_BYTE} classes, this head has "
                    f"{len(head.classes)}"
                )
            files[head.task] = ".segment.png"
        elif isinstance(head, DepthHead):
            depth_scale(head.maximum)
            files[head.task] = ".depth.png"
    grid = _one_grid(manifest, request)
    maps: dict[str, Kept] = {}
    for name in patches:
        maps |= kept(asked.codec, asked.dtype, name, (*(grid or _ANY), width))
    if grid is None:
        files |= {name: f".{name}.npy" for name in maps}
        maps = {}
    return Layout(vectors, maps, files, patches, request.heads, asked.dtype, asked.dedupe)


def _check_codec(codec: Codec, patches: Sequence[str], width: int) -> None:
    if codec.loses and not patches:
        raise UsageError(f"codec {codec} is for patch maps, which are not asked for")
    if codec.pca is not None and codec.pca >= width:
        raise UsageError(f"codec {codec}; patches have {width} channels, accepted are fewer")


def _one_grid(manifest: Manifest, request: Request) -> tuple[int, int] | None:
    """The grid of every picture, where the way to bring pictures to size has only one."""
    policy = request.policy or request.preprocessing.policy
    if policy not in ("squash", "crop"):
        return None
    geometry, _ = frame(manifest, _ANY, request)
    return geometry.grid
