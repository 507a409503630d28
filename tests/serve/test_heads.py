from __future__ import annotations

from typing import Any

import pytest
import tiny_bundle as tiny
from pydantic import ValidationError

from clsspec_serve.heads import DepthHead, Protocol, SegmentationHead

PATCHES = next(each for each in tiny.tiny_manifest().outputs if each.name == "patches")
COMMON: dict[str, Any] = {
    "inputs": (PATCHES,),
    "protocol": {"size": (28, 28), "policy": "short"},
    "source": {"name": "a.pth", "format": "own"},
}
BINS = {"minimum": 0.001, "maximum": 10, "method": "bins", "bins": 256, "upsample": 4}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"window": 5}, "window and stride come together"),
        ({"stride": 5}, "window and stride come together"),
        ({"window": 5, "stride": 6}, "stride is larger than the window"),
        ({"window": 0, "stride": 0}, "greater than 0"),
        ({"size": (0, 5)}, "greater than 0"),
        ({"policy": "bend"}, "'squash', 'crop', 'fit' or 'short'"),
        ({"scales": 3}, "not permitted"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(changes: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Protocol(**{"size": (28, 28), "policy": "short"} | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"minimum": 10}, "minimum is not below maximum"),
        ({"minimum": 0}, "greater than 0"),
        ({"bins": 1}, "bins are for the method bins"),
        ({"method": "regression"}, "bins are for the method bins"),
        ({"upsample": 0}, "greater than 0"),
        ({"inputs": ()}, "at least 1 item"),
        ({"task": "segment"}, "'depth'"),
    ],
)
def test_a_depth_head_that_contradicts_itself_is_refused(changes: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DepthHead(**COMMON | BINS | changes)


@pytest.mark.parametrize("colour", [(0, 0, 256), (-1, 0, 0), (0, 0), (0.5, 0, 0)])
def test_a_colour_is_three_bytes(colour: Any) -> None:
    with pytest.raises(ValidationError):
        SegmentationHead(**COMMON, classes=[{"name": "wall", "colour": colour}])


def test_a_head_says_in_words_what_it_answers() -> None:
    depth = DepthHead(**COMMON | BINS)
    assert depth.summary() == "0.001 to 10.0 m by bins, from patches"
    one = {"name": "wall", "colour": (1, 2, 3)}
    segment = SegmentationHead(**COMMON | {"inputs": (PATCHES, PATCHES)}, classes=[one, one])
    assert segment.summary() == "2 classes, from patches + patches"


def test_what_is_written_is_read_again() -> None:
    depth = DepthHead(**COMMON | BINS)
    assert DepthHead.model_validate_json(depth.model_dump_json()) == depth
