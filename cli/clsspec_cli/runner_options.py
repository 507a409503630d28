"""What `clsspec batch` computes with: this process, others beside it, or a Ray cluster."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clsspec_cli import options
from clsspec_cli.devices import chosen_devices, chosen_engine
from clsspec_cli.precision import settled
from clsspec_serve.choices import EngineChoice, EngineName, Precision, PrecisionChoice
from clsspec_serve.engines.gpus import ON_GPUS
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_serve.bundle import Bundle
    from clsspec_serve.dataset.asked import Asked
    from clsspec_serve.dataset.runners.here import Here
    from clsspec_serve.dataset.runners.on_ray import OnRay
    from clsspec_serve.dataset.runners.runner import Runner


@dataclass(frozen=True)
class RunnerOptions:
    """As they were given; None is what fits."""

    where: Literal["local", "ray"]
    devices: str | None
    replicas: int | None
    threads: int | None
    decoders: int | None
    readers: int

    def settled(
        self, bundle: Bundle, engine: EngineChoice, precision: PrecisionChoice
    ) -> tuple[EngineChoice, Precision]:
        """The engine and precision to compute with; raises `UsageError` for `auto` on a cluster."""
        if precision == "auto" and self.where == "ray":
            raise UsageError(
                "--precision auto measures this machine, which says nothing of a Ray cluster; "
                "accepted with --runner ray are fp32, bf16, fp16 and int8"
            )
        return settled(bundle, engine, precision, threads=self.threads, devices=self.devices)

    def engine(self, engine: EngineChoice, precision: Precision) -> EngineName:
        """The one that all replicas have; of a cluster with GPUs `auto` is `cuda`."""
        if self.where == "local":
            return chosen_engine(engine, precision, self.devices)
        if self.devices is not None:
            raise UsageError("--devices are of this machine; a Ray cluster has its own")
        options.require_ray_extra()
        from clsspec_serve.dataset.runners.on_ray import connect
        from clsspec_serve.engines.select import choose_engine

        gpus = any(node.gpus for node in connect())
        return choose_engine(engine, precision, gpus_here=gpus)

    def runner(self, bundle: Bundle, asked: Asked) -> Runner:
        """All of them, for what is asked of a known engine; of a cluster it says what it takes."""
        from clsspec_serve.dataset.runners.processes import Processes
        from clsspec_serve.dataset.worker import Resources
        from clsspec_serve.dataset.working import Threads

        if self.where == "ray":
            return self._announced(self._on_ray(asked.engine))
        devices = self._devices(asked)
        if len(devices) == 1:
            return self._here(bundle, asked, self.threads, devices[0])
        cores = self._cores(len(devices))
        threads = Threads(self.readers, self.decoders or cores)
        return Processes([Resources(cores, threads, device) for device in devices])

    def one(self, bundle: Bundle, asked: Asked) -> tuple[Here, int]:
        """One replica, in this process, and how many there would be."""
        if self.where == "ray":
            cluster = self._on_ray(asked.engine)
            device = 0 if asked.engine in ON_GPUS else None
            return self._here(bundle, asked, cluster.cpus, device), cluster.replicas
        devices = self._devices(asked)
        threads = self.threads if len(devices) == 1 else self._cores(len(devices))
        return self._here(bundle, asked, threads, devices[0]), len(devices)

    def _devices(self, asked: Asked) -> list[int] | list[None]:
        return chosen_devices(asked.engine, self.devices, self.replicas)

    def _cores(self, replicas: int) -> int:
        return self.threads or max(1, (os.cpu_count() or 1) // replicas)

    def _here(self, bundle: Bundle, asked: Asked, threads: int | None, device: int | None) -> Here:
        from clsspec_serve.dataset.runners.here import Here
        from clsspec_serve.dataset.working import Threads
        from clsspec_serve.loading import start

        model = start(
            bundle,
            engine=asked.engine,
            precision=asked.precision,
            threads=threads,
            shared=True,
            device=device,
            batch_size=asked.batch_size,
        )
        return Here(model, Threads(self.readers, self.decoders or threads or self._cores(1)))

    def _on_ray(self, engine: EngineChoice) -> OnRay:
        from clsspec_serve.dataset.runners.on_ray import OnRay, connect

        sizes = self.replicas, self.threads, self.decoders, self.readers
        return OnRay.sized(connect(), *sizes, gpus=engine in ON_GPUS)

    def _announced(self, cluster: OnRay) -> OnRay:
        from clsspec_serve.dataset.runners.on_ray import connect
        from clsspec_serve.dataset.words import counted

        nodes = connect()
        asked = cluster.replicas * cluster.cpus + bool(cluster.decoders)
        there = sum(node.cpus for node in nodes)
        if cluster.on_gpus and not any(node.gpus for node in nodes):
            print("ray: the cluster has no GPU so far, and this waits for one", file=sys.stderr)
        words = f"ray: {cluster.replicas} x {counted(cluster.cpus, 'CPU')}"
        if cluster.gpu is not None:
            words += f" and a GPU, {cluster.gpu}"
        if cluster.decoders:
            words += f", and up to {cluster.decoders} more for each that decode"
        if asked > there:
            words += f"; the cluster has {there}, what does not fit waits for more"
        print(words, file=sys.stderr)
        return cluster
