"""`clsspec segment`: the class of every pixel, to files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.destination import destination
from clsspec_cli.pictures import image_limits, network_size, predict_files
from clsspec_cli.precision import settled
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_serve.request import Options

MaskFormat = Literal["png", "npy"]
OVERLAY = ".overlay.png"
LEAST_SHARE = 0.0005
"""Of all pixels, for a line of its own in the summary."""

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="A .png or .npy file, or a folder for a file per picture. Beside each picture, as "
        "photo.mask.png, unless given.",
        show_default=False,
    ),
]
FileFormat = Annotated[
    MaskFormat,
    typer.Option("--format", help="Of the files in a folder or beside: indexed PNG or class ids."),
]
Overlay = Annotated[
    bool,
    typer.Option("--overlay", help="Also write the picture with the mask over it: .overlay.png."),
]


def segment(
    images: options.Images,
    model: options.Model = None,
    out: Out = None,
    file_format: FileFormat = "png",
    overlay: Overlay = False,
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
    """Write the class of every pixel of pictures, at their own size, and print the areas.

    Pixels that `--resize crop` cuts away have the id 255 (65535 beyond 255 classes).
    """
    from clsspec_serve.heads import SegmentationHead
    from clsspec_serve.images import read_image
    from clsspec_serve.layers import require_head
    from clsspec_serve.loading import start
    from clsspec_serve.outputs import npy
    from clsspec_serve.pictures.look import PAINT, encode_picture
    from clsspec_serve.pictures.masks import VOID_BYTE, areas, mask_png
    from clsspec_serve.pictures.masks import overlay as painted
    from clsspec_serve.whole import require_writable, write_whole

    target = destination(
        images,
        out,
        file_format,
        forms=("png", "npy"),
        joint=(),
        ending="mask",
        companions=(OVERLAY,) if overlay else (),
    )
    asked: Options = {
        "tasks": ("segment",),
        "size": network_size(size),
        "policy": resize,
        "window": window,
        "stride": stride,
        "flip": flip,
        "limits": image_limits(max_pixels, background),
    }
    for path in target.paths:
        require_writable(path)
    bundle = chosen_bundle(model)
    engine, exact = settled(bundle, engine, precision, threads=threads)
    loaded = start(bundle, engine=engine, precision=exact, threads=threads)
    classes = require_head(loaded.manifest.heads, SegmentationHead).classes
    if target.form == "png" and len(classes) > VOID_BYTE:
        raise UsageError(
            f"a PNG holds up to {VOID_BYTE} classes, this head has {len(classes)}; use --format npy"
        )
    pixels: Counter[str] = Counter()
    try:
        for image, prediction in predict_files(
            loaded, images, "Segmenting", together=False, batch_size=batch_size, **asked
        ):
            ids = prediction.segment
            file = target.single or target.files[image]
            write_whole(file, mask_png(ids, classes) if target.form == "png" else npy(ids))
            if overlay:
                photograph = read_image(image, asked["limits"])
                over = painted(photograph, ids, classes, PAINT)
                write_whole(file.with_suffix(OVERLAY), encode_picture(over, ".png"))
            for area in areas(ids, classes):
                pixels[area.name] += area.pixels
    finally:
        _print_areas(pixels)


def _print_areas(pixels: Counter[str]) -> None:
    """The summary of all pictures: the classes by area; what rounds to 0.0 % goes together."""
    total = sum(pixels.values())
    rows = pixels.most_common()
    shown = [(count, name) for name, count in rows if count / total >= LEAST_SHARE]
    rest = sum(pixels.values()) - sum(count for count, _ in shown)
    if rest:
        shown.append((rest, f"in {len(rows) - len(shown)} more classes"))
    for count, name in shown:
        print(f"{100 * count / total:5.1f} %  {count:>12,} px  {name}")
