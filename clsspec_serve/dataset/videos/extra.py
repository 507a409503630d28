"""PyAV, which an extra installs, and the FFmpeg that comes with it."""

from __future__ import annotations

from importlib.util import find_spec

from clsspec_serve.errors import UsageError


def require_video_extra() -> None:
    """Raise `UsageError` naming the command that installs what videos need."""
    if find_spec("av") is None:
        raise UsageError('videos need av; install it with: pip install "clsspec-serve[video]"')


def video_decoders() -> dict[str, str]:
    """The versions of all that a frame's pixels depend on; raises `UsageError`."""
    require_video_extra()
    import av

    names = ("libavformat", "libavcodec", "libswscale")
    versions = {name: ".".join(map(str, av.library_versions[name])) for name in names}
    return {"av": av.__version__, **versions}
