"""What is rendered is what Triton's own classes read."""

from __future__ import annotations

import pytest
from triton_server import parse

from clsspec_export.triton.text_format import Word, entries, render


@pytest.mark.parametrize("text", ["", 'a "b" \\c\\n', "Gebäude, 建物", "a\nb\tc", "'", "\u2028"])
def test_a_string_comes_back_as_it_was(text: str) -> None:
    assert parse(render({"name": text})).name == text


def test_numbers_words_lists_messages_and_maps_have_their_forms() -> None:
    text = render(
        {
            "max_batch_size": 8,
            "input": [{"name": "a", "data_type": Word("TYPE_UINT8"), "dims": (4, -1)}, {}],
            "instance_group": [{"kind": Word("KIND_GPU"), "passive": True, "gpus": [0, 1]}],
            "dynamic_batching": {},
            "parameters": entries({"k": {"string_value": "v"}, "l": {"string_value": ""}}),
        }
    )
    found = parse(text)
    assert found.max_batch_size == 8
    assert (found.input[0].data_type, [*found.input[0].dims]) == (2, [4, -1])
    assert len(found.input) == 2
    group = found.instance_group[0]
    assert (group.kind, group.passive, [*group.gpus]) == (1, True, [0, 1])
    assert found.HasField("dynamic_batching")
    assert {key: each.string_value for key, each in found.parameters.items()} == {
        "k": "v",
        "l": "",
    }
