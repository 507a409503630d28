"""What was found, as the body of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from clsspec_serve.choices import Form, Format
from clsspec_serve.delivery import Delivery
from clsspec_serve.errors import UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.heads import AnyHead, DepthHead, SegmentationHead
from clsspec_serve.http.errors import Problem
from clsspec_serve.http.json_body import json_body
from clsspec_serve.http.negotiation import MEDIA_TYPES
from clsspec_serve.http.results import Result
from clsspec_serve.layers import require_head
from clsspec_serve.outputs import Arrays, encode_arrays, npy
from clsspec_serve.pictures.alignment import enlarge, visible
from clsspec_serve.pictures.depths import depth_png, depth_scale
from clsspec_serve.pictures.look import encode_picture
from clsspec_serve.pictures.masks import mask_png
from clsspec_serve.pictures.pca import fit
from clsspec_serve.predictor import Prediction
from clsspec_serve.request import Request

ALONE: tuple[Form, ...] = ("npy", "png")
"""Forms of one array of one picture."""


@dataclass(frozen=True)
class Body:
    """The bytes of an answer, and the headers that belong to them."""

    content: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Writer:
    """Makes bodies for one model."""

    model: str
    heads: Sequence[AnyHead]

    def write(self, results: Sequence[Result], form: Form, delivery: Delivery) -> Body:
        """The body for all pictures of a request; see `check_form` for PNG and npy."""
        media_type = MEDIA_TYPES[form]
        if form == "json":
            return Body(json_body(self.model, results, delivery, self.heads), media_type)
        if form == "npz" or form == "safetensors":
            return self._archive(results, form, delivery)
        prediction = results[0].outcome
        if isinstance(prediction, Problem):
            raise TypeError("a picture that failed has no PNG and no npy")
        headers = {"Clsspec-Geometry": geometry_text(delivery.geometry(prediction.geometry))}
        if form == "npy":
            (array,) = delivery.apply(prediction.arrays).values()
            return Body(npy(array), media_type, headers)
        content, more = self._png(prediction)
        return Body(content, media_type, headers | more)

    def _archive(self, results: Sequence[Result], form: Format, delivery: Delivery) -> Body:
        arrays: Arrays = {}
        texts: dict[str, str] = {}
        headers: dict[str, str] = {}
        for index, result in enumerate(results):
            before = f"{index}/" if len(results) > 1 else ""
            if isinstance(result.outcome, Problem):
                texts[f"{before}error"] = result.outcome.model_dump_json()
                continue
            geometry = geometry_text(delivery.geometry(result.outcome.geometry))
            texts[f"{before}geometry"] = geometry
            if not before:
                headers["Clsspec-Geometry"] = geometry
            delivered = delivery.apply(result.outcome.arrays)
            arrays |= {before + name: array for name, array in delivered.items()}
        return Body(encode_arrays(arrays, texts, form), MEDIA_TYPES[form], headers)

    def _png(self, prediction: Prediction) -> tuple[bytes, dict[str, str]]:
        ((name, array),) = prediction.arrays.items()
        if name == "segment":
            return mask_png(array, require_head(self.heads, SegmentationHead).classes), {}
        if name == "depth":
            maximum = require_head(self.heads, DepthHead).maximum
            return depth_png(array, maximum), {"Clsspec-Depth-Scale": str(depth_scale(maximum))}
        return encode_picture(pca_picture(array, prediction.geometry), ".png"), {}


def check_form(form: Form, asked: Request, delivery: Delivery) -> None:
    """Raise `UsageError` where PNG, or npy, is to hold more than the one array that it can.

    And where a PNG is to show what is done with features afterwards, which it does not.
    """
    if form not in ALONE:
        return
    if form == "png" and delivery != Delivery():
        raise UsageError("pool, normalize and dtype are for arrays; png has none of them")
    if len(asked.names) != 1:
        raise UsageError(
            f"{form} is for one array, not {', '.join(asked.names)}; choose one with tasks and "
            "layers, or another format"
        )
    if form == "png" and any(output.kind == "cls" for output in asked.outputs):
        raise UsageError(f"png is for a patch map, not {asked.names[0]}")


@lru_cache(maxsize=256)
def geometry_text(geometry: Geometry) -> str:
    """For a header, and beside arrays: `Geometry.from_dict` reads its JSON."""
    return json.dumps(geometry.to_dict(), separators=(",", ":"))


def pca_picture(patches: Any, geometry: Geometry) -> Any:
    """The principal components of patches `(h, w, D)` where they lie in the picture, `(H, W, 3)`.

    Black where the network saw nothing of it.
    """
    colours = fit([patches[visible(geometry)]]).apply(patches)
    return enlarge(colours, geometry, np.zeros((*geometry.image, 3), np.uint8))
