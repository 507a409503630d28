"""The `clsspec` command: its subcommands, and how errors reach the user."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from typing import Annotated

import typer

from clsspec_cli.analyze import analyze
from clsspec_cli.batch import batch
from clsspec_cli.bench import bench
from clsspec_cli.depth import depth
from clsspec_cli.evaluate import evaluate
from clsspec_cli.export import export
from clsspec_cli.extract import extract
from clsspec_cli.fit import fit
from clsspec_cli.inspect import inspect
from clsspec_cli.models import models
from clsspec_cli.segment import segment
from clsspec_cli.serve import serve
from clsspec_cli.verify import verify
from clsspec_cli.view import view
from clsspec_serve.errors import ClsspecError

app = typer.Typer(
    name="clsspec",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Features, masks and depth from Vision Transformers whose [CLS] and patch tokens have "
    "their own weights.",
)
for command in (
    extract,
    segment,
    depth,
    view,
    batch,
    serve,
    export,
    fit,
    analyze,
    inspect,
    verify,
    bench,
    models,
):
    app.command()(command)
app.command("eval")(evaluate)

_show_traceback = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("clsspec-serve"))
        raise typer.Exit


@app.callback()
def _options(
    show_traceback: Annotated[
        bool,
        typer.Option(
            "--traceback", envvar="CLSSPEC_TRACEBACK", help="Show where in the code an error arose."
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    global _show_traceback
    _show_traceback = show_traceback


def main() -> None:
    """Run the command line; errors of ours end it with one line on stderr and their exit code."""
    # Pillow warns about metadata that the pixels do not need.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # What clsspec chose, and why, as it is; the server gives its log another form.
    notices = logging.getLogger("clsspec")
    notices.handlers = [logging.StreamHandler(sys.stderr)]
    notices.setLevel(logging.INFO)
    try:
        app()
    except ClsspecError as error:
        if _show_traceback:
            traceback.print_exc()
        print(f"clsspec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
