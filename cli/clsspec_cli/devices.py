"""Which GPUs a command's models run on."""

from __future__ import annotations

from clsspec_serve.choices import EngineChoice, EngineName, Precision
from clsspec_serve.engines.gpus import ON_GPUS
from clsspec_serve.errors import UsageError


def chosen_engine(engine: EngineChoice, precision: Precision, devices: str | None) -> EngineName:
    """The engine for all of a command's models; with devices `auto` is `cuda`."""
    from clsspec_serve.engines.select import choose_engine

    if devices is None:
        return choose_engine(engine, precision)
    chosen = choose_engine("cuda" if engine == "auto" else engine, precision)
    if chosen not in ON_GPUS:
        raise UsageError(
            f"--devices are for --engine {' and '.join(ON_GPUS)}; {chosen} runs on the CPU"
        )
    return chosen


def chosen_devices(
    engine: EngineChoice, devices: str | None, replicas: int | None
) -> list[int] | list[None]:
    """The GPU of each replica, in turn; None for each on the CPU.

    `devices`: indices, or `all`; the first GPU unless given. Without `replicas` there is one on
    each.
    """
    if engine not in ON_GPUS:
        return [None] * (replicas or 1)
    places = _parsed("0" if devices is None else devices)
    count = replicas or len(places)
    if count < len(places):
        raise UsageError(f"--devices {devices} are {len(places)}, and --replicas {count} fewer")
    return [places[number % len(places)] for number in range(count)]


def _parsed(devices: str) -> list[int]:
    from clsspec_serve.engines.gpus import gpus

    if devices == "all":
        return [gpu.index for gpu in gpus()]
    try:
        return [int(each) for each in devices.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--devices {devices}: accepted are indices such as 0,1, and all"
        ) from error
