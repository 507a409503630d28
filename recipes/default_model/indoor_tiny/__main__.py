"""`python -m indoor_tiny`: the steps from furniture to a bundle, each of which can be resumed."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

RECIPE = Path(__file__).parents[1] / "recipe.toml"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Work = Annotated[Path, typer.Option(help="Where frames and runs are kept: 6 GB.")]
Plain = Annotated[bool, typer.Option("--plain", help="The plain twin.")]


@app.command()
def render(
    furniture: Annotated[Path, typer.Option(help="The folder with the libraries *.sh3f.")],
    work: Work,
) -> None:
    """Render the frames of both splits."""
    # Its processes import this file: PyTorch beside OpenGL's software driver has crashed.
    from indoor_tiny.render import Rendering
    from indoor_tiny.render import render as fill

    fill(Rendering(**_table("frames")), furniture, work / "frames", os.cpu_count() or 1)


@app.command()
def train(work: Work, plain: Plain = False) -> None:
    """Train the backbone, or go on with it."""
    from indoor_tiny.training.plan import read_plan
    from indoor_tiny.training.train import train as train_network

    frames = work / "frames"
    wanted = replace(read_plan(RECIPE), specialized=not plain)
    train_network(wanted, frames / "train", frames / "held-out", _run(work, plain))


@app.command()
def bundle(work: Work, plain: Plain = False) -> None:
    """Export the backbone, fit the heads, and score everything on held-out frames."""
    from clsspec_export.model_card import replace_card
    from indoor_tiny.bundle import Heads, make_bundle, score_bundle
    from indoor_tiny.card import card
    from indoor_tiny.training.measure import measure

    frames, run = work / "frames", _run(work, plain)
    made = make_bundle(Heads(**_table("heads")), frames, run)
    figures = measure(run, frames / "train", frames / "held-out")
    held_out = _table("frames")["held_out"]
    figures["bundle"] = score_bundle(made, frames, held_out, work / "held-out")
    if not plain:
        replace_card(made, card(figures))
    text = json.dumps(figures, indent=1)
    (run / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def _run(work: Path, plain: bool) -> Path:
    return work / ("plain" if plain else "specialized")


def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(RECIPE.read_text(encoding="utf-8"))[name]
    return table


if __name__ == "__main__":
    app()
