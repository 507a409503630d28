"""The features that a graph puts out: those that people ask for and those that heads take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clsspec_serve.choices import Feature
from clsspec_serve.errors import UsageError
from clsspec_serve.layers import FEATURES, Layer
from clsspec_serve.manifest import Architecture
from clsspec_serve.schema import Output


def last_layer(architecture: Architecture) -> Layer:
    """The layer whose outputs have no suffix: the last block, normed where there is a norm."""
    return Layer(architecture.depth - 1, architecture.final_norm)


def feature(architecture: Architecture, kind: Feature, layer: Layer) -> Output:
    """`cls` and `patches` of the last layer, `cls_5` and `patches_5_raw` of others.

    Raises `UsageError` for a layer that the architecture does not have.
    """
    last = last_layer(architecture)
    if not 0 <= layer.index <= last.index:
        raise UsageError(f"layer {layer.index} does not exist; accepted are 0 to {last.index}")
    if layer.norm and not last.norm:
        raise UsageError("the model has no final norm; ask for raw layers, such as 5:raw")
    name: str = kind if layer == last else f"{kind}_{layer.index}{'' if layer.norm else '_raw'}"
    return Output(name=name, kind=kind, layer=layer.index, norm=layer.norm)


def features(
    architecture: Architecture, layers: Sequence[Layer], inputs: Iterable[Output] = ()
) -> tuple[Output, ...]:
    """[CLS] and patches of the last layer and of `layers`, then what else the heads take."""
    wanted = dict.fromkeys([last_layer(architecture), *layers])
    own = [feature(architecture, kind, layer) for layer in wanted for kind in FEATURES]
    return tuple(dict.fromkeys([*own, *inputs]))
