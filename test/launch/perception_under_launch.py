"""Run by ``launch_test``: perception.launch.py with a camera, and the test as subscriber."""

from __future__ import annotations

import unittest

import launched
import pytest
from launch import LaunchDescription
from ros_client import START_TIMEOUT
from vision_msgs.msg import Detection2DArray


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    return launched.under_test(
        "perception",
        launched.python(launched.CAMERA, "/sensing/front/image_raw/compressed", "--encoding", "jpeg"),
        namespace="robot",
        cameras="front",
        image_topic="/sensing/{camera}/image_raw",
        image_transport="compressed",
    )


class TestLaunchedNode(unittest.TestCase):
    def test_results_come_out_under_namespace_and_camera(self) -> None:
        client = launched.client_for(self, "/robot/perception_node")
        message = client.listen(Detection2DArray, "/robot/front/detections").first(START_TIMEOUT)
        assert message.header.frame_id == "/sensing/front/image_raw optical"
        assert client.get_parameter("device") == "cpu"
        assert client.get_parameter("score_threshold") == 0.35


class TestEnd(launched.EndsCleanly):
    pass
