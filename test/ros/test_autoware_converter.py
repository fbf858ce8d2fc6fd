"""The converter as a process of its own: boxes in, Autoware's rois out, or a word about what is missing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from autoware_messages import HAS_MESSAGES, provide_autoware_messages
from ros_client import TIMEOUT, RosClient
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

MODULE = "pvt_mtl_perception.ros.autoware_converter"
REPOSITORY = Path(__file__).resolve().parents[2]
LISTENER = REPOSITORY / "test" / "rois_listener.py"
LABELS = REPOSITORY / "config" / "autoware" / "labels.yaml"
ROIS = "/perception/object_recognition/detection/rois"


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


def test_boxes_become_rois_of_their_camera(spawn: Any, pytestconfig: pytest.Config) -> None:
    provide_autoware_messages(spawn, pytestconfig)
    # As launch_ros does for autoware.launch.py.
    converter = spawn(
        *("-m", MODULE, "--ros-args", "-r", "__node:=autoware_converter", "-r", "__ns:=/perception/pvt_mtl"),
        *("-p", "cameras:=[front, left]", "-p", f"labels_file:={LABELS}", "-p", "use_sim_time:=false"),
        *("-r", f"front/rois:={ROIS}0", "-r", f"left/rois:={ROIS}1"),
    )
    client = RosClient(int(spawn.environment["ROS_DOMAIN_ID"]))
    try:
        publisher = client.node.create_publisher(Detection2DArray, "/perception/pvt_mtl/left/detections", 5)
        listener = spawn(LISTENER, f"{ROIS}1")
        wait_for_subscriptions(publisher, 1)
        assert client.node.count_subscribers("/perception/pvt_mtl/front/detections") == 0, "nobody listens"
        # Wider than a message has room for.
        publisher.publish(Detection2DArray(detections=[detection("car", 0.75, 50.0, 40.0, 1e300, 10.0)]))
        converter.wait_for("a message of left/detections failed", TIMEOUT)
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
        assert json.loads(listener.wait_for("^rois (.*)", TIMEOUT)[1]) == {
            "frame_id": "left_optical",
            "stamp": [12, 34],
            "objects": [
                {"roi": [40, 35, 20, 10], "existence_probability": 0.75, "classification": [[1, 0.75]]},
                {"roi": [0, 0, 15, 7], "existence_probability": 0.5, "classification": [[7, 0.5]]},
            ],
        }
        converter.wait_for("class 'zebra' is not in labels_file", TIMEOUT)
        assert listener.stop() == 0
        wait_for_subscriptions(publisher, 0)
    finally:
        client.close()
    converter.stop_cleanly()
