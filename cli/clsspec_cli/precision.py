"""What `--precision` comes to: `auto` measures this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clsspec_serve.choices import EngineChoice, Precision, PrecisionChoice

if TYPE_CHECKING:
    from clsspec_serve.bundle import Bundle


def settled(
    bundle: Bundle,
    engine: EngineChoice,
    precision: PrecisionChoice,
    *,
    threads: int | None = None,
    device: int | None = None,
) -> tuple[EngineChoice, Precision]:
    """The engine and precision to start; as they are, unless the precision is `auto`."""
    if precision != "auto":
        return engine, precision
    from clsspec_serve.fastest import fastest

    return fastest(bundle, engine, threads=threads, device=device)
