"""The memory that decoding and resizing a picture takes, in bytes per pixel, by format.

Each picture of 24 megapixels is prepared for the embedded model in a process of its own, and the
peak of its memory is taken beyond what it had before.

    python benchmarks/decoding.py
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

HEIGHT, WIDTH = 4000, 6000
KINDS: dict[str, tuple[str, str, dict[str, object]]] = {
    "JPEG": ("RGB", "JPEG", {}),
    "JPEG, progressive": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "JPEG, turned by EXIF": (
        "RGB",
        "JPEG",
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    ),
    "JPEG, CMYK": ("CMYK", "JPEG", {}),
    "PNG": ("RGB", "PNG", {"compress_level": 1}),
    "PNG, alpha": ("RGBA", "PNG", {"compress_level": 1}),
    "PNG, palette": ("P", "PNG", {"compress_level": 1}),
    "PNG, 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "WebP": ("RGB", "WEBP", {"method": 0}),
    "WebP, alpha": ("RGBA", "WEBP", {"method": 0}),
    "TIFF": ("RGB", "TIFF", {"compression": "tiff_deflate"}),
    "JPEG 2000": ("RGB", "JPEG2000", {}),
    "AVIF": ("RGB", "AVIF", {"speed": 10}),
    "GIF": ("P", "GIF", {}),
}


def made(mode: str, form: str, options: dict[str, object]) -> bytes:
    """A photograph of that size, encoded."""
    photograph = Image.fromarray(skimage.data.astronaut()).resize((WIDTH, HEIGHT))
    if mode == "I;16":
        grey = np.asarray(photograph.convert("L")).astype(np.uint16) * 257
        photograph = Image.fromarray(grey)
    elif mode == "RGBA":
        photograph.putalpha(photograph.convert("L"))
    else:
        photograph = photograph.convert(mode)
    stream = io.BytesIO()
    photograph.save(stream, form, **options)
    return stream.getvalue()


def peak() -> int:
    """Of this process's memory, since the last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("no VmHWM in /proc/self/status")
    return 1024 * int(found[1])


def measure() -> None:
    """Prepare the picture on stdin, and print the bytes beyond those of before."""
    import clsspec_serve

    content = sys.stdin.buffer.read()
    model = clsspec_serve.load(threads=1)
    request = model.request(tasks=("cls",))
    model.prepare(_small(), request)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    model.prepare(content, request)
    print(peak() - before)


def _small() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (300, 300)).save(stream, "JPEG")
    return stream.getvalue()


def main() -> None:
    """Print the table."""
    print("| format | bytes per pixel |\n|---|---|")
    for name, kind in KINDS.items():
        content = made(*kind)
        command = [sys.executable, __file__, "--measure"]
        output = subprocess.run(command, input=content, capture_output=True, check=True).stdout
        print(f"| {name} | {int(output) / HEIGHT / WIDTH:.1f} |", flush=True)


if __name__ == "__main__":
    measure() if "--measure" in sys.argv else main()
