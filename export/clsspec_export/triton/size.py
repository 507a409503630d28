"""The one size of the pictures that a repository's models take, and how they are brought to it."""

from __future__ import annotations

from clsspec_serve.errors import UsageError
from clsspec_serve.heads import AnyHead
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.request import framing

Size = tuple[int, int]


def fixed_size(preprocessing: Preprocessing, patch: int, asked: Size | None = None) -> Size:
    """(H, W) in pixels: what is asked for, or else the preprocessing's own.

    Raises `UsageError` where that is not of whole patches.
    """
    size = preprocessing.size if asked is None else asked
    if size[0] % patch or size[1] % patch:
        raise UsageError(
            f"size {size[0]}x{size[1]} is not of whole patches; "
            f"--triton-size accepts multiples of {patch}"
        )
    return size


def fixed_preprocessing(
    preprocessing: Preprocessing, head: AnyHead | None, size: Size
) -> Preprocessing:
    """How `transform` brings every picture to (H, W) `size`, as the head or else the backbone does.

    `resize` grows or shrinks with the size. `fit` and `short` give each picture a size of its own;
    in their place stands `squash`, which keeps all of the picture, too.
    """
    own = framing(preprocessing, None if head is None else head.protocol)
    resize = own.resize or own.size
    height, width = (size[i] * resize[i] // own.size[i] for i in (0, 1))
    free = own.policy in ("fit", "short")
    return own.model_copy(
        update={
            "size": size,
            "resize": size if free else (max(height, 1), max(width, 1)),
            "policy": "squash" if free else own.policy,
        }
    )
