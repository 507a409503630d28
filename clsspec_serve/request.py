"""What is asked of a model, settled against what its bundle has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from clsspec_serve.choices import Policy, Task
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import AnyHead, Protocol
from clsspec_serve.images import DEFAULT_LIMITS, ImageLimits
from clsspec_serve.layers import FEATURES, Layer, check_tasks, select_heads, select_outputs
from clsspec_serve.manifest import Manifest, Preprocessing
from clsspec_serve.schema import Output

Size = tuple[int, int]


class Options(TypedDict, total=False):
    """What may be asked of a picture; every field has a default.

    `tasks`: any of `cls`, `patches`, `segment`, `depth`, `classify`; the first two unless given.
    `layers`: of the features; the last one unless given. `size` (H, W) and `policy`: the network's
    input, in place of those of the first head that is asked for or else of the backbone. `window`,
    `stride`: side and step, in pixels of that input, of the windows in which `segment` and `depth`
    are computed; 0 is the whole picture at once; unless given they are the head's own where it is
    asked alone. `flip`: `segment` and `depth` are the mean over the picture and its mirror image;
    likewise the head's own unless given. `limits`: what pictures are read.
    """

    tasks: Sequence[Task]
    layers: Sequence[Layer]
    size: Size | None
    policy: Policy | None
    window: int | None
    stride: int | None
    flip: bool | None
    limits: ImageLimits


@dataclass(frozen=True)
class Request:
    """Options that fit the bundle, with every default in place.

    `outputs`: the features to keep. `heads`: those to run. `size` None and `policy` None leave the
    choice to `preprocessing`. `window` None is the whole picture at once.
    """

    outputs: tuple[Output, ...]
    heads: tuple[AnyHead, ...]
    preprocessing: Preprocessing
    size: Size | None
    policy: Policy | None
    window: int | None
    stride: int | None
    flip: bool
    limits: ImageLimits

    @property
    def names(self) -> tuple[str, ...]:
        """What the answers are called, in order."""
        return (*(output.name for output in self.outputs), *(head.task for head in self.heads))

    @property
    def needed(self) -> tuple[str, ...]:
        """The backbone's outputs that one forward pass must give."""
        inputs = (each for head in self.heads for each in head.inputs)
        return tuple(dict.fromkeys(output.name for output in (*self.outputs, *inputs)))


def settle(manifest: Manifest, options: Options) -> Request:
    """Raises `UsageError` for what the bundle does not have and for what contradicts itself."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        known = ", ".join(Options.__annotations__)
        raise UsageError(f"there is no option {min(unknown)!r}; accepted are {known}")
    tasks = check_tasks(options.get("tasks", FEATURES))
    layers = options.get("layers", ())
    features = [task for task in FEATURES if task in tasks]
    heads = select_heads(manifest.heads, tasks)
    if layers and not features:
        raise UsageError("layers are for cls and patches; heads have layers of their own")
    protocol = heads[0].protocol if heads else None
    alone = protocol if heads and len(tasks) == 1 else None
    window, stride = _windows(tasks, options.get("window"), options.get("stride"), alone)
    patch = manifest.architecture.patch_size
    if window is not None and window < patch:
        raise UsageError(f"window {window}; accepted are a patch, {patch} pixels, and more")
    flip = options.get("flip")
    if flip and not {"segment", "depth"} & {*tasks}:
        raise UsageError("flip is for segment and depth")
    return Request(
        outputs=tuple(select_outputs(manifest.outputs, tasks, layers)) if features else (),
        heads=tuple(heads),
        preprocessing=framing(manifest.preprocessing, protocol),
        size=options.get("size"),
        policy=options.get("policy"),
        window=window,
        stride=stride,
        flip=bool(alone and alone.flip) if flip is None else flip,
        limits=options.get("limits", DEFAULT_LIMITS),
    )


def framing(preprocessing: Preprocessing, protocol: Protocol | None) -> Preprocessing:
    """The backbone's mean and std, and the head's way to bring a picture to size."""
    if protocol is None:
        return preprocessing
    own = {name: getattr(protocol, name) for name in ("size", "resize", "policy")}
    return preprocessing.model_copy(update=own | {"interpolation": protocol.interpolation})


def _windows(
    tasks: Sequence[Task], window: int | None, stride: int | None, alone: Protocol | None
) -> tuple[int | None, int | None]:
    if window is None:
        own = (alone.window, alone.stride) if alone else (None, None)
        if stride is None or own[0] is None:
            if stride is not None:
                raise UsageError("a stride needs a window")
            return own
        window = own[0]
    if window == 0:
        if stride is not None:
            raise UsageError("window 0 is the whole picture at once; it has no stride")
        return None, None
    others = [task for task in tasks if task not in ("segment", "depth")]
    if others:
        raise UsageError(f"windows are for segment and depth; {others[0]} is of the whole picture")
    step = max(window * 2 // 3, 1) if stride is None else stride
    if not 1 <= step <= window:
        raise UsageError(f"window {window}, stride {step}; accepted are 1 <= stride <= window")
    return window, step
