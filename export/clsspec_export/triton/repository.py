"""A repository's folders: `NAME/config.pbtxt`, `NAME/1/model.onnx`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clsspec_export.triton.check import check
from clsspec_export.triton.config import config, labels_file
from clsspec_export.triton.graphs import MODEL, write_graph
from clsspec_export.triton.plan import AnyModel, Ensemble, Plan, class_names, plan
from clsspec_export.triton.size import Size, fixed_preprocessing, fixed_size
from clsspec_serve.bundle import MANIFEST, Bundle
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Manifest
from clsspec_serve.position import position_map
from clsspec_serve.whole import new_folder

CONFIG = "config.pbtxt"
VERSION = "1"
BESIDE = (MANIFEST, "LICENSE")
"""What goes with the weights, where a bundle has it."""

Report = Callable[[str], None]


def write_repository(
    bundle: Bundle,
    repository: Path,
    *,
    size: Size | None = None,
    replace: bool = False,
    report: Report = lambda message: None,
) -> Plan:
    """Write a bundle's models to a new repository, or beside those of one that exists.

    `size`: (H, W) of the pictures, the preprocessing's own unless given. The models answer as the
    bundle does before they appear. A new repository appears whole; in one that exists each model
    does, and ensembles after what they are made of.

    Raises `UsageError` for a size or a place that cannot be, `BundleError`, `ExportError` or
    `OutputError`; none of the models is there then, unless the system fails in renaming them.
    """
    manifest = bundle.manifest
    patch = manifest.architecture.patch_size
    found = plan(manifest, fixed_size(manifest.preprocessing, patch, size))
    names = [model.name for model in found.models]
    require_room(repository, names, bundle.path, replace=replace)
    grid = (found.size[0] // patch, found.size[1] // patch)
    position = position_map(manifest.position, bundle.position_table(), grid)
    with _new_models(repository, names, replace=replace) as folders:
        report(f"writing Triton's models at {found.size[0]}x{found.size[1]}")
        for model in found.models:
            folder = folders[model.name]
            (folder / VERSION).mkdir()
            # Triton wants the folder of an ensemble's version, and object stores have none empty.
            if isinstance(model, Ensemble):
                (folder / VERSION / ".keep").touch()
            _describe(model, manifest, found.size, folder)
        for graph in found.graphs:
            constants = {"position": position} if graph.head is None else {}
            source, target = bundle.path / graph.graph, folders[graph.name] / VERSION
            write_graph(source, target, graph, constants)
        for name in BESIDE:
            if (bundle.path / name).is_file():
                shutil.copyfile(bundle.path / name, folders[names[0]] / name)
        report("comparing them with the bundle")
        graphs = {each.name: folders[each.name] / VERSION / MODEL for each in found.graphs}
        worst = check(bundle, found, graphs)
    report(f"largest difference to the bundle {worst:.1e} of the largest value")
    return found


def require_room(
    repository: Path, names: Sequence[str], bundle: Path, *, replace: bool = False
) -> None:
    """Raise `UsageError` where models of these names cannot be written.

    With `replace` they may be there already, as models of Triton's. A repository and a bundle are
    no part of each other: to Triton every folder is a model, and a bundle has no files but its own.
    """
    place, own = (Path(os.path.realpath(path)) for path in (repository, bundle))
    if place in (own, *own.parents) or own in place.parents or os.path.isfile(place / MANIFEST):
        raise UsageError(f"{repository} has a bundle in it; --triton takes a folder apart from it")
    if os.path.exists(repository) and not os.path.isdir(repository):
        raise UsageError(f"{repository} is a file; --triton takes a folder")
    for path in (repository / name for name in names):
        if os.path.exists(path) and not replace:
            raise UsageError(f"{path} exists already; --force replaces it")
        if os.path.exists(path) and not os.path.isfile(path / CONFIG):
            raise UsageError(f"{path} exists and is no model of Triton's; it is not replaced")


@contextmanager
def _new_models(
    repository: Path, names: Sequence[str], *, replace: bool
) -> Iterator[Mapping[str, Path]]:
    """An empty folder for each model, which take their places in that order in the end."""
    if not os.path.exists(repository):
        with new_folder(repository) as whole:
            folders = {name: whole / name for name in names}
            for folder in folders.values():
                folder.mkdir()
            yield folders
        return
    with ExitStack() as stack:
        # What was entered last is left first.
        yield {
            name: stack.enter_context(new_folder(repository / name, replace=replace))
            for name in reversed(names)
        }


def _describe(model: AnyModel, manifest: Manifest, size: Size, folder: Path) -> None:
    """Write the configuration, and the classes of the head."""
    heads = [each.head for each in model.heads] if isinstance(model, Ensemble) else [model.head]
    preprocessing = fixed_preprocessing(manifest.preprocessing, heads[0], size)
    graphs = [each.graph for each in (model.steps if isinstance(model, Ensemble) else [model])]
    parameters = {
        "clsspec.preprocessing": preprocessing.model_dump_json(),
        "clsspec.patch_size": str(manifest.architecture.patch_size),
    }
    graphs += [f"{graph}.data" for graph in graphs]
    files = [name for name in manifest.files if name in graphs]
    parameters |= {f"clsspec.sha256.{name}": manifest.files[name].sha256 for name in files}
    (folder / CONFIG).write_text(config(model, parameters), encoding="utf-8")
    for head in heads:
        if head is not None and (names := class_names(head)):
            lines = "".join(f"{each}\n" for each in names)
            (folder / labels_file(head.task)).write_text(lines, encoding="utf-8")
