"""`clsspec bench`: how fast a bundle is on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_serve.choices import EngineChoice, PrecisionChoice
from clsspec_serve.errors import EngineError, UsageError

if TYPE_CHECKING:
    from clsspec_serve.bundle import Bundle

SECONDS = 10.0
PICTURE = "coffee.jpg"

Engine = Annotated[
    EngineChoice | None,
    typer.Option(
        envvar="CLSSPEC_ENGINE",
        help="What runs the model. Every engine that is installed unless given.",
        show_default=False,
    ),
]
Precision = Annotated[
    PrecisionChoice | None,
    typer.Option(
        envvar="CLSSPEC_PRECISION",
        help="Every one that the engine has unless given, and with auto.",
        show_default=False,
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--size",
        envvar="CLSSPEC_SIZE",
        metavar="HxW,HxW",
        help="The model's input in pixels. The model's own unless given.",
        show_default=False,
    ),
]
Batches = Annotated[
    str, typer.Option("--batch-size", metavar="1,8", help="Pictures in one forward pass.")
]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=86_400,
        help=f"How long each engine and precision is measured, {SECONDS:.0f} unless given; at "
        "least three rounds.",
        show_default=False,
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        help="As many rounds, in place of a time. In each all batches, sizes, the twin and the "
        "ceiling have their turn.",
        show_default=False,
    ),
]
Twin = Annotated[
    bool,
    typer.Option(
        "--twin",
        help="Time its plain twin beside it: the same architecture with nothing split. Needs "
        "clsspec-serve[export].",
    ),
]


def bench(
    bundle: options.BundleFolder = None,
    engine: Engine = None,
    precision: Precision = None,
    size: Sizes = None,
    batch_size: Batches = "1,8",
    threads: options.Threads = None,
    seconds: Seconds = None,
    rounds: Rounds = None,
    twin: Twin = False,
    as_json: options.Json = False,
) -> None:
    """Measure a bundle on this machine: latency, images per second, share of the GEMM ceiling.

    The ceiling is what matrix products alone reach at the same precision, on the best engine for
    them; it and all else is timed in turns. An engine that cannot run is named and does not end the
    others; the exit code is 1 when none could.
    """
    if twin:
        options.require_export_extra()
    from clsspec_serve.bench.asked import cases, runners
    from clsspec_serve.bench.bench import Effort
    from clsspec_serve.bench.bench import bench as measure
    from clsspec_serve.transform import parse_size

    if seconds is not None and rounds is not None:
        raise UsageError("--seconds and --rounds both say how long; accepted is one of them")
    batches = _batches(batch_size)
    sizes = [parse_size(part) for part in size.split(",")] if size is not None else []
    opened = chosen_bundle(bundle)
    chosen = runners(opened.manifest, engine, None if precision == "auto" else precision)
    asked = cases(opened.manifest, sizes, batches)
    with _twin(opened, twin) as plain:
        report = measure(
            opened,
            chosen,
            asked,
            (files("clsspec_export") / "photographs" / PICTURE).read_bytes(),
            twin=plain,
            threads=threads,
            effort=Effort(SECONDS if seconds is None else seconds, rounds),
        )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(report.lines()))
    if not report.rows:
        raise EngineError(f"{opened.path} could be measured on no engine")


def _batches(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"batch size {text!r}; accepted are numbers from 1, such as 1,8")
    return [int(part) for part in parts]


@contextmanager
def _twin(bundle: Bundle, wanted: bool) -> Iterator[Bundle | None]:
    if not wanted:
        yield None
        return
    from clsspec_export.twin import write_twin

    print("exporting the plain twin", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        yield write_twin(bundle, Path(folder))
