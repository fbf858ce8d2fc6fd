"""Detections in Autoware's terms: label numbers and integer regions of interest, without ROS itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_mtl_perception.paths import read_yaml

# autoware_perception_msgs/msg/ObjectClassification; the first eight are as they were in its predecessor.
AUTOWARE_LABELS: Mapping[str, int] = {
    "UNKNOWN": 0,
    "CAR": 1,
    "TRUCK": 2,
    "BUS": 3,
    "TRAILER": 4,
    "MOTORCYCLE": 5,
    "BICYCLE": 6,
    "PEDESTRIAN": 7,
    "ANIMAL": 8,
    "HAZARD": 9,
}


@dataclass(frozen=True)
class Roi:
    """A sensor_msgs/RegionOfInterest: whole pixels of the source image, none of them negative."""

    x_offset: int
    y_offset: int
    width: int
    height: int


def region_of_interest(center_x: float, center_y: float, size_x: float, size_y: float) -> Roi | None:
    """The pixels that a box covers.

    Its edges are rounded to the nearest pixel edge and cut off at the image's left and top; the right and
    bottom of the node's boxes lie inside the image already.

    Args:
        center_x, center_y, size_x, size_y: of a vision_msgs/BoundingBox2D, in pixels.

    Returns:
        None where no pixel is left, or a number is none.
    """
    if not all(map(math.isfinite, (center_x, center_y, size_x, size_y))):
        return None
    left, right = (max(0, round(center_x + half)) for half in (-size_x / 2, size_x / 2))
    top, bottom = (max(0, round(center_y + half)) for half in (-size_y / 2, size_y / 2))
    if right <= left or bottom <= top:
        return None
    return Roi(left, top, right - left, bottom - top)


@dataclass(frozen=True)
class MappedObject:
    """One box in Autoware's terms.

    Attributes:
        label: number in ``AUTOWARE_LABELS``.
        probability: of the label and of the object's existence, 0..1.
        roi: its pixels.
    """

    label: int
    probability: float
    roi: Roi


def map_detections(
    detections: Iterable[Any], labels: Mapping[str, int | None]
) -> tuple[list[MappedObject], set[str]]:
    """The boxes that have a label in Autoware, in their order.

    Args:
        detections: vision_msgs/Detection2D; the hypothesis with the highest score counts, and a detection
            without any is left out.
        labels: from ``load_labels``.

    Returns:
        The objects, and the classes that ``labels`` lacks, whose boxes are left out.
    """
    objects, unlisted = [], set()
    for detection in detections:
        if not detection.results:
            continue
        best = max((result.hypothesis for result in detection.results), key=lambda item: item.score)
        if best.class_id not in labels:
            unlisted.add(best.class_id)
        label, box = labels.get(best.class_id), detection.bbox
        roi = region_of_interest(box.center.position.x, box.center.position.y, box.size_x, box.size_y)
        if label is not None and roi is not None:
            objects.append(MappedObject(label, best.score, roi))
    return objects, unlisted


def load_labels(path: str | Path) -> dict[str, int | None]:
    """For each class name Autoware's label number, or None where the class is left out.

    Args:
        path: a file like ``config/autoware/labels.yaml``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is no YAML, and for a label that Autoware does not have, naming file and
            class.
    """
    content = read_yaml(Path(path))
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ValueError(f"{path} has no `labels:` with class names and Autoware's labels")
    for name, label in entries.items():
        if label is not None and (not isinstance(label, str) or label not in AUTOWARE_LABELS):
            raise ValueError(
                f"{path}: {name!r} is to be {label!r}; allowed: {', '.join(AUTOWARE_LABELS)}, or null"
            )
    return {str(name): None if label is None else AUTOWARE_LABELS[label] for name, label in entries.items()}
