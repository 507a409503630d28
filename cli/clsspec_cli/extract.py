"""`clsspec extract`: features of pictures, to files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, get_args

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.destination import Destination, destination, names_in_file
from clsspec_cli.pictures import image_limits, network_size, predict_files
from clsspec_cli.precision import settled
from clsspec_serve.choices import Format
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_serve.predictor import Prediction
    from clsspec_serve.request import Options


FORMATS: tuple[Format, ...] = get_args(Format)
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
    """Write the [CLS] embedding and the patch map of pictures, and what heads make of them.

    A picture that cannot be read is named on stderr and the exit code is 1; where each picture has
    a file of its own, the others are written all the same.
    """
    from clsspec_serve.layers import parse_layers, parse_tasks
    from clsspec_serve.loading import start
    from clsspec_serve.whole import require_writable

    target = destination(
        images, out, file_format, forms=FORMATS, joint=("npz", "safetensors"), ending="features"
    )
    names = names_in_file(images)
    asked: Options = {
        "tasks": parse_tasks(tasks or ("patches" if target.form == "npy" else "cls,patches")),
        "layers": parse_layers(layers),
        "size": network_size(size),
        "policy": resize,
        "limits": image_limits(max_pixels, background),
    }
    for path in target.paths:
        require_writable(path)
    bundle = chosen_bundle(model)
    engine, exact = settled(bundle, engine, precision, threads=threads)
    loaded = start(bundle, engine=engine, precision=exact, threads=threads)
    request = loaded.request(**asked)
    arrays = request.names
    if target.form == "npy" and len(arrays) != 1:
        raise UsageError(
            f"a .npy file holds one array, not {', '.join(arrays)}; "
            "choose one with --tasks and --layers, or use npz"
        )
    if request.outputs and request.heads and not (network_size(size) or resize):
        height, width = request.preprocessing.size
        print(
            f"clsspec: note: the features are of pictures as the head for {request.heads[0].task} "
            f"sees them ({request.preprocessing.policy} {height}x{width}); --size and --resize "
            "change that",
            file=sys.stderr,
        )
    with _writer(target, names) as write:
        for image, prediction in predict_files(
            loaded,
            images,
            "Extracting",
            together=target.single is not None,
            batch_size=batch_size,
            **asked,
        ):
            write(image, prediction)


@contextmanager
def _writer(target: Destination[Format], names: dict[Path, str]) -> Iterator[Write]:
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
