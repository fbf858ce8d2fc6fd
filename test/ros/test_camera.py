"""What a camera of the node does for those who listen to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode
from ros_client import TIMEOUT, RosClient
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Classification

from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.ros.camera import CLASSIFICATION, OVERLAY, Camera


@pytest.fixture(scope="module")
def predictor(checkpoint: Any) -> Predictor:
    return Predictor(checkpoint, device="cpu", backend="eager")


@pytest.fixture
def camera(client: RosClient, predictor: Predictor) -> Iterator[Camera]:
    """A camera whose topics are active."""
    node = LifecycleNode("owner_of_the_camera", context=client.context)
    node.trigger_configure()
    camera = Camera(node, "front", predictor.labels, predictor.tasks)
    node.trigger_activate()
    yield camera
    camera.destroy_publishers()
    node.destroy_node()


def wait_until_wanted(camera: Camera, outputs: set[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while camera.wanted() != outputs:
        assert time.monotonic() < deadline, camera.wanted()
        time.sleep(0.02)


def test_an_overlay_is_drawn_only_while_somebody_watches(
    camera: Camera, client: RosClient, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: Any) -> Any:
        raise AssertionError("an overlay is drawn")

    monkeypatch.setattr("pvt_mtl_perception.ros.camera.draw_overlay", draw)
    image = np.zeros((60, 90, 3), np.uint8)
    (result,) = predictor.predict([image])
    classification = client.listen(Classification, "/front/classification")
    wait_until_wanted(camera, {CLASSIFICATION})
    header = Header(frame_id="front optical")
    camera.publish(header, image, result, camera.wanted(), 0.5)
    assert classification.first().header == header

    overlay = client.listen(Image, "/front/overlay")
    wait_until_wanted(camera, {CLASSIFICATION, OVERLAY})
    with pytest.raises(AssertionError, match="an overlay is drawn"):
        camera.publish(header, image, result, camera.wanted(), 0.5)
    client.forget(classification, overlay)
