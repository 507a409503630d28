"""The public checkpoints that can be exported by name.

Addresses and licences: the READMEs of facebookresearch/dinov2, facebookresearch/dinov3 and
facebookresearch/deit. Meta publishes no digests of the DINOv2 files; those here are the ones that
finegrain-ai/refiners records beside the same addresses, and other projects state them likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from clsspec_serve.errors import UsageError

CheckpointFormat = Literal["dinov2", "hf", "deit3"]


@dataclass(frozen=True)
class CatalogEntry:
    """A checkpoint, where it lies and how it is read.

    `address` is an https URL or an `hf:` reference, `architecture` timm's name, `licence` an SPDX
    identifier or the licence's own name, `sha256` 64 hexadecimal digits, None where not known.
    """

    name: str
    format: CheckpointFormat
    address: str
    architecture: str
    licence: str
    sha256: str | None = None
    note: str = ""


def _dinov2(letter: str, size: str, registers: bool, sha256: str) -> CatalogEntry:
    model = f"dinov2_vit{letter}14"
    reg4 = "_reg4" if registers else ""
    return CatalogEntry(
        name=f"{model}_reg" if registers else model,
        format="dinov2",
        address=f"https://dl.fbaipublicfiles.com/dinov2/{model}/{model}{reg4}_pretrain.pth",
        architecture=f"vit_{size}_patch14{reg4}_dinov2",
        licence="Apache-2.0",
        sha256=sha256,
    )


def _dinov3(model: str, size: str) -> CatalogEntry:
    # The checkpoints carry biases of q and v, which timm's models without `_qkvb` have no room for.
    return CatalogEntry(
        name=f"dinov3_{model}",
        format="hf",
        address=f"hf:facebook/dinov3-{model}-pretrain-lvd1689m",
        architecture=f"vit_{size}_patch16_dinov3_qkvb",
        licence="dinov3-license",
        note="gated: the licence is accepted on the model page; derived weights stay under it",
    )


def _deit3(size: str, pixels: int, pretraining: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"deit3_{size}_{pixels}_{pretraining}",
        format="deit3",
        address=f"https://dl.fbaipublicfiles.com/deit/deit_3_{size}_{pixels}_{pretraining}.pth",
        architecture=f"deit3_{size}_patch16_{pixels}",
        licence="Apache-2.0",
        note="pretrained on ImageNet-21k, tuned on 1k" if pretraining == "21k" else "",
    )


CATALOG = (
    _dinov2(
        "s", "small", False, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
    ),
    _dinov2("b", "base", False, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
    _dinov2(
        "l", "large", False, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    ),
    _dinov2(
        "g", "giant", False, "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"
    ),
    _dinov2("s", "small", True, "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb"),
    _dinov2("b", "base", True, "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71"),
    _dinov2("l", "large", True, "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51"),
    _dinov2("g", "giant", True, "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283"),
    _dinov3("vits16", "small"),
    _dinov3("vits16plus", "small_plus"),
    _dinov3("vitb16", "base"),
    _dinov3("vitl16", "large"),
    _dinov3("vith16plus", "huge_plus"),
    _deit3("small", 224, "1k"),
    _deit3("base", 224, "1k"),
    _deit3("base", 384, "1k"),
    _deit3("large", 224, "1k"),
    _deit3("small", 224, "21k"),
    _deit3("base", 224, "21k"),
    _deit3("base", 384, "21k"),
    _deit3("large", 224, "21k"),
)
"""Every checkpoint that `clsspec models` lists, in its order."""

_BY_NAME = {entry.name: entry for entry in CATALOG}


def find(name: str) -> CatalogEntry:
    """The checkpoint of that name.

    Raises UsageError, which names those that look alike.
    """
    entry = _BY_NAME.get(name)
    if entry is None:
        alike = get_close_matches(name, _BY_NAME, n=3)
        hint = f"did you mean {', '.join(alike)}" if alike else "`clsspec models` lists the names"
        raise UsageError(f"no checkpoint is called {name!r}: {hint}")
    return entry
