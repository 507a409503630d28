"""ONNX Runtime, kept from reporting to its makers.

Its wheels send events, under an identifier that they leave in the user's home, unless this variable
is set before they are loaded (their `Privacy.md`). Who wants that sets it to 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as onnxruntime
