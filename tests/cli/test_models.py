from __future__ import annotations

import json

from command_line import Clsspec

from clsspec_export.catalog import CATALOG
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
    for row in PAPER:
        assert row.name in lines


def test_json_lists_the_same(clsspec: Clsspec) -> None:
    result = clsspec("models", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert [entry["name"] for entry in found["checkpoints"]] == [entry.name for entry in CATALOG]
    assert found["architectures"] == [row.name for row in PAPER]
