"""Python packages that speak to a GPU's libraries, found where they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from clsspec_serve.errors import EngineError, one_line


def bindings(module: str, package: str, extra: str) -> Any:
    """A module of a package, which an extra of clsspec brings.

    Raises `EngineError` for one that is missing or whose libraries are.
    """
    install = f'pip install "clsspec-serve[{extra}]"'
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = package if module.startswith(str(error.name)) else error.name
        raise EngineError(f"{missing} is not installed; install it with: {install}") from error
    except (ImportError, OSError) as error:
        raise EngineError(
            f"{package}'s libraries cannot be loaded: {one_line(error)}; they are installed with: "
            f"{install}"
        ) from error
