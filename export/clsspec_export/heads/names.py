"""The tensors of a head file by our names, whichever code wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import CheckpointError

HeadFormat = Literal["dinov2", "dinov3", "plain"]

_NORM = {
    "weight": "norm.weight",
    "bias": "norm.bias",
    "running_mean": "norm.mean",
    "running_var": "norm.variance",
}
_COUNTER = "num_batches_tracked"
_CLASSIFIER = re.compile(r"classifier_\d+_blocks_avgpool_(True|False)_")
_CONVOLUTIONS: dict[HeadTask, dict[HeadFormat, str]] = {
    "segment": {"dinov2": "conv_seg", "dinov3": "conv"},
    "depth": {"dinov2": "conv_depth", "dinov3": "conv_depth"},
}


@dataclass(frozen=True)
class NamedTensors:
    """`tensors`: `weight (K, C)`, `bias (K,)`, and, with a BatchNorm before them, `norm.weight`,
    `norm.bias`, `norm.mean`, `norm.variance`, each `(C,)`.

    `pooled`: whether a classifier takes the mean patch beside its [CLS]s; None: not said.
    """

    format: HeadFormat
    tensors: dict[str, Tensor]
    pooled: bool | None = None


def named_tensors(
    content: Mapping[str, Any], task: HeadTask, source: str, part: str | None = None
) -> NamedTensors:
    """Read the layouts of DINOv2's and DINOv3's evaluation code, and a bare linear layer's.

    `part` names one of the classifiers that their linear evaluation trains side by side.
    Raises `CheckpointError` with the keys that are missing and those that nothing reads.
    """
    classifiers = content.get("linear_classifiers", content.get("model"))
    if isinstance(classifiers, dict) and any("classifiers_dict." in str(k) for k in classifiers):
        if task != "classify":
            raise CheckpointError(f"{source} is a file of classifiers; it holds none for {task}")
        name, state = _one_classifier(classifiers, source, part)
        said = _CLASSIFIER.match(name)
        pooled = None if said is None else said[1] == "True"
        return NamedTensors("dinov3", _renamed(state, {}, source), pooled)
    if part is not None:
        raise CheckpointError(f"{source} holds a single head, none called {part!r}")
    if isinstance(content.get("state_dict"), dict):
        state = _without(content["state_dict"], "decode_head.")
        return _dense(state, task, "dinov2", "bn", source)
    if isinstance(content.get("model"), dict):
        state = _without(_without(content["model"], "module."), "segmentation_model.1.")
        return _dense(state, task, "dinov3", "batchnorm_layer", source)
    return NamedTensors("plain", _renamed(dict(content), {}, source))


def _dense(
    state: dict[str, Any], task: HeadTask, form: HeadFormat, norm: str, source: str
) -> NamedTensors:
    if task not in _CONVOLUTIONS:
        raise CheckpointError(f"{source} is a file of dense heads; it holds none for {task}")
    convolution = _CONVOLUTIONS[task][form]
    names = {f"{convolution}.{key}": key for key in ("weight", "bias")}
    names |= {f"{norm}.{key}": ours for key, ours in _NORM.items()}
    return NamedTensors(form, _renamed(state, names, source))


def _renamed(state: dict[str, Any], names: dict[str, str], source: str) -> dict[str, Tensor]:
    """Every key consumed, and either all of the BatchNorm's or none."""
    known = names or {"weight": "weight", "bias": "bias"}
    state = {str(key): value for key, value in state.items()}
    left = {key: value for key, value in state.items() if not key.endswith(_COUNTER)}
    needed = [key for key, ours in known.items() if "." not in ours]
    if any(known.get(key, "").startswith("norm.") for key in left):
        needed = list(known)
    missing = [key for key in needed if key not in left]
    unexpected = [key for key in left if key not in known]
    if missing or unexpected:
        raise CheckpointError(
            f"{source} is no head of this task: missing {', '.join(missing) or 'nothing'}; "
            f"unexpected {', '.join(unexpected[:4]) or 'nothing'}"
        )
    bad = [key for key, value in left.items() if not isinstance(value, Tensor)]
    if bad:
        raise CheckpointError(f"{source}: {bad[0]} is a {type(left[bad[0]]).__name__}, no tensor")
    tensors = {known[key]: value for key, value in left.items()}
    weight = tensors["weight"]
    if weight.ndim == 4 and weight.shape[2:] == (1, 1):
        tensors["weight"] = weight[:, :, 0, 0]
    if tensors["weight"].ndim != 2 or not weight.numel():
        raise CheckpointError(
            f"{source}: weight has shape {tuple(weight.shape)}; expected (K, C) or (K, C, 1, 1)"
        )
    rows, width = tensors["weight"].shape
    for key, value in tensors.items():
        expected = {"weight": (rows, width), "bias": (rows,)}.get(key, (width,))
        if tuple(value.shape) != expected:
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(value.shape)}; expected {expected}"
            )
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: its {key} is not made of finite numbers")
    return tensors


def _without(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The state with a prefix taken off the keys that have it."""
    return {str(key).removeprefix(prefix): value for key, value in state.items()}


def _one_classifier(
    state: Mapping[str, Any], source: str, part: str | None
) -> tuple[str, dict[str, Any]]:
    """One of `classifiers_dict.NAME.linear.{weight,bias}`, by name where there are several."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in _without(_without(state, "module."), "classifiers_dict.").items():
        name, _, rest = key.removeprefix("module.").partition(".")
        found.setdefault(name, {})[rest.removeprefix("module.").removeprefix("linear.")] = value
    if part is None and len(found) == 1:
        return next(iter(found.items()))
    if part not in found:
        asked = "choose one as FILE#NAME" if part is None else f"none is called {part!r}"
        raise CheckpointError(
            f"{source} holds {len(found)} classifiers, {asked}: {', '.join(sorted(found)[:6])}"
            f"{' …' if len(found) > 6 else ''}"
        )
    return part, found[part]
