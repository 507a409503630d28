"""`clsspec view`: what features, masks and depth look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.destination import destination
from clsspec_cli.pictures import image_limits, network_size, predict_files
from clsspec_cli.precision import settled
from clsspec_serve.choices import Policy
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_serve.pictures.look import Look
    from clsspec_serve.pictures.panels import Panel
    from clsspec_serve.request import Options

SHOWN = ("segment", "depth")
"""The heads whose answers are pictures."""

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="A .png, .jpg or .webp for everything, a row for each picture, or a folder for a "
        "file each. Beside each picture, as photo.view.png, unless given.",
        show_default=False,
    ),
]
PointOption = Annotated[
    str | None,
    typer.Option(
        "--point",
        metavar="x,y",
        help="Show how alike the patches are to the one here: a pixel of the picture, from its "
        "upper left corner.",
        show_default=False,
    ),
]
Joint = Annotated[
    bool,
    typer.Option(
        "--joint", envvar="CLSSPEC_JOINT", help="One PCA for all pictures: like colours are alike."
    ),
]
Smooth = Annotated[
    bool,
    typer.Option(
        "--smooth", envvar="CLSSPEC_SMOOTH", help="Interpolate between patches, not squares."
    ),
]
Height = Annotated[
    int,
    typer.Option(
        min=32, max=4096, envvar="CLSSPEC_HEIGHT", help="Of each panel of the view, in pixels."
    ),
]
Resize = Annotated[
    Policy | None,
    typer.Option(
        envvar="CLSSPEC_RESIZE",
        help="squash: ignore the aspect ratio; crop: cut the centre out; fit: keep all of the "
        "picture and its aspect ratio, at the area of the size; short: the same, at its short "
        "side. fit unless given.",
        show_default=False,
    ),
]


def view(
    images: options.Images,
    model: options.Model = None,
    out: Out = None,
    point: PointOption = None,
    joint: Joint = False,
    smooth: Smooth = False,
    height: Height = 480,
    layers: options.Layers = "",
    size: options.Size = None,
    resize: Resize = None,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    background: options.Background = "ffffff",
    max_pixels: options.MaxPixels = 89_478_485,
) -> None:
    """Show the patches' three principal components as colours, beside the picture.

    Also the similarity to a point, and a mask and depth where the model has heads for them. Every
    map lies on the picture as the network saw it; what it did not see is dimmed.

    A picture that cannot be read is named on stderr and the exit code is 1; where each picture has
    a file and a PCA of its own, the others are written all the same.
    """
    from clsspec_serve.images import read_image
    from clsspec_serve.layers import parse_layers, select_outputs
    from clsspec_serve.loading import start
    from clsspec_serve.pictures.look import FORMATS, look, parse_point
    from clsspec_serve.pictures.panels import check_size, wrapped
    from clsspec_serve.pictures.pca import fit
    from clsspec_serve.whole import require_writable

    forms = [suffix[1:] for suffix in FORMATS]
    target = destination(images, out, "png", forms=forms, joint=forms, ending="view")
    chosen = parse_layers(layers)
    if len(chosen) > 1:
        raise UsageError(f"layers {layers!r}; accepted is one, since a view shows one")
    limits = image_limits(max_pixels, background)
    place = None if point is None else parse_point(point)
    asked: Options = {
        "layers": chosen,
        "size": network_size(size),
        "policy": resize or "fit",
        "limits": limits,
    }
    for path in target.paths:
        require_writable(path)
    bundle = chosen_bundle(model)
    engine, exact = settled(bundle, engine, precision, threads=threads)
    loaded = start(bundle, engine=engine, precision=exact, threads=threads)
    heads = loaded.manifest.heads
    asked["tasks"] = ("patches", *(head.task for head in heads if head.task in SHOWN))
    (patches,) = select_outputs(loaded.manifest.outputs, ("patches",), chosen)
    title = f"PCA of layer {chosen[0]}" if chosen else "PCA"

    looks: list[Look] = []
    rows: list[list[Panel]] = []
    together = joint or target.single is not None
    for image, prediction in predict_files(
        loaded, images, "Viewing", together=together, batch_size=1, **asked
    ):
        seen = look(
            image.name,
            read_image(image, limits),
            prediction.arrays[patches.name],
            prediction.geometry,
            prediction.arrays,
            heads,
            height=height,
            point=place,
            smooth=smooth,
        )
        if joint:
            looks.append(seen)
            continue
        panels = seen.panels(fit([seen.seen]), title, smooth=smooth)
        if target.single is None:
            _write(target.files[image], wrapped(panels))
        else:
            rows.append(panels)
            check_size(rows)
    if joint:
        pca = fit([seen.seen for seen in looks])
        rows = [seen.panels(pca, f"Joint {title}", smooth=smooth) for seen in looks]
    if target.single is not None:
        _write(target.single, rows if len(rows) > 1 else wrapped(rows[0]))
    elif joint:
        for image, panels in zip(images, rows, strict=True):
            _write(target.files[image], wrapped(panels))


def _write(path: Path, rows: list[list[Panel]]) -> None:
    from clsspec_serve.pictures.look import encode_picture
    from clsspec_serve.pictures.panels import grid
    from clsspec_serve.whole import write_whole

    write_whole(path, encode_picture(grid(rows), path.suffix))
