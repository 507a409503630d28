"""Features from Vision Transformers whose [CLS] and patch tokens have their own weights.

model = clsspec_serve.load("my-bundle")
prediction = model("photo.jpg")
prediction.cls, prediction.patches, prediction.geometry
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clsspec_serve.errors import ClsspecError as ClsspecError
    from clsspec_serve.geometry import Geometry as Geometry
    from clsspec_serve.images import ImageLimits as ImageLimits
    from clsspec_serve.layers import Layer as Layer
    from clsspec_serve.loading import load as load
    from clsspec_serve.predictor import Model as Model
    from clsspec_serve.predictor import Prediction as Prediction

_HOMES = {
    "ClsspecError": "errors",
    "Geometry": "geometry",
    "ImageLimits": "images",
    "Layer": "layers",
    "Model": "predictor",
    "Prediction": "predictor",
    "load": "loading",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must answer before numpy is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
