"""The documentation says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clsspec_export.checkpoints.foreign import read_rules

ROOT = Path(__file__).parent.parent


def test_the_command_reference_is_what_the_commands_say(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    title = ["--name", "clsspec", "--title", "The commands", "--output", str(page)]
    command = [sys.executable, "-m", "typer", "clsspec_cli.app", "utils", "docs", *title]
    subprocess.run(command, check=True, capture_output=True)
    assert page.read_text() == (ROOT / "docs" / "cli.md").read_text(), "run `make docs`"


def test_the_rule_file_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    rules = tmp_path / "rules.toml"
    rules.write_text(text.partition("```toml\n")[2].partition("```")[0])
    assert read_rules(rules).architecture == "vit_base_patch14_dinov2"


PAGES = ["bundle.md", "checkpoints.md", "cli.md", "benchmarks.md", "heads.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_linked_from_the_readme(page: str) -> None:
    assert f"docs/{page}" in (ROOT / "README.md").read_text()
