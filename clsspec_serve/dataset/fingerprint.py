"""Everything that a run's results depend on, but for its pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version

from PIL import features

from clsspec_serve.choices import EngineName
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.sources.source import Place
from clsspec_serve.dataset.videos.extra import video_decoders
from clsspec_serve.engines.select import choose_engine, library_versions, package_version
from clsspec_serve.manifest import Manifest
from clsspec_serve.request import Request

_CODECS = ("libjpeg_turbo", "zlib", "webp", "libtiff", "jpg_2000", "avif")


def fingerprint(
    manifest: Manifest, request: Request, asked: Asked, place: Place, gpu: str | None
) -> dict[str, str]:
    """Names and values, in the words in which they are compared with those of another time.

    `gpu`: the kind of GPU that computes, as kinds round differently; None for the CPU.
    The pictures of a batch are in it, as engines may round by the size of a batch. Raises
    `EngineError` where the engine that is asked for is not here.
    """
    limits = request.limits
    return {
        "clsspec": version("clsspec-serve"),
        "model": manifest.name,
        "bundle": hashlib.sha256(manifest.model_dump_json().encode()).hexdigest(),
        "engine": _engine(choose_engine(asked.engine, asked.precision)),
        **({} if gpu is None else {"gpu": gpu}),
        "precision": asked.precision,
        "decoders": _decoders(place),
        "answers": ", ".join(request.names),
        "preprocessing": request.preprocessing.model_dump_json(),
        "size": _size(request.size),
        "resize": str(request.policy),
        "windows": f"{request.window}, {request.stride}, flip {request.flip}",
        "column": asked.column or "the usual one",
        "fps": "every frame" if asked.fps is None else str(asked.fps),
        "max-pixels": str(limits.max_pixels),
        "background": bytes(limits.background).hex(),
        "dtype": asked.dtype,
        "codec": str(asked.codec),
        "dedupe": str(asked.dedupe),
        "batch-size": str(asked.batch_size),
        "shard-size": str(asked.shard_size),
        # It multiplies by the components.
        **({"numpy": version("numpy")} if asked.codec.pca else {}),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What differs, by name, in words."""
    names = dict.fromkeys([*before, *now])
    return {
        name: f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    }


def _engine(name: EngineName) -> str:
    found = {name: package_version(name) or ""} | library_versions(name)
    return ", ".join(f"{each} {number}".strip() for each, number in found.items())


def _decoders(place: Place) -> str:
    found = {"pillow": version("pillow")}
    found |= {name: str(features.version(name)) for name in _CODECS if features.check(name)}
    if place.kind == "videos":
        found |= video_decoders()
    return ", ".join(f"{name} {each}" for name, each in found.items())


def _size(size: tuple[int, int] | None) -> str:
    return "the model's" if size is None else f"{size[0]}x{size[1]}"
