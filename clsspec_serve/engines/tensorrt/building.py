"""From a graph to a plan: parsed, given its shapes, built with the types that the graph has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clsspec_serve.engines.tensorrt.buckets import Bucket
from clsspec_serve.engines.tensorrt.libraries import listening, major, the_log, why
from clsspec_serve.errors import EngineError


def build(module: Any, graph: Path, bucket: Bucket, timings: bytes) -> tuple[bytes, bytes]:
    """The plan of a graph for the GPU that this thread uses, and TensorRT's timings.

    Each tensor keeps the type that it has in the graph; fp32 is not TF32. `timings`: of earlier
    builds by this version for this GPU's architecture, or none; what is returned has this build's,
    too. It takes from seconds to minutes, and other threads run meanwhile. Raises `EngineError`.
    """
    with listening(module) as heard:
        try:
            return _build(module, graph, bucket, timings)
        # The bindings raise errors of their own for arguments that they refuse.
        except (_Failed, RuntimeError, TypeError, ValueError) as error:
            reasons = [str(error), *heard] if str(error) else heard
            raise EngineError(
                f"tensorrt cannot build {graph} for {bucket}: {why(reasons)}"
            ) from error


def _build(module: Any, graph: Path, bucket: Bucket, timings: bytes) -> tuple[bytes, bytes]:
    builder = module.Builder(the_log(module))
    network = builder.create_network(_network_flags(module))
    _parse(module, network, graph)
    _let_attention_be_decomposed(module, network)
    config = builder.create_builder_config()
    config.clear_flag(module.BuilderFlag.TF32)  # on by default, with ten bits of each factor
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # for the inspector
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        # Of another GPU, or damaged: what it holds is no more than a saving of time.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    _add_profile(builder, config, network, bucket)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _Failed
    return bytes(plan), bytes(cache.serialize())


class _Failed(Exception):
    """TensorRT said that something failed, and in its log why."""


def _network_flags(module: Any) -> int:
    """From TensorRT 11 on a network has the graph's types, and the flag is to go."""
    if major(module) > 10:
        return 0
    return 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(module: Any, network: Any, graph: Path) -> None:
    parser = module.OnnxParser(network, the_log(module))
    # By its path, for the weights that lie beside it.
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _Failed("; ".join(errors))


def _let_attention_be_decomposed(module: Any, network: Any) -> None:
    """Without one kernel for all of an attention, several may do it.

    The parser asks for one kernel, or no plan; TensorRT has those for half precision only, and for
    heads of some sizes. Where it has one it takes it: the inspector counts them.
    """
    kind = getattr(module.LayerType, "ATTENTION_INPUT", None)  # from TensorRT 10.14 on
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = module.IAttentionInputLayer  # the bindings give it as an `ILayer`
            layer.attention.decomposable = True


def _add_profile(builder: Any, config: Any, network: Any, bucket: Bucket) -> None:
    """One size, whose fastest batch is the largest: the one that a busy server has."""
    names = {network.get_input(index).name for index in range(network.num_inputs)}
    given = {name for name, _ in bucket.sizes}
    if names != given:
        raise _Failed(
            f"it takes {', '.join(sorted(names))}, and was given {', '.join(sorted(given))}"
        )
    profile = builder.create_optimization_profile()
    smallest, largest = bucket.shapes(1), bucket.shapes(bucket.largest)
    for name in smallest:
        profile.set_shape(name, smallest[name], largest[name], largest[name])
    if config.add_optimization_profile(profile) < 0:
        raise _Failed(f"{bucket} are no shapes for it")
