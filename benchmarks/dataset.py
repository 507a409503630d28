"""What a data set's run costs beyond its work, with the embedded model and JPEGs of 500 x 375.

In each round every candidate works in a process of its own, in alternating order, and ratios are
taken round by round; medians are printed. The pictures are in the page cache. `dataset_work.py` has
the candidates:

- work: `clsspec batch`, whole, beside a plain loop: open, predict in batches, and the same arrays
  written by zarr and pyarrow, without ids, failures, hashes and fsync.
- loader: the same beside a PyTorch DataLoader, with as many worker processes as cores, lists and
  np.save. Its network is that of `clsspec batch` on the same engine in the same settings, so that
  only the rest differs. This network normalises by itself, so the workers only open and resize,
  and send bytes: less than they would for a network of PyTorch.
- ceiling: with an engine that takes no time, beside Pillow reading, decoding and resizing in a
  thread for each core; with [CLS] alone, and with patch maps.
- codecs: with an engine that takes no time, patch maps in smaller forms beside those as they are;
  the sample on which components are found and losses measured is in it.
- device: with an engine that sleeps for a fixed time, a stand-in for another device, beside as many
  of its batches in a bare loop. It takes the pictures at 60 % of Pillow's speed.
- fp32, fp16: ready rows through the writer of shards, in MB of patch maps, beside the same maps
  written as they are, with fsync.

    python benchmarks/dataset.py [--rounds 5] [--pictures 1024] [--only work loader]

Where there is no network, there are `MANY` times as many pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from dataset_work import BATCH
from serving_clients import jpegs

MANY = 4
LOAD = 0.6
"""Of Pillow's speed: that of the stand-in engine."""
_PILLOW = "Pillow in threads"


class Took(NamedTuple):
    """Seconds of CPU and of the clock, for `amount` pictures or MB."""

    cpu: float
    wall: float
    amount: float

    @property
    def cost(self) -> float:
        """Seconds of CPU for each."""
        return self.cpu / self.amount

    @property
    def speed(self) -> float:
        """In a second of the clock."""
        return self.amount / self.wall


class Table(NamedTuple):
    """Candidates beside the first of them.

    `many`: with more pictures. `costs`: the first one's CPU, too, is something to compare with.
    """

    candidates: tuple[str, ...]
    unit: str = "picture"
    many: bool = True
    costs: bool = True


TABLES = {
    "work": Table(("plain loop", "`clsspec batch`"), many=False),
    "loader": Table(("PyTorch DataLoader", "`clsspec batch`"), many=False),
    "ceiling": Table((_PILLOW, "free engine: cls", "free engine: cls, patches")),
    "codecs": Table(("free engine: cls, patches", "int8", "pca:64", "pca:64,int8")),
    "device": Table(
        ("stand-in engine alone", "stand-in engine: cls", "stand-in engine: cls, patches"),
        costs=False,
    ),
    "fp32": Table(("write and fsync, fp32", "shard writer, fp32"), "MB"),
    "fp16": Table(("write and fsync, fp16", "shard writer, fp16"), "MB"),
}


def photographs(folder: Path, count: int) -> Path:
    """A folder of so many files."""
    folder.mkdir()
    contents = jpegs()
    for index in range(count):
        (folder / f"{index:06}.jpg").write_bytes(contents[index % len(contents)])
    return folder


def measured(candidate: str, source: Path, seconds: float = 0) -> Took:
    """What it took, in a process of its own; `seconds`: of the stand-in engine, for a batch."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        program = Path(__file__).with_name("dataset_work.py")
        command = [
            sys.executable,
            *map(str, (program, candidate, source, f"{folder}/out", seconds)),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{candidate}: {result.stderr}")
    return Took(*json.loads(result.stdout))


def compared(names: list[str], pictures: int, rounds: int) -> tuple[dict[str, list[Took]], float]:
    """What each candidate of these tables took in each round, and the stand-in's time for a batch.

    That time is made before the first round.
    """
    many = {each: TABLES[name].many for name in names for each in TABLES[name].candidates}
    found: dict[str, list[Took]] = {candidate: [] for candidate in many}
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            False: photographs(Path(folder) / "few", pictures),
            True: photographs(Path(folder) / "many", MANY * pictures),
        }
        seconds = BATCH / (LOAD * measured(_PILLOW, sources[True]).speed)
        for index in range(rounds):
            for candidate in many if index % 2 else reversed(many):
                found[candidate].append(measured(candidate, sources[many[candidate]], seconds))
    return found, seconds


def print_table(table: Table, found: dict[str, list[Took]]) -> None:
    """A row for each candidate: medians, and of the ratios to the first one in the same round."""
    base = found[table.candidates[0]]
    speed = f"{table.unit}s/s" if table.unit == "picture" else f"{table.unit}/s"
    columns = [speed, "of the first", f"CPU ms per {table.unit}"] + ["of the first"] * table.costs
    print(f"| | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for name in table.candidates:
        rounds = found[name]
        pairs = [*zip(rounds, base, strict=True)]
        cells = [
            f"{median(each.speed for each in rounds):.1f}",
            f"{median(each.speed / first.speed for each, first in pairs):.3f}",
            f"{1000 * median(each.cost for each in rounds):.2f}",
        ]
        if table.costs:
            cells.append(f"{median(each.cost / first.cost for each, first in pairs):.3f}")
        print(f"| {' | '.join([name, *cells])} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=[*TABLES], metavar="TABLE")
    given = parser.parse_args()
    found, seconds = compared(given.only, given.pictures, given.rounds)
    for name in given.only:
        print(f"\n{name}:\n")
        if name == "device":
            print(
                f"No device: a stand-in that sleeps {1000 * seconds:.1f} ms for {BATCH} pictures.\n"
            )
        print_table(TABLES[name], found)


if __name__ == "__main__":
    main()
