"""A node with six cameras in three processes: one changes its size, one stalls and dies, one never starts."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_client import TIMEOUT, RosClient
from sensor_msgs.msg import Image
from vision_msgs.msg import Classification

NAMES = ("front", "front_left", "front_right", "back", "back_left", "back_right")
FRONT = [f"{name}/image" for name in NAMES[:3]]
SIZES = ("320x180", "160x200")
TOLERANCE = 0.15
"""Seconds; the synchronous cameras' stamps differ by less, two frames of a camera by more."""


@pytest.fixture(scope="module")
def mortal(start_camera: Any) -> Any:
    """The camera that dies."""
    return start_camera("back_left/image", "--rate", "20", "--stamp-now")


@pytest.fixture(scope="module")
def immortals(start_camera: Any) -> list[Any]:
    """The cameras that go on, in two processes."""
    # Faster than the node, so that it cannot but leave frames out.
    front = start_camera(*FRONT, "--rate", "30", "--size", "320x180", "--stamp-now")
    return [front, start_camera("back/image", "--rate", "7", "--size", ",".join(SIZES), "--stamp-now")]


@pytest.fixture(scope="module")
def synchronous_cameras(immortals: list[Any], mortal: Any, start_camera: Any) -> None:
    """Front cameras and, every second time, the one at the back, in place of all others.

    Their stamps are by number, and there is time between the frames of one time, and more to the next time,
    so that it shows whether the node waits, whatever else the machine does.
    """
    for camera in (*immortals, mortal):
        camera.stop(TIMEOUT)
    start_camera(*FRONT, "back/image", "--rate", "3", "--apart", "0.02", "--last-every", "2")


@pytest.fixture(scope="module", autouse=True)
def node(start_node: Any, immortals: Any, mortal: Any, client: RosClient, checkpoint: Path) -> Iterator[Any]:
    process = start_node(
        model_path=checkpoint,
        device="cpu",
        cameras=str(list(NAMES)),
        input_size="[64, 96]",
        no_image_warning_period=1.0,
    )
    client.wait_for_state("active")
    yield process
    process.stop_cleanly(TIMEOUT)


def test_a_stamp_before_1970_is_a_stamp_as_any_other(client: RosClient) -> None:
    publisher = client.node.create_publisher(Image, "/back_right/image", 1)
    result = client.listen(Classification, "/back_right/classification")
    message = Image(height=2, width=2, encoding="mono8", step=2, data=bytes(4))
    message.header.stamp.sec = -1

    def answered(_: Any) -> bool:
        publisher.publish(message)
        return bool(result.messages)

    values = client.camera_values("/back_right/image", answered)
    assert result.wait_for().header.stamp.sec == -1
    assert values["frames failed"] == "0"
    client.in_executor(client.node.destroy_publisher, publisher)
    client.forget(result)


def test_a_warning_ends_where_the_period_is_set_to_never(client: RosClient) -> None:
    listener = client.listen(Classification, "/back_right/classification")
    client.camera_values("/back_right/image", lambda values: values["level"] == "WARN")
    assert client.set_parameter("no_image_warning_period", 0.0) == ""
    client.camera_values("/back_right/image", lambda values: values["level"] == "OK")
    assert client.set_parameter("no_image_warning_period", 1.0) == ""
    client.forget(listener)


def test_cameras_that_change_size_stall_die_or_never_start_delay_no_other(
    client: RosClient, mortal: Any
) -> None:
    masks = {name: client.listen(Image, f"/{name}/segmentation/mask") for name in NAMES}
    sizes = {f"{masks['back'].wait_for().width}x{masks['back'].messages[-1].height}"}
    masks["back"].wait_for(lambda mask: f"{mask.width}x{mask.height}" not in sizes)
    client.node_values(
        lambda values: any(pair.startswith("5: ") for pair in values["batches by size"].split(", "))
    )
    masks["back_left"].wait_for()

    def others_go_on() -> None:
        for name in NAMES[:4]:
            before = len(masks[name].messages)
            masks[name].wait_for(lambda _, name=name, before=before: len(masks[name].messages) > before + 5)

    mortal.process.send_signal(signal.SIGSTOP)
    others_go_on()  # and what the camera had published before is through
    delivered = len(masks["back_left"].messages)
    others_go_on()
    assert len(masks["back_left"].messages) == delivered
    mortal.process.send_signal(signal.SIGCONT)
    masks["back_left"].wait_for()

    mortal.stop(TIMEOUT)
    client.camera_values("/back_left/image", lambda values: values["level"] == "WARN")
    others_go_on()
    assert client.camera_values("/back_right/image")["level"] == "WARN"
    assert not masks["back_right"].messages
    widths = {name: {mask.width for mask in masks[name].messages} for name in NAMES[:4]}
    assert widths == {**{name: {320} for name in NAMES[:3]}, "back": {320, 160}}
    client.forget(*masks.values())


def batches_by_size(client: RosClient) -> Counter[int]:
    """How many batches of how many frames the node has computed since it was configured."""
    pairs = client.node_values()["batches by size"].split(", ")
    return Counter({int(size): int(count) for size, _, count in (pair.partition(": ") for pair in pairs)})


@pytest.mark.parametrize("parallel_batches", [1, 2])
@pytest.mark.usefixtures("synchronous_cameras")
def test_synchronous_batches_hold_one_stamp(client: RosClient, parallel_batches: int) -> None:
    assert client.change_state(4) and client.change_state(2), "deactivate, clean up"
    assert client.set_parameter("sync_tolerance", TOLERANCE) == ""
    assert client.set_parameter("parallel_batches", parallel_batches) == ""
    assert client.change_state(1) and client.change_state(3), "configure, activate"
    assert "read when the node is configured" in client.set_parameter("sync_tolerance", 0.0)
    listeners = {name: client.listen(Classification, f"/{name}/classification") for name in NAMES}
    client.camera_values("/back_right/image", lambda values: values["level"] == "WARN")
    before = batches_by_size(client)
    for listener in listeners.values():
        listener.forget_all()
    listeners["back"].wait_for(lambda _: len(listeners["back"].messages) > 8)
    batches = batches_by_size(client) - before
    stamps = {
        name: np.array(
            [m.header.stamp.sec % 10000 + 1e-9 * m.header.stamp.nanosec for m in listener.messages]
        )
        for name, listener in listeners.items()
    }
    client.forget(*listeners.values())
    whole = (batches[3] + batches[4]) / batches.total()
    assert whole > 0.8, f"only {whole:.0%} of the batches held all frames of their time: {batches}"
    assert batches[3] and batches[4], batches

    def distances(name: str, other: str) -> Any:
        inner = stamps[name][2:-2]
        return np.abs(inner[:, None] - stamps[other][None]).min(axis=1)

    for name, other in permutations(NAMES[:3], 2):
        # One that comes later than the tolerance, on a busy machine, is left out.
        alone = float(np.mean(distances(name, other) > TOLERANCE))
        assert alone < 0.2, f"{alone:.0%} of {name}'s frames were processed without {other}'s"
    assert distances("back", "front").max() <= TOLERANCE, "frames of different times shared a batch"
    assert len(stamps["front"]) > 10
    for name, of_camera in stamps.items():
        assert (np.diff(of_camera) > 0).all(), f"{name}'s frames came out of order or twice"
