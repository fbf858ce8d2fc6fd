"""What config/nav2/semantic_costmap.yaml listens to is there, as the costmap layer wants it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_client import TIMEOUT, RosClient
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from pvt_mtl_perception.labels import load_label_set
from pvt_mtl_perception.paths import share_directory

COSTMAP = share_directory() / "config" / "nav2" / "semantic_costmap.yaml"
WIDTH, HEIGHT = 330, 190

# The layer's own subscriptions, kiwicampus/semantic_segmentation_layer/src/semantic_segmentation_layer.cpp.
SENSOR_DATA = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LABELS = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def camera_settings() -> dict[str, Any]:
    content = yaml.safe_load(COSTMAP.read_text())
    settings: dict[str, Any] = content["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_layer"]
    return settings["camera"]


@pytest.fixture(scope="module")
def node(start_node: Any, start_camera: Any, client: RosClient, checkpoint: Path) -> Iterator[Any]:
    start_camera("image", "--size", f"{WIDTH}x{HEIGHT}", "--rate", "10")
    process = start_node(model_path=checkpoint, device="cpu", input_size="[96, 160]")
    client.wait_for_state("active")
    yield process
    process.stop_cleanly(TIMEOUT)


def test_every_class_has_a_cost_in_one_group() -> None:
    camera = camera_settings()
    classes = [name for group in camera["class_types"] for name in camera[group]["classes"]]
    assert sorted(classes) == sorted(load_label_set("driving_segmentation").names)
    for group in camera["class_types"]:
        assert 0 <= camera[group]["base_cost"] <= camera[group]["max_cost"] <= 254
        assert 0 <= camera[group].get("mark_confidence", 0) <= 255


@pytest.mark.usefixtures("node")
def test_a_layer_that_comes_late_gets_labels_before_masks_with_their_confidence(client: RosClient) -> None:
    camera = camera_settings()
    masks = client.listen(Image, camera["segmentation_topic"], SENSOR_DATA)
    confidences = client.listen(Image, camera["confidence_topic"], SENSOR_DATA)
    labels = client.listen(LabelInfo, camera["labels_topic"], LABELS)

    names = {entry.class_id: entry.class_name for entry in labels.first().class_map}
    masks_before_labels = len(masks.messages)
    masks.wait_for()
    confidences.wait_for()
    client.forget(masks, confidences, labels)

    assert names == dict(enumerate(load_label_set("driving_segmentation").names))
    assert masks_before_labels == 0
    stamped = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in masks.messages}
    pairs = [
        (stamped[key], confidence)
        for confidence in confidences.messages
        if (key := (confidence.header.stamp.sec, confidence.header.stamp.nanosec)) in stamped
    ]
    assert pairs, "no confidence has the stamp of a mask"
    for mask, confidence in pairs:
        for message in (mask, confidence):
            # The layer indexes data by row * width + column and so knows no padding.
            assert (message.encoding, message.width, message.height) == ("mono8", WIDTH, HEIGHT)
            assert (message.step, len(message.data)) == (WIDTH, WIDTH * HEIGHT)
            assert message.header == mask.header
        assert set(np.unique(np.frombuffer(mask.data, np.uint8)).tolist()) <= set(names)
        # The probability of the best of 19 classes is at least 1/19, of 255.
        assert np.frombuffer(confidence.data, np.uint8).min() >= 255 // 19
