"""A bundle's models in Triton answer as the bundle does, and appear whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle as tiny
from command_line import tree
from head_bundle import classify_head, nearest_colour_head, write_head_bundle
from numpy.typing import NDArray
from triton_server import TritonServer

from clsspec_export.triton import repository as writing
from clsspec_export.triton.plan import model_names, plan
from clsspec_export.triton.repository import write_repository
from clsspec_serve import whole
from clsspec_serve.bundle import Bundle, describe_folder, open_bundle, write_manifest
from clsspec_serve.errors import BundleError, ExportError, UsageError
from clsspec_serve.loading import start
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.models import find_bundle
from clsspec_serve.predictor import Model

SIZE = (64, 96)
COLOURS = {"red": (255, 0, 0), 'a "blue"': (0, 0, 255)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the embedded model, at a size that is not its own."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    write_repository(find_bundle(None), folder, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> TritonServer:
    return TritonServer(repository)


@pytest.fixture(scope="module")
def model() -> Model:
    return start(find_bundle(None), engine="onnxruntime")


@pytest.fixture
def colours(tmp_path: Path) -> Bundle:
    """With heads for segment and classify, a batch of whose pictures is worked out by hand."""
    heads = (
        nearest_colour_head(COLOURS),
        classify_head(("dark", "light"), np.ones((tiny.WIDTH, 2)), (0, 1)),
    )
    return open_bundle(write_head_bundle(tmp_path / "colours", heads, name="my colours 2.0"))


def noise(batch: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, 4, *size), np.uint8)
    pixels[:, 3] = 1
    return pixels


@pytest.mark.parametrize("batch", [1, 3])
def test_the_backbone_answers_as_the_bundle(server: TritonServer, model: Model, batch: int) -> None:
    pixels = noise(batch, SIZE)
    found = server.infer("indoor-tiny", {"pixels": pixels})
    expected = model.infer(pixels, ["cls", "patches"], [])
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6 * np.abs(array).max())


@pytest.mark.parametrize("batch", [1, 3])
def test_ensembles_answer_as_the_bundle_with_its_heads(
    server: TritonServer, model: Model, batch: int
) -> None:
    pixels = noise(batch, SIZE, 1)
    expected = model.infer(pixels, ["cls", "patches"], ["segment", "depth"])
    for name, tasks in (
        ("indoor-tiny_segment", {"segment"}),
        ("indoor-tiny_depth", {"depth"}),
        ("indoor-tiny_predict", {"segment", "depth"}),
    ):
        found = server.infer(name, {"pixels": pixels})
        assert found.keys() == {"cls", "patches", *tasks}
        for output, array in found.items():
            np.testing.assert_allclose(
                array, expected[output], rtol=0, atol=2e-6 * np.abs(expected[output]).max()
            )


def test_the_layout_is_tritons_with_weights_beside_their_graph(repository: Path) -> None:
    files = {name for name, content in tree(repository).items() if content is not None}
    assert files == {
        *("indoor-tiny/config.pbtxt", "indoor-tiny/clsspec.json"),
        *("indoor-tiny/1/model.onnx", "indoor-tiny/1/model.onnx.data"),
        *("indoor-tiny_segment_head/config.pbtxt", "indoor-tiny_segment_head/1/model.onnx"),
        *("indoor-tiny_depth_head/config.pbtxt", "indoor-tiny_depth_head/1/model.onnx"),
        "indoor-tiny_segment_head/segment.txt",
        *("indoor-tiny_segment/config.pbtxt", "indoor-tiny_segment/1/.keep"),
        "indoor-tiny_segment/segment.txt",
        *("indoor-tiny_depth/config.pbtxt", "indoor-tiny_depth/1/.keep"),
        *("indoor-tiny_predict/config.pbtxt", "indoor-tiny_predict/1/.keep"),
        "indoor-tiny_predict/segment.txt",
    }
    bundle = find_bundle(None)
    weights = repository / "indoor-tiny" / "1" / "model.onnx.data"
    assert weights.read_bytes() == (bundle.path / "model.onnx.data").read_bytes()
    assert (weights.parent / "model.onnx").stat().st_size < 0.1 * weights.stat().st_size
    assert list(repository.parent.iterdir()) == [repository]


def test_a_configuration_is_for_cpu_and_gpu_and_says_how_pictures_come_in(
    server: TritonServer,
) -> None:
    manifest = find_bundle(None).manifest
    config = server.configs["indoor-tiny"]
    assert (config.max_batch_size, config.version_policy.latest.num_versions) == (8, 1)
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 0)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"
    for each in server.configs.values():
        found = {key: value.string_value for key, value in each.parameters.items()}
        shown = Preprocessing.model_validate_json(found["clsspec.preprocessing"])
        assert (shown.size, shown.mean) == (SIZE, manifest.preprocessing.mean)
        assert found["clsspec.patch_size"] == "16"
        graphs = {key: text for key, text in found.items() if key.startswith("clsspec.sha256.")}
        assert graphs
        for key, text in graphs.items():
            assert text == manifest.files[key.removeprefix("clsspec.sha256.")].sha256
    names = server.configs["indoor-tiny_predict"].parameters
    assert {key for key in names if "sha256" in key} == {
        f"clsspec.sha256.{name}"
        for name in ("model.onnx", "model.onnx.data", "heads/segment.onnx", "heads/depth.onnx")
    }


def test_classes_are_labels_of_classify_and_lines_beside_segment(
    colours: Bundle, tmp_path: Path
) -> None:
    found = write_repository(colours, tmp_path / "models")
    names = [model.name for model in found.models]
    own = "my_colours_2_0"
    assert names == model_names("my colours 2.0", ["segment", "classify"])
    assert names == [own, *(f"{own}_{end}" for end in ("segment_head", "classify_head"))] + [
        f"{own}_{end}" for end in ("segment", "classify", "predict")
    ]
    server = TritonServer(tmp_path / "models")
    for name in (f"{own}_classify_head", f"{own}_classify", f"{own}_predict"):
        labels = {each.name: each.label_filename for each in server.configs[name].output}
        assert labels.pop("classify") == "classify.txt"
        assert not any(labels.values())
        assert (tmp_path / "models" / name / "classify.txt").read_text() == "dark\nlight\n"
    lines = (tmp_path / "models" / f"{own}_segment" / "segment.txt").read_text().splitlines()
    assert lines == [*COLOURS]

    pixels = np.zeros((2, 4, *tiny.SIZE), np.uint8)
    pixels[0, 2], pixels[1, 0] = 250, 250
    answer = server.infer(f"{own}_predict", {"pixels": pixels})
    assert answer["segment"].argmax(-1).tolist() == [[[1] * 3] * 2, [[0] * 3] * 2]
    np.testing.assert_array_equal(
        answer["patches"], start(colours).infer(pixels, ["patches"], [])["patches"]
    )


def test_a_bundle_without_heads_is_one_model_with_its_licence(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = external(tiny_bundle)
    (tiny_bundle / "LICENSE").write_text("theirs")
    write_repository(bundle, tmp_path / "models", size=(42, 14))
    assert [*tree(tmp_path / "models")] == [
        *("tiny", "tiny/1", "tiny/1/model.onnx", "tiny/1/model.onnx.data"),
        *("tiny/LICENSE", "tiny/clsspec.json", "tiny/config.pbtxt"),
    ]
    pixels = noise(3, (42, 14))
    found = TritonServer(tmp_path / "models").infer("tiny", {"pixels": pixels})
    names = [output.name for output in bundle.manifest.outputs]
    for name, array in start(bundle).infer(pixels, names, []).items():
        np.testing.assert_array_equal(found[name], array)


def external(folder: Path) -> Bundle:
    """The tiny bundle with weights in a file of their own, and without its broken head."""
    shutil.rmtree(folder / "heads")
    tiny.save_with_external_weights(folder / "model.onnx")
    files = {"files": describe_folder(folder)}
    write_manifest(folder, tiny.tiny_manifest().model_copy(update=files))
    return open_bundle(folder)


def test_weights_that_are_missing_leave_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = external(tiny_bundle)
    (tiny_bundle / "model.onnx.data").unlink()
    before = tree(tmp_path)
    with pytest.raises(BundleError, match=r"weights in 'model.onnx.data', which is no file beside"):
        write_repository(bundle, tmp_path / "models")
    assert tree(tmp_path) == before


def test_a_graph_that_is_none_leaves_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    (tiny_bundle / "model.onnx").write_bytes(b"no graph")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match=r"model.onnx cannot be read"):
        write_repository(bundle, tmp_path / "models")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("added", [1.0, float("nan")])
def test_other_answers_than_the_bundles_are_not_written(
    colours: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: float
) -> None:
    right = writing.position_map
    monkeypatch.setattr(writing, "position_map", lambda *given: right(*given) + np.float32(added))
    before = tree(tmp_path)
    with pytest.raises(ExportError, match="my_colours_2_0 differs from the bundle; patches"):
        write_repository(colours, tmp_path / "models")
    assert tree(tmp_path) == before


def test_models_go_beside_others_and_replace_their_own(colours: Bundle, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    (models / "other" / "1" / "model.onnx").write_bytes(b"of someone else")
    write_repository(colours, models)
    first = tree(models)
    assert first["other/1/model.onnx"] == b"of someone else"
    assert len([*models.iterdir()]) == 7

    with pytest.raises(UsageError, match="my_colours_2_0 exists already; --force replaces it"):
        write_repository(colours, models)
    assert tree(models) == first
    write_repository(colours, models, size=(14, 14), replace=True)
    assert first.keys() == tree(models).keys()
    shutil.rmtree(models / "other")
    assert TritonServer(models).configs["my_colours_2_0"].input[0].dims == [4, 14, 14]


def test_an_ensemble_takes_its_place_after_what_it_is_made_of(
    colours: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    @contextmanager
    def new_folder(destination: Path, *, replace: bool) -> Iterator[Path]:
        with whole.new_folder(destination, replace=replace) as folder:
            yield folder
        order.append(destination.name)

    monkeypatch.setattr(writing, "new_folder", new_folder)
    (tmp_path / "models").mkdir()
    found = write_repository(colours, tmp_path / "models")
    assert order == [model.name for model in (*found.graphs, *found.ensembles)]


def test_what_is_no_model_is_never_replaced(colours: Bundle, tmp_path: Path) -> None:
    precious = tmp_path / "models" / "my_colours_2_0_segment"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="exists and is no model of Triton's; it is not replaced"):
        write_repository(colours, tmp_path / "models", replace=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["colours", "colours/models", ".", "other"])
def test_a_repository_and_a_bundle_lie_apart(
    colours: Bundle, tiny_bundle: Path, tmp_path: Path, place: str
) -> None:
    tiny_bundle.rename(tmp_path / "other")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="has a bundle in it; --triton takes a folder apart"):
        write_repository(colours, tmp_path / place)
    assert tree(tmp_path) == before


def test_a_file_is_no_repository(colours: Bundle, tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(UsageError, match="is a file; --triton takes a folder"):
        write_repository(colours, tmp_path / "models")


def test_a_bundle_without_a_name_has_no_models(colours: Bundle) -> None:
    with pytest.raises(UsageError, match="no name"):
        plan(colours.manifest.model_copy(update={"name": ""}), tiny.SIZE)
    assert model_names("../a", []) == ["___a"]
