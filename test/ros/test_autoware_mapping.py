"""Boxes become Autoware's regions and labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

from pvt_mtl_perception.labels import load_label_set
from pvt_mtl_perception.paths import share_directory
from pvt_mtl_perception.ros.autoware_mapping import (
    MappedObject,
    Roi,
    load_labels,
    map_detections,
    region_of_interest,
)

SHIPPED = share_directory() / "config" / "autoware" / "labels.yaml"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((50.0, 40.0, 20.0, 10.0), Roi(40, 35, 20, 10)),
        # 9.6..30.5 and 19.4..30.4: edges are rounded, not the size.
        ((20.05, 24.9, 20.9, 11.0), Roi(10, 19, 20, 11)),
        # Out at the left and at the top: cut off there, the far edges stay.
        ((5.0, 2.0, 20.0, 10.0), Roi(0, 0, 15, 7)),
        # The whole of a 1600x900 image.
        ((800.0, 450.0, 1600.0, 900.0), Roi(0, 0, 1600, 900)),
        # Nothing left.
        ((-20.0, 10.0, 10.0, 10.0), None),
        ((10.0, 10.0, 0.4, 10.0), None),
        ((10.0, 10.0, 5.0, 0.0), None),
        ((10.0, math.nan, 5.0, 5.0), None),
        ((10.0, 10.0, math.inf, 5.0), None),
    ],
)
def test_edges_are_rounded_and_cut_off(box: tuple[float, ...], expected: Roi | None) -> None:
    assert region_of_interest(*box) == expected


def test_every_driving_class_has_its_label() -> None:
    labels = load_labels(SHIPPED)
    names = load_label_set("driving_detection").names
    assert {name: labels[name] for name in names} == {
        "pedestrian": 7,
        "rider": 7,
        "car": 1,
        "truck": 2,
        "bus": 3,
        "train": 0,
        "motorcycle": 5,
        "bicycle": 6,
        "traffic light": None,
        "traffic sign": None,
    }


def test_wrong_label_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("labels: {car: AUTO}")
    with pytest.raises(ValueError, match=r"mine\.yaml: 'car' is to be 'AUTO'; allowed: UNKNOWN, CAR"):
        load_labels(file)
    file.write_text("labels: {car: [CAR]}")
    with pytest.raises(ValueError, match=r"mine\.yaml: 'car' is to be \['CAR'\]"):
        load_labels(file)
    file.write_text("labels: {car: [")
    with pytest.raises(ValueError, match=r"mine\.yaml is no YAML"):
        load_labels(file)
    file.write_text("car: CAR")
    with pytest.raises(ValueError, match=r"mine\.yaml has no `labels:`"):
        load_labels(file)
    with pytest.raises(FileNotFoundError):
        load_labels(tmp_path / "none.yaml")


def detection(hypotheses: dict[str, float], *box: float) -> Detection2D:
    message = Detection2D(results=[ObjectHypothesisWithPose() for _ in hypotheses])
    for result, (name, score) in zip(message.results, hypotheses.items(), strict=True):
        result.hypothesis.class_id, result.hypothesis.score = name, score
    center, bbox = message.bbox.center.position, message.bbox
    center.x, center.y, bbox.size_x, bbox.size_y = box
    return message


def test_detections_become_objects_with_their_best_label_in_their_order() -> None:
    box = (50.0, 40.0, 20.0, 10.0)
    detections = [
        detection({"truck": 0.25, "car": 0.75}, *box),
        detection({"traffic light": 0.9}, *box),
        detection({"zebra": 0.9}, *box),
        detection({}, *box),
        detection({"car": 0.9}, -20.0, 10.0, 10.0, 10.0),
        detection({"rider": 0.5}, 5.0, 2.0, 20.0, 10.0),
    ]
    objects, unlisted = map_detections(detections, load_labels(SHIPPED))
    assert objects == [MappedObject(1, 0.75, Roi(40, 35, 20, 10)), MappedObject(7, 0.5, Roi(0, 0, 15, 7))]
    assert unlisted == {"zebra"}
    assert map_detections([], {}) == ([], set())
