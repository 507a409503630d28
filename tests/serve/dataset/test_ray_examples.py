"""The clusters of `examples/ray`, as far as they can be checked without one."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from clsspec_cli.app import app

EXAMPLES = Path(__file__).parents[3] / "examples" / "ray"


def command_of(text: str) -> list[str]:
    """The arguments of `clsspec batch` in a text, whose lines may be continued."""
    found = re.search(r"clsspec batch ([^\"]+)", re.sub(r"\\\n#?", "", text))
    assert found is not None
    return shlex.split(found[1])


def entrypoint() -> str:
    found: str = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    return found


@pytest.mark.parametrize(
    "text", [(EXAMPLES / "cluster.yaml").read_text(), entrypoint()], ids=["cluster", "rayjob"]
)
def test_their_commands_have_options_that_there_are(text: str) -> None:
    command: Any = get_command(app)
    parsed = command.commands["batch"].make_context("batch", command_of(text)).params
    assert (parsed["source"], parsed["runner"]) == ("s3://bucket/photos", "ray")
    assert (parsed["replicas"], parsed["threads"]) == (20, 16)


def test_ray_accepts_its_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((EXAMPLES / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="max_worker"):
        validate_config({**config, "max_worker": 3})


def test_they_have_the_version_that_is_tested() -> None:
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    assert f"rayproject/ray:{version('ray')}-py311-cpu" in (EXAMPLES / "Dockerfile").read_text()
