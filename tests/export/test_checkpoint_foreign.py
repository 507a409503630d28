from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from export_checkpoints import DINOV2_NAMES
from export_helpers import DEPTH, features, network_input
from torch import Tensor

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.foreign import read_rules
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import paper_specialization, specialize
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.manifest import LearnedPosition

NAME = DINOV2_NAMES["registers"]
HEAD = f"""
architecture = "{NAME}"
arguments = {{ img_size = 42 }}
attention_bias = true
specialization = {{ qkv_blocks = 1, registers_with = "patch" }}
position = {{ kind = "learned", grid = [3, 3], antialias = false, offset = 0.1 }}
"""
RULES = r"""
[[rule]]
match = 'net\.vit\.(.*)_class(\..*)?'
name = '\1.cls\2'

[[rule]]
match = 'net\.vit\.(.*)_other(\..*)?'
name = '\1.patch\2'

[[rule]]
match = 'net\.vit\.(.*)'
name = '\1'

[[rule]]
match = 'net\.head\..*'
drop = true
"""


def _theirs() -> tuple[torch.nn.Module, dict[str, Any]]:
    """A specialized model and its weights under the names of somebody else's code."""
    model = timm.create_model(NAME, img_size=42).eval()
    specialization = paper_specialization(DEPTH).model_copy(update={"registers_with": "patch"})
    specialize(model, specialization, attention_bias=True)
    randomize(model)
    state = {
        key.replace(".cls.", "_class.").replace(".patch.", "_other."): value
        for key, value in model.state_dict().items()
    }
    head = {"weight": torch.ones(2, 2)}
    return model, {"net": {"vit": state, "head": head}, "epoch": 3}


def _read(content: Any, rules: str, folder: Path) -> Checkpoint:
    torch.save(content, folder / "foreign.pth")
    (folder / "rules.toml").write_text(rules)
    return read_checkpoint(folder / "foreign.pth", rules=folder / "rules.toml")


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    return content["net"]["vit"]


def test_a_full_rule_file_restores_the_model(tmp_path: Path) -> None:
    model, content = _theirs()
    checkpoint = _read(content, HEAD + RULES, tmp_path)
    expected = model.state_dict()
    found = checkpoint.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert checkpoint.format == "rules"
    assert checkpoint.position == LearnedPosition(grid=(3, 3), antialias=False, offset=0.1)
    assert checkpoint.model.specialization.registers_with == "patch"


@torch.inference_mode()
def test_the_restored_model_gives_the_same_features(tmp_path: Path) -> None:
    model, content = _theirs()
    checkpoint = _read(content, HEAD + RULES, tmp_path)
    pixels = network_input(42, 42)
    found = features(checkpoint, pixels)
    assert torch.equal(
        found[:, 0], features(Checkpoint(**{**vars(checkpoint), "model": model}), pixels)[:, 0]
    )


def test_a_key_that_no_rule_matches_is_an_error(tmp_path: Path) -> None:
    _, content = _theirs()
    content["extra"] = {"thing": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"unexpected 1: extra\.thing"):
        _read(content, HEAD + RULES, tmp_path)


def test_a_parameter_that_no_rule_fills_is_an_error(tmp_path: Path) -> None:
    _, content = _theirs()
    del _weights(content)["blocks.1.ls2_class.gamma"]
    with pytest.raises(CheckpointError, match=r"missing 1: blocks\.1\.ls2\.cls\.gamma"):
        _read(content, HEAD + RULES, tmp_path)


def test_both_lists_are_given_and_long_ones_are_cut(tmp_path: Path) -> None:
    _, content = _theirs()
    with pytest.raises(CheckpointError, match=r"missing \d+: .* more; unexpected \d+: .* more"):
        _read(content, HEAD + RULES.replace("vit", "no"), tmp_path)


def test_two_keys_that_become_one_name_are_an_error(tmp_path: Path) -> None:
    _, content = _theirs()
    _weights(content)["norm.cls.weight"] = torch.ones(32)
    with pytest.raises(CheckpointError, match=r"norm_class.*norm\.cls.*both become norm\.cls"):
        _read(content, HEAD + RULES, tmp_path)


def test_a_dropped_tensor_is_not_missed_when_it_matters(tmp_path: Path) -> None:
    _, content = _theirs()
    drop = "[[rule]]\nmatch = '.*cls_token'\ndrop = true\n"
    with pytest.raises(CheckpointError, match="missing 1: cls_token"):
        _read(content, HEAD + drop + RULES, tmp_path)


def test_a_rule_must_match_the_whole_key(tmp_path: Path) -> None:
    _, content = _theirs()
    with pytest.raises(CheckpointError, match=r"unexpected 1: net\.head\.weight"):
        _read(content, HEAD + RULES.replace(r"net\.head\..*", "net.head"), tmp_path)


RULE = "[[rule]]\nmatch = 'a'\nname = 'b'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "rule: Field required"),
        (HEAD + "rule = []", "rule: Tuple should have at least 1 item"),
        (RULE, "architecture: Field required"),
        (HEAD + "[[rule]]\nmatch = '('\nname = 'b'\n", "is no regular expression"),
        (HEAD + "[[rule]]\nmatch = 'a'\n", "needs either a name or drop = true"),
        (HEAD + "[[rule]]\nmatch = 'a'\nname = 'b'\ndrop = true\n", "needs either a name or drop"),
        (HEAD + "[[rule]]\nmatch = 'a'\nname = '\\2'\n", "group"),
        (HEAD + "[[rule]]\nmatch = 'a'\nname = '\\q'\n", "escape"),
        (HEAD + "[[rule]]\nname = 'b'\n", "match: Field required"),
        (HEAD + RULE + "nom = 'c'\n", "nom: Extra inputs"),
        ("surplus = 1\n" + HEAD + RULE, "surplus: Extra inputs"),
        (HEAD.replace("qkv_blocks = 1", "qkv_blocks = -1") + RULE, "qkv_blocks"),
        (HEAD.replace('"patch"', '"both"') + RULE, "registers_with"),
        (HEAD.replace("img_size = 42", "pretrained = true") + RULE, "pretrained"),
        (HEAD.replace("img_size = 42", "checkpoint_path = 'x'") + RULE, "checkpoint_path"),
        ("= 3", "is not TOML"),
    ],
)
def test_a_wrong_rule_file_is_refused_by_its_field(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_rules(tmp_path / "rules.toml")
    assert "\n" not in str(caught.value)


def test_a_rule_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_rules(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        read_rules(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(NAME, "vit_that_is_not"),
        HEAD.replace(NAME, "resnet18"),
        HEAD.replace("img_size = 42", "image_size = 42"),
        HEAD.replace("img_size = 42", "num_heads = 5"),
        HEAD.replace("qkv_blocks = 1", "qkv_blocks = 9"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(head: str, tmp_path: Path) -> None:
    _, content = _theirs()
    with pytest.raises((CheckpointError, UsageError)) as caught:
        _read(content, head + RULES, tmp_path)
    assert "\n" not in str(caught.value)
