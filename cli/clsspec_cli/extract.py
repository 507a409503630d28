"""`clsspec extract`: features of pictures, to files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from clsspec_cli import options
from clsspec_cli.destination import Destination, destination, names_in_file
from clsspec_serve.choices import Format
from clsspec_serve.errors import ImageError, UsageError

if TYPE_CHECKING:
    from clsspec_serve.predictor import Prediction


Write: TypeAlias = "Callable[[Path, Prediction], None]"

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="A .npy, .npz or .safetensors file, or a folder for a file per picture. "
        "Beside each picture unless given.",
        show_default=False,
    ),
]
FileFormat = Annotated[
    Format,
    typer.Option("--format", envvar="CLSSPEC_FORMAT", help="Of the files in a folder or beside."),
]


def extract(
    images: options.Images,
    model: options.Model = None,
    out: Out = None,
    tasks: options.Tasks = None,
    layers: options.Layers = "",
    file_format: FileFormat = "npz",
    size: options.Size = None,
    resize: options.Resize = None,
    batch_size: options.BatchSize = 8,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    background: options.Background = "ffffff",
    max_pixels: options.MaxPixels = 89_478_485,
) -> None:
    """Write the [CLS] embedding and the patch map of pictures.

    A picture that cannot be read is named on stderr and the exit code is 1; where each picture has
    a file of its own, the others are written all the same.
    """
    from clsspec_serve.colour import parse_colour
    from clsspec_serve.images import ImageLimits
    from clsspec_serve.layers import parse_layers, parse_tasks, select_outputs
    from clsspec_serve.predictor import load
    from clsspec_serve.progress import progress
    from clsspec_serve.transform import parse_size
    from clsspec_serve.whole import require_writable

    target = destination(images, out, file_format)
    names = names_in_file(images)
    chosen_tasks = parse_tasks(tasks or ("patches" if target.form == "npy" else "cls,patches"))
    chosen_layers = parse_layers(layers)
    limits = ImageLimits(max_pixels, parse_colour(background))
    network_size = None if size is None else parse_size(size)

    for path in [target.single] if target.single is not None else target.files.values():
        require_writable(path)
    loaded = load(model, engine=engine, precision=precision, threads=threads)
    arrays = select_outputs(loaded.manifest.outputs, chosen_tasks, chosen_layers)
    if target.form == "npy" and len(arrays) != 1:
        raise UsageError(
            f"a .npy file holds one array, not {', '.join(array.name for array in arrays)}; "
            "choose one with --tasks and --layers, or use npz"
        )

    failed: list[Path] = []

    def refuse(image: Path, error: ImageError) -> None:
        if target.single is not None or len(images) == 1:
            raise error
        print(f"clsspec: {error}", file=sys.stderr)
        failed.append(image)
        meter.advance()

    with progress("Extracting", len(images), "images") as meter, _writer(target, names) as write:
        for image, prediction in loaded.predict_each(
            images,
            refuse,
            tasks=chosen_tasks,
            layers=chosen_layers,
            size=network_size,
            policy=resize,
            limits=limits,
            batch_size=batch_size,
        ):
            write(image, prediction)
            meter.advance()
    if failed:
        raise ImageError(f"{len(failed)} of {len(images)} images could not be read")


@contextmanager
def _writer(target: Destination, names: dict[Path, str]) -> Iterator[Write]:
    """What puts one picture's features where they belong; a single file appears at the end."""
    from clsspec_serve.outputs import NpzStream, encode, encode_many
    from clsspec_serve.whole import new_file, write_whole

    if target.single is None:
        yield lambda image, found: write_whole(target.files[image], encode(found, target.form))
    elif len(names) == 1:
        single = target.single
        yield lambda _, found: write_whole(single, encode(found, target.form))
    elif target.form == "npz":
        with new_file(target.single) as stream, NpzStream(stream) as archive:
            yield lambda image, found: archive.add(names[image], found)
    else:
        together: dict[str, Prediction] = {}
        yield lambda image, found: together.update({names[image]: found})
        write_whole(target.single, encode_many(together, target.form))
