"""Detections in Autoware's terms: label numbers and integer regions of interest, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

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
        None where no pixel is left.
    """
    left, right = (max(0, round(center_x + half)) for half in (-size_x / 2, size_x / 2))
    top, bottom = (max(0, round(center_y + half)) for half in (-size_y / 2, size_y / 2))
    if right <= left or bottom <= top:
        return None
    return Roi(left, top, right - left, bottom - top)


def load_labels(path: str | Path) -> dict[str, int | None]:
    """For each class name Autoware's label number, or None where the class is left out.

    Args:
        path: a file like ``config/autoware/labels.yaml``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a label that Autoware does not have, naming file and class.
    """
    content = yaml.safe_load(Path(path).read_text())
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ValueError(f"{path} has no `labels:` with class names and Autoware's labels")
    for name, label in entries.items():
        if label is not None and label not in AUTOWARE_LABELS:
            raise ValueError(
                f"{path}: {name!r} is to be {label!r}; allowed: {', '.join(AUTOWARE_LABELS)}, or null"
            )
    return {str(name): None if label is None else AUTOWARE_LABELS[label] for name, label in entries.items()}
