"""The evaluation transforms that the sources publish with their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError
from timm.data import resolve_model_data_config

from clsspec_export.specialize import ViT
from clsspec_serve.choices import Interpolation
from clsspec_serve.errors import CheckpointError, first_problem
from clsspec_serve.manifest import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DINOV2 = Preprocessing(
    size=(224, 224),
    resize=(256, 256),
    policy="crop",
    interpolation="bicubic",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
"""DINOv2's evaluation: short side to 256, bicubic, 224 out of the centre."""

DINOV3 = Preprocessing(
    size=(256, 256),
    policy="squash",
    interpolation="bilinear",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
"""DINOv3's published transform for its web-image models: squashed to 256."""

DINOV3_SAT = DINOV3.model_copy(update={"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)})
"""The same for its satellite-image models."""

DEIT3 = Preprocessing(
    size=(224, 224),
    policy="crop",
    interpolation="bicubic",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
"""DeiT-III's evaluation: crop ratio 1, bicubic, at the training size."""

_PIL_RESAMPLE: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def from_timm(model: ViT) -> Preprocessing:
    """timm's own configuration of the model, as its `create_transform` would apply it.

    A model with learned positions that was built for another size than its configuration says
    takes that size.
    """
    config = resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    if model.pos_embed is not None:
        height, width = model.patch_embed.img_size
    if config["interpolation"] not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise CheckpointError(f"timm's interpolation {config['interpolation']!r} is not supported")
    if config["crop_mode"] not in ("center", "squash"):
        raise CheckpointError(f"timm's crop mode {config['crop_mode']!r} is not supported")
    resize = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
    return Preprocessing(
        size=(height, width),
        resize=None if resize == (height, width) else cast(tuple[int, int], resize),
        policy="squash" if config["crop_mode"] == "squash" else "crop",
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def from_huggingface(config: Mapping[str, Any], source: str) -> Preprocessing:
    """A folder's `preprocessor_config.json` (shortest edge and crop, or a fixed size)."""
    resample = config.get("resample")
    if not isinstance(resample, int) or resample not in _PIL_RESAMPLE:
        raise CheckpointError(f"{source}: resample {resample!r} is not supported")
    if not config.get("do_resize", True) or not config.get("do_normalize", True):
        raise CheckpointError(f"{source}: a processor that does not resize or normalise")
    factor = config.get("rescale_factor", 1 / 255)
    whole = isinstance(factor, int | float) and abs(factor * 255 - 1) < 1e-6
    if not whole or not config.get("do_rescale", True):
        raise CheckpointError(f"{source}: rescale_factor {factor}; accepted is 1/255")
    size = config.get("size")
    if isinstance(size, dict) and "shortest_edge" in size:
        resize, policy = (size["shortest_edge"],) * 2, "crop"
    else:
        resize, policy = _sides(config, "size", source), "squash"
    cropped = config.get("do_center_crop", policy == "crop") and config.get("crop_size") is not None
    if policy == "crop" and not cropped:
        raise CheckpointError(f"{source}: a shortest edge without a centre crop has no fixed size")
    final = _sides(config, "crop_size", source) if cropped else resize
    try:
        return Preprocessing.model_validate(
            {
                "size": final,
                "resize": None if resize == final else resize,
                "policy": policy,
                "interpolation": _PIL_RESAMPLE[resample],
                "crop_offset": "floor",
                "mean": config.get("image_mean"),
                "std": config.get("image_std"),
            }
        )
    except ValidationError as error:
        raise CheckpointError(f"{source}: {first_problem(error)}") from error


def _sides(config: Mapping[str, Any], field: str, source: str) -> tuple[Any, Any]:
    value = config.get(field)
    if not isinstance(value, dict) or not {"height", "width"} <= value.keys():
        raise CheckpointError(f"{source}: {field} {value!r} gives no height and width")
    return value["height"], value["width"]
