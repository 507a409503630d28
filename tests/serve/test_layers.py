from __future__ import annotations

from typing import Any

import pytest
from tiny_bundle import tiny_manifest

from clsspec_serve.errors import UsageError
from clsspec_serve.layers import Layer, parse_layers, parse_tasks, select_outputs

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
    ],
)
def test_tasks_are_read_in_one_order(text: str, tasks: tuple[str, ...]) -> None:
    assert parse_tasks(text) == tasks


@pytest.mark.parametrize("text", ["", "CLS", "segment", "cls,segment", "cls,cls", "cls,"])
def test_tasks_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as info:
        parse_tasks(text)
    assert str(info.value) == f"tasks {text!r}; accepted are cls, patches, each once"


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
