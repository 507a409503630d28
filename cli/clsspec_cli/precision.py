"""What `--precision` comes to: `auto` measures this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clsspec_cli.devices import chosen_devices, chosen_engine
from clsspec_serve.choices import EngineChoice, Precision, PrecisionChoice

if TYPE_CHECKING:
    from clsspec_serve.bundle import Bundle


def settled(
    bundle: Bundle,
    engine: EngineChoice,
    precision: PrecisionChoice,
    *,
    threads: int | None = None,
    devices: str | None = None,
) -> tuple[EngineChoice, Precision]:
    """The engine and precision to start; as they are, unless the precision is `auto`.

    `devices`: the first of them is measured.
    """
    if precision != "auto":
        return engine, precision
    from clsspec_serve.fastest import fastest

    chosen = chosen_engine(engine, "fp32", devices)
    if devices is None:
        return fastest(bundle, engine, threads=threads)
    (device, *_) = chosen_devices(chosen, devices, None)
    return fastest(bundle, chosen, threads=threads, device=device)
