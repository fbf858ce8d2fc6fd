"""The converter as a process of its own: boxes in, Autoware's rois out, or a word about what is missing."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import pytest
from ros_client import TIMEOUT, RosClient
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

MODULE = "pvt_mtl_perception.ros.autoware_converter"
HAS_MESSAGES = importlib.util.find_spec("tier4_perception_msgs") is not None


@pytest.mark.skipif(HAS_MESSAGES, reason="tier4_perception_msgs is installed")
def test_without_autowares_messages_it_says_so_and_ends(spawn: Any) -> None:
    converter = spawn("-m", MODULE)
    assert converter.wait(60) == 1
    assert "tier4_perception_msgs is not installed" in converter.output
    assert "source the Autoware workspace first" in converter.output
    assert "Traceback" not in converter.output


def wait_for_subscriptions(publisher: Any, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while publisher.get_subscription_count() != count:
        assert time.monotonic() < deadline, f"{publisher.topic_name} has no {count} subscriptions"
        time.sleep(0.02)


def detection(name: str, score: float, *box: float) -> Detection2D:
    item = Detection2D(results=[ObjectHypothesisWithPose()])
    item.results[0].hypothesis.class_id = name
    item.results[0].hypothesis.score = score
    item.bbox.center.position.x, item.bbox.center.position.y, item.bbox.size_x, item.bbox.size_y = box
    return item


@pytest.mark.skipif(not HAS_MESSAGES, reason="tier4_perception_msgs comes with an Autoware workspace")
def test_boxes_become_rois_of_their_camera(spawn: Any) -> None:
    from tier4_perception_msgs.msg import DetectedObjectsWithFeature

    converter = spawn(
        *("-m", MODULE, "--ros-args", "-p", "cameras:=[front, left]"),
        *("-r", "front/rois:=/rois0", "-r", "left/rois:=/rois1"),
    )
    client = RosClient(int(spawn.environment["ROS_DOMAIN_ID"]))
    try:
        publisher = client.node.create_publisher(Detection2DArray, "/left/detections", 5)
        listener = client.listen(DetectedObjectsWithFeature, "/rois1")
        wait_for_subscriptions(publisher, 1)
        assert client.node.count_subscribers("/front/detections") == 0, "nobody listens to /rois0"
        message = Detection2DArray()
        message.header.stamp.sec, message.header.stamp.nanosec = 12, 34
        message.header.frame_id = "left_optical"
        message.detections = [
            detection("car", 0.75, 50.0, 40.0, 20.0, 10.0),
            detection("traffic light", 0.9, 50.0, 40.0, 20.0, 10.0),
            detection("zebra", 0.9, 50.0, 40.0, 20.0, 10.0),
            detection("rider", 0.5, 5.0, 2.0, 20.0, 10.0),
        ]
        publisher.publish(message)
        found = listener.first()
        assert found.header == message.header
        rois = [item.feature.roi for item in found.feature_objects]
        assert [(roi.x_offset, roi.y_offset, roi.width, roi.height) for roi in rois] == [
            (40, 35, 20, 10),
            (0, 0, 15, 7),
        ]
        objects = [item.object for item in found.feature_objects]
        assert [item.existence_probability for item in objects] == [0.75, 0.5]
        assert [[(entry.label, entry.probability) for entry in item.classification] for item in objects] == [
            [(1, 0.75)],
            [(7, 0.5)],
        ]
        converter.wait_for("class 'zebra' is not in labels_file", TIMEOUT)
        client.forget(listener)
        wait_for_subscriptions(publisher, 0)
    finally:
        client.close()
    assert converter.stop() == 0
    assert "Traceback" not in converter.output
