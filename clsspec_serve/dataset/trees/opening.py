"""The folder that an address names."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.dataset.trees.local import LocalTree
from clsspec_serve.dataset.trees.remote import RemoteTree
from clsspec_serve.dataset.trees.tree import Tree


def open_tree(location: str) -> Tree:
    """The folder at a path, or at an address such as `s3://bucket/folder`; raises `UsageError`."""
    return RemoteTree(location) if "://" in location else LocalTree(Path(location))
