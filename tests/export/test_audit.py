from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_graphs import edited
from hypothesis import given, settings
from hypothesis import strategies as st
from long_cases import mostly_long
from onnx import helper, numpy_helper
from standins.backbones import (
    CLIP,
    DINOV2,
    DINOV3,
    EVA,
    FAMILIES,
    REG4,
    SWIGLU,
    USUAL,
    Exported,
    Written,
    families,
    tiny,
    write_graph,
)

from clsspec_export import audit as audit_module
from clsspec_export.audit import SHAPES, audit, audit_variant, execute
from clsspec_export.backbone import Backbone, PatchEmbedding
from clsspec_export.half import in_half
from clsspec_export.onnx_graph import OPSET, export_graph
from clsspec_export.pixels import FoldedPixels, fold_pixels
from clsspec_export.specialize import Split
from clsspec_serve.arithmetic import token_counts, total_macs
from clsspec_serve.errors import ExportError
from clsspec_serve.manifest import Specialization, Variant

Family = Callable[[str], Exported]


@pytest.mark.parametrize("family", mostly_long(FAMILIES, USUAL))
def test_every_kind_of_backbone_passes(family: str, exported: Family) -> None:
    audit(exported(family).graph, exported(family).architecture)


@pytest.mark.parametrize("family", ["registers with cls", "registers with patch"])
def test_each_half_of_a_split_qkv_runs_on_its_own_tokens_only(
    family: str, exported: Family
) -> None:
    item = exported(family)
    cls, patch = token_counts(item.architecture, (4, 5))
    found = execute(item.graph, item.architecture, 2, (4, 5)).weights
    assert found[2 * cls, 72, 216] == 1
    assert found[2 * patch, 72, 216] == 1
    assert found[2 * (cls + patch), 72, 216] == 1  # the second block is not split


def test_a_specialized_graph_multiplies_as_much_as_its_plain_twin(exported: Family) -> None:
    plain, specialized = (exported(name) for name in ("plain", "specialized"))
    macs = [execute(item.graph, item.architecture, 3, (4, 5)).macs for item in (plain, specialized)]
    coverage = 4 * 5 * plain.architecture.patch_size**2 * 72
    assert macs[0] == macs[1] == 3 * (total_macs(plain.architecture, (4, 5)) + coverage)


class Convolution(PatchEmbedding):
    """The patch embedding of the bundles of clsspec 0.1."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.to(torch.float32))


def test_a_patch_embedding_that_is_a_convolution_passes(exported: Family, tmp_path: Path) -> None:
    item, path = exported("specialized"), tmp_path / "model.onnx"
    patch = item.architecture.patch_size
    embed = Convolution(torch.nn.Conv2d(4, 72, patch, patch))
    export_graph(Backbone(item.checkpoint.model, item.outputs, embed), path)
    assert "Conv" in {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    audit(path, item.architecture)


specializations = st.builds(
    Specialization,
    norms=st.booleans(),
    final_norm=st.booleans(),
    layer_scale=st.booleans(),
    qkv_blocks=st.integers(0, 2),
    registers_with=st.sampled_from(["cls", "patch"]),
)


@pytest.mark.stress
@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(
    base=st.sampled_from([DINOV2, REG4, SWIGLU, CLIP, DINOV3, EVA]),
    specialization=specializations,
    attention_bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_specialization_passes(
    base: str, specialization: Specialization, attention_bias: bool, seed: int
) -> None:
    checkpoint = tiny(base, specialization, attention_bias=attention_bias, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        item = write_graph(checkpoint, Path(folder) / "model.onnx")
        audit(item.graph, item.architecture)


def select_after_both(self: Split, x: torch.Tensor) -> torch.Tensor:
    own = (torch.arange(x.shape[1]) < self.boundary)[:, None]
    return torch.where(own, self.cls(x), self.patch(x))


@pytest.fixture(scope="module")
def selecting(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Right outputs at twice the price: both products on all tokens, then a select."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Split, "forward", select_after_both)
        return write_graph(
            families()["specialized"](), tmp_path_factory.mktemp("select") / "model.onnx"
        )


def test_both_products_on_all_tokens_are_caught(selecting: Exported) -> None:
    message = (
        r"exported graph \(batch 2, grid 3x5\) has other products .* "
        r"too many of 2 x \(32 x 72 x 216\); "
        r"too few of 1 x \(2 x 72 x 216\), 1 x \(30 x 72 x 216\)"
    )
    with pytest.raises(ExportError, match=message):
        audit(selecting.graph, selecting.architecture)


def test_a_fault_that_only_the_optimised_graph_has_is_caught(
    selecting: Exported, exported: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = audit_module._save_optimised

    def fusing(graph: Path, path: Path) -> None:
        assert graph == good.graph
        original(selecting.graph, path)

    good = exported("specialized")
    monkeypatch.setattr(audit_module, "_save_optimised", fusing)
    with pytest.raises(ExportError, match=r"the optimised graph .* too many of 2 x \(32 x"):
        audit(good.graph, good.architecture)


def test_a_shared_qkv_is_caught_where_the_manifest_says_split(exported: Family) -> None:
    plain, described = exported("plain"), exported("specialized").architecture
    with pytest.raises(ExportError, match=r"too many of 1 x \(32 x 72 x 216\); too few of 1 x"):
        audit(plain.graph, described)


def test_a_split_qkv_is_caught_where_the_manifest_says_plain(exported: Family) -> None:
    split, described = exported("specialized"), exported("plain").architecture
    with pytest.raises(ExportError, match=r"too few of 1 x \(32 x 72 x 216\)"):
        audit(split.graph, described)


def test_registers_with_the_wrong_weights_are_caught(exported: Family) -> None:
    split, described = exported("registers with cls"), exported("registers with patch").architecture
    with pytest.raises(ExportError, match=r"too many of 1 x \(10 x 72 x 216\)"):
        audit(split.graph, described)


def test_a_missing_attention_bias_is_caught(exported: Family) -> None:
    without, described = exported("specialized"), exported("attention bias").architecture
    with pytest.raises(ExportError, match=r"multiply-accumulates, its plain twin"):
        audit(without.graph, described)


def edit(source: Exported, folder: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A changed copy of a graph beside a copy of its weights."""
    model = onnx.load(source.graph, load_external_data=False)
    change(model.graph)
    shutil.copy(source.graph.with_name("model.onnx.data"), folder)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_one_product_too_many_is_caught(exported: Family, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        weight = numpy_helper.from_array(np.ones((72, 72), np.float32), "extra_weight")
        graph.initializer.append(weight)
        graph.node.append(helper.make_node("MatMul", ["cls_0", "extra_weight"], ["extra"]))
        graph.output.append(
            helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, ["batch", 72])
        )

    item = exported("specialized")
    with pytest.raises(ExportError, match=r"too many of 1 x \(2 x 72 x 72\); too few of none"):
        audit(edit(item, tmp_path, change), item.architecture)


def static_graph(item: Exported, path: Path, *, batch: int | None, frozen_grid: bool) -> None:
    """An export as it goes wrong: example sizes baked into the shapes inside the graph."""
    patch = item.architecture.patch_size
    example = (
        torch.zeros(batch or 3, 4, 3 * patch, 5 * patch, dtype=torch.uint8),
        torch.zeros(3, 5, 72),
    )
    dims = {name: torch.export.Dim(name) for name in ("batch", "h", "w")}
    pixels = {} if batch else {0: dims["batch"]}
    grid = {} if frozen_grid else {0: dims["h"], 1: dims["w"]}
    if not frozen_grid:
        pixels |= {2: patch * dims["h"], 3: patch * dims["w"]}
    embed = FoldedPixels(torch.zeros(72, 4, patch, patch), None)
    torch.onnx.export(
        Backbone(item.checkpoint.model, item.outputs, embed).eval(),
        example,
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=["pixels", "position"],
        dynamic_shapes=(pixels, grid),
        verbose=False,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("batch", "frozen_grid", "shape"),
    [(1, False, r"batch of 2 and a grid of 3x5"), (None, True, r"batch of 3 and a grid of 6x4")],
    ids=["batch", "grid"],
)
@pytest.mark.parametrize("declared", mostly_long(["honestly", "as dynamic"], ["as dynamic"]))
def test_a_frozen_axis_is_caught(
    batch: int | None,
    frozen_grid: bool,
    shape: str,
    declared: str,
    exported: Family,
    tmp_path: Path,
) -> None:
    item = exported("specialized")
    path = tmp_path / "model.onnx"
    static_graph(item, path, batch=batch, frozen_grid=frozen_grid)
    if declared == "as dynamic":  # the inputs say nothing of it; a Reshape inside does
        model = onnx.load(path, load_external_data=False)
        for value in (*model.graph.input, *model.graph.output):
            for index, dim in enumerate(value.type.tensor_type.shape.dim):
                if dim.dim_value not in (4, 72):
                    dim.dim_param = f"{value.name}_{index}"
        del model.graph.value_info[:]
        path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=f"the graph does not run with a {shape}: "):
        audit(path, item.architecture)


def test_what_is_run_has_two_batches_and_two_grids() -> None:
    batches, grids = zip(*SHAPES, strict=True)
    assert len(set(batches)) == len(set(grids)) == 2
    assert all(height != width for height, width in grids)
    assert 1 not in batches


# Variants


def variant_of(item: Written, graph: str) -> Variant:
    return next(each for each in item.variants if each.graph == graph)


@pytest.mark.parametrize("part", ["openvino", "int8", "fp16", "bf16"])
def test_every_variant_passes(part: str, written: Written) -> None:
    audit_variant(written.folder, variant_of(written, f"model.{part}.onnx"), written.architecture)


def one_more_product(kind: int) -> Callable[[onnx.GraphProto], None]:
    """The last product once more, with its result unused by anything but an output."""

    def change(graph: onnx.GraphProto) -> None:
        *_, last = (node for node in graph.node if node.op_type == "MatMul")
        again = onnx.NodeProto()
        again.CopyFrom(last)
        again.output[0], again.name = "again", "again"
        graph.node.append(again)
        graph.output.append(helper.make_tensor_value_info("again", kind, None))

    return change


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("openvino", onnx.TensorProto.FLOAT),
        ("int8", onnx.TensorProto.FLOAT),
        ("fp16", onnx.TensorProto.FLOAT16),
    ],
)
def test_a_variant_that_multiplies_twice_is_caught(
    part: str, kind: int, written: Written, tmp_path: Path
) -> None:
    name = f"model.{part}.onnx"
    folder = edited(written.folder, name, tmp_path / "twice", one_more_product(kind))
    words = "exported" if part == "openvino" else name
    with pytest.raises(ExportError, match=f"^the {words} graph .* too few of none"):
        audit_variant(folder, variant_of(written, name), written.architecture)


def test_a_bf16_variant_with_one_product_more_is_caught(written: Written, tmp_path: Path) -> None:
    change = one_more_product(onnx.TensorProto.BFLOAT16)
    folder = edited(written.folder, "model.bf16.onnx", tmp_path / "twice", change)
    with pytest.raises(ExportError, match=r"^model\.bf16\.onnx has products with \[\[784, 72\], "):
        audit_variant(folder, variant_of(written, "model.bf16.onnx"), written.architecture)


def test_a_bf16_variant_of_other_weights_is_caught(written: Written, tmp_path: Path) -> None:
    """Those of a model that is not split: a product fewer."""
    folder = tmp_path / "other"
    shutil.copytree(written.folder, folder)
    plain = tiny(REG4)
    outputs = written.outputs
    embed = fold_pixels(plain.model.patch_embed.proj, plain.preprocessing)
    export_graph(in_half(Backbone(plain.model, outputs, embed), "bf16"), folder / "model.bf16.onnx")
    with pytest.raises(ExportError, match=r"^model\.bf16\.onnx has products with "):
        audit_variant(folder, variant_of(written, "model.bf16.onnx"), written.architecture)


def test_a_variant_is_compared_with_the_weights_of_the_stored_graph(
    written: Written, tmp_path: Path
) -> None:
    """With weights in fp16 a Cast stands between them and their products."""
    folder = tmp_path / "stored"
    shutil.copytree(written.folder, folder)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    (product, *_) = (node for node in model.graph.node if node.op_type == "MatMul")
    name = product.input[1]
    cast = helper.make_node("Cast", [name], ["cast"], to=onnx.TensorProto.FLOAT)
    product.input[1] = "cast"
    model.graph.node.insert(0, cast)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    audit_variant(folder, variant_of(written, "model.bf16.onnx"), written.architecture)
