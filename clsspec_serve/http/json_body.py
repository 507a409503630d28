"""Answers as JSON: embeddings as numbers, maps as base64, masks and depth as PNGs in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.delivery import Delivery
from clsspec_serve.heads import AnyHead, ClassificationHead, DepthHead, SegmentationHead
from clsspec_serve.http.errors import Problem
from clsspec_serve.http.results import Result
from clsspec_serve.layers import require_head
from clsspec_serve.pictures.depths import depth_png, depth_scale
from clsspec_serve.pictures.masks import VOID_BYTE, counted, mask_png
from clsspec_serve.predictor import Prediction


def json_body(
    model: str, results: Sequence[Result], delivery: Delivery, heads: Sequence[AnyHead]
) -> bytes:
    """`{"model": ..., "results": [...]}`; each result has `index`, `name` and arrays or `error`."""
    listed = []
    for index, result in enumerate(results):
        entry: dict[str, Any] = {"index": index, "name": result.name}
        if isinstance(result.outcome, Problem):
            entry["error"] = result.outcome.model_dump()
        else:
            entry |= _found(result.outcome, delivery, heads)
        listed.append(entry)
    return json.dumps({"model": model, "results": listed}, separators=(",", ":")).encode()


def _found(prediction: Prediction, delivery: Delivery, heads: Sequence[AnyHead]) -> dict[str, Any]:
    entry: dict[str, Any] = {"geometry": delivery.geometry(prediction.geometry).to_dict()}
    for name, array in delivery.apply(prediction.arrays).items():
        if name == "segment":
            entry[name] = _segment(array, require_head(heads, SegmentationHead))
        elif name == "depth":
            # In a PNG there is no half precision.
            entry[name] = _depth(prediction.depth, require_head(heads, DepthHead))
        elif name == "classify":
            entry[name] = _classify(array, require_head(heads, ClassificationHead))
        else:
            entry[name] = array.tolist() if array.ndim == 1 else _raw(array)
    return entry


def _raw(array: NDArray[Any]) -> dict[str, Any]:
    """Little-endian bytes in C order."""
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "base64": _base64(array.astype(array.dtype.newbyteorder("<")).tobytes()),
    }


def _segment(ids: NDArray[Any], head: SegmentationHead) -> dict[str, Any]:
    fits = ids.dtype == np.uint8 and len(head.classes) <= VOID_BYTE
    content = {"png": _base64(mask_png(ids, head.classes))} if fits else _raw(ids)
    classes = [
        {
            "id": index,
            "name": area.name,
            "colour": list(head.classes[index].colour) if index < len(head.classes) else None,
            "pixels": area.pixels,
            "share": area.share,
        }
        for index, area in counted(ids, head.classes)
    ]
    return {**content, "classes": classes}


def _depth(metres: NDArray[np.float32], head: DepthHead) -> dict[str, Any]:
    """`metres = value / scale` in the 16-bit PNG; 0 is no value."""
    seen = metres[np.isfinite(metres)]
    return {
        "png": _base64(depth_png(metres, head.maximum)),
        "scale": depth_scale(head.maximum),
        "nearest": float(seen.min()) if seen.size else None,
        "farthest": float(seen.max()) if seen.size else None,
    }


def _classify(logits: NDArray[Any], head: ClassificationHead) -> list[dict[str, Any]]:
    """All classes, the most probable first."""
    exact = logits.astype(np.float64)
    powers = np.exp(exact - exact.max())
    shares = powers / powers.sum()
    return [
        {
            "id": int(index),
            "name": head.classes[index],
            "logit": float(logits[index]),
            "probability": float(shares[index]),
        }
        for index in np.argsort(-exact, kind="stable")
    ]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
