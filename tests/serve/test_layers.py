from __future__ import annotations

from typing import Any

import head_bundle as by_hand
import pytest
from tiny_bundle import tiny_manifest

from clsspec_serve.errors import UsageError
from clsspec_serve.heads import AnyHead, ClassificationHead, DepthHead, SegmentationHead
from clsspec_serve.layers import (
    TASKS,
    Layer,
    check_tasks,
    parse_layers,
    parse_tasks,
    require_head,
    select_heads,
    select_outputs,
)

OUTPUTS = tiny_manifest().outputs


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("", ()),
        ("5", (Layer(5, True),)),
        ("11:raw, 5", (Layer(11, False), Layer(5, True))),
        ("5,5:raw,5", (Layer(5, True), Layer(5, False))),
    ],
)
def test_layers_are_read_in_order_and_once(text: str, layers: tuple[Layer, ...]) -> None:
    assert parse_layers(text) == layers
    assert parse_layers(",".join(str(layer) for layer in layers)) == layers


@pytest.mark.parametrize(
    "text", ["five", "-1", "5:", "5:norm", "5,", " ", "5;6", "5.0", "²", "5:RAW"]
)
def test_layers_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="accepted are block numbers from 0, such as 5,11:raw"):
        parse_layers(text)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("cls", ("cls",)),
        ("patches", ("patches",)),
        ("cls,patches", ("cls", "patches")),
        ("patches, cls", ("cls", "patches")),
        ("depth,segment", ("segment", "depth")),
        ("classify,cls", ("cls", "classify")),
    ],
)
def test_tasks_are_read_in_one_order(text: str, tasks: tuple[str, ...]) -> None:
    assert parse_tasks(text) == tasks


@pytest.mark.parametrize("text", ["", "CLS", "masks", "cls,masks", "cls,cls", "cls,"])
def test_tasks_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as info:
        parse_tasks(text)
    assert str(info.value) == f"tasks {text!r}; accepted are {', '.join(TASKS)}, each once"


@pytest.mark.parametrize(
    ("tasks", "layers", "names"),
    [
        (["cls", "patches"], [], ["cls", "patches"]),
        (["patches"], [], ["patches"]),
        (["patches", "cls"], [Layer(1, True)], ["cls", "patches"]),
        (["cls"], [Layer(0, False), Layer(1, True)], ["cls_0_raw", "cls"]),
        (["cls", "patches"], [Layer(0, True)], ["cls_0", "patches_0"]),
    ],
)
def test_outputs_are_chosen_by_layer_then_task(
    tasks: Any, layers: list[Layer], names: list[str]
) -> None:
    assert [output.name for output in select_outputs(OUTPUTS, tasks, layers)] == names


SEGMENT = by_hand.nearest_colour_head({"red": (255, 0, 0)}).description
DEPTH = by_hand.depth_head([1, 0, 0, 0]).description
HEADS = (DEPTH, SEGMENT)


@pytest.mark.parametrize("tasks", ["cls,depth", ("cls", "depth"), ["cls", "depth"]])
def test_tasks_may_be_a_text_or_words(tasks: Any) -> None:
    assert check_tasks(tasks) == ("cls", "depth")


@pytest.mark.parametrize("tasks", [(), ("masks",), ("cls", "")])
def test_words_that_are_no_tasks_are_refused(tasks: Any) -> None:
    with pytest.raises(UsageError, match=f"accepted are {', '.join(TASKS)}$"):
        check_tasks(tasks)


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        (("cls", "patches"), []),
        (("depth",), [DEPTH]),
        (("depth", "cls", "segment"), [SEGMENT, DEPTH]),
        ("depth,segment", [SEGMENT, DEPTH]),
    ],
)
def test_heads_are_chosen_in_the_order_of_the_tasks(tasks: Any, found: list[AnyHead]) -> None:
    assert select_heads(HEADS, tasks) == found


@pytest.mark.parametrize(("heads", "has"), [((), "none"), (HEADS, "depth, segment")])
def test_a_head_that_is_lacking_is_named_beside_those_that_there_are(
    heads: tuple[AnyHead, ...], has: str
) -> None:
    expected = (
        f"this bundle has no head for classify; its heads are: {has} "
        "(`clsspec export --head` and `clsspec fit` add them)"
    )
    with pytest.raises(UsageError) as info:
        select_heads(heads, ("cls", "classify"))
    assert str(info.value) == expected
    with pytest.raises(UsageError) as info:
        require_head(heads, ClassificationHead)
    assert str(info.value) == expected


def test_the_head_of_a_kind_is_found() -> None:
    assert require_head(HEADS, SegmentationHead) is SEGMENT
    assert require_head(HEADS, DepthHead) is DEPTH
