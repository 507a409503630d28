"""A run over a data set in a process of its own, on any runner.

python tests/dataset_process.py BUNDLE SOURCE OUT [here|processes|ray|ray-decoders|ray-nodes]

Maps are kept in bytes of components, and duplicates looked for, so that all that comes before the
first shard is there. Here the engine takes its time. A Ray cluster is one of its own: a node with
three CPUs to its name, or the driver's without any and four others with one each, all of them on
this machine.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from clsspec_serve.bundle import open_bundle
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.dataset.codecs.codec import Codec
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.runners.runner import Runner
from clsspec_serve.dataset.worker import Resources
from clsspec_serve.dataset.working import Threads
from clsspec_serve.engines.protocol import Values

SECONDS = 0.01
"""Of each picture's forward pass."""
CODEC = Codec(pca=2, int8=True)
RESOURCES = Resources(1, Threads(2, 1))


def runner_of(name: str, bundle: Path) -> Runner:
    """The runner of a name."""
    if name == "here":
        from http_server import observed

        def slow(inputs: Values) -> None:
            time.sleep(SECONDS * len(np.atleast_1d(inputs["pixels"])))

        return Here(observed(bundle, slow), Threads(2, 2))
    if name == "processes":
        return Processes([RESOURCES] * 2)
    import ray
    from ray.cluster_utils import Cluster

    from clsspec_serve.dataset.runners.on_ray import OnRay

    room = {"object_store_memory": 200_000_000, "include_dashboard": False}
    if name == "ray-nodes":
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **room})
        for _ in range(4):
            cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        ray.init(address=cluster.address, log_to_driver=False)
    else:
        ray.init(address="local", num_cpus=3, log_to_driver=False, **room)
    return OnRay(1, 1, 2, RESOURCES) if name == "ray-decoders" else OnRay(2, 1, 0, RESOURCES)


def main(bundle: str, source: str, out: str, runner: str = "here") -> None:
    """Run it to the end."""
    asked = Asked(
        tasks=("cls", "patches", "depth"),
        policy="squash",
        codec=CODEC,
        dedupe=True,
        shard_size=4,
        batch_size=3,
    )
    chosen = runner_of(runner, Path(bundle))
    print("begun", flush=True)
    summary = work_off(open_bundle(Path(bundle)), Settings(source, out, asked, bundle), chosen)
    print(summary.text(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
