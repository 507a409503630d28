"""What `clsspec export` makes of a bundle beside itself: models for Triton, plans of TensorRT."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clsspec_serve.choices import HeadTask, Precision
from clsspec_serve.errors import UsageError


@dataclass(frozen=True)
class Deployment:
    """`triton`: a repository, None for none. `size`: (H, W) of its pictures, None is the bundle's.

    `replace`: models of Triton's that are there already.
    """

    triton: Path | None
    size: tuple[int, int] | None
    tensorrt: bool
    replace: bool

    def __bool__(self) -> bool:
        """Whether anything is to be made."""
        return self.triton is not None or self.tensorrt

    def require(
        self, out: Path, tasks: Sequence[HeadTask], precisions: Sequence[Precision]
    ) -> None:
        """Raise what would be in the way later, before a bundle is written to `out`."""
        if self.triton is not None:
            from clsspec_export.triton.plan import model_names
            from clsspec_export.triton.repository import require_room

            require_room(self.triton, model_names(out.name, tasks), out, replace=self.replace)
        if self.tensorrt:
            from clsspec_serve.plans import require_tensorrt

            require_tensorrt(["fp32", *(each for each in precisions if each != "int8")])

    def make(self, bundle: Path) -> None:
        """Of a bundle that is in place."""
        from clsspec_serve.bundle import open_bundle

        opened = open_bundle(bundle)
        if self.triton is not None:
            from clsspec_export.triton.repository import write_repository

            found = write_repository(
                opened, self.triton, size=self.size, replace=self.replace, report=report
            )
            report(f"{self.triton}: {', '.join(model.name for model in found.models)}")
        if self.tensorrt:
            from clsspec_serve.plans import build_plans

            build_plans(opened, report=report)


def deployment(
    triton: Path | None, triton_size: str | None, tensorrt: bool, force: bool
) -> Deployment:
    """As the options say; raises `UsageError`."""
    from clsspec_serve.transform import parse_size

    if triton_size is not None and triton is None:
        raise UsageError("--triton-size is for --triton")
    size = None if triton_size is None else parse_size(triton_size)
    return Deployment(triton, size, tensorrt, force)


def report(message: str) -> None:
    """A line on stderr, at once."""
    print(message, file=sys.stderr, flush=True)
