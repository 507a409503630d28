"""Bundles with three heads, with what their answers are by timm and the official formulas."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import head_files as files
import official_heads as official
import timm
import torch
from head_files import State
from official_heads import Tokens
from standins.backbones import DINOV3, REG4, WIDTH
from torch import Tensor, nn

from clsspec_export.checkpoints.checkpoint import Origin
from clsspec_export.checkpoints.timm_files import timm_checkpoint
from clsspec_export.export import architecture_of, export_bundle, lift
from clsspec_export.heads.read import read_head
from clsspec_export.random_weights import randomize
from clsspec_serve.choices import HeadTask


@dataclass(frozen=True)
class Made:
    """A bundle with three heads, timm's model that it was made of, and the official tensors."""

    path: Path
    model: nn.Module
    base: str
    states: dict[HeadTask, State]

    @property
    def patch(self) -> int:
        return int(self.model.patch_embed.patch_size[0])

    def tokens(self, pixels: Tensor, layers: list[int], *, norm: bool) -> list[Tokens]:
        """timm's own forward pass: patches `(B, D, h, w)` and [CLS]s."""
        found = self.model.forward_intermediates(
            pixels,
            indices=layers,
            norm=norm,
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        return [(patches, prefix[:, 0]) for patches, prefix in found]

    def official(self, task: HeadTask, pixels: Tensor) -> Tensor:
        """The head's official formula over the layers that its code names."""
        state = self.states[task]
        if self.base == DINOV3:
            (last,) = self.tokens(pixels, [11], norm=True)
            if task == "segment":
                return official.segmentation(state, [last[0]]).permute(0, 2, 3, 1)
            if task == "depth":
                return official.dinov3_depth(state, [last], 0.001, 10.0, cls=False)
            return official.classifier(state, [last], pooled=True)
        if self.base == REG4:
            (last,) = self.tokens(pixels, [11], norm=True)
            if task == "segment":
                return official.segmentation(state, [last[0]]).permute(0, 2, 3, 1)
            if task == "depth":
                raw = self.tokens(pixels, [11], norm=False)
                return official.dinov2_depth(state, raw, 0.001, 10.0)
            return official.classifier(state, [last], pooled=True)
        four = self.tokens(pixels, [8, 9, 10, 11], norm=True)
        if task == "segment":
            patches = [patches for patches, _ in four]
            return official.segmentation(state, patches).permute(0, 2, 3, 1)
        if task == "classify":
            return official.classifier(state, four, pooled=True)
        raw = self.tokens(pixels, [2, 5, 8, 11], norm=False)
        return official.dinov2_depth(state, raw, 0.001, 80.0)


def make(base: str, folder: Path) -> Made:
    patch = 16 if base == DINOV3 else 14
    size = {"embed_dim": WIDTH, "depth": 12, "num_heads": 3, "img_size": 4 * patch}
    model = timm.create_model(base, num_classes=0, dynamic_img_size=True, **size).eval()
    randomize(model)
    untouched = copy.deepcopy(model)
    checkpoint = lift(timm_checkpoint(model, base))
    names = {task: folder / f"{task}.pth" for task in ("segment", "depth", "classify")}
    states: dict[HeadTask, State] = {}
    if base == DINOV3:
        names["depth"] = folder / "depth_nyu.pth"
        states["segment"] = files.dinov3_segmentation(names["segment"], WIDTH, 150, "module.")
        states["depth"] = files.dinov3_depth(names["depth"], WIDTH)
        rates = [files.classifier_name(1, rate) for rate in ("0_1", "0_2")]
        every = files.classifiers(names["classify"], dict.fromkeys(rates, (9, 2 * WIDTH)))
        states["classify"] = every[rates[1]]
        names["classify"] = Path(f"{names['classify']}#{rates[1]}")
    elif base == REG4:
        names["depth"] = folder / "x_nyu_linear_head.pth"
        states["segment"] = files.dinov2_segmentation(names["segment"], WIDTH, 150)
        states["depth"] = files.dinov2_depth(names["depth"], 2 * WIDTH)
        states["classify"] = files.linear(1000, 2 * WIDTH)
        torch.save(states["classify"], names["classify"])
    else:
        names["depth"] = folder / "x_kitti_linear4_head.pth"
        states["segment"] = files.dinov2_segmentation(names["segment"], 4 * WIDTH, 21)
        states["depth"] = files.dinov2_depth(names["depth"], 8 * WIDTH)
        states["classify"] = files.linear(1000, 5 * WIDTH)
        torch.save(states["classify"], names["classify"])
    seen = architecture_of(checkpoint), checkpoint.preprocessing
    heads = [read_head(task, path, *seen) for task, path in names.items()]  # type: ignore[arg-type]  # the keys are tasks
    export_bundle(checkpoint, folder / "bundle", Origin("random"), heads=heads)
    return Made(folder / "bundle", untouched, base, states)
