"""What is asked of a data set: all that the results depend on and that its user chooses."""

from __future__ import annotations

from clsspec_serve.choices import DType, EngineChoice, Policy, Precision, Task
from clsspec_serve.dataset.codecs.codec import PLAIN, Codec
from clsspec_serve.images import DEFAULT_LIMITS, ImageLimits
from clsspec_serve.layers import FEATURES, Layer
from clsspec_serve.request import Options
from clsspec_serve.schema import Positive, Scale, Strict


class Asked(Strict):
    """Of every picture, see `Options`; and how the pictures are found and put together.

    `column`: of tables, the one with pictures; None is the usual one. `fps`: of videos, frames of a
    second; None are all of them. `engine`, `precision`: of the model. `dtype`: of features and
    logits. `codec`: of patch maps. `dedupe`: of pictures with the same bytes the first one is
    computed. `batch_size`: most views of one forward pass. `shard_size`: pictures of a shard.
    """

    tasks: tuple[Task, ...] = FEATURES
    layers: tuple[Layer, ...] = ()
    size: tuple[Positive, Positive] | None = None
    policy: Policy | None = None
    limits: ImageLimits = DEFAULT_LIMITS
    column: str | None = None
    fps: Scale | None = None
    engine: EngineChoice = "auto"
    precision: Precision = "fp32"
    dtype: DType = "float32"
    codec: Codec = PLAIN
    dedupe: bool = False
    batch_size: Positive = 8
    shard_size: Positive = 512

    def options(self) -> Options:
        """What is asked of each picture."""
        return {
            "tasks": self.tasks,
            "layers": self.layers,
            "size": self.size,
            "policy": self.policy,
            "limits": self.limits,
        }
