"""`clsspec depth`: the distance of every pixel, to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.destination import destination
from clsspec_cli.pictures import image_limits, network_size, predict_files
from clsspec_cli.precision import settled

if TYPE_CHECKING:
    from clsspec_serve.request import Options

DepthFormat = Literal["png", "npy"]
COLORS = ".colors.png"

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="A .png or .npy file, or a folder for a file per picture. Beside each picture, as "
        "photo.depth.png, unless given.",
        show_default=False,
    ),
]
FileFormat = Annotated[
    DepthFormat,
    typer.Option("--format", help="Of the files in a folder or beside: 16-bit PNG or metres."),
]
Colormap = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        envvar="CLSSPEC_COLORMAP",
        help="Also write the depth in colours, such as magma_r or turbo: .colors.png.",
        show_default=False,
    ),
]


def depth(
    images: options.Images,
    model: options.Model = None,
    out: Out = None,
    file_format: FileFormat = "png",
    colormap: Colormap = None,
    size: options.Size = None,
    resize: options.Resize = None,
    window: options.Window = None,
    stride: options.Stride = None,
    flip: options.Flip = None,
    batch_size: options.BatchSize = 8,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    background: options.Background = "ffffff",
    max_pixels: options.MaxPixels = 89_478_485,
) -> None:
    """Write the depth of every pixel of pictures, at their own size.

    PNGs hold millimetres, or 1/256 m where the head's range reaches beyond 65.5 m; the factor
    stands in their text as depth_scale, and 0 is no value. A .npy holds metres as float32.
    """
    from clsspec_serve.heads import DepthHead
    from clsspec_serve.layers import require_head
    from clsspec_serve.loading import start
    from clsspec_serve.outputs import npy
    from clsspec_serve.pictures.colormap import colour_levels
    from clsspec_serve.pictures.depths import colour_depth, depth_png, depth_scale
    from clsspec_serve.pictures.look import encode_picture
    from clsspec_serve.whole import require_writable, write_whole

    target = destination(
        images,
        out,
        file_format,
        forms=("png", "npy"),
        joint=(),
        ending="depth",
        companions=(COLORS,) if colormap is not None else (),
    )
    asked: Options = {
        "tasks": ("depth",),
        "size": network_size(size),
        "policy": resize,
        "window": window,
        "stride": stride,
        "flip": flip,
        "limits": image_limits(max_pixels, background),
    }
    if colormap is not None:
        colour_levels(colormap)
    for path in target.paths:
        require_writable(path)
    bundle = chosen_bundle(model)
    engine, exact = settled(bundle, engine, precision, threads=threads)
    loaded = start(bundle, engine=engine, precision=exact, threads=threads)
    maximum = require_head(loaded.manifest.heads, DepthHead).maximum
    if target.form == "png":
        depth_scale(maximum)
    for image, prediction in predict_files(
        loaded, images, "Measuring", together=False, batch_size=batch_size, **asked
    ):
        metres = prediction.depth
        file = target.single or target.files[image]
        write_whole(file, depth_png(metres, maximum) if target.form == "png" else npy(metres))
        if colormap is not None:
            coloured = encode_picture(colour_depth(metres, colormap), ".png")
            write_whole(file.with_suffix(COLORS), coloured)
