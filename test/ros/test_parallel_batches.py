"""A node that computes two batches at once, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from late_first_node import BRIGHT, DARK, GREY
from lifecycle_msgs.msg import Transition
from ros_client import TIMEOUT, Listener, RosClient
from sensor_msgs.msg import Image
from vision_msgs.msg import Classification

NODE = Path(__file__).resolve().parents[1] / "late_first_node.py"
SIDE = 64


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that lets grey images go on."""
    return tmp_path_factory.mktemp("parallel") / "release"


@pytest.fixture(scope="module", autouse=True)
def node(start_node: Any, client: RosClient, checkpoint: Path, release: Path) -> Iterator[Any]:
    process = start_node(
        script=NODE,
        environment={"RELEASE": str(release)},
        model_path=checkpoint,
        device="cpu",
        parallel_batches=2,
    )
    client.wait_for_state("active")
    yield process
    process.stop_cleanly(TIMEOUT)


def image(stamp: int, level: int, encoding: str = "mono8") -> Image:
    message = Image(height=SIDE, width=SIDE, step=SIDE, encoding=encoding, data=bytes([level]) * SIDE**2)
    message.header.stamp.sec = stamp
    return message


def publish_one_after_the_other(client: RosClient, *images: Image) -> None:
    """Each as soon as the node has taken the one before."""
    publisher = client.node.create_publisher(Image, "/image", 1)
    before = int(client.camera_values("/image")["frames received"])
    for count, message in enumerate(images, 1):
        client.camera_values("/image", lambda _: publisher.get_subscription_count() == 1)
        publisher.publish(message)
        client.camera_values("/image", lambda v, n=before + count: int(v["frames received"]) == n)
    client.in_executor(client.node.destroy_publisher, publisher)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "the condition is never met"
        time.sleep(0.01)


def stamps(listener: Listener, count: int) -> list[int]:
    return [message.header.stamp.sec for message in listener.first_messages(count)]


def test_a_batch_that_is_done_first_is_published_after_those_that_came_before(client: RosClient) -> None:
    # Arrange
    listener = client.listen(Classification, "/classification")
    client.camera_values("/image", lambda values: values["subscribed outputs"] == "classification")

    # Act: with one batch at a time the bright image would never be computed.
    publish_one_after_the_other(client, image(1, DARK), image(2, BRIGHT))

    # Assert
    assert stamps(listener, 2) == [1, 2]
    client.forget(listener)


def test_a_batch_that_fails_does_not_hold_up_those_after_it(client: RosClient) -> None:
    # Arrange
    listener = client.listen(Classification, "/classification")
    client.camera_values("/image", lambda values: values["subscribed outputs"] == "classification")

    # Act
    publish_one_after_the_other(
        client, image(3, DARK), image(4, DARK, "nonsense"), image(5, BRIGHT), image(6, BRIGHT)
    )

    # Assert
    assert stamps(listener, 3) == [3, 5, 6]
    assert client.camera_values("/image")["frames failed"] == "1"
    client.forget(listener)


def test_deactivating_waits_for_what_is_in_work_and_publishes_it(client: RosClient, release: Path) -> None:
    # Arrange: two images are in work, and neither is done.
    listener = client.listen(Classification, "/classification")
    client.camera_values("/image", lambda values: values["subscribed outputs"] == "classification")
    publish_one_after_the_other(client, image(7, GREY), image(8, GREY))
    assert not listener.messages

    # Act: the node lets the image topic go first.
    publisher = client.node.create_publisher(Image, "/image", 1)
    wait_until(lambda: publisher.get_subscription_count() == 1)
    with ThreadPoolExecutor(1) as pool:
        deactivated = pool.submit(client.change_state, Transition.TRANSITION_DEACTIVATE)
        wait_until(lambda: publisher.get_subscription_count() == 0)
        assert not deactivated.done()
        release.touch()
        assert deactivated.result(TIMEOUT)

    # Assert
    assert stamps(listener, 2) == [7, 8]
    assert client.state() == "inactive"
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    client.in_executor(client.node.destroy_publisher, publisher)
    client.forget(listener)
