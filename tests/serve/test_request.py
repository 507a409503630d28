from __future__ import annotations

from typing import Any

import pytest
import tiny_bundle as tiny

from clsspec_serve.errors import UsageError
from clsspec_serve.heads import (
    AnyHead,
    Category,
    ClassificationHead,
    DepthHead,
    Protocol,
    SegmentationHead,
    Source,
)
from clsspec_serve.images import DEFAULT_LIMITS, ImageLimits
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import Manifest
from clsspec_serve.request import Request, settle
from clsspec_serve.schema import Output

OUTPUTS = {output.name: output for output in tiny.tiny_manifest().outputs}
SLIDING = Protocol(size=(512, 512), policy="short", window=512, stride=341)
MIRRORED = Protocol(size=(480, 640), policy="squash", interpolation="bicubic", flip=True)
CENTRE = Protocol(size=(224, 224), resize=(256, 256), policy="crop", interpolation="lanczos")


def inputs(*names: str) -> tuple[Output, ...]:
    return tuple(OUTPUTS[name] for name in names)


SEGMENT = SegmentationHead(
    inputs=inputs("patches"),
    protocol=SLIDING,
    source=Source(name="a", format="b"),
    classes=(Category(name="wall", colour=(1, 2, 3)),),
)
DEPTH = DepthHead(
    inputs=inputs("patches_0_raw", "cls_0_raw", "patches", "cls"),
    protocol=MIRRORED,
    source=Source(name="a", format="b"),
    minimum=0.001,
    maximum=10,
    method="regression",
)
CLASSIFY = ClassificationHead(
    inputs=inputs("cls"),
    protocol=CENTRE,
    source=Source(name="a", format="b"),
    classes=("cat",),
)


def manifest(*heads: AnyHead) -> Manifest:
    return tiny.tiny_manifest().model_copy(update={"heads": heads})


# Listed in another order than that of the tasks.
ALL = manifest(CLASSIFY, DEPTH, SEGMENT)


def asked(**options: Any) -> Request:
    return settle(ALL, options)  # type: ignore[arg-type]  # wrong ones are tested too


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as info:
        asked(**options)
    message = str(info.value)
    assert "\n" not in message
    return message


def test_nothing_asked_for_is_the_backbones_own() -> None:
    request = asked()
    assert request.names == request.needed == ("cls", "patches")
    assert request.heads == ()
    assert request.preprocessing == ALL.preprocessing
    assert (request.size, request.policy, request.window, request.stride) == (None,) * 4
    assert request.flip is False
    assert request.limits == DEFAULT_LIMITS


@pytest.mark.parametrize(
    ("tasks", "names", "needed"),
    [
        ("cls", "cls", "cls"),
        ("patches,cls", "cls patches", "cls patches"),
        ("segment", "segment", "patches"),
        ("classify", "classify", "cls"),
        ("depth", "depth", "patches_0_raw cls_0_raw patches cls"),
        ("cls,segment", "cls segment", "cls patches"),
        ("patches,segment", "patches segment", "patches"),
        ("classify,depth,segment", "segment depth classify", "patches patches_0_raw cls_0_raw cls"),
        (
            "cls,patches,segment,depth,classify",
            "cls patches segment depth classify",
            "cls patches patches_0_raw cls_0_raw",
        ),
    ],
)
@pytest.mark.parametrize("written", [str, tuple])
def test_the_backbone_gives_what_is_kept_and_what_the_heads_take_and_no_more(
    tasks: str, names: str, needed: str, written: Any
) -> None:
    request = asked(tasks=tasks if written is str else tuple(tasks.split(",")))
    assert request.names == tuple(names.split())
    assert request.needed == tuple(needed.split())
    assert [head.task for head in request.heads] == [
        task for task in ("segment", "depth", "classify") if task in tasks
    ]


def test_layers_are_of_the_features_and_leave_the_heads_alone() -> None:
    request = asked(tasks="patches,segment", layers=[Layer(0, False)])
    assert request.names == ("patches_0_raw", "segment")
    assert request.needed == ("patches_0_raw", "patches")
    for tasks in ("segment", "depth,classify"):
        expected = "layers are for cls and patches; heads have layers of their own"
        assert refusal(tasks=tasks, layers=[Layer(0, True)]) == expected


@pytest.mark.parametrize(
    ("tasks", "protocol"),
    [
        ("segment", SLIDING),
        ("depth", MIRRORED),
        ("classify", CENTRE),
        ("classify,depth", MIRRORED),
        ("depth,segment", SLIDING),
        ("cls,patches,classify", CENTRE),
    ],
)
def test_the_first_head_brings_the_picture_to_size_and_the_backbone_keeps_its_colours(
    tasks: str, protocol: Protocol
) -> None:
    own = ALL.preprocessing
    found = asked(tasks=tasks).preprocessing
    for name in ("size", "resize", "policy", "interpolation"):
        assert getattr(found, name) == getattr(protocol, name)
    assert (found.mean, found.std, found.crop_offset) == (own.mean, own.std, own.crop_offset)


def test_a_head_without_a_resize_does_not_inherit_the_backbones() -> None:
    changed = ALL.preprocessing.model_copy(update={"resize": (300, 300)})
    of_head = settle(ALL.model_copy(update={"preprocessing": changed}), {"tasks": ("segment",)})
    assert of_head.preprocessing.resize is None


def test_size_policy_and_limits_are_passed_on() -> None:
    limits = ImageLimits(max_pixels=5)
    request = asked(tasks="segment", size=(28, 42), policy="fit", limits=limits)
    assert (request.size, request.policy, request.limits) == ((28, 42), "fit", limits)
    # They are of the picture, not of the protocol.
    assert request.preprocessing.policy == "short"


@pytest.mark.parametrize(
    ("tasks", "window", "stride", "settled"),
    [
        ("segment", None, None, (512, 341)),
        ("segment", None, 100, (512, 100)),
        ("segment", None, 512, (512, 512)),
        ("segment", 0, None, (None, None)),
        ("segment", 300, None, (300, 200)),
        ("segment", 300, 300, (300, 300)),
        ("segment", 300, 1, (300, 1)),
        ("segment", 14, None, (14, 9)),
        # A head's own windows are for it alone.
        ("segment,depth", None, None, (None, None)),
        ("cls,segment", None, None, (None, None)),
        ("segment,depth", 300, None, (300, 200)),
        ("segment,depth", 300, 99, (300, 99)),
        ("segment,depth", 0, None, (None, None)),
        ("depth", None, None, (None, None)),
        ("depth", 300, 200, (300, 200)),
        ("cls", 0, None, (None, None)),
        ("classify", None, None, (None, None)),
    ],
)
def test_windows_are_those_asked_for_or_of_the_head_alone(
    tasks: str, window: int | None, stride: int | None, settled: tuple[int | None, int | None]
) -> None:
    request = asked(tasks=tasks, window=window, stride=stride)
    assert (request.window, request.stride) == settled


@pytest.mark.parametrize(
    ("tasks", "window", "stride", "message"),
    [
        ("depth", None, 10, "a stride needs a window"),
        ("segment,depth", None, 10, "a stride needs a window"),
        ("cls", None, 10, "a stride needs a window"),
        ("segment", 0, 10, "window 0 is the whole picture at once; it has no stride"),
        ("segment", 10, 11, "window 10, stride 11; accepted are 1 <= stride <= window"),
        ("segment", None, 513, "window 512, stride 513; accepted are 1 <= stride <= window"),
        ("segment", 10, 0, "window 10, stride 0; accepted are 1 <= stride <= window"),
        ("segment", 10, -1, "window 10, stride -1; accepted are 1 <= stride <= window"),
        ("segment", -3, None, "window -3, stride 1; accepted are 1 <= stride <= window"),
        ("cls", 10, None, "windows are for segment and depth; cls is of the whole picture"),
        (
            "segment,patches",
            10,
            5,
            "windows are for segment and depth; patches is of the whole picture",
        ),
        (
            "segment,classify",
            10,
            5,
            "windows are for segment and depth; classify is of the whole picture",
        ),
    ],
)
def test_windows_that_contradict_themselves_are_refused(
    tasks: str, window: int | None, stride: int | None, message: str
) -> None:
    assert refusal(tasks=tasks, window=window, stride=stride) == message


@pytest.mark.parametrize(
    ("tasks", "flip", "settled"),
    [
        ("segment", True, True),
        ("segment", False, False),
        ("segment", None, False),
        ("depth", None, True),
        ("depth", False, False),
        ("depth,segment", None, False),
        ("cls,depth", None, False),
        ("cls,depth", True, True),
        ("classify", None, False),
        ("cls", None, False),
        ("cls", False, False),
    ],
)
def test_a_mirror_image_is_asked_for_or_of_the_head_alone(
    tasks: str, flip: bool | None, settled: bool
) -> None:
    assert asked(tasks=tasks, flip=flip).flip is settled


@pytest.mark.parametrize("tasks", ["cls", "cls,patches", "classify", "patches,classify"])
def test_a_mirror_image_is_for_maps_only(tasks: str) -> None:
    assert refusal(tasks=tasks, flip=True) == "flip is for segment and depth"


@pytest.mark.parametrize(
    ("heads", "has"),
    [((), "none"), ((CLASSIFY,), "classify"), ((DEPTH, CLASSIFY), "depth, classify")],
)
def test_a_task_without_a_head_names_those_that_there_are(
    heads: tuple[AnyHead, ...], has: str
) -> None:
    with pytest.raises(UsageError) as info:
        settle(manifest(*heads), {"tasks": ("cls", "segment"), "flip": True})
    assert str(info.value) == (
        f"this bundle has no head for segment; its heads are: {has} "
        "(`clsspec export --head` and `clsspec fit` add them)"
    )


@pytest.mark.parametrize("tasks", [(), ("masks",), "masks", "segment,masks", "segment,segment"])
def test_tasks_that_do_not_exist_are_refused(tasks: Any) -> None:
    assert "accepted are cls, patches, segment, depth, classify" in refusal(tasks=tasks)


def test_a_window_is_no_smaller_than_a_patch() -> None:
    assert refusal(tasks=("segment",), window=13) == (
        "window 13; accepted are a patch, 14 pixels, and more"
    )


def test_an_option_that_does_not_exist_is_refused() -> None:
    message = "there is no option 'task'; accepted are tasks, layers, size, policy, window, "
    assert refusal(task=("segment",)).startswith(message)
