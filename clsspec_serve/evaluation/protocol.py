"""How an evaluation was done, so that its numbers can be made again."""

from __future__ import annotations

from dataclasses import dataclass

from clsspec_serve.choices import Interpolation, Policy
from clsspec_serve.evaluation.datasets.samples import (
    ClassificationDataset,
    Dataset,
    SegmentationDataset,
)
from clsspec_serve.evaluation.datasets.windows import (
    Size,
    Window,
    eigen,
    garg,
    kitti_benchmark,
    nyu_without_border,
)
from clsspec_serve.request import Request

_SHOWN: dict[Window, str] = {
    kitti_benchmark: "the lower middle 352x1216 of pictures",
    nyu_without_border: "pictures without their white border",
}
_SCORED: dict[Window, str] = {eigen: " in Eigen's window", garg: " in Garg's window"}


@dataclass(frozen=True)
class Shown:
    """How pictures were brought to the network.

    `size`, `resize`, `policy`, `interpolation`: as in `Preprocessing`, with all options applied;
    `resize` is None where it plays no part. `window`, `stride`, `flip`: as in `Request`.
    """

    size: Size
    resize: Size | None
    policy: Policy
    interpolation: Interpolation
    window: int | None
    stride: int | None
    flip: bool

    @classmethod
    def of(cls, request: Request) -> Shown:
        """What a settled request does."""
        own = request.preprocessing
        size, policy = request.size or own.size, request.policy or own.policy
        resize = None
        if policy in ("squash", "crop"):
            resize = own.resize or own.size
            resize = (size[0] * resize[0] // own.size[0], size[1] * resize[1] // own.size[1])
        return cls(
            size=size,
            resize=resize,
            policy=policy,
            interpolation=own.interpolation,
            window=request.window,
            stride=request.stride,
            flip=request.flip,
        )

    def text(self) -> str:
        """The same in words."""
        height, width = self.size
        whole = f"{height}x{width}"
        resize = whole if self.resize is None else f"{self.resize[0]}x{self.resize[1]}"
        cut = f", {whole} cut out of the middle"
        resized = {
            "squash": f"resized to {resize}{cut if resize != whole else ''}",
            "crop": f"resized to cover {resize}{cut}",
            "fit": f"at their own aspect ratio and the area of {whole}",
            "short": f"short side {min(height, width)}",
        }[self.policy]
        windows = (
            "the whole at once"
            if self.window is None
            else f"windows of {self.window} every {self.stride} px"
        )
        mirrored = "averaged with the mirror image" if self.flip else "not mirrored"
        return f"{resized}, {self.interpolation}; {windows}; {mirrored}"


def scored(dataset: Dataset) -> str:
    """What of a data set is scored, and how, in words."""
    if isinstance(dataset, SegmentationDataset):
        return (
            f"{len(dataset.categories)} classes at the pictures' own size; "
            "intersections and unions are summed over all pictures"
        )
    if isinstance(dataset, ClassificationDataset):
        return f"{len(dataset.classes)} classes"
    part = _SHOWN.get(dataset.samples[0].crop)
    cap = f", capped at {dataset.cap:g} m" if dataset.cap is not None else ""
    return (
        f"depths between {dataset.minimum:g} and {dataset.maximum:g} m{cap}"
        f"{_SCORED.get(dataset.region, '')}{f', of {part}' if part else ''}; "
        "of each picture, then the mean over pictures"
    )
