"""The public linear heads that can be exported by name: DINOv2's, under Apache-2.0.

Addresses: facebookresearch/dinov2, README and `hub/depthers.py`, `hub/classifiers.py`. Meta
publishes no digests of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from clsspec_serve.choices import HeadTask

_BASE = "https://dl.fbaipublicfiles.com/dinov2"
_MODELS = tuple(f"dinov2_vit{letter}14" for letter in "sblg")
_DENSE: dict[HeadTask, tuple[tuple[str, str], ...]] = {
    "segment": tuple(product(("ade20k", "voc2012"), ("linear", "ms"))),
    "depth": tuple(product(("nyu", "kitti"), ("linear", "linear4"))),
}


@dataclass(frozen=True)
class HeadEntry:
    """A head, where it lies, and the name of the checkpoint that it was trained on."""

    name: str
    task: HeadTask
    address: str
    backbone: str
    licence: str = "Apache-2.0"


def _entries() -> tuple[HeadEntry, ...]:
    entries = []
    for model in _MODELS:
        for task, kinds in _DENSE.items():
            for data, kind in kinds:
                name = f"{model}_{data}_{kind}"
                entries.append(HeadEntry(name, task, f"{_BASE}/{model}/{name}_head.pth", model))
        for registers, kind in product(("", "_reg"), ("linear", "linear4")):
            file = f"{model}{'_reg4' if registers else ''}_{kind}_head.pth"
            backbone = f"{model}{registers}"
            address = f"{_BASE}/{model}/{file}"
            entries.append(HeadEntry(f"{backbone}_{kind}", "classify", address, backbone))
    return tuple(entries)


HEADS = _entries()
"""Every head that `clsspec models` lists, in its order."""

BY_NAME = {entry.name: entry for entry in HEADS}
