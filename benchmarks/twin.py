"""Time of a specialized ViT over that of its plain twin, in pairs, on this machine.

Both have random weights and go through the same export. Each round runs the two one after the
other, in alternating order; the ratio is taken pair by pair, and medians are printed.

    python benchmarks/twin.py [--runs 15] [--batch 4] [--size 224]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.random import random_checkpoint
from clsspec_export.onnx_graph import export_graph, fold_pixels
from clsspec_export.streams import exportable
from clsspec_serve.engines.select import PRECISIONS, installed_engines, load_engine
from clsspec_serve.errors import EngineError
from clsspec_serve.position import position_map
from clsspec_serve.schema import Output

PAIRS = {
    "S": ("vit_small_patch14_dinov2_clsspec", "vit_small_patch14_dinov2"),
    "B": ("vit_base_patch14_dinov2_clsspec", "vit_base_patch14_dinov2"),
}

PAUSE = 0.06
"""Seconds before each run: longer than an idle engine's threads keep spinning on the cores."""


def write_graph(checkpoint: Checkpoint, path: Path) -> None:
    """Export the two features of the last layer."""
    last = len(checkpoint.model.blocks) - 1
    outputs = [Output(name=name, kind=name, layer=last, norm=True) for name in ("cls", "patches")]
    proj = fold_pixels(checkpoint.model.patch_embed.proj, checkpoint.preprocessing)
    export_graph(exportable(checkpoint.model, outputs, proj), path)


def main() -> None:
    """Print a table, and with --json one object per row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.json:
        print("| size | engine | specialized ms | twin ms | ratio | quartiles |")
        print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size, names in PAIRS.items():
            graphs = []
            for name in names:
                checkpoint = random_checkpoint(name)
                graphs.append(Path(folder) / name / "model.onnx")
                graphs[-1].parent.mkdir()
                write_graph(checkpoint, graphs[-1])
            grid = (arguments.size // 14, arguments.size // 14)
            table = checkpoint.table.numpy()
            rng = np.random.default_rng(0)
            side = arguments.size
            pixels = rng.integers(0, 256, (arguments.batch, 4, side, side), dtype=np.uint8)
            pixels[:, 3] = 1
            inputs = {
                "pixels": pixels,
                "position": position_map(checkpoint.position, table, grid),
            }
            for engine in installed_engines():
                for precision in PRECISIONS[engine]:
                    try:
                        pair = [
                            load_engine(graph, engine=engine, precision=precision)
                            for graph in graphs
                        ]
                    except EngineError as error:
                        print(f"{engine} {precision}: {error}")
                        continue
                    seconds: list[list[float]] = [[], []]
                    for run in range(arguments.runs + 2):
                        for which in (0, 1) if run % 2 else (1, 0):
                            time.sleep(PAUSE)
                            start = time.perf_counter()
                            pair[which].run(inputs, ["cls", "patches"])
                            if run >= 2:
                                seconds[which].append(time.perf_counter() - start)
                    ratios = [a / b for a, b in zip(*seconds, strict=True)]
                    low, middle, high = statistics.quantiles(ratios, n=4)
                    ours, twin = (1000 * statistics.median(times) for times in seconds)
                    if arguments.json:
                        row = {
                            "size": size,
                            "engine": engine,
                            "precision": precision,
                            "batch": arguments.batch,
                            "specialized_ms": ours,
                            "twin_ms": twin,
                            "twin_ratio": middle,
                        }
                        print(json.dumps(row), flush=True)
                    else:
                        print(
                            f"| {size} | {engine} {precision} | {ours:.0f} | {twin:.0f} | "
                            f"{middle:.3f} | {low:.3f}-{high:.3f} |",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
