"""What SOURCE on the command line means."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import translate
from pathlib import PurePosixPath

from clsspec_serve.dataset.sources.files import Files, Walk
from clsspec_serve.dataset.sources.source import Source, is_picture, is_video
from clsspec_serve.dataset.sources.tables import Tables
from clsspec_serve.dataset.sources.tars import Tars
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.trees.tree import MISSING, Entry, Tree
from clsspec_serve.dataset.videos.extra import require_video_extra
from clsspec_serve.errors import DatasetError, UsageError, os_reason

_KINDS = ("pictures", ".tar", ".parquet", "videos")
_PATTERN = re.compile(r"[*?\[]")


def find_source(text: str, column: str | None = None, fps: float | None = None) -> Source:
    """The pictures of a folder, of the files that a pattern fits, or of the one file.

    Files are pictures, tars of pictures, Parquet tables with a `column` of them, or videos, of
    whose frames `fps` are taken of a second; a `.txt` is a list of paths, one on each line,
    relative to its own folder. Of a folder everything below it is taken. All of it may be in an
    object store. Raises `UsageError` and `DatasetError`.
    """
    with _reading(text):
        return _found(text, column, fps)


@contextmanager
def _reading(text: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{text}: cannot be read: {os_reason(error)}") from error


def _found(text: str, column: str | None, fps: float | None) -> Source:
    folder, _, name = text.rstrip("/").rpartition("/")
    if _PATTERN.search(text):
        root = _fixed(text)
        tree = open_tree(root or ".")
        fits = re.compile(translate(text[len(root) :].lstrip("/")))

        def fitting() -> Iterator[Entry]:
            return (each for each in tree.walk() if fits.match(each.path))

        return _of(text, tree, fitting, column, fps)
    if "://" not in text and os.path.isdir(text):
        tree = open_tree(text)
        return _of(text, tree, tree.walk, column, fps)
    tree = open_tree(folder or ("/" if text.startswith("/") else "."))
    try:
        entry = tree.entry(name)
    except FileNotFoundError:
        if "://" not in text:
            raise DatasetError(f"{text}: there is no such folder or file") from None
        tree = open_tree(text)
        return _of(text, tree, tree.walk, column, fps)
    if name.endswith(".txt"):
        _refuse_options(text, "paths", column, fps)
        return Files(tree, lambda: _listed(text, tree, name))
    return _of(text, tree, lambda: iter([entry]), column, fps)


def _of(text: str, tree: Tree, walk: Walk, column: str | None, fps: float | None) -> Source:
    """Whatever there is; several kinds at once are not guessed at.

    Pictures are counted here and found again when they are listed, as there may be too many to
    keep.
    """
    counts = Counter(_kind(entry) or "" for entry in walk())
    others = counts.pop("", 0)
    if len(counts) > 1:
        found = ", ".join(f"{counts[kind]} {kind}" for kind in _KINDS if kind in counts)
        raise DatasetError(f"{text}: has {found}; name one kind with a pattern, such as '*.tar'")
    if not counts:
        lacking = "no pictures, no .tar, no .parquet and no videos"
        raise DatasetError(f"{text}: has {lacking} among {others} files")
    (kind,) = counts

    def chosen() -> Iterator[Entry]:
        with _reading(text):
            yield from (entry for entry in walk() if _kind(entry) == kind)

    _refuse_options(text, kind, column, fps)
    if kind == "videos":
        require_video_extra()
        from clsspec_serve.dataset.sources.videos import Videos

        return Videos(tree, list(chosen()), fps)
    if kind == ".tar":
        return Tars(tree, list(chosen()))
    return Tables(tree, list(chosen()), column) if kind == ".parquet" else Files(tree, chosen)


def _refuse_options(text: str, kind: str, column: str | None, fps: float | None) -> None:
    """Raise `UsageError` for options of another kind."""
    if column is not None and kind != ".parquet":
        raise UsageError(f"--column is for Parquet tables; {text} has {kind}")
    if fps is not None and kind != "videos":
        raise UsageError(f"--fps is for videos; {text} has {kind}")


def _kind(entry: Entry) -> str | None:
    if is_picture(entry.path):
        return "pictures"
    if is_video(entry.path):
        return "videos"
    return next((kind for kind in (".tar", ".parquet") if entry.path.endswith(kind)), None)


def _fixed(pattern: str) -> str:
    """The folders of a pattern up to the first one that is a pattern."""
    parts = pattern.split("/")
    until = next(index for index, part in enumerate(parts) if _PATTERN.search(part))
    return "/".join(parts[:until]) or ("/" if pattern.startswith("/") else "")


def _listed(text: str, tree: Tree, name: str) -> Iterator[Entry]:
    with _reading(text):
        lines = tree.read(name).decode("utf-8", "surrogateescape").splitlines()
    seen: set[str] = set()
    for line in lines:
        path = line.strip()
        if not path:
            continue
        if path in seen:
            raise DatasetError(f"{name}: has {path} twice")
        seen.add(path)
        if PurePosixPath(path).is_absolute() and "://" in tree.name:
            raise DatasetError(f"{name}: has {path}; accepted are paths relative to {tree.name}")
        with _reading(text):
            entry = _entry(tree, path)
        yield entry


def _entry(tree: Tree, path: str) -> Entry:
    try:
        return tree.entry(path)
    except OSError as error:
        # What a store does not answer may be there all the same.
        if "://" in tree.name and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        return Entry(path, MISSING, "")
