from __future__ import annotations

import json

from command_line import Clsspec

from clsspec_export.catalog import CATALOG
from clsspec_export.heads.catalog import HEADS
from clsspec_export.paper import PAPER


def test_every_name_is_listed_with_its_source_and_licence(clsspec: Clsspec) -> None:
    result = clsspec("models")
    assert (result.code, result.err) == (0, "")
    lines = [line.strip() for line in result.out.splitlines()]
    for entry in CATALOG:
        start = lines.index(entry.name)
        assert lines[start + 1] == entry.address
        assert lines[start + 2].startswith(f"{entry.licence}; sha256 ")
        assert (entry.sha256 or "not published") in lines[start + 2]
    for head in HEADS:
        start = lines.index(f"{head.task}={head.name}")
        assert lines[start + 1] == head.address
    for row in PAPER:
        assert row.name in lines


def test_the_heading_of_the_heads_states_the_licence_that_all_have(clsspec: Clsspec) -> None:
    (licence,) = {head.licence for head in HEADS}
    lines = clsspec("models").out.splitlines()
    (heading,) = [line for line in lines if line.startswith("Heads ")]
    assert f"; {licence}, sha256 not published" in heading


def test_json_lists_the_same(clsspec: Clsspec) -> None:
    result = clsspec("models", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert [entry["name"] for entry in found["checkpoints"]] == [entry.name for entry in CATALOG]
    assert [entry["name"] for entry in found["heads"]] == [head.name for head in HEADS]
    assert found["heads"][0].keys() == {"name", "task", "address", "backbone", "licence"}
    assert found["architectures"] == [row.name for row in PAPER]
