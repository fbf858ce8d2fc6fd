"""Boxes from a semantic mask: the extents of each class's connected components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.labels import IGNORE_INDEX

MIN_AREA = 50
MIN_SIDE = 4


@dataclass(frozen=True, eq=False)
class DerivedBoxes:
    """What ``derive_boxes`` finds in one mask.

    Touching objects of one class are one component and occluded ones may be several, so these are not
    instance boxes.

    Attributes:
        boxes: float32 (N, 4), ``xyxy`` in pixels; x2 and y2 are one past the component's last pixel.
        labels: int64 (N,), detection class ids.
        ignore_boxes: float32 (M, 4), ``xyxy`` of the components that are too small to count.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore_boxes: npt.NDArray[np.float32]


def extent(mask: npt.NDArray[Any]) -> tuple[int, int, int, int]:
    """The smallest ``xyxy`` box around what is not zero in (H, W), its end exclusive; all 0 for nothing."""
    # Not cv2.boundingRect, which in OpenCV 4.6 misses pixels of masks that are a few pixels wide.
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def derive_boxes(
    mask: npt.NDArray[np.uint8],
    to_detection: npt.NDArray[np.uint8],
    min_area: int = MIN_AREA,
    min_side: int = MIN_SIDE,
) -> DerivedBoxes:
    """Boxes of the 8-connected components of every class that has a box.

    Args:
        mask: uint8 (H, W), class ids of the source taxonomy.
        to_detection: uint8 (256,), the detection class id of each source id, 255 where it has no box.
        min_area: components with fewer pixels become ignore boxes.
        min_side: components whose bounding box is narrower or lower, in pixels, become ignore boxes.
    """
    detection = cv2.LUT(mask, to_detection)
    boxes: list[npt.NDArray[np.int32]] = []
    labels: list[npt.NDArray[np.int64]] = []
    ignored: list[npt.NDArray[np.int32]] = []
    for label in np.flatnonzero(np.bincount(to_detection[to_detection != IGNORE_INDEX], minlength=1)):
        of_class = detection == label
        left, top, right, bottom = extent(of_class)
        if left == right:
            continue
        region = of_class[top:bottom, left:right].view(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
        found = stats[1:, :4] + np.array([left, top, 0, 0], np.int32)
        found[:, 2:] += found[:, :2]
        sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].min(1)
        counts = (stats[1:, cv2.CC_STAT_AREA] >= min_area) & (sides >= min_side)
        boxes.append(found[counts])
        labels.append(np.full(int(counts.sum()), label, np.int64))
        ignored.append(found[~counts])
    no_boxes = np.zeros((0, 4), np.int32)
    return DerivedBoxes(
        boxes=np.concatenate([no_boxes, *boxes]).astype(np.float32),
        labels=np.concatenate([np.zeros(0, np.int64), *labels]),
        ignore_boxes=np.concatenate([no_boxes, *ignored]).astype(np.float32),
    )
