"""What a head that is to be trained will take and give, and how it will be shown a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clsspec_export.fit.examples import UPSAMPLE
from clsspec_export.heads.describe import NEAREST
from clsspec_export.heads.protocols import KITTI, NYU, SEGMENTATION
from clsspec_serve.choices import Feature, Policy
from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.samples import Dataset, DepthDataset, SegmentationDataset
from clsspec_serve.heads import (
    AnyHead,
    Category,
    ClassificationHead,
    DepthHead,
    Protocol,
    SegmentationHead,
    Source,
)
from clsspec_serve.layers import Layer, select_outputs
from clsspec_serve.manifest import Manifest
from clsspec_serve.schema import Output

FORMAT = "clsspec"
"""The format of heads that `clsspec fit` has trained."""

SIDE = 512
"""Dense heads for folders are trained near 512x512 pixels, as the official ones for segmentation:
518 at patch 14. What suits a classification is too coarse a grid for them."""

Size = tuple[int, int]
_GIVEN = ("size", "policy")


@dataclass(frozen=True)
class Blueprint:
    """The choices that all tasks share.

    `layers`: none for the last one. `both`: beside the patches of a dense head also [CLS], beside
    the [CLS] of a classification also the mean patch. `size`, `policy`: None for those of the
    `dataset`, a published one, else for the task's own. `trained_on`: what stands in the head's
    file as its source.
    """

    manifest: Manifest
    layers: Sequence[Layer]
    both: bool
    trained_on: str
    size: Size | None = None
    policy: Policy | None = None
    dataset: str | None = None

    def head(self, data: Dataset, bins: int) -> AnyHead:
        """The head for a data set's task; `bins` is for depth."""
        if isinstance(data, SegmentationDataset):
            return self.segmentation(data.categories)
        if isinstance(data, DepthDataset):
            return self.depth(data.maximum, bins)
        return self.classification(data.classes)

    def segmentation(self, classes: tuple[Category, ...]) -> SegmentationHead:
        """A head for these classes. Raises `UsageError` for a layer that is not in the bundle."""
        return SegmentationHead(
            inputs=self._dense(),
            protocol=self._shown(SEGMENTATION),
            source=self._source(),
            classes=classes,
        )

    def depth(self, maximum: float, bins: int) -> DepthHead:
        """A head for depths up to `maximum` metres; a single bin is a regression."""
        if not NEAREST < maximum < math.inf:
            raise UsageError(f"depths up to {maximum} m; accepted are numbers above {NEAREST}")
        return DepthHead(
            inputs=self._dense(),
            protocol=self._shown(KITTI if self.dataset == "kitti" else NYU),
            source=self._source(),
            minimum=NEAREST,
            maximum=maximum,
            method="bins" if bins > 1 else "regression",
            bins=bins,
            upsample=UPSAMPLE,
        )

    def classification(self, classes: tuple[str, ...]) -> ClassificationHead:
        """A head for these classes."""
        inputs = self._select("cls")
        if self.both:
            inputs.append(self._select("patches")[-1])
        own = self.manifest.preprocessing
        protocol = Protocol(
            size=own.size,
            resize=own.resize,
            policy=self.policy or own.policy,
            interpolation=own.interpolation,
        )
        if self.size is not None:
            resize = own.resize and _scaled(own.resize, own.size, self.size)
            protocol = protocol.model_copy(update={"size": self.size, "resize": resize})
        return ClassificationHead(
            inputs=tuple(inputs), protocol=protocol, source=self._source(), classes=classes
        )

    def _dense(self) -> tuple[Output, ...]:
        patches = self._select("patches")
        if not self.both:
            return tuple(patches)
        pairs = zip(patches, self._select("cls"), strict=True)
        return tuple(output for pair in pairs for output in pair)

    def _select(self, kind: Feature) -> list[Output]:
        return select_outputs(self.manifest.outputs, [kind], self.layers)

    def _shown(self, official: Protocol) -> Protocol:
        """How a dense head is shown pictures: as `official` has it for a published data set.

        Training sees the whole picture where that has windows; a size or a policy of one's own
        leaves none to the head either, since they count in the pixels of the official size.
        Folders are shown as a whole and in whole patches, at `SIDE`: nothing is cropped away, and
        nothing padded. Where there is padding, the protocols stretch the padded answer over the
        picture, which moves it by up to half a patch.
        """
        given = {name: value for name in _GIVEN if (value := getattr(self, name)) is not None}
        if self.dataset is None:
            patch = self.manifest.architecture.patch_size
            side = max(round(SIDE / patch), 1) * patch
            own = Protocol(
                size=(side, side),
                policy="fit",
                interpolation=self.manifest.preprocessing.interpolation,
            )
            return own.model_copy(update=given)
        if not given:
            return official
        return official.model_copy(update={**given, "window": None, "stride": None})

    def _source(self) -> Source:
        return Source(name=self.trained_on, format=FORMAT)


def _scaled(resize: Size, size: Size, target: Size) -> Size:
    """A preprocessing's `resize` for another size, as `transform.plan` has it."""
    height, width = (target[axis] * resize[axis] // size[axis] for axis in (0, 1))
    return max(height, 1), max(width, 1)
