"""Run by ``launch_test``: carla.launch.py on what each of CARLA's interfaces publishes."""

from __future__ import annotations

import unittest
from pathlib import Path

import launch_testing
import launched
import pytest
from carla_cameras import HEIGHT, WIDTH
from carla_messages import FIRST_STAMP, PERIOD
from launch import LaunchDescription
from ros_client import LATCHED, START_TIMEOUT
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

CAMERAS = Path(__file__).with_name("carla_cameras.py")


def image_topic(ego: str, camera: str, image: str) -> str:
    return f"/carla/{ego}/{camera}/{image}"


# Builds of the native interface exist that say image_raw.
@pytest.mark.launch_test
@launch_testing.parametrize(
    "interface, ego, cameras, image",
    [
        ("bridge", "ego_vehicle", ("rgb_front", "rgb_left"), "image"),
        ("native", "hero", ("rgb_front",), "image_raw"),
    ],
)
def generate_test_description(
    interface: str, ego: str, cameras: tuple[str, ...], image: str
) -> LaunchDescription:
    topics = [image_topic(ego, camera, image) for camera in cameras]
    # Only what is not the default.
    others = {"ego": ego, "image_topic": "/carla/{ego}/{camera}/image_raw"} if interface == "native" else {}
    return launched.under_test(
        "carla",
        launched.python(CAMERAS, interface, *topics),
        interface=interface,
        cameras=",".join(cameras),
        **others,
    )


class TestLaunchedNode(unittest.TestCase):
    def test_results_come_out_beside_the_images(
        self, interface: str, ego: str, cameras: tuple[str, ...], image: str
    ) -> None:
        client = launched.client_for(self, f"/carla/{ego}/perception_node")
        found = {
            camera: (
                client.listen(Detection2DArray, f"/carla/{ego}/{camera}/detections"),
                client.listen(Image, f"/carla/{ego}/{camera}/segmentation/mask"),
                client.listen(LabelInfo, f"/carla/{ego}/{camera}/segmentation/label_info", LATCHED),
            )
            for camera in cameras
        }
        for camera, (detections, masks, labels) in found.items():
            mask = masks.first(START_TIMEOUT)
            frame_id = f"{ego}/{camera}" if interface == "bridge" else camera
            for header in (mask.header, detections.first().header):
                since = header.stamp.sec * 10**9 + header.stamp.nanosec - FIRST_STAMP
                assert since >= 0 and since % PERIOD == 0, header
                assert header.frame_id == frame_id
            assert (mask.encoding, mask.width, mask.height) == ("mono8", WIDTH, HEIGHT)
            assert labels.first().class_map[0].class_name == "road"

    def test_the_node_goes_by_the_simulators_clock(
        self, ego: str, cameras: tuple[str, ...], image: str
    ) -> None:
        client = launched.client_for(self, f"/carla/{ego}/perception_node")
        client.listen(Detection2DArray, f"/carla/{ego}/{cameras[0]}/detections")
        # Against any other clock these stamps have no age.
        values = client.camera_values(
            image_topic(ego, cameras[0], image),
            lambda values: bool(values["stamp age p50 [ms]"]),
            START_TIMEOUT,
        )
        assert values["image"] == f"{WIDTH}x{HEIGHT} bgra8"
        assert client.get_parameter("use_sim_time") is True


class TestEnd(launched.EndsCleanly):
    pass
