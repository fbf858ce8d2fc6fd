"""Two cameras with compressed images and one node, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_camera import payload, picture
from ros_client import LATCHED, TIMEOUT, RosClient
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Classification, LabelInfo

from pvt_mtl_perception.inference.predictor import Predictor

WIDTH, HEIGHT = 320, 180


@pytest.fixture(scope="module", autouse=True)
def node(start_node: Any, start_camera: Any, client: RosClient, checkpoint: Path) -> Iterator[Any]:
    """A reliable publisher, which the best-effort subscription fits too, faster than the node can follow."""
    start_camera(
        "front/image/compressed", "left/image/compressed",
        "--encoding", "png", "--reliable", "--size", f"{WIDTH}x{HEIGHT}", "--rate", "50",
    )  # fmt: skip
    process = start_node(
        model_path=checkpoint,
        device="cpu",
        cameras="['front', 'left']",
        image_transport="compressed",
        input_size="[256, 448]",
    )
    client.wait_for_state("active")
    yield process
    process.stop_cleanly(TIMEOUT)


def test_cameras_share_batches_and_keep_their_topics_and_headers(client: RosClient) -> None:
    listeners = {name: client.listen(Classification, f"/{name}/classification") for name in ("front", "left")}

    def batches_of_two(values: Any) -> bool:
        return any(
            pair.startswith("2: ") and int(pair[3:]) >= 3 for pair in values["batches by size"].split(", ")
        )

    client.node_values(batches_of_two)
    for name, listener in listeners.items():
        assert listener.wait_for().header.frame_id == f"{name}/image optical"
    client.forget(*listeners.values())


def test_a_compressed_frame_gives_what_the_predictor_gives(client: RosClient, checkpoint: Path) -> None:
    listener = client.listen(Image, "/left/segmentation/mask")
    message = listener.wait_for()
    client.forget(listener)
    mask = np.frombuffer(message.data, np.uint8).reshape(HEIGHT, WIDTH)
    predictor = Predictor(checkpoint, device="cpu", input_size=(256, 448), backend="auto")
    (result,) = predictor.predict([picture(message.header.stamp.sec, WIDTH, HEIGHT)], ["segmentation"])
    assert result.segmentation is not None
    assert np.mean(mask == result.segmentation.mask) > 0.999


def test_each_camera_has_its_label_info_and_diagnostics(client: RosClient) -> None:
    for name in ("front", "left"):
        listener = client.listen(LabelInfo, f"/{name}/segmentation/label_info", LATCHED)
        assert len(listener.first().class_map) == 19
        client.forget(listener)
        values = client.camera_values(f"/{name}/image/compressed")
        assert values["image"] == f"{WIDTH}x{HEIGHT} bgr8; png compressed bgr8"


def test_only_the_camera_that_is_listened_to_is_processed(client: RosClient) -> None:
    client.camera_values("/left/image/compressed", lambda values: values["subscribed outputs"] == "")
    left = client.camera_values("/left/image/compressed")["frames processed"]
    listener = client.listen(Classification, "/front/classification")
    for _ in range(5):
        listener.wait_for()
    client.forget(listener)
    assert client.camera_values("/left/image/compressed")["frames processed"] == left


def test_frames_that_came_while_the_node_was_busy_are_counted_as_replaced(client: RosClient) -> None:
    listener = client.listen(Image, "/front/overlay")
    before = client.camera_values("/front/image/compressed")
    for _ in range(4):
        listener.wait_for()
    values = client.camera_values(
        "/front/image/compressed",
        lambda values: int(values["frames replaced"]) > int(before["frames replaced"]) + 5,
    )
    client.forget(listener)
    assert float(values["output rate [Hz]"]) < float(values["input rate [Hz]"])
    stamps = [message.header.stamp.sec for message in listener.messages]
    assert stamps == sorted(set(stamps)), "frames came out of order or twice"
    assert stamps[-1] - stamps[0] >= len(stamps) + 4, "no frame was left out"


def test_a_cameras_broken_frames_are_logged_beside_those_of_another(client: RosClient, node: Any) -> None:
    # Arrange
    topics = [f"/{name}/image/compressed" for name in ("front", "left")]
    publishers = [client.node.create_publisher(CompressedImage, topic, 1) for topic in topics]
    listeners = [client.listen(Classification, f"/{name}/classification") for name in ("front", "left")]
    whole = payload("png", picture(0, WIDTH, HEIGHT))
    broken = CompressedImage(format="png", data=whole[: len(whole) // 2])

    def failed(values: Mapping[str, str]) -> bool:
        for publisher in publishers:
            publisher.publish(broken)
        return values["frames failed"] != "0"

    # Act
    for topic in topics:
        client.camera_values(topic, failed)

    # Assert
    for topic in topics:
        node.wait_for(rf"\[ERROR\].*a frame of {topic} failed: .* do not decode", 3)
    client.forget(*listeners)
    for publisher in publishers:
        client.in_executor(client.node.destroy_publisher, publisher)
