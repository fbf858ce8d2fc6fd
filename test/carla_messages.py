"""What CARLA's two interfaces publish, as messages and bags, rendered from synthetic drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic import Drive
from pvt_mtl_perception.data.synthetic.canvas import FIRST_INSTANCE

STORE = get_typestore(Stores.ROS2_JAZZY)
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
CLOCK = "rosgraph_msgs/msg/Clock"

EGO = "ego_vehicle"
RGB, SEMANTIC, INSTANCE = "rgb_front", "semantic_segmentation_front", "instance_segmentation_front"
FIRST_STAMP = 12_350_000_000
"""Simulation time in ns, which starts near 0."""
RECORDED = 1_700_000_000 * 10**9
PERIOD = 50_000_000

# The palette of CARLA's client library by tag, written out: the tests compare the label set with it.
PALETTE = np.array(
    [
        (0, 0, 0), (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180),
        (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230),
        (119, 11, 32), (110, 190, 160), (170, 120, 50), (55, 90, 80), (45, 60, 150), (157, 234, 50),
        (81, 0, 81), (150, 100, 100), (230, 150, 140), (180, 165, 180), (180, 130, 70),
    ],
    np.uint8,
)  # fmt: skip
ROAD, ROAD_LINE = 1, 24


@dataclass(frozen=True)
class CarlaFrame:
    """One tick of the simulator.

    Attributes:
        sample: the renderer's frame, in the driving label sets.
        tags: uint8 (H, W).
        ids: uint16 (H, W), of the objects and of everything else.
    """

    sample: Sample
    tags: np.ndarray
    ids: np.ndarray


def carla_frame(drive: Drive, index: int) -> CarlaFrame:
    """A frame of a drive in CARLA's tags, with a road line painted where the road is."""
    rendered = drive.render(index)
    mask = rendered.sample.mask
    tags = np.where(mask == 255, 0, mask + 1).astype(np.uint8)
    middle = slice(tags.shape[1] // 2 - 2, tags.shape[1] // 2 + 2)
    line = tags[:, middle]
    line[line == ROAD] = ROAD_LINE
    things = rendered.ids >= FIRST_INSTANCE
    # Ids of both bytes: objects above 255, and what is no object has ids too.
    ids = np.where(things, rendered.ids.astype(np.uint16) * 131 + 300, 40_000 + tags.astype(np.uint16))
    return CarlaFrame(rendered.sample, tags, ids.astype(np.uint16))


def bgra(blue: np.ndarray, green: np.ndarray, red: np.ndarray) -> np.ndarray:
    """Channels as they lie in memory, opaque."""
    return np.ascontiguousarray(np.stack([blue, green, red, np.full_like(red, 255)], axis=-1), np.uint8)


def rgb_bytes(image: np.ndarray) -> np.ndarray:
    return bgra(image[..., 2], image[..., 1], image[..., 0])


def native_semantic_bytes(tags: np.ndarray) -> np.ndarray:
    """The tag in red, nothing else."""
    nothing = np.zeros_like(tags)
    return bgra(nothing, nothing, tags)


def bridge_semantic_bytes(tags: np.ndarray) -> np.ndarray:
    """The colours of the palette."""
    return rgb_bytes(PALETTE[tags])


def instance_bytes(tags: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The tag in red, the id's low byte in green and its high byte in blue."""
    return bgra((ids >> 8).astype(np.uint8), (ids & 255).astype(np.uint8), tags)


def message(pixels: np.ndarray, stamp: int = FIRST_STAMP, frame_id: str = f"{EGO}/{RGB}") -> Any:
    """A sensor_msgs/Image in bgra8."""
    types = STORE.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return types[IMAGE](
        header=types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding="bgra8",
        is_bigendian=0,
        step=pixels.shape[1] * 4,
        data=pixels.reshape(-1),
    )


def camera_info(header: Any, width: int, height: int) -> Any:
    """Of a field of view of 90 degrees."""
    types = STORE.types
    focal = width / 2
    return types[CAMERA_INFO](
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1.0]),
        r=np.eye(3).reshape(-1),
        p=np.array([focal, 0, width / 2, 0, 0, focal, height / 2, 0, 0, 0, 1.0, 0]),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=height, width=width, do_rectify=False
        ),
    )


def topic(sensor: str, ego: str = EGO) -> str:
    return f"/carla/{ego}/{sensor}/image"


def stamp(index: int) -> int:
    """Of frame ``index``, ns."""
    return FIRST_STAMP + index * PERIOD


def write_carla_bag(
    path: Path,
    frames: Sequence[CarlaFrame],
    interface: str,
    ego: str = EGO,
    instances: bool = True,
    without_semantic: Sequence[int] = (),
    period: int = PERIOD,
) -> Path:
    """A bag as a recorder writes it while CARLA runs: cameras, their infos and the clock.

    Args:
        path: the bag's folder.
        frames: of one drive.
        interface: ``bridge`` or ``native``.
        ego: the vehicle's name.
        instances: whether there is an instance camera.
        without_semantic: frames whose semantic image is missing.
        period: between two frames in the recording, ns.
    """
    types = STORE.types
    semantic_bytes = {"bridge": bridge_semantic_bytes, "native": native_semantic_bytes}[interface]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}

        def write(name: str, recorded: int, content: Any) -> None:
            kind = content.__msgtype__
            if name not in connections:
                connections[name] = writer.add_connection(name, kind, typestore=STORE)
            writer.write(connections[name], recorded, STORE.serialize_cdr(content, kind))

        for index, frame in enumerate(frames):
            recorded = RECORDED + index * period
            time = types["builtin_interfaces/msg/Time"](
                sec=stamp(index) // 10**9, nanosec=stamp(index) % 10**9
            )
            write("/clock", recorded, types[CLOCK](clock=time))
            images = {RGB: rgb_bytes(frame.sample.image)}
            if index not in without_semantic:
                images[SEMANTIC] = semantic_bytes(frame.tags)
            if instances:
                images[INSTANCE] = instance_bytes(frame.tags, frame.ids)
            # The order in which sensors deliver changes from tick to tick.
            for number, sensor in enumerate(sorted(images, reverse=bool(index % 2))):
                # The bridge puts the vehicle into the frame's name, the native interface does not.
                frame_id = f"{ego}/{sensor}" if interface == "bridge" else sensor
                image = message(images[sensor], stamp(index), frame_id)
                later = recorded + (number + 1) * 3_000_000
                write(topic(sensor, ego), later, image)
                info = camera_info(image.header, image.width, image.height)
                write(topic(sensor, ego).replace("/image", "/camera_info"), later, info)
    return path
