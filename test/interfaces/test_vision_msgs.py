"""The vision_msgs in use are wire compatible with the released ones, whoever built them."""

from __future__ import annotations

import importlib
import json
import sysconfig
from pathlib import Path

import pytest
from vision_msgs_hashes import RELEASED_HASHES

rclpy = pytest.importorskip("rclpy")

# Prints the hash that the compiled type support announces to other participants.
ANNOUNCE = """
import rclpy, vision_msgs.msg
rclpy.init()
node = rclpy.create_node("announce")
for name in {names}:
    publisher = node.create_publisher(getattr(vision_msgs.msg, name), name.lower(), 1)
    info, = node.get_publishers_info_by_topic(publisher.topic_name)
    print("HASH", name, info.topic_type, info.topic_type_hash, flush=True)
node.destroy_node()
rclpy.shutdown()
"""

SUBSCRIBE = """
import rclpy
from rclpy.serialization import serialize_message
from vision_msgs.msg import Detection2DArray
rclpy.init()
node = rclpy.create_node("subscriber")
received = []
node.create_subscription(Detection2DArray, "detections", received.append, 1)
print("READY", flush=True)
while not received:
    rclpy.spin_once(node, timeout_sec=1.0)
message, = received
print("HEADER", message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec)
for detection in message.detections:
    box = detection.bbox
    print("DETECTION", detection.id, box.center.position.x, box.center.position.y, box.center.theta,
          box.size_x, box.size_y,
          [(r.hypothesis.class_id, r.hypothesis.score, r.pose.pose.position.z, float(r.pose.covariance[35]))
           for r in detection.results], flush=True)
node.destroy_node()
rclpy.shutdown()
"""

PUBLISH = """
import rclpy
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
rclpy.init()
node = rclpy.create_node("publisher")
publisher = node.create_publisher(Detection2DArray, "detections", 1)
message = Detection2DArray()
message.header.frame_id = "camera_optical"
message.header.stamp.sec, message.header.stamp.nanosec = 1700000000, 123456789
for index, name in enumerate(["pedestrian", "car"]):
    detection = Detection2D(id=f"track-{index}")
    detection.bbox.center.position.x, detection.bbox.center.position.y = 10.5 + index, 20.25
    detection.bbox.center.theta = 0.0
    detection.bbox.size_x, detection.bbox.size_y = 64.0, 32.0
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = name, 0.75
    hypothesis.pose.pose.position.z = 3.5
    hypothesis.pose.covariance[35] = 0.125
    detection.results.append(hypothesis)
    message.detections.append(detection)
while not publisher.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.1)
publisher.publish(message)
publisher.wait_for_all_acked()
node.destroy_node()
rclpy.shutdown()
"""


def test_type_support_announces_the_released_hashes(spawn):
    child = spawn("-c", ANNOUNCE.format(names=sorted(RELEASED_HASHES)))
    assert child.wait(60) == 0, child.output

    announced = {
        name: (type_name, type_hash)
        for marker, name, type_name, type_hash in (
            line.split() for line in child.lines if line.startswith("HASH")
        )
    }

    assert announced == {
        name: (f"vision_msgs/msg/{name}", f"RIHS01_{digest}") for name, digest in RELEASED_HASHES.items()
    }


def test_installed_type_descriptions_hold_the_released_hashes():
    folder = Path(sysconfig.get_path("data")) / "share" / "vision_msgs" / "msg"
    if not folder.is_dir():
        pytest.skip("vision_msgs comes from a ROS installation")

    installed = {}
    for name in RELEASED_HASHES:
        description = json.loads((folder / f"{name}.json").read_text())
        installed[name] = {entry["type_name"]: entry["hash_string"] for entry in description["type_hashes"]}[
            f"vision_msgs/msg/{name}"
        ]

    assert installed == {name: f"RIHS01_{digest}" for name, digest in RELEASED_HASHES.items()}


def test_detections_arrive_whole_in_another_process(spawn):
    subscriber = spawn("-c", SUBSCRIBE)
    subscriber.wait_for("READY")
    publisher = spawn("-c", PUBLISH)

    assert publisher.wait(60) == 0, publisher.output
    assert subscriber.wait(60) == 0, subscriber.output

    assert subscriber.lines[1:] == [
        "HEADER camera_optical 1700000000 123456789",
        "DETECTION track-0 10.5 20.25 0.0 64.0 32.0 [('pedestrian', 0.75, 3.5, 0.125)]",
        "DETECTION track-1 11.5 20.25 0.0 64.0 32.0 [('car', 0.75, 3.5, 0.125)]",
    ]


def test_no_message_beyond_the_checked_ones_is_built():
    module = importlib.import_module("vision_msgs.msg")
    if Path(sysconfig.get_path("data")) not in Path(module.__file__).parents:
        pytest.skip("vision_msgs comes from a ROS installation")

    built = {name for name in vars(module) if name[0].isupper()}

    assert built == set(RELEASED_HASHES)
