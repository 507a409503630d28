"""The options that several commands share, each defined once, with its environment variable."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from clsspec_serve.choices import EngineChoice, Policy, PrecisionChoice
from clsspec_serve.errors import UsageError


def require_export_extra() -> None:
    """Raise `UsageError` naming the command that installs what `export` needs."""
    _require("export", "torch", "timm", "onnx", "onnxscript", "matplotlib")
    _require("cpu", "onnxruntime")


def require_dataset_extra() -> None:
    """Raise `UsageError` naming the command that installs what data sets need."""
    _require("dataset", "pyarrow", "zarr")


def require_ray_extra() -> None:
    """Raise `UsageError` naming the command that installs what a Ray cluster needs."""
    _require("ray", "ray")


def _require(extra: str, *packages: str) -> None:
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(
            f"this command needs {', '.join(lacking)}; install with: "
            f'pip install "clsspec-serve[{extra}]"'
        )


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="CLSSPEC_MODEL",
        help="A bundle's folder, or hf:owner/name[@revision]. The embedded model unless given.",
        show_default=False,
    ),
]
Engine = Annotated[
    EngineChoice,
    typer.Option(
        envvar="CLSSPEC_ENGINE",
        help="What runs the model; auto takes a GPU where there is one; never lowers precision.",
    ),
]
Precision = Annotated[
    PrecisionChoice,
    typer.Option(
        envvar="CLSSPEC_PRECISION",
        help="fp32 is the reference. bf16 is OpenVINO's, other ones take graphs of the bundle, see "
        "`clsspec export`. auto measures which is fastest here.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        envvar="CLSSPEC_THREADS",
        help="Threads of the engine; all cores unless given.",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        envvar="CLSSPEC_DEVICES",
        metavar="0,1",
        help="GPUs by their index, or all, with a model on each. The first one unless given.",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        envvar="CLSSPEC_SIZE",
        metavar="HxW",
        help="The model's input in pixels, in place of the model's own.",
        show_default=False,
    ),
]
Resize = Annotated[
    Policy | None,
    typer.Option(
        envvar="CLSSPEC_RESIZE",
        help="squash: ignore the aspect ratio; crop: cut the centre out; fit: keep all of the "
        "picture and its aspect ratio, at the area of the size; short: the same, at its short "
        "side. The model's or the head's own unless given.",
        show_default=False,
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        envvar="CLSSPEC_TASKS",
        metavar="cls,patches",
        help="What to keep, of cls, patches, segment, depth and classify. The first two, or the "
        "patches where the file is a .npy, unless given.",
        show_default=False,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        envvar="CLSSPEC_LAYERS",
        metavar="5,11:raw",
        help="Blocks, counted from 0; raw leaves the final norm out. The last one unless given.",
        show_default=False,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=0,
        envvar="CLSSPEC_WINDOW",
        metavar="PIXELS",
        help="Side of the windows that slide over the model's input; 0 for the whole picture at "
        "once. The head's own unless given.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="CLSSPEC_STRIDE",
        metavar="PIXELS",
        help="Step of the windows. The head's own, or two thirds of a given window, unless given.",
        show_default=False,
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        envvar="CLSSPEC_FLIP",
        help="Average with the answer to the mirror image. The head's own unless given.",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, envvar="CLSSPEC_BATCH_SIZE", help="Most pictures, or windows, in one forward pass."
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(min=1, envvar="CLSSPEC_MAX_PIXELS", help="Larger pictures are refused unread."),
]
Background = Annotated[
    str,
    typer.Option(
        envvar="CLSSPEC_BACKGROUND",
        metavar="RRGGBB",
        help="The colour behind transparent pixels, in hexadecimal.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
BundleFolder = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        envvar="CLSSPEC_MODEL",
        help="A bundle's folder, or hf:owner/name[@revision]. The embedded model unless given.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A file or folder, hf:owner/name[@revision], timm:NAME, a name from `clsspec models`, "
        "or random:NAME for an architecture with random weights.",
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="The timm architecture of a file that does not say what it is.",
        show_default=False,
    ),
]
Rules = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="TOML rules for a checkpoint with other names.", show_default=False
    ),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Picture files.", show_default=False)
]
