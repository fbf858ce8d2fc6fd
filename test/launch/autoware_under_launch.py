"""Run by ``launch_test``: autoware.launch.py on two cameras with Autoware's topic names."""

from __future__ import annotations

import unittest
from typing import Any

import launched
import pytest
from autoware_messages import HAS_MESSAGES
from launch import LaunchDescription
from ros_client import START_TIMEOUT, TIMEOUT
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

TOPICS = [f"/sensing/camera/camera{index}/image_raw" for index in range(2)]


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    return launched.under_test(
        "autoware",
        launched.python(launched.CAMERA, *TOPICS),
        cameras="camera0,camera1",
        log_level="warn",
    )


class TestLaunchedNodes(unittest.TestCase):
    def test_results_of_every_camera_come_out_in_autowares_namespace(self) -> None:
        client = launched.client_for(self, "/perception/pvt_mtl/perception_node")
        for index, topic in enumerate(TOPICS):
            prefix = f"/perception/pvt_mtl/camera{index}"
            detections = client.listen(Detection2DArray, f"{prefix}/detections")
            masks = client.listen(Image, f"{prefix}/segmentation/mask")
            assert detections.first(START_TIMEOUT).header.frame_id == f"{topic} optical"
            assert masks.first().header.frame_id == f"{topic} optical"

    @unittest.skipIf(HAS_MESSAGES, "tier4_perception_msgs is installed")
    def test_the_converter_says_what_it_lacks(self, proc_output: Any) -> None:
        proc_output.assertWaitFor("tier4_perception_msgs is not installed", timeout=TIMEOUT, stream="stderr")

    @unittest.skipUnless(HAS_MESSAGES, "tier4_perception_msgs comes with an Autoware workspace")
    def test_boxes_become_rois_on_autowares_topics(self) -> None:
        from tier4_perception_msgs.msg import DetectedObjectsWithFeature

        client = launched.client_for(self, "/perception/pvt_mtl/perception_node")
        for index, topic in enumerate(TOPICS):
            rois = client.listen(
                DetectedObjectsWithFeature, f"/perception/object_recognition/detection/rois{index}"
            )
            message = rois.wait_for(lambda message: bool(message.feature_objects), START_TIMEOUT)
            assert message.header.frame_id == f"{topic} optical"


class TestEnd(launched.EndsCleanly):
    statuses = {} if HAS_MESSAGES else {"autoware_converter": 1}
