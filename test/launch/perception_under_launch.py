"""Run by ``launch_test``: perception.launch.py with a camera, and the test as subscriber."""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path
from typing import Any

import launch_testing
import pytest
from launch import LaunchDescription
from launch.actions import ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from ros_client import START_TIMEOUT, RosClient
from vision_msgs.msg import Detection2DArray

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = {
    "namespace": "robot",
    "model_path": os.environ["TEST_CHECKPOINT"],
    "device": "cpu",
    "cameras": "front",
    "image_topic": "/sensing/{camera}/image_raw",
    "image_transport": "compressed",
    "log_level": "info",
}


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    camera = [
        sys.executable,
        str(REPOSITORY / "test" / "ros_camera.py"),
        "/sensing/front/image_raw/compressed",
        "--encoding",
        "jpeg",
    ]
    source = PythonLaunchDescriptionSource(str(REPOSITORY / "launch" / "perception.launch.py"))
    return LaunchDescription(
        [
            ExecuteProcess(cmd=camera),
            IncludeLaunchDescription(source, launch_arguments=ARGUMENTS.items()),
            ReadyToTest(),
        ]
    )


class TestLaunchedNode(unittest.TestCase):
    def test_results_come_out_under_namespace_and_camera(self) -> None:
        client = RosClient(int(os.environ["ROS_DOMAIN_ID"]), "/robot/perception_node")
        try:
            detections = client.listen(Detection2DArray, "/robot/front/detections")
            message = detections.wait_for(timeout=START_TIMEOUT)
            assert message.header.frame_id == "/sensing/front/image_raw optical"
            assert client.get_parameter("device") == "cpu"
            assert client.get_parameter("score_threshold") == 0.3
        finally:
            client.close()


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    def test_every_process_ends_cleanly(self, proc_info: Any, proc_output: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
        for output in proc_output:
            assert "Traceback" not in output.text.decode()
