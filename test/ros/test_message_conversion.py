from __future__ import annotations

import numpy as np
from std_msgs.msg import Header

from pvt_mtl_perception.labels import LabelSet, load_label_set
from pvt_mtl_perception.result import Classification, Detections
from pvt_mtl_perception.ros.message_conversion import (
    MAX_HYPOTHESES,
    classification_message,
    detections_message,
    label_info_message,
)


def header() -> Header:
    message = Header(frame_id="front optical")
    message.stamp.sec, message.stamp.nanosec = 1_700_000_000, 123_456_789
    return message


def test_a_detection_carries_box_class_name_score_and_header() -> None:
    labels = load_label_set("driving_detection")
    detections = Detections(
        boxes=np.array([[10, 20, 50, 40], [0, 0, 3.5, 100]], np.float32),
        scores=np.array([0.75, 0.25], np.float32),
        labels=np.array([2, 0]),
    )
    message = detections_message(header(), detections, labels)
    assert message.header == header()
    first, second = message.detections
    assert [len(d.results) for d in message.detections] == [1, 1]
    assert first.header == second.header == header()
    assert first.results[0].hypothesis.class_id == labels.names[2]
    assert second.results[0].hypothesis.class_id == labels.names[0]
    assert (first.results[0].hypothesis.score, second.results[0].hypothesis.score) == (0.75, 0.25)
    center = first.bbox.center
    assert (center.position.x, center.position.y, center.theta) == (30.0, 30.0, 0.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (40.0, 20.0)
    assert (second.bbox.center.position.x, second.bbox.size_x) == (1.75, 3.5)


def test_no_boxes_are_an_empty_array_with_the_header() -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    message = detections_message(header(), nothing, load_label_set("driving_detection"))
    assert message.header == header()
    assert message.detections == []


def test_classes_are_named_by_group_and_sorted_within_it() -> None:
    groups = {
        "weather": LabelSet("w", ("clear", "rainy", "snowy"), ((0, 0, 0),) * 3),
        "timeofday": LabelSet("t", ("day", "night"), ((0, 0, 0),) * 2),
    }
    classification = Classification(
        {
            "timeofday": np.array([0.125, 0.875], np.float32),
            "weather": np.array([0.25, 0.5, 0.25], np.float32),
        }
    )
    message = classification_message(header(), classification, groups)
    assert message.header == header()
    assert [(r.class_id, r.score) for r in message.results] == [
        ("weather/rainy", 0.5),
        ("weather/clear", 0.25),
        ("weather/snowy", 0.25),
        ("timeofday/night", 0.875),
        ("timeofday/day", 0.125),
    ]


def test_of_a_large_group_only_the_best_classes_are_published() -> None:
    count = 1000
    groups = {"imagenet": LabelSet("i", tuple(f"c{i}" for i in range(count)), ((0, 0, 0),) * count)}
    probabilities = np.random.default_rng(0).dirichlet(np.ones(count)).astype(np.float32)
    message = classification_message(header(), Classification({"imagenet": probabilities}), groups)
    best = np.argsort(probabilities)[::-1][:MAX_HYPOTHESES]
    assert [r.class_id for r in message.results] == [f"imagenet/c{i}" for i in best]


def test_label_info_lists_the_ids_of_the_mask() -> None:
    labels = load_label_set("driving_segmentation")
    message = label_info_message(header(), labels)
    assert message.header == header()
    assert {c.class_id: c.class_name for c in message.class_map} == dict(enumerate(labels.names))
    assert message.threshold == 0.0
