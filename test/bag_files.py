"""Small bags of every kind, made by rosbags directly and not by the code under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

START = 1_700_000_000 * 10**9 + 123_456_789
PERIOD = 100_000_000
LAG = 7_000_000
"""Recording is so much later than the stamp, ns."""

TOPIC = "/rig/front/image_raw"
FRAME_ID = "front_optical"


def street(index: int, height: int = 60, width: int = 90) -> np.ndarray:
    """A picture with structure that differs from index to index: uint8 (height, width, 3) RGB."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def stamp(index: int) -> int:
    """The stamp of frame ``index`` in ns."""
    return START + index * PERIOD


def write_bag(
    path: Path,
    kind: str,
    images: Sequence[np.ndarray],
    topic: str = TOPIC,
    compressed: str = "",
    frame_id: str = FRAME_ID,
    damaged: Sequence[int] = (),
    other_topics: Sequence[str] = (),
    stamped: bool = True,
) -> Path:
    """Writes a bag.

    Args:
        path: a folder, or for ROS 1 the file without its suffix.
        kind: ``ros1``, ``mcap`` or ``sqlite3``.
        images: RGB frames.
        topic: of the images.
        compressed: ``jpeg``, ``png`` or empty for raw bgr8.
        frame_id: of the headers.
        damaged: frames whose pixels are cut short.
        other_topics: further image topics with the same images.
        stamped: False gives every header the stamp of the first, as a driver that does not stamp.
    """
    ros1 = kind == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    types = store.types
    writer: Any
    if ros1:
        path = path.with_suffix(".bag")
        writer = Writer1(path)
    else:
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        writer = Writer2(path, version=9, storage_plugin=plugin)
    type_name = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
    with writer:
        connections = [
            writer.add_connection(name, type_name, typestore=store) for name in (topic, *other_topics)
        ]
        text = writer.add_connection("/note", "std_msgs/msg/String", typestore=store)
        serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
        note = types["std_msgs/msg/String"](data="a drive")
        writer.write(text, START, serialize(note, "std_msgs/msg/String"))
        for index, image in enumerate(images):
            seconds, nanoseconds = divmod(stamp(index if stamped else 0), 10**9)
            time = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
            sequence = {"seq": index} if ros1 else {}
            header = types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id, **sequence)
            bgr = np.ascontiguousarray(image[:, :, ::-1])
            if compressed:
                data = cv2.imencode(f".{compressed}", bgr)[1].reshape(-1)
                data = data[: data.size // 3] if index in damaged else data
                message = types[type_name](header=header, format=compressed, data=data)
            else:
                data = bgr.reshape(-1)
                message = types[type_name](
                    header=header,
                    height=image.shape[0],
                    width=image.shape[1],
                    encoding="bgr8",
                    is_bigendian=0,
                    step=image.shape[1] * 3,
                    data=data[:100] if index in damaged else data,
                )
            for connection in connections:
                writer.write(connection, stamp(index) + LAG, serialize(message, type_name))
    return path


def write_foxglove_ros2_bag(path: Path, topic: str, png: bytes | np.ndarray, other: str = "") -> Path:
    """A ROS 2 bag with one foxglove_msgs/CompressedImage, and a sensor_msgs one on another topic."""
    store = get_typestore(Stores.ROS2_JAZZY)
    name = "foxglove_msgs/msg/CompressedImage"
    fields = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"
    store.register(get_types_from_msg(fields, name))
    data = np.frombuffer(png, np.uint8)
    time = store.types["builtin_interfaces/msg/Time"](sec=3, nanosec=5)
    messages = {topic: store.types[name](timestamp=time, frame_id="front", data=data, format="png")}
    if other:
        header = store.types["std_msgs/msg/Header"](stamp=time, frame_id="front")
        image = store.types["sensor_msgs/msg/CompressedImage"]
        messages[other] = image(header=header, data=data, format="png")
    with Writer2(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for each, message in messages.items():
            connection = writer.add_connection(each, message.__msgtype__, typestore=store)
            writer.write(connection, 7, store.serialize_cdr(message, message.__msgtype__))
    return path
