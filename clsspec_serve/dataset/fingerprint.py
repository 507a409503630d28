"""Everything that a run's results depend on, but for its pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from PIL import features

from clsspec_serve.choices import DType, EngineName
from clsspec_serve.predictor import Model
from clsspec_serve.request import Request

_PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}
_CODECS = ("libjpeg_turbo", "zlib", "webp", "libtiff", "jpg_2000", "avif")


def fingerprint(
    model: Model, request: Request, *, dtype: DType, batch_size: int, shard_size: int
) -> dict[str, str]:
    """Names and values, in the words in which they are compared with those of another time.

    The pictures of a batch are in it, as engines may round by the size of a batch.
    """
    limits = request.limits
    return {
        "clsspec": version("clsspec-serve"),
        "model": model.manifest.name,
        "bundle": hashlib.sha256(model.manifest.model_dump_json().encode()).hexdigest(),
        "engine": _engine(model),
        "precision": model.engine.precision,
        "decoders": _decoders(),
        "answers": ", ".join(request.names),
        "preprocessing": request.preprocessing.model_dump_json(),
        "size": _size(request.size),
        "resize": str(request.policy),
        "windows": f"{request.window}, {request.stride}, flip {request.flip}",
        "max-pixels": str(limits.max_pixels),
        "background": bytes(limits.background).hex(),
        "dtype": dtype,
        "batch-size": str(batch_size),
        "shard-size": str(shard_size),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, in words."""
    names = dict.fromkeys([*before, *now])
    return [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _engine(model: Model) -> str:
    for name, packages in _PACKAGES.items():
        if name == model.engine.name:
            for package in packages:
                try:
                    return f"{name} {version(package)}"
                except PackageNotFoundError:
                    continue
    return model.engine.name


def _decoders() -> str:
    found = {"pillow": version("pillow")}
    found |= {name: str(features.version(name)) for name in _CODECS if features.check(name)}
    return ", ".join(f"{name} {each}" for name, each in found.items())


def _size(size: tuple[int, int] | None) -> str:
    return "the model's" if size is None else f"{size[0]}x{size[1]}"
