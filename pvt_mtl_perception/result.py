"""What one frame yields: detections, segmentation mask and classification, in source-image pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, sorted by falling score.

    Attributes:
        boxes: float32 (N, 4), ``xyxy`` in source pixels, clipped to the image.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), indices into the detection label set.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Segmentation:
    """Per-pixel classes of one image, at source size.

    Attributes:
        mask: uint8 (H, W), train ids of the segmentation label set.
        confidence: uint8 (H, W), softmax probability of the winning class scaled to 0..255,
            or None where it was not asked for.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Classification:
    """Class probabilities of one image.

    Attributes:
        probabilities: for each label group, float32 (number of classes,), summing to 1.
    """

    probabilities: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Result:
    """The outputs of one frame; a task that was not asked for is None.

    Attributes:
        height, width: size of the source image in pixels.
    """

    height: int
    width: int
    detections: Detections | None = None
    segmentation: Segmentation | None = None
    classification: Classification | None = None
