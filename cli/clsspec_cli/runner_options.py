"""What `clsspec batch` computes with: this process, others beside it, or a Ray cluster."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clsspec_cli import options

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
    replicas: int | None
    threads: int | None
    decoders: int | None
    readers: int

    def runner(self, bundle: Bundle, asked: Asked) -> Runner:
        """All of them; of a cluster it is said on stderr what is taken."""
        from clsspec_serve.dataset.runners.processes import Processes
        from clsspec_serve.dataset.worker import Resources
        from clsspec_serve.dataset.working import Threads

        if self.where == "ray":
            return self._announced(self._on_ray())
        if self.replicas is None or self.replicas == 1:
            return self._here(bundle, asked, self.threads)
        cores = self._cores(self.replicas)
        threads = Threads(self.readers, self.decoders or cores)
        return Processes(self.replicas, Resources(cores, threads))

    def one(self, bundle: Bundle, asked: Asked) -> tuple[Here, int]:
        """One replica, in this process, and how many there would be."""
        if self.where == "ray":
            cluster = self._on_ray()
            return self._here(bundle, asked, cluster.cpus), cluster.replicas
        replicas = self.replicas or 1
        threads = self.threads if replicas == 1 else self._cores(replicas)
        return self._here(bundle, asked, threads), replicas

    def _cores(self, replicas: int) -> int:
        return self.threads or max(1, (os.cpu_count() or 1) // replicas)

    def _here(self, bundle: Bundle, asked: Asked, threads: int | None) -> Here:
        from clsspec_serve.dataset.runners.here import Here
        from clsspec_serve.dataset.working import Threads
        from clsspec_serve.predictor import start

        model = start(
            bundle, engine=asked.engine, precision=asked.precision, threads=threads, shared=True
        )
        return Here(model, Threads(self.readers, self.decoders or threads or self._cores(1)))

    def _on_ray(self) -> OnRay:
        options.require_ray_extra()
        from clsspec_serve.dataset.runners.on_ray import OnRay

        return OnRay.sized(self.replicas, self.threads, self.decoders, self.readers)

    def _announced(self, cluster: OnRay) -> OnRay:
        from clsspec_serve.dataset.runners.on_ray import connect
        from clsspec_serve.dataset.words import counted

        asked = cluster.replicas * cluster.cpus + bool(cluster.decoders)
        there = sum(connect())
        words = f"ray: {cluster.replicas} x {counted(cluster.cpus, 'CPU')}"
        if cluster.decoders:
            words += f", and up to {cluster.decoders} more for each that decode"
        if asked > there:
            words += f"; the cluster has {there}, what does not fit waits for more"
        print(words, file=sys.stderr)
        return cluster
