"""`clsspec inspect`: what a bundle is."""

from __future__ import annotations

import json

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle


def inspect(bundle: options.BundleFolder = None, as_json: options.Json = False) -> None:
    """Say what a bundle is: architecture, specialization, parameters, FLOPs, layers and files."""
    from clsspec_serve.arithmetic import total_macs, weight_products
    from clsspec_serve.manifest import STORAGE

    opened = chosen_bundle(bundle)
    manifest = opened.manifest
    architecture, preprocessing = manifest.architecture, manifest.preprocessing
    patch = architecture.patch_size
    grid = (-(-preprocessing.size[0] // patch), -(-preprocessing.size[1] // patch))
    products = weight_products(architecture, grid)
    sliced = sum(product.layer.endswith("qkv.cls") for product in products)
    gflops = 2 * total_macs(architecture, grid) / 1e9
    if as_json:
        facts = manifest.model_dump(mode="json")
        facts |= {"path": str(opened.path), "gflops": gflops, "sliced_qkv_blocks": sliced}
        print(json.dumps(facts, indent=2))
        return

    parts = architecture.specialization
    split = "plain: no weights of its own for [CLS]" if parts is None else parts.summary()
    provenance = manifest.provenance
    rows = [
        ("name", manifest.name),
        *(() if manifest.description is None else [("description", manifest.description)]),
        ("architecture", architecture.name),
        ("specialized", split),
        ("tokens", f"[CLS], {architecture.registers} registers, patches of {patch} px"),
        ("attention bias", "k', v' per layer and head" if architecture.attention_bias else "none"),
        ("parameters", f"{architecture.parameters:,}"),
        ("storage", STORAGE[manifest.storage]),
        ("work", f"{gflops:.1f} GFLOPs at {grid[0] * patch}x{grid[1] * patch}"),
        ("sliced GEMMs", f"{sliced} blocks multiply QKV as two products"),
        ("position", manifest.position.model_dump_json()),
        ("preprocessing", preprocessing.model_dump_json(exclude_none=True)),
        ("outputs", ", ".join(output.name for output in manifest.outputs)),
        *((f"head: {head.task}", head.summary()) for head in manifest.heads),
        *((variant.graph, variant.summary()) for variant in manifest.variants),
        ("source", f"{provenance.source} ({provenance.format})"),
        ("licence", provenance.licence or "not stated by the source"),
    ]
    rows += [
        (
            f"{parity.engine} {parity.precision}",
            f"{parity.summary()} from PyTorch",
        )
        for parity in manifest.parity
    ]
    rows += [(name, f"{file.size:,} bytes") for name, file in manifest.files.items()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
