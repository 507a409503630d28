from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Clsspec, save_picture, tree
from PIL import Image

from clsspec_serve.errors import OutputError

COLUMNS = ["cls_patch_mean", "cls_patch_std", "patch_patch_mean", "patch_patch_std"]


@pytest.fixture
def toy() -> str:
    """A reference to a plain ViT of two blocks on 4 x 4 patches of 14 pixels."""
    from tiny_architecture import NAME

    return f"random:{NAME}"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [save_picture(tmp_path / "pictures" / f"{seed}.png", seed) for seed in range(3)]


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "analysis.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _measured(toy: str, photos: list[Path], **options: Any) -> list[dict[str, Any]]:
    """Rows by way of Python, as dictionaries."""
    from dataclasses import asdict

    from clsspec_export.analysis import analyze, prepare
    from clsspec_export.checkpoints.source import load_checkpoint

    checkpoint, _ = load_checkpoint(toy)
    rows = analyze(checkpoint, [prepare(checkpoint, photo, **options) for photo in photos])
    return [asdict(row) for row in rows]


def test_a_checkpoint_and_pictures_become_a_table_and_a_plot(
    clsspec: Clsspec, toy: str, photos: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "analysis"
    result = clsspec("analyze", toy, *photos, "--out", out)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines()[0] == f"reading {toy}"
    assert result.err.splitlines()[-1] == f"{out}: analysis.csv and analysis.png, 19 rows"
    assert sum(line.startswith("Analyzing: ") for line in result.err.splitlines()) == 3
    assert sorted(tree(tmp_path / "new")) == [
        *("analysis", "analysis/analysis.csv", "analysis/analysis.png"),
    ]
    block = [
        *("before_norm1", "after_norm1", "attention", "attention_scaled"),
        *("before_norm2", "after_norm2", "mlp", "mlp_scaled", "block_output"),
    ]
    table = _table(out)
    assert [(int(row["block"]), row["point"]) for row in table] == [
        *((0, point) for point in block),
        *((1, point) for point in block),
        (1, "after_final_norm"),
    ]
    expected = _measured(toy, photos)
    assert [[float(row[name]) for name in COLUMNS] for row in table] == [
        [row[name] for name in COLUMNS] for row in expected
    ]
    assert {row["images"] for row in table} == {"3"}
    with Image.open(out / "analysis.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 100


def test_json_is_the_table_with_null_for_a_single_pictures_deviation(
    clsspec: Clsspec, toy: str, photo: Path, tmp_path: Path
) -> None:
    result = clsspec("analyze", toy, photo, "--out", tmp_path / "a", "--json")
    assert result.code == 0
    rows = json.loads(result.out)
    assert rows == _measured(toy, [photo])
    for row, line in zip(rows, _table(tmp_path / "a"), strict=True):
        assert list(row) == list(line)
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line
        assert row["cls_patch_std"] is row["patch_patch_std"] is None


def test_size_resize_and_background_reach_the_pictures(
    clsspec: Clsspec, toy: str, tmp_path: Path
) -> None:
    from clsspec_serve.images import ImageLimits

    photo = tmp_path / "see-through.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 4), np.uint8)
    Image.fromarray(pixels).save(photo)

    def means(*arguments: str | Path) -> list[float]:
        assert (
            clsspec("analyze", toy, photo, "--out", tmp_path / "a", "--force", *arguments).code == 0
        )
        return [float(row["cls_patch_mean"]) for row in _table(tmp_path / "a")]

    def expected(**options: Any) -> list[float]:
        return [row["cls_patch_mean"] for row in _measured(toy, [photo], **options)]

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "analysis.csv").touch()
    plain = means()
    assert plain == expected()
    assert means("--size", "28x70") == expected(size=(28, 70)) != plain
    assert means("--resize", "squash") == expected(policy="squash") != plain
    black = ImageLimits(background=(0, 0, 0))
    assert means("--background", "000000") == expected(limits=black) != plain


def test_force_replaces_an_analysis_and_nothing_else(
    clsspec: Clsspec, toy: str, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a"
    assert clsspec("analyze", toy, photo, "--out", out).code == 0
    before = tree(out)
    refused = clsspec("analyze", toy, photo, "--out", out, "--size", "28")
    assert (refused.code, refused.error()) == (2, f"{out} exists already; --force replaces it")
    assert tree(out) == before
    assert clsspec("analyze", toy, photo, "--out", out, "--size", "28", "--force").code == 0
    after = tree(out)
    assert after.keys() == before.keys()
    assert after["analysis.csv"] != before["analysis.csv"]

    (out / "notes.txt").write_text("mine")
    for place in (out, photo, photo.parent):
        kept = tree(tmp_path)
        refused = clsspec("analyze", toy, photo, "--out", place, "--force")
        assert (refused.code, refused.error()) == (
            1,
            f"{place} exists and is not an analysis; it is not replaced",
        )
        assert tree(tmp_path) == kept


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["TOY", "good.png", "gone.png"], 1, "gone.png: cannot be opened"),
        (["TOY", "good.png", "broken.png"], 1, "broken.png: PNG"),
        (["TOY", "good.png", "--max-pixels", "10"], 1, "accepted are 10"),
        (["TOY", "good.png", "--size", "14"], 2, "a picture of one patch has no pairs"),
        (["TOY", "good.png", "--size", "big"], 2, "size 'big'; accepted is HxW"),
        (["TOY", "good.png", "--background", "red"], 2, "accepted is RRGGBB"),
        (["TOY", "good.png", "--arch", "x"], 2, "--arch and --rules are for files"),
        (["random:nonsense", "good.png"], 2, "'nonsense' is not an architecture"),
        (["gone.pth", "good.png"], 2, "gone.pth"),
        (["broken.pth", "good.png"], 1, "broken.pth"),
        (["TOY", "good.png", "--out", "good.png/a"], 1, "cannot write good.png/a"),
    ],
)
def test_what_is_refused_is_one_line_and_leaves_nothing(
    clsspec: Clsspec,
    toy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("good.png"))
    Path("broken.png").write_bytes(Path("good.png").read_bytes()[:200])
    Path("broken.pth").write_bytes(b"no weights")
    before = tree(tmp_path)
    result = clsspec(
        "analyze", "--out", "new/a", *(toy if part == "TOY" else part for part in arguments)
    )
    *progress, last = result.err.splitlines()
    assert (result.code, result.out) == (code, "")
    assert last.startswith("clsspec: ")
    assert message in last
    assert all(line.startswith(("reading ", "Analyzing: ")) for line in progress)
    assert tree(tmp_path) == before


def test_a_plot_that_fails_leaves_no_table_either(
    clsspec: Clsspec, toy: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clsspec_export import analysis_plot

    def fail(*arguments: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(analysis_plot, "plot", fail)
    before = tree(tmp_path)
    result = clsspec("analyze", toy, photo, "--out", tmp_path / "a")
    assert (result.code, result.err.splitlines()[-1]) == (1, "clsspec: the disk is full")
    assert tree(tmp_path) == before


def test_a_checkpoint_file_takes_arch_or_rules(
    clsspec: Clsspec, toy: str, photo: Path, tmp_path: Path
) -> None:
    """The same weights by either way give the table that they gave by name."""
    import torch

    from clsspec_export.checkpoints.source import load_checkpoint

    name = toy.removeprefix("random:")
    state = load_checkpoint(toy)[0].model.state_dict()
    torch.save(state, tmp_path / "timm.pth")
    torch.save({f"mine.{key}": value for key, value in state.items()}, tmp_path / "mine.pth")
    (tmp_path / "rules.toml").write_text(
        f"architecture = '{name}'\n[[rule]]\nmatch = 'mine\\.(.*)'\nname = '\\1'\n"
    )
    expected = [row["cls_patch_mean"] for row in _measured(toy, [photo])]
    for number, arguments in enumerate(
        [
            (tmp_path / "timm.pth", "--arch", name),
            (tmp_path / "mine.pth", "--rules", tmp_path / "rules.toml"),
        ]
    ):
        out = tmp_path / str(number)
        result = clsspec("analyze", *arguments, photo, "--out", out, "--resize", "crop")
        assert result.code == 0, result.err
        found = [float(row["cls_patch_mean"]) for row in _table(out)]
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_missing_extra_names_the_command_that_installs_it(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clsspec_cli import options

    monkeypatch.setattr(
        options.importlib.util, "find_spec", lambda name: None if name == "torch" else True
    )
    result = clsspec("analyze", "x.pth", "y.png", "--out", tmp_path / "a")
    assert (result.code, result.error()) == (
        2,
        'this command needs torch; install with: pip install "clsspec-serve[export]"',
    )
