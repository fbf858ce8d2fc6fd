"""A bag of camera images from frames in memory or picture files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.bags.messages import compressed_image_message, header, image_message
from pvt_mtl_perception.bags.results import BagWriter, Storage

Codec = Literal["raw", "jpeg", "png"]


def write_image_bag(
    path: str | Path,
    frames: Iterable[tuple[int, npt.NDArray[np.uint8]]],
    topic: str,
    frame_id: str = "camera",
    codec: Codec = "raw",
    storage: Storage = "mcap",
    quality: int = 95,
) -> int:
    """Writes frames into a new ROS 2 bag, each recorded at its stamp.

    The bag appears under its name when it is complete.

    Args:
        path: the bag's folder, which must not exist.
        frames: stamp in ns since the epoch, and uint8 (H, W, 3) RGB.
        topic: full topic name.
        frame_id: of the headers.
        codec: ``raw`` writes sensor_msgs/Image in rgb8, the others sensor_msgs/CompressedImage.
        storage: ``mcap`` or ``sqlite3``.
        quality: of JPEG, 0..100.

    Returns:
        How many frames were written.

    Raises:
        FileExistsError: when the path exists.
        Exception: what ``frames`` raises; there is no bag then.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    folder = path.with_name(f".{path.name}.unfinished")
    # A bag's files are called like its folder.
    unfinished = folder / path.name
    if folder.exists():  # of a process that was killed
        shutil.rmtree(folder)
    count = 0
    try:
        # Uncompressed chunks: a player reads them in real time, and image codecs leave nothing to gain.
        with BagWriter(unfinished, storage, compress=False) as writer:
            for stamp, image in frames:
                writer.write(topic, stamp, _message(header(stamp, frame_id), image, codec, quality))
                count += 1
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return count


def _message(head: Any, image: npt.NDArray[np.uint8], codec: Codec, quality: int) -> Any:
    if codec == "raw":
        return image_message(head, image, "rgb8")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if codec == "jpeg" else []
    _, data = cv2.imencode(f".{codec}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return compressed_image_message(head, codec, np.asarray(data, np.uint8))
