"""Tasks and layers as people write them, and the outputs of a graph that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clsspec_serve.choices import Task
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Output

TASKS: tuple[Task, ...] = ("cls", "patches")


@dataclass(frozen=True)
class Layer:
    """The output of block `index` (from 0), with or without the final norm."""

    index: int
    norm: bool

    def __str__(self) -> str:
        return f"{self.index}" if self.norm else f"{self.index}:raw"


def parse_layers(text: str) -> tuple[Layer, ...]:
    """Read `5,11` or `5:raw,11`; `raw` leaves the final norm out."""
    layers = []
    for part in (part.strip() for part in text.split(",")) if text else ():
        index, colon, suffix = part.partition(":")
        if not index.isdecimal() or colon + suffix not in ("", ":raw"):
            raise UsageError(
                f"layers {text!r}; accepted are block numbers from 0, such as 5,11:raw"
            )
        layers.append(Layer(int(index), suffix == ""))
    return tuple(dict.fromkeys(layers))


def parse_tasks(text: str) -> tuple[Task, ...]:
    """Read `cls`, `patches` or `cls,patches`."""
    names = [name.strip() for name in text.split(",")]
    tasks = tuple(task for task in TASKS if task in names)
    if len(tasks) != len(names):
        raise UsageError(f"tasks {text!r}; accepted are {', '.join(TASKS)}, each once")
    return tasks


def select_outputs(
    outputs: Sequence[Output], tasks: Sequence[Task], layers: Sequence[Layer]
) -> list[Output]:
    """The outputs that tasks and layers ask for; without layers the model's last one.

    Raises `UsageError` naming the layers that the bundle does have, or the tasks that there are.
    """
    if isinstance(tasks, str):
        tasks = parse_tasks(tasks)
    if not tasks or not set(tasks) <= set(TASKS):
        raise UsageError(f"tasks {', '.join(tasks) or 'none'}; accepted are {', '.join(TASKS)}")
    if not all(isinstance(layer, Layer) for layer in layers):
        raise UsageError(f"layers {layers!r}; accepted are Layer(index, norm)")
    wanted = layers or [Layer(outputs[0].layer, outputs[0].norm)]
    by_layer = {(Layer(output.layer, output.norm), output.kind): output for output in outputs}
    for layer in wanted:
        if (layer, "patches") not in by_layer:
            known = dict.fromkeys(str(Layer(output.layer, output.norm)) for output in outputs)
            raise UsageError(
                f"layer {layer} is not in this bundle; it has {', '.join(known)} "
                "(`clsspec export --layers` adds more)"
            )
    chosen = [(layer, task) for layer in wanted for task in TASKS if task in tasks]
    for layer, task in chosen:
        if (layer, task) not in by_layer:
            raise UsageError(f"this bundle has no {task} of layer {layer}")
    return [by_layer[key] for key in chosen]
