"""Run by ``launch_test``: nav2.launch.py, and the test calls what Nav2's lifecycle manager would call.

The manager is started with ``autostart:=false``, so that it leaves the node alone.
"""

from __future__ import annotations

import unittest

import launched
import pytest
from launch import LaunchDescription
from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_client import LATCHED, START_TIMEOUT
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

TOPIC = "/camera/color/image_raw"
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    return launched.under_test(
        "nav2",
        launched.python(launched.CAMERA, TOPIC),
        namespace="robot",
        image_topic=TOPIC,
        autostart="false",
    )


class TestLaunchedNode(unittest.TestCase):
    def test_the_manager_is_told_of_the_node_in_its_own_namespace(self) -> None:
        client = launched.client_for(self, "/robot/lifecycle_manager_perception")
        assert list(client.get_parameter("node_names")) == ["perception_node"]
        assert client.get_parameter("autostart") is False
        assert client.get_parameter("bond_timeout") == 0.0

    def test_the_node_waits_for_the_transitions_and_gives_what_a_costmap_reads(self) -> None:
        client = launched.client_for(self, "/robot/perception_node")
        names = {name: f"/robot/segmentation/{name}" for name in ("mask", "confidence", "label_info")}
        assert client.get_parameter("autostart") is False
        # A report a second: it has had the time to start itself, if it were to.
        for _ in range(3):
            client.node_values(lambda values: values["state"] == "unconfigured", START_TIMEOUT)
        assert client.state() == "unconfigured"
        assert all(client.node.count_publishers(name) == 0 for name in names.values())

        assert client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.state() == "inactive"
        masks = client.listen(Image, names["mask"], BEST_EFFORT)
        confidences = client.listen(Image, names["confidence"], BEST_EFFORT)
        assert client.change_state(Transition.TRANSITION_ACTIVATE)
        assert client.state() == "active"
        labels = client.listen(LabelInfo, names["label_info"], LATCHED)

        entries = {entry.class_id: entry.class_name for entry in labels.first().class_map}
        assert entries[0] == "road" and len(entries) == 19
        for message in (masks.first(), confidences.first()):
            assert message.header.frame_id == f"{TOPIC} optical"
            assert (message.encoding, message.width, message.height) == ("mono8", 200, 120)
        assert set(masks.first().data) <= set(entries)

        for transition, state in (
            (Transition.TRANSITION_DEACTIVATE, "inactive"),
            (Transition.TRANSITION_CLEANUP, "unconfigured"),
            (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, "finalized"),
        ):
            assert client.change_state(transition)
            assert client.state() == state


class TestEnd(launched.EndsCleanly):
    pass
