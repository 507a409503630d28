"""The tree of errors that clsspec raises on purpose.

ClsspecError                 exit code 1: the work failed
├── UsageError               exit code 2: the request itself was wrong
├── ImageError               a file is not an image that can be read within the limits
│   └── ImageTooLarge        it has more pixels than are accepted
├── DatasetError             a data set's file is missing or does not fit
├── BundleError              a bundle is incomplete, altered or too new
├── SourceError              a model or checkpoint cannot be found or downloaded
├── CheckpointError          a checkpoint does not have the keys and shapes it should have
├── EngineError              no engine is installed, or the engine refuses
├── ExportError              a graph failed its parity check or its audit
├── OutputError              a result cannot be written
├── Busy                     the server has as much to do as it accepts
└── Stopped                  the server is shutting down

Every message is one line: what was wrong, what was got, what is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def one_line(error: BaseException) -> str:
    """An error's own words on one line, or its type where it has none."""
    return _printable(str(error)) or type(error).__name__


def os_reason(error: OSError) -> str:
    """Why the system or a store refused, on one line, without the file's name if it can be."""
    return _printable(error.strerror or "") or one_line(error)


def first_problem(error: ValidationError) -> str:
    """The first field that pydantic refuses, and why: `field: reason`, or the reason alone."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def reason_of(error: Exception) -> str:
    """Why a description could not be read: pydantic's first reason, or the error's own words."""
    from pydantic import ValidationError

    if isinstance(error, OSError):
        return os_reason(error)
    return first_problem(error) if isinstance(error, ValidationError) else one_line(error)


def _printable(text: str) -> str:
    """A text on one line, with escapes for what is no character to look at."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


class ClsspecError(Exception):
    """Anything clsspec refuses or fails to do; `str(error)` is fit for a user's eyes."""

    exit_code = 1


class UsageError(ClsspecError):
    """The request contradicts itself or names something that does not exist."""

    exit_code = 2


class ImageError(ClsspecError):
    """The bytes are not an image that can be read within the limits."""


class ImageTooLarge(ImageError):
    """The picture has more pixels, or patches, than are accepted."""


class DatasetError(ClsspecError):
    """A data set, or a run over one, lacks a file, or has one that does not fit."""


class BundleError(ClsspecError):
    """The bundle is incomplete, altered, or written by a newer clsspec."""


class SourceError(ClsspecError):
    """The model or checkpoint is not there and cannot be downloaded."""


class CheckpointError(ClsspecError):
    """The checkpoint does not hold exactly the tensors that its architecture needs."""


class EngineError(ClsspecError):
    """No engine is installed for this request, or the engine refuses it."""


class ExportError(ClsspecError):
    """The exported graph failed its parity check or its audit; nothing was written."""


class OutputError(ClsspecError):
    """The result cannot be written where it was asked for; nothing was left behind."""


class Busy(ClsspecError):
    """As much is waiting as may; the same request can succeed later."""


class Stopped(ClsspecError):
    """Nothing more is taken, since the process is about to end."""
