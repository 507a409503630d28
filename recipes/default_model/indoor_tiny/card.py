"""The model card of indoor-tiny: what it is, what it was measured at, what it is not good for."""

from __future__ import annotations

from typing import Any

from indoor_tiny.classes import CLASSES

_ROWS = (
    ("this bundle: linear heads by `clsspec fit`", "bundle"),
    ("the training's own decoders", "network"),
    ("the same answer at each position of every picture", "position"),
    ("one answer for all", "constant"),
)


def card(figures: dict[str, Any]) -> str:
    """Markdown; `figures` as `measure` and `score_bundle` put them together."""
    rows = "\n".join(
        f"| {name} | {_percent(found['mean_iou'])} | {_percent(found['pixel_accuracy'])} "
        f"| {found['abs_rel']:.3f} | {found['rmse']:.3f} |"
        for name, found in ((name, figures[key]) for name, key in _ROWS)
    )
    classes = ", ".join(
        f"{name} {'-' if value is None else _percent(value)}"
        for name, value in figures["bundle"]["classes"].items()
    )
    return f"""# indoor-tiny

A ViT-Ti/16 with weights of its own for [CLS] and for patches (arXiv 2602.08626) and an attention
bias, trained from nothing on rendered rooms, and two linear heads on its frozen features:
{len(CLASSES)} classes, and depth in metres. Made by `recipes/default_model` of clsspec, whose
README says how; it takes two CPU cores and no data but Debian's `sweethome3d-furniture`.

It is here so that clsspec works right after installation. It has learned what rooms, furniture and
distances look like in renderings; it is **not** a DINOv2.

## Measured

On {figures["frames"]:,} rendered pictures of furniture and textures that the training has not seen,
{figures["side"]} pixels wide; classes in %, depth in metres:

| | mIoU | pixel accuracy | AbsRel | RMSE |
|---|---|---|---|---|
{rows}

IoU: {classes}.

## Not good for

- Anything but indoor pictures: all it can answer are the classes above.
- Retrieval and classification by [CLS]: it was taught to tell kinds of rooms and their content.
- Distances to be relied on. A single picture does not show its lens: depths assume an angle
  of view between 48 and 66 degrees, and were never compared with a laser outside of renderings.
- Decisions about people. The persons it has seen are two dozen rendered figures.

## Data and licences

The weights are under Apache-2.0. The furniture in the rendered pictures is by Andrew Kator and
Jennifer Legaz, Reallusion, Scopia and the contributors of Blend Swap, under CC BY 3.0 or CC0, from
Sweet Home 3D's libraries; textures were drawn by the recipe or are scikit-image's, of the public
domain. The heads were fitted on pictures of the training's split.
"""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
