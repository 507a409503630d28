"""Tasks and layers as people write them, and the outputs and heads that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from clsspec_serve.choices import Feature, HeadTask, Task
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import AnyHead, Head
from clsspec_serve.schema import Output

FEATURES: tuple[Feature, ...] = get_args(Feature)
TASKS: tuple[Task, ...] = get_args(Task)

SomeHead = TypeVar("SomeHead", bound=Head)


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
    """Read `cls`, `patches,segment` and the like, in the order of `TASKS`."""
    names = [name.strip() for name in text.split(",")]
    tasks = tuple(task for task in TASKS if task in names)
    if len(tasks) != len(names):
        raise UsageError(f"tasks {text!r}; accepted are {', '.join(TASKS)}, each once")
    return tasks


def check_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Tasks as a caller gives them, a text such as `cls,patches` too; raises `UsageError`."""
    if isinstance(tasks, str):
        return parse_tasks(tasks)
    if not tasks or not set(tasks) <= set(TASKS):
        raise UsageError(f"tasks {', '.join(tasks) or 'none'}; accepted are {', '.join(TASKS)}")
    return tuple(tasks)


def select_outputs(
    outputs: Sequence[Output], tasks: Sequence[Task], layers: Sequence[Layer]
) -> list[Output]:
    """The features that tasks and layers ask for; without layers those of the model's last one.

    Raises `UsageError` naming the layers that the bundle does have, or the tasks that there are.
    """
    tasks = check_tasks(tasks)
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
    chosen = [(layer, task) for layer in wanted for task in FEATURES if task in tasks]
    for layer, task in chosen:
        if (layer, task) not in by_layer:
            raise UsageError(f"this bundle has no {task} of layer {layer}")
    return [by_layer[key] for key in chosen]


def select_heads(heads: Sequence[AnyHead], tasks: Sequence[Task]) -> list[AnyHead]:
    """The heads that tasks ask for, in the order of `TASKS`.

    Raises `UsageError` for a task that the bundle has no head for, naming those that it has.
    """
    by_task = {head.task: head for head in heads}
    lacking = [task for task in check_tasks(tasks) if task not in (*FEATURES, *by_task)]
    if lacking:
        raise _no_head(lacking[0], heads)
    return [by_task[task] for task in get_args(HeadTask) if task in tasks]


def require_head(heads: Sequence[AnyHead], kind: type[SomeHead]) -> SomeHead:
    """The head of a kind; raises `UsageError` as `select_heads` does."""
    for head in heads:
        if isinstance(head, kind):
            return head
    raise _no_head(kind.model_fields["task"].default, heads)


def _no_head(task: str, heads: Sequence[AnyHead]) -> UsageError:
    has = ", ".join(head.task for head in heads) or "none"
    return UsageError(
        f"this bundle has no head for {task}; its heads are: {has} "
        "(`clsspec export --head` and `clsspec fit` add them)"
    )
