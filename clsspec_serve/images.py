"""A picture in a file, in memory or in an array → its RGB pixels, within stated limits.

Pillow's own bound against decompression bombs warns through the global `warnings` filters, which no
thread can change for itself alone, and raises before the size is known. So the plugins are called
here directly, without `Image.open`: the limit is `ImageLimits.max_pixels` alone, checked on the
header. A few plugins look at Pillow's bound by themselves: WebP, TIFF and GIF pictures of more than
twice `PIL.Image.MAX_IMAGE_PIXELS` are refused whatever the limit says, unless the process raises
that too, and TIFF and GIF ones of more than once that cause Pillow's warning.

A picture's size bounds what it takes to read, except where a few bytes make a decoder take any
amount. Such files are refused by their headers, before Pillow reads them: `_refuse_bombs`.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clsspec_serve.bombs.jpeg import refuse_jpeg
from clsspec_serve.bombs.jpeg2000 import refuse_jpeg2000
from clsspec_serve.bombs.packed_text import refuse_plain_ppm, refuse_png
from clsspec_serve.bombs.tiff import refuse_tiff
from clsspec_serve.colour import to_rgb
from clsspec_serve.errors import ImageError, ImageTooLarge, UsageError, one_line

DEFAULT_MAX_PIXELS = 89_478_485
"""Pillow's own bound: a quarter of a gibibyte of 24-bit pixels."""
DEFAULT_BACKGROUND = (255, 255, 255)


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG's pixels, without what Pillow reads of the metadata beyond them.

    Looking for the resolution in broken EXIF fails the whole file where warnings are errors. The
    further pictures of an MPO file are Pillow's factory's doing, which this class does not pass.
    """

    def _read_dpi_from_exif(self) -> None:
        return


# A closed list: Pillow knows some fifty formats, and one of them starts Ghostscript.
_FORMATS = (
    _Jpeg,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    TiffImagePlugin.TiffImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    AvifImagePlugin.AvifImageFile,
    Jpeg2KImagePlugin.Jpeg2KImageFile,
    PpmImagePlugin.PpmImageFile,
)
_IN_MEMORY = "image bytes"
_FORMAT_NAMES = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """What is read, and over which colour transparent pixels are laid.

    `max_pixels`: height times width. `background`: RGB in 0..255. Raises UsageError
    outside of that.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    background: tuple[int, int, int] = DEFAULT_BACKGROUND

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise UsageError(f"max_pixels is {self.max_pixels}; accepted are 1 and more")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise UsageError(f"background is {self.background}; accepted are three of 0..255")


DEFAULT_LIMITS = ImageLimits()


class _Reader(io.BufferedReader):
    """A file whose end, met while pixels are decoded, is an error.

    Pillow fills truncated pictures with grey as soon as any library in the process has set
    `ImageFile.LOAD_TRUNCATED_IMAGES`; what is read through this class is refused all the same.
    """

    decoding = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.decoding and not data and size != 0:
            raise OSError("image file is truncated")
        return data


class Encoded:
    """An encoded picture in memory whose header has been read; for a `with` block.

    Raises ImageError for what is no image, ImageTooLarge as `read_image` would. `size`: (H, W),
    before EXIF orientation.
    """

    def __init__(self, data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._stream = _Reader(io.BytesIO(data))
        try:
            self._image = _open(self._stream, _IN_MEMORY)
            _check_size(self._image.width, self._image.height, _IN_MEMORY, limits.max_pixels)
        except BaseException:
            self._stream.close()
            raise
        self.size = (self._image.height, self._image.width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def decode(self) -> Image.Image:
        """As `decode_image`, and under the limits given before."""
        return _decode(self._image, _IN_MEMORY, self._limits)


ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Encoded


def read_image(source: ImageLike, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """The picture's pixels, `(H, W, 3)` uint8, RGB, upright; the array may be read-only.

    Opaque pictures of 8 bits are what `Image.convert("RGB")` gives. EXIF orientation is applied,
    also to a Pillow image that still carries it; EXIF that cannot be read is ignored. Transparency
    of any kind is composited over `limits.background`. 16-bit grey is scaled to 8 bits, rounded. Of
    an animation the first frame is read. An array must be `(H, W, 3)` uint8, RGB.
    Raises ImageError, in one line that names the source, for everything that cannot be read whole.
    """
    return np.asarray(decode_image(source, limits))


def decode_image(
    source: ImageLike, limits: ImageLimits = DEFAULT_LIMITS
) -> Image.Image | NDArray[np.uint8]:
    """As `read_image`, without the copy that makes an array of Pillow's picture, in mode RGB."""
    if isinstance(source, np.ndarray):
        return check_pixels(source, limits.max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, "PIL image", limits)
    if isinstance(source, Encoded):
        return source.decode()
    if isinstance(source, bytes):
        with Encoded(source, limits) as encoded:
            return encoded.decode()
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise ImageError(f"{kind} is no image; accepted are a path, bytes, a PIL image, an array")
    path = os.fspath(source)
    name = path if path.isprintable() else ascii(path)
    try:
        # A pipe or a device would block, or never end.
        if os.path.exists(path) and not os.path.isfile(path):
            kind = "a directory" if os.path.isdir(path) else "not a regular file"
            raise ImageError(f"{name}: is {kind}; accepted is an image file")
        stream = _Reader(io.FileIO(path))
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be opened: {_reason(error)}") from error
    with stream:
        return _decode(_open(stream, name), name, limits)


def check_pixels(pixels: NDArray[Any], max_pixels: int | None = None) -> NDArray[np.uint8]:
    """`pixels` itself, when it is `(H, W, 3)` uint8, not empty, and at most `max_pixels` large.

    Raises ImageError otherwise.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(
            f"array: is {pixels.shape} {pixels.dtype}; accepted is (H, W, 3) uint8, not empty"
        )
    if max_pixels is not None:
        _check_size(pixels.shape[1], pixels.shape[0], "array", max_pixels)
    return pixels


def _open(stream: _Reader, name: str) -> ImageFile.ImageFile:
    """What the header says; the pixels are still to be decoded."""
    try:
        prefix = stream.read(16)
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error
    if not prefix:
        raise ImageError(f"{name}: is empty; accepted are {_FORMAT_NAMES}")
    kind = _identify(prefix)
    if kind is None:
        raise ImageError(f"{name}: is not an image; accepted are {_FORMAT_NAMES}")
    try:
        _refuse_bombs(stream, kind, prefix, name)
        stream.seek(0)
        image = kind(stream)
        if kind is Jpeg2KImagePlugin.Jpeg2KImageFile:
            refuse_jpeg2000(_whole(stream), image.width * image.height, name)
    except ImageError:
        raise
    # Plugins raise whatever the first thing was that hostile data broke.
    except Exception as error:
        raise ImageError(
            f"{name}: {kind.format} header is truncated or damaged: {_reason(error)}"
        ) from error
    # The decoders of plain-text PPM and of JPEG 2000 find the end of the picture by reading on.
    stream.decoding = kind not in (PpmImagePlugin.PpmImageFile, Jpeg2KImagePlugin.Jpeg2KImageFile)
    return image


def _identify(prefix: bytes) -> type[ImageFile.ImageFile] | None:
    for kind in _FORMATS:
        accept = Image.OPEN[kind.format][1]
        # A codec that this build of Pillow lacks answers with a sentence.
        if len(prefix) > 1 and accept is not None and accept(prefix) is True:
            return kind
    return None


def _decode(image: Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    _check_size(image.width, image.height, name, limits.max_pixels)
    try:
        image.load()
        method = _UPRIGHT.get(_orientation(image))
        upright = image if method is None else image.transpose(method)
        return to_rgb(upright, name, limits.background)
    except ImageError:
        raise
    except Exception as error:
        kind = image.format or image.mode
        raise ImageError(f"{name}: {kind} is truncated or damaged: {_reason(error)}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # The pixels are sound; only a camera's note about them is not.
    except Exception:
        return 1


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if not width or not height:
        raise ImageError(f"{name}: has {width}x{height} pixels; accepted is at least one")
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{name}: has {width}x{height} = {width * height} pixels; accepted are {max_pixels}"
        )


def _reason(error: Exception) -> str:
    """The error's own words on one line, or its type where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


def _refuse_bombs(
    stream: _Reader, kind: type[ImageFile.ImageFile], prefix: bytes, name: str
) -> None:
    """Raise ImageError for what takes far more time or memory than its size and its bytes say.

    JPEG 2000 is looked at apart, since that needs the size that Pillow has found.
    """
    if kind is _Jpeg:
        refuse_jpeg(_whole(stream), name)
    elif kind is PngImagePlugin.PngImageFile:
        refuse_png(_whole(stream), name)
    elif kind is TiffImagePlugin.TiffImageFile:
        refuse_tiff(stream, name)
    elif prefix[:2] in (b"P1", b"P2", b"P3"):
        refuse_plain_ppm(_whole(stream), name)


def _whole(stream: _Reader) -> bytes:
    if isinstance(stream.raw, io.BytesIO):
        return stream.raw.getvalue()
    stream.seek(0)
    return stream.read()
