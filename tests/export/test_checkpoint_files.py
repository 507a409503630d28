from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from export_checkpoints import DINOV2_NAMES, deit3_state, dinov2_state
from safetensors.torch import save, save_file

from clsspec_export.checkpoints.files import weight_files
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.checkpoints.source import load_checkpoint
from clsspec_serve.errors import CheckpointError, UsageError


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_torch_file_is_refused_and_not_run(
    suffix: str, legacy: bool, tmp_path: Path
) -> None:
    target, file = tmp_path / "was here", tmp_path / f"evil{suffix}"
    content = dinov2_state("plain") | {"payload": Payload(target)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"more than tensors and plain values.*not loaded"):
        read_checkpoint(file)
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists(), "the payload does nothing, so this test proved nothing"


def test_code_in_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    target, file = tmp_path / "was here", tmp_path / "evil.pkl"
    file.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert not target.exists()
    assert "\n" not in str(caught.value)


def _torch_bytes(path: Path, legacy: bool = False) -> bytes:
    torch.save(dinov2_state("plain"), path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


@pytest.mark.parametrize("keep", [0, 1, 10, 1000, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused_in_one_line(kind: str, keep: float, tmp_path: Path) -> None:
    if kind == "safetensors":
        content, file = save(dinov2_state("plain")), tmp_path / "cut.safetensors"
    else:
        file = tmp_path / "cut.pth"
        content = _torch_bytes(file, legacy=kind == "legacy")
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=file.name) as caught:
        read_checkpoint(file, architecture=DINOV2_NAMES["plain"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors", "file"])
@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_are_refused(name: str, seed: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    content = bytes(torch.randint(0, 256, (5000,), generator=generator).tolist())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("length", [8, 2**62, 100])
def test_a_safetensors_header_of_nonsense_is_refused(length: int, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b"[1, 2,  ")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(file)


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors"])
def test_a_file_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [torch.ones(3)],
        7,
        None,
        {},
        {"a": 1},
        {1: torch.ones(3)},
        {"model": 3},
        {"model": {}},
        {"teacher": {"backbone.x": 3}},
        {"mask_token": torch.ones(1)},
        {"mask_token": 3, "patch_embed.proj.weight": 4},
        {"storage_tokens": torch.ones(1, 4, 8)},
        {"a": {"b": {"c": torch.ones(2)}}},
    ],
)
def test_content_that_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"file\.pth") as caught:
        read_checkpoint(tmp_path / "file.pth")
    assert "\n" not in str(caught.value)


def test_a_file_of_no_known_format_names_some_keys_and_both_ways_out(tmp_path: Path) -> None:
    save_file({"encoder.w": torch.ones(2)}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.w.*--arch.*--rules"):
        read_checkpoint(tmp_path / "file.safetensors")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_folder_with_a_broken_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_checkpoint(tmp_path)


def test_a_bundle_is_refused_as_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "clsspec.json").write_text("{}")
    with pytest.raises(UsageError, match="is a bundle already"):
        read_checkpoint(tmp_path)


def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    file, rules = tmp_path / "deit3.pth", tmp_path / "rules.toml"
    torch.save({"model": deit3_state()}, file)
    for path, options in (
        (tmp_path, {"architecture": "vit_small_patch14_dinov2"}),
        (tmp_path, {"rules": rules}),
        (file, {"architecture": "vit_small_patch14_dinov2"}),
        (file, {"architecture": "vit_small_patch14_dinov2", "rules": rules}),
    ):
        with pytest.raises(UsageError, match=r"says what it is|does nothing"):
            read_checkpoint(path, **options)
    for reference in ("random:vit_small_patch14_dinov2", "timm:vit_small_patch14_dinov2"):
        with pytest.raises(UsageError, match="--arch and --rules are for files"):
            load_checkpoint(reference, rules=rules)


def test_one_whole_file_goes_before_shards_and_both_before_a_pickle(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"):
        (tmp_path / name).write_text('{"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}')
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert weight_files(tmp_path) == [tmp_path / f"{n}.safetensors" for n in (1, 2)]
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        weight_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert weight_files(tmp_path) == [tmp_path / "pytorch_model.bin"]


def test_the_origin_has_the_hash_of_the_file_that_was_read(tmp_path: Path) -> None:
    file = tmp_path / "dinov2.pth"
    torch.save(dinov2_state("plain"), file)
    _, origin = load_checkpoint(str(file), architecture=DINOV2_NAMES["plain"])
    assert origin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
