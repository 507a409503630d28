from __future__ import annotations

import re

import pytest
from timm.models import is_model

from clsspec_export.catalog import CATALOG, CatalogEntry, find
from clsspec_serve.errors import UsageError
from clsspec_serve.hub import parse_hub

every_entry = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)


def test_no_name_address_or_hash_occurs_twice() -> None:
    for values in (
        [entry.name for entry in CATALOG],
        [entry.address for entry in CATALOG],
        [entry.sha256 for entry in CATALOG if entry.sha256],
    ):
        assert len(values) == len(set(values))


@every_entry
def test_an_entry_is_found_by_its_name(entry: CatalogEntry) -> None:
    assert find(entry.name) is entry


@every_entry
def test_timm_has_the_architecture(entry: CatalogEntry) -> None:
    assert is_model(entry.architecture)


@every_entry
def test_the_address_is_one_that_can_be_fetched(entry: CatalogEntry) -> None:
    if entry.format == "hf":
        assert parse_hub(entry.address).revision is None
    else:
        assert re.fullmatch(r"https://[\w./]+/\w+\.pth", entry.address)


@every_entry
def test_a_hash_is_a_whole_digest_or_not_there(entry: CatalogEntry) -> None:
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)


@every_entry
def test_timm_names_the_same_address_and_licence(entry: CatalogEntry) -> None:
    from timm.models import list_pretrained

    configurations = [
        timm_configuration(name) for name in list_pretrained(f"{entry.architecture}.*")
    ]
    assert entry.licence.lower() in {licence for _, licence in configurations}
    if entry.format != "hf":
        assert entry.address in {address for address, _ in configurations}


def timm_configuration(name: str) -> tuple[str, str]:
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    return configuration.url, configuration.license


def test_the_register_models_are_those_with_registers() -> None:
    for entry in CATALOG:
        assert entry.name.endswith("_reg") == ("_reg4_" in entry.architecture)


def test_gated_checkpoints_say_so() -> None:
    gated = {entry.name for entry in CATALOG if entry.note.startswith("gated")}
    assert gated == {entry.name for entry in CATALOG if entry.name.startswith("dinov3_")}


def test_a_name_with_a_slip_gets_the_right_one_proposed() -> None:
    with pytest.raises(UsageError, match="'dinov2_vits_14': did you mean dinov2_vits14"):
        find("dinov2_vits_14")


def test_a_name_like_no_other_is_sent_to_the_list() -> None:
    with pytest.raises(UsageError, match="`clsspec models` lists the names"):
        find("zzz")
