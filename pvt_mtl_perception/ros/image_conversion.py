"""sensor_msgs images to RGB arrays for the predictor, and result arrays to sensor_msgs images."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from pvt_mtl_perception.inference.image_formats import ENCODINGS, decode_message

_CHANNELS = {"mono8": 1, "rgb8": 3}


@cache
def _cv_bridge() -> Any | None:
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError):  # AttributeError: built against another numpy
        return None
    return CvBridge()


def image_to_rgb(message: Image | CompressedImage) -> npt.NDArray[np.uint8]:
    """The pixels of a camera message.

    Args:
        message: raw, in an encoding of ``image_formats.ENCODINGS`` or, where cv_bridge is installed, in any
            that it converts to rgb8; or compressed as JPEG or PNG.

    Returns:
        uint8 (height, width, 3), RGB. For rgb8 it is a view onto ``message.data``, with rows ``step`` bytes
        apart; everything else is converted by OpenCV, because a reversed view of bgr8 costs its reader
        forty times what the conversion does.

    Raises:
        ValueError: for an encoding or format that is not supported, or data that contradict the message's
            size, step or format, naming both.
    """
    if isinstance(message, CompressedImage) or message.encoding in ENCODINGS:
        return decode_message(message)
    bridge = _cv_bridge()
    if bridge is None:
        raise ValueError(
            f"image encoding {message.encoding!r} is not supported; supported are: {', '.join(ENCODINGS)}; "
            "more where cv_bridge is installed (ros-$ROS_DISTRO-cv-bridge)"
        )
    try:
        rgb: npt.NDArray[np.uint8] = bridge.imgmsg_to_cv2(message, "rgb8")
    except Exception as error:  # CvBridgeError, cv2.error or what its Boost layer makes of them
        raise ValueError(f"cv_bridge cannot turn encoding {message.encoding!r} into rgb8: {error}") from None
    return rgb


def image_message(header: Header, pixels: npt.NDArray[np.uint8], encoding: str) -> Image:
    """A raw image message.

    Args:
        header: goes into the message as it is.
        pixels: uint8, (height, width) for mono8, (height, width, 3) for rgb8.
        encoding: ``mono8`` or ``rgb8``.
    """
    height, width = pixels.shape[:2]
    message = Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * _CHANNELS[encoding],
    )
    # Fills a new message's empty array with one memory copy; assigning data goes through every byte.
    message.data.frombytes(np.ascontiguousarray(pixels))
    return message
