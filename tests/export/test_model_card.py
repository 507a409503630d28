from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import tiny_manifest

from clsspec_export.model_card import model_card, replace_card
from clsspec_serve.bundle import open_bundle
from clsspec_serve.errors import BundleError


def test_a_card_says_what_its_trainer_says_and_how_the_weights_are_stored() -> None:
    manifest = tiny_manifest()
    update = {"description": "trained on 7 rooms", "storage": "fp16"}
    assert "trained" not in model_card(manifest)
    assert "half precision" not in model_card(manifest)
    card = model_card(manifest.model_copy(update=update))
    assert card.startswith("# tiny\n\ntrained on 7 rooms\n\nA clsspec bundle of `tiny`")
    assert "\n- weights: fp16: the backbone's matrices are rounded to half precision" in card


def test_a_bundle_with_another_card_is_whole(tiny_bundle: Path) -> None:
    before = open_bundle(tiny_bundle).manifest
    replace_card(tiny_bundle, "# Mine\n\nÖrtliche Räume.\n")
    after = open_bundle(tiny_bundle).manifest
    assert (tiny_bundle / "README.md").read_text(encoding="utf-8").endswith("Räume.\n")
    changed = {name for name in after.files if after.files[name] != before.files.get(name)}
    assert changed == {"README.md"}
    assert after.model_copy(update={"files": before.files}) == before


def test_a_damaged_bundle_is_not_made_whole_by_a_card(tiny_bundle: Path) -> None:
    (tiny_bundle / "position.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"position\.npy has 0 bytes"):
        replace_card(tiny_bundle, "# Mine\n")
    assert (tiny_bundle / "README.md").read_text() == "# tiny\n"
