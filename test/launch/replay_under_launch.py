"""Run by ``launch_test``: replay.launch.py plays a ROS 1 bag of two cameras for ever."""

from __future__ import annotations

import os
import unittest

import launched
import pytest
from bag_files import FRAME_ID, stamp
from launch import LaunchDescription
from ros_client import START_TIMEOUT, Listener
from vision_msgs.msg import Detection2DArray

FRAMES = 6
"""In the bag."""

TOPIC = "/rig/{camera}/image_raw"
CAMERAS = ("front", "left")


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    return launched.under_test(
        "replay",
        bag=os.environ["TEST_BAG"],
        cameras=",".join(CAMERAS),
        image_topic=TOPIC,
        image_transport="raw",
        loop="true",
        rate=0.5,
    )


def stamps(listener: Listener) -> list[int]:
    headers = [message.header for message in listener.messages]
    return [header.stamp.sec * 10**9 + header.stamp.nanosec for header in headers]


class TestLaunchedNode(unittest.TestCase):
    def test_the_bag_begins_again_after_its_end(self) -> None:
        client = launched.client_for(self, "/perception_node")
        for listener in [client.listen(Detection2DArray, f"/{camera}/detections") for camera in CAMERAS]:
            header = listener.first(START_TIMEOUT).header
            assert header.frame_id == FRAME_ID
            # Images of the second round have the stamps of the first.
            listener.wait_for(lambda _, listener=listener: stamps(listener) != sorted(stamps(listener)))
            assert set(stamps(listener)) <= {stamp(index) for index in range(FRAMES)}


class TestEnd(launched.EndsCleanly):
    pass
