"""`clsspec serve` with an engine that keeps all it is given: the control of the memory test."""

from __future__ import annotations

import sys

from clsspec_cli.app import main
from clsspec_serve.engines.onnxruntime import OnnxRuntimeEngine

kept = []
run = OnnxRuntimeEngine.run


def leak(self, inputs, outputs):  # type: ignore[no-untyped-def]
    """Run, and keep a copy of the inputs."""
    kept.append({name: array.copy() for name, array in inputs.items()})
    return run(self, inputs, outputs)


if __name__ == "__main__":
    OnnxRuntimeEngine.run = leak  # type: ignore[method-assign]
    sys.argv = ["clsspec", "serve", *sys.argv[1:]]
    main()
