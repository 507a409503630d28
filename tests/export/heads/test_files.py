"""What is read from head files, and what is said of the heads in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import head_files as files
import pytest
import torch
from head_files import WIDTH, architecture, preprocessing
from safetensors.torch import save_file

from clsspec_export.catalog import find
from clsspec_export.checkpoints.files import read_torch
from clsspec_export.heads.catalog import BY_NAME
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.read import read_head
from clsspec_serve.categories import categories
from clsspec_serve.choices import HeadTask
from clsspec_serve.heads import ClassificationHead, DepthHead, Protocol, SegmentationHead

IMAGENET = Protocol(size=(224, 224), resize=(256, 256), policy="crop", interpolation="bicubic")


def read(task: HeadTask, path: Path, *, depth: int = 12, **options: Any) -> LinearHead:
    return read_head(task, path, architecture(depth=depth), preprocessing(), **options)


def taken(head: LinearHead) -> list[str]:
    return [output.name for output in head.description.inputs]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_numpy_scalar_of_any_release_is_read_as_a_plain_value(
    module: str, tmp_path: Path
) -> None:
    path = tmp_path / "nyu.pth"
    files.dinov2_depth(path, 2 * WIDTH, scalars=module)
    with pytest.raises(pickle.UnpicklingError, match=module):
        torch.load(path, weights_only=True)
    meta = read_torch(path)["meta"]["hook_msgs"]
    assert meta == {"best_score": 0.3, "epoch": 1, "last": 1, "n": 3}
    assert taken(read("depth", path)) == ["patches_11_raw", "cls_11_raw"]


def test_nothing_else_of_numpy_is_allowed_and_nothing_stays_allowed(tmp_path: Path) -> None:
    path = tmp_path / "nyu.pth"
    files.dinov2_depth(path, 2 * WIDTH)
    before = set(torch.serialization.get_safe_globals())
    read_torch(path)
    assert set(torch.serialization.get_safe_globals()) == before
    files.rename_in_pickle(path, b"cnumpy.core.multiarray\nscalar", b"cnumpy.testing\nrundocs")
    with pytest.raises(
        Exception, match=r"holds more than tensors and plain values \(numpy.testing"
    ):
        read_torch(path)


@pytest.mark.parametrize(("classes", "table"), [(150, "ade20k"), (21, "voc2012")])
def test_a_segmentation_head_is_described(classes: int, table: str, tmp_path: Path) -> None:
    files.dinov2_segmentation(tmp_path / "x_linear_head.pth", WIDTH, classes)
    head = read("segment", tmp_path / "x_linear_head.pth", licence="Apache-2.0")
    assert isinstance(head.description, SegmentationHead)
    assert head.description.classes == categories(table)
    assert taken(head) == ["patches"]
    assert head.description.protocol == Protocol(
        size=(512, 512), policy="short", interpolation="bilinear", window=512, stride=341
    )
    source = head.description.source
    assert (source.name, source.format) == ("x_linear_head.pth", "dinov2")
    assert (source.licence, len(source.sha256 or "")) == ("Apache-2.0", 64)


def test_an_ms_head_takes_the_last_four_layers_and_its_own_protocol(tmp_path: Path) -> None:
    files.dinov2_segmentation(tmp_path / "ms.pth", 4 * WIDTH, 150)
    head = read("segment", tmp_path / "ms.pth", depth=24)
    assert taken(head) == ["patches_20", "patches_21", "patches_22", "patches"]
    assert head.description.protocol == Protocol(
        size=(640, 640), policy="short", interpolation="bilinear", window=640, stride=320, flip=True
    )


def test_dinov3s_segmentation_of_four_layers_has_the_protocol_of_one(tmp_path: Path) -> None:
    from clsspec_serve.layers import parse_layers

    files.dinov3_segmentation(tmp_path / "head.pth", 4 * WIDTH, 150)
    head = read("segment", tmp_path / "head.pth", layers=parse_layers("2,5,8,11"))
    assert (head.description.protocol.size, head.description.protocol.window) == ((512, 512), 512)
    assert head.description.protocol.stride == 341


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(12, (2, 5, 8, 11)), (24, (4, 11, 17, 23)), (40, (9, 19, 29, 39))],
)
def test_a_linear4_depth_head_takes_the_official_raw_layers(
    depth: int, layers: tuple[int, ...], tmp_path: Path
) -> None:
    files.dinov2_depth(tmp_path / "nyu.pth", 8 * WIDTH)
    head = read("depth", tmp_path / "nyu.pth", depth=depth)
    assert taken(head) == [f"{kind}_{n}_raw" for n in layers for kind in ("patches", "cls")]


@pytest.mark.parametrize(
    ("name", "farthest", "short"), [("m_nyu_linear.pth", 10.0, 480), ("KITTI.pth", 80.0, 352)]
)
def test_a_depth_heads_range_is_that_of_the_data_set_in_its_name(
    name: str, farthest: float, short: int, tmp_path: Path
) -> None:
    files.dinov2_depth(tmp_path / name, 2 * WIDTH)
    found = read("depth", tmp_path / name).description
    assert isinstance(found, DepthHead)
    assert (found.minimum, found.maximum) == (0.001, farthest)
    assert (found.method, found.bins, found.upsample) == ("bins", 256, 4)
    assert found.protocol == Protocol(size=(short, short), policy="short", flip=True)


def test_what_the_user_says_of_the_range_goes_before_the_name(tmp_path: Path) -> None:
    files.dinov3_depth(tmp_path / "nyu.pth", WIDTH)
    found = read("depth", tmp_path / "nyu.pth", maximum=25.0).description
    assert isinstance(found, DepthHead)
    assert (found.maximum, found.upsample) == (25.0, 1)
    assert taken(read("depth", tmp_path / "nyu.pth")) == ["patches"]


def test_a_folders_name_says_nothing_of_the_range(tmp_path: Path) -> None:
    (tmp_path / "nyu").mkdir()
    files.dinov2_depth(tmp_path / "nyu" / "head.pth", 2 * WIDTH)
    with pytest.raises(Exception, match=r"^head.pth does not say where its range ends"):
        read("depth", tmp_path / "nyu" / "head.pth")


@pytest.mark.parametrize("times", [2, 5])
def test_a_bare_classifier_of_imagenet_has_the_official_protocol(
    times: int, tmp_path: Path
) -> None:
    torch.save(files.linear(1000, times * WIDTH), tmp_path / "head.pth")
    head = read("classify", tmp_path / "head.pth")
    own = ["cls_8", "cls_9", "cls_10"] if times == 5 else []
    assert taken(head) == [*own, "cls", "patches"]
    assert head.description.protocol == IMAGENET


def test_any_other_bare_classifier_is_shown_what_the_backbone_is(tmp_path: Path) -> None:
    torch.save(files.linear(12, 2 * WIDTH), tmp_path / "head.pth")
    found = read("classify", tmp_path / "head.pth").description
    assert isinstance(found, ClassificationHead)
    own = preprocessing()
    assert found.protocol == Protocol(
        size=own.size, resize=own.resize, policy="squash", interpolation="lanczos"
    )
    assert found.classes == tuple(f"class {n}" for n in range(12))


def test_a_bare_dense_head_is_shown_the_whole_picture(tmp_path: Path) -> None:
    torch.save(files.convolution(12, WIDTH), tmp_path / "head.pth")
    found = read("segment", tmp_path / "head.pth").description
    assert found.protocol == Protocol(size=(70, 84), policy="short", interpolation="lanczos")


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_a_classifiers_name_says_what_its_width_alone_does_not(
    blocks: int, pooled: bool, tmp_path: Path
) -> None:
    """2 x D is two [CLS]s, or one and the mean patch."""
    name = files.classifier_name(blocks, "0_00100", pooled=pooled)
    files.classifiers(tmp_path / "checkpoint.pth", {name: (5, (blocks + pooled) * WIDTH)})
    head = read("classify", tmp_path / "checkpoint.pth")
    own = [f"cls_{n}" for n in range(12 - blocks, 11)]
    assert taken(head) == [*own, "cls", *(["patches"] if pooled else [])]
    assert head.description.protocol == IMAGENET


def test_one_classifier_of_many_is_chosen_by_its_name(tmp_path: Path) -> None:
    names = [files.classifier_name(1, rate) for rate in ("0_00100", "0_02000", "0_10000")]
    states = files.classifiers(tmp_path / "c.pth", dict.fromkeys(names, (5, 2 * WIDTH)))
    for name in names:
        head = read("classify", Path(f"{tmp_path / 'c.pth'}#{name}"))
        assert torch.equal(head.weight, states[name]["weight"])
        assert torch.equal(head.bias, states[name]["bias"])


def test_a_number_sign_may_be_part_of_a_files_name(tmp_path: Path) -> None:
    torch.save(files.linear(5, WIDTH), tmp_path / "a#b.pth")
    assert read("classify", tmp_path / "a#b.pth").weight.shape == (5, WIDTH)


def test_safetensors_without_a_description_are_a_bare_layer(tmp_path: Path) -> None:
    save_file(files.linear(5, WIDTH), tmp_path / "head.safetensors")
    head = read("segment", tmp_path / "head.safetensors")
    assert (head.description.source.format, taken(head)) == ("plain", ["patches"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_head_of_any_floating_type_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in files.linear(5, WIDTH).items()}
    torch.save(state, tmp_path / "head.pth")
    head = read("classify", tmp_path / "head.pth")
    assert head.weight.dtype == head.bias.dtype == torch.float32
    assert torch.equal(head.weight, state["weight"].float())


def test_a_backbone_without_a_final_norm_feeds_heads_as_it_is(tmp_path: Path) -> None:
    files.dinov3_segmentation(tmp_path / "head.pth", WIDTH, 5)
    unnormed = architecture(final_norm=False)
    head = read_head("segment", tmp_path / "head.pth", unnormed, preprocessing())
    (output,) = head.description.inputs
    assert (output.name, output.layer, output.norm) == ("patches", 11, False)


def test_a_thousand_classes_are_those_of_imagenet_in_its_order(tmp_path: Path) -> None:
    """The order is that of the sorted WordNet ids; the names are from the data set's own list."""
    from timm.data import ImageNetInfo

    torch.save(files.linear(1000, 2 * WIDTH), tmp_path / "head.pth")
    found = read("classify", tmp_path / "head.pth").description
    assert isinstance(found, ClassificationHead)
    synsets = ImageNetInfo().label_names()
    assert synsets == sorted(synsets)
    known = {
        0: "tench",
        1: "goldfish",
        134: "crane",
        207: "golden retriever",
        281: "tabby",
        388: "giant panda",
        517: "crane",
        609: "jeep",
        963: "pizza",
        999: "toilet tissue",
    }
    assert {n: found.classes[n].split(",")[0] for n in known} == known


def test_the_catalogue_of_heads_follows_the_official_addresses() -> None:
    """README of facebookresearch/dinov2, `hub/depthers.py` and `hub/classifiers.py`."""
    base = "https://dl.fbaipublicfiles.com/dinov2"
    expected = {}
    for letter in "sblg":
        model = f"dinov2_vit{letter}14"
        for data, task in (
            ("ade20k", "segment"),
            ("voc2012", "segment"),
            ("nyu", "depth"),
            ("kitti", "depth"),
        ):
            for kind in ("linear", "ms") if task == "segment" else ("linear", "linear4"):
                address = f"{base}/{model}/{model}_{data}_{kind}_head.pth"
                expected[f"{model}_{data}_{kind}"] = (task, address, model)
        for kind in ("linear", "linear4"):
            plain, registers = (f"{base}/{model}/{model}{r}_{kind}_head.pth" for r in ("", "_reg4"))
            expected[f"{model}_{kind}"] = ("classify", plain, model)
            expected[f"{model}_reg_{kind}"] = ("classify", registers, f"{model}_reg")
    found = {name: (e.task, e.address, e.backbone) for name, e in BY_NAME.items()}
    assert found == expected
    assert {entry.licence for entry in BY_NAME.values()} == {"Apache-2.0"}


def test_every_head_of_the_catalogue_belongs_to_a_checkpoint_of_the_catalogue() -> None:
    for entry in BY_NAME.values():
        assert find(entry.backbone).licence == "Apache-2.0"
