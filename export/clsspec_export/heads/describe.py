"""What a head file leaves unsaid: which features it takes, its range, classes and protocol.

Layers and order of the inputs: facebookresearch/dinov2 `hub/depthers.py`, `hub/classifiers.py`
and `eval/segmentation`; facebookresearch/dinov3 `eval/depth/models/encoder.py`, `eval/linear.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from clsspec_export.features import feature, last_layer
from clsspec_export.heads.context import Context
from clsspec_export.heads.names import HeadFormat, NamedTensors
from clsspec_export.heads.protocols import IMAGENET, KITTI, NYU, SEGMENTATION, SEGMENTATION_MS
from clsspec_serve.categories import default_categories
from clsspec_serve.choices import Feature, HeadTask
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.heads import AnyHead, ClassificationHead, DepthHead, Protocol, SegmentationHead
from clsspec_serve.layers import Layer
from clsspec_serve.schema import Output

NEAREST = 0.001
"""Where the range of depth heads begins, in metres, in both code bases."""

_RANGES = {"nyu": 10.0, "kitti": 80.0}
"""Where it ends, by the data set in a file's name. (DINOv2's hub code takes 80 for both.)"""

_QUARTERS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
"""The layers of DINOv2's `linear4` depth heads by the number of blocks; 4, not 5, is official."""

_UPSAMPLE: dict[HeadFormat, int] = {"dinov2": 4, "dinov3": 1, "plain": 1}


def describe_head(task: HeadTask, named: NamedTensors, context: Context) -> AnyHead:
    """The description of a head.

    Raises `CheckpointError` when the width is none that the backbone can feed, `UsageError` when
    the user has to say which layers or which range.
    """
    form = named.format
    rows, width = named.tensors["weight"].shape
    times = width // context.architecture.embed_dim
    if width != times * context.architecture.embed_dim:
        raise _misfit(width, context, "a multiple of that")
    if task == "classify":
        # DINOv2's own files are bare.
        official = form != "plain" or (rows == 1000 and times in (2, 5))
        return ClassificationHead(
            inputs=_classified(times, named.pooled, context),
            protocol=IMAGENET if official else _own_protocol(context),
            source=context.source,
            classes=_class_names(rows),
        )
    if task == "segment":
        inputs = _dense(times, form, task, context)
        multiscale = form == "dinov2" and len(inputs) > 1
        official_protocol = SEGMENTATION_MS if multiscale else SEGMENTATION
        return SegmentationHead(
            inputs=inputs,
            protocol=official_protocol if form != "plain" else _whole(context),
            source=context.source,
            classes=default_categories(rows),
        )
    maximum = _range(context)
    official_protocol = NYU if maximum <= _RANGES["nyu"] else KITTI
    return DepthHead(
        inputs=_dense(times, form, task, context),
        protocol=official_protocol if form != "plain" else _whole(context),
        source=context.source,
        minimum=NEAREST,
        maximum=maximum,
        method="bins" if rows > 1 else "regression",
        bins=rows,
        upsample=_UPSAMPLE[form],
    )


def _dense(times: int, form: HeadFormat, task: HeadTask, context: Context) -> tuple[Output, ...]:
    """Patches of one or four layers, each followed by [CLS] where the width asks for it."""
    raw = form == "dinov2" and task == "depth"
    last = last_layer(context.architecture)
    if context.layers is not None:
        layers: Sequence[Layer] = context.layers
        if form == "dinov2" and any(layer.norm == raw for layer in layers if last.norm):
            raise UsageError(
                f"--head-layers of {context.name}: DINOv2's heads for {task} take layers "
                f"{'without' if raw else 'with'} the final norm, such as 5{':raw' if raw else ''}"
            )
    elif times == 2 and form == "plain":
        raise UsageError(
            f"{context.name} is twice as wide as the backbone: patches of two layers, or of one "
            f"and its [CLS]; say which with --head-layers, such as {last.index - 1},{last.index} "
            f"or {last.index}"
        )
    elif times in ((2, 8) if raw else (1, 4)) or (times in (2, 8) and form != "dinov2"):
        count = times // 2 if times in (2, 8) else times
        layers = [last] if count == 1 else _four(form, raw, context)
        layers = [Layer(layer.index, layer.norm and not raw) for layer in layers]
    else:
        accepted = {"dinov2": "2 or 8 times" if raw else "1 or 4 times"}.get(
            form, "1, 2, 4 or 8 times"
        )
        raise _misfit(times * context.architecture.embed_dim, context, accepted)
    if times not in (len(layers), 2 * len(layers)):
        raise _misfit(
            times * context.architecture.embed_dim, context, f"{len(layers)} or twice as many times"
        )
    kinds: tuple[Feature, ...] = ("patches", "cls") if times == 2 * len(layers) else ("patches",)
    return tuple(feature(context.architecture, kind, layer) for layer in layers for kind in kinds)


def _four(form: HeadFormat, raw: bool, context: Context) -> list[Layer]:
    depth = context.architecture.depth
    if form != "dinov2":
        raise UsageError(
            f"{context.name} takes four layers and does not say which; name them with "
            f"--head-layers, such as {','.join(str(depth - n) for n in (4, 3, 2, 1))}"
        )
    if raw and depth not in _QUARTERS:
        raise UsageError(
            f"{context.name} takes four layers; which of {depth} blocks is not official: name "
            "them with --head-layers, such as 2:raw,5:raw,8:raw,11:raw"
        )
    if depth < 4:
        raise CheckpointError(f"{context.name} takes four layers, the backbone has {depth}")
    normed = last_layer(context.architecture).norm
    return [Layer(n, normed) for n in (_QUARTERS[depth] if raw else range(depth - 4, depth))]


def _classified(times: int, pooled: bool | None, context: Context) -> tuple[Output, ...]:
    """[CLS] of the last layers, then the mean patch of the last one where the head is pooled.

    Where the file does not say that, there are one or four layers.
    """
    last = last_layer(context.architecture)
    count = times - pooled if pooled is not None else {1: 1, 2: 1, 4: 4, 5: 4}.get(times, 0)
    if context.layers is not None:
        layers = list(context.layers)
    elif 1 <= count <= context.architecture.depth:
        layers = [Layer(last.index - n, last.norm) for n in reversed(range(count))]
    else:
        raise _misfit(times * context.architecture.embed_dim, context, "1, 2, 4 or 5 times")
    if times not in (len(layers), len(layers) + 1) or pooled not in (None, times > len(layers)):
        raise _misfit(
            times * context.architecture.embed_dim, context, f"{len(layers)} or one more times"
        )
    inputs = [feature(context.architecture, "cls", layer) for layer in layers]
    if times > len(layers):
        inputs.append(feature(context.architecture, "patches", layers[-1]))
    return tuple(inputs)


def _range(context: Context) -> float:
    if context.maximum is not None:
        return context.maximum
    found = {value for name, value in _RANGES.items() if name in context.name.lower()}
    if len(found) != 1:
        raise UsageError(
            f"{context.name} does not say where its range ends; give --max-depth in metres, "
            "10 for NYU, 80 for KITTI"
        )
    return found.pop()


def _own_protocol(context: Context) -> Protocol:
    """The backbone's own way to see a picture."""
    own = context.preprocessing
    return Protocol(
        size=own.size, resize=own.resize, policy=own.policy, interpolation=own.interpolation
    )


def _whole(context: Context) -> Protocol:
    """The same, but of the whole picture, for dense answers."""
    own = context.preprocessing
    return Protocol(size=own.size, policy="short", interpolation=own.interpolation)


def _class_names(count: int) -> tuple[str, ...]:
    if count == 1000:
        from timm.data import ImageNetInfo

        return tuple(ImageNetInfo().label_descriptions())
    return tuple(f"class {index}" for index in range(count))


def _misfit(width: int, context: Context, accepted: str) -> CheckpointError:
    own = context.architecture.embed_dim
    return CheckpointError(
        f"{context.name} is a head of width {width}, the backbone is {own} wide; "
        f"accepted is {accepted}"
    )
