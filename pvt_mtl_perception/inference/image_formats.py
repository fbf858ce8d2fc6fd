"""Camera bytes to RGB arrays: the raw encodings and compressed formats of sensor_msgs, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Encoding:
    """How the pixels of one raw encoding lie in memory.

    Attributes:
        channels: values a pixel; packed 4:2:2 has two, luma and one of the chroma pair.
        bytes_per_value: 1 or 2.
        conversion: OpenCV colour conversion to RGB, or None where the values are RGB already.
        even_size: which of (height, width) the layout needs to be even.
    """

    channels: int
    bytes_per_value: int
    conversion: int | None
    even_size: tuple[bool, bool] = (False, False)


_EVEN_WIDTH = (False, True)
_EVEN_BOTH = (True, True)

# Names: sensor_msgs/include/sensor_msgs/image_encodings.hpp.
ENCODINGS: Mapping[str, Encoding] = {
    "rgb8": Encoding(3, 1, None),
    "bgr8": Encoding(3, 1, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": Encoding(3, 2, None),
    "bgr16": Encoding(3, 2, cv2.COLOR_BGR2RGB),
    "mono16": Encoding(1, 2, cv2.COLOR_GRAY2RGB),
    "uyvy": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, _EVEN_WIDTH),
    "yuv422": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, _EVEN_WIDTH),
    "yuyv": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, _EVEN_WIDTH),
    "yuv422_yuy2": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, _EVEN_WIDTH),
    # OpenCV names a Bayer pattern by its second row's second and third pixel: its BG is RGGB.
    "bayer_rggb8": Encoding(1, 1, cv2.COLOR_BayerBG2RGB, _EVEN_BOTH),
    "bayer_bggr8": Encoding(1, 1, cv2.COLOR_BayerRG2RGB, _EVEN_BOTH),
    "bayer_gbrg8": Encoding(1, 1, cv2.COLOR_BayerGR2RGB, _EVEN_BOTH),
    "bayer_grbg8": Encoding(1, 1, cv2.COLOR_BayerGB2RGB, _EVEN_BOTH),
}


def is_compressed(message: Any) -> bool:
    """Whether an image message is a compressed one, which alone has the field ``format``."""
    return hasattr(message, "format")


def decode_message(message: Any) -> Image:
    """The pixels of an image message of any kind as RGB.

    Args:
        message: anything with the fields of sensor_msgs/Image or sensor_msgs/CompressedImage. Foxglove's raw
            images lack ``is_bigendian``, which then is false.

    Returns:
        uint8 (H, W, 3), RGB, as ``decode_raw`` and ``decode_compressed`` give it.

    Raises:
        ValueError: from those two.
    """
    if is_compressed(message):
        return decode_compressed(message.format, message.data)
    return decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(getattr(message, "is_bigendian", False)),
        message.data,
    )


def decode_raw(encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: Any) -> Image:
    """The pixels of a sensor_msgs/Image as RGB.

    Args:
        encoding: a key of ``ENCODINGS``.
        height, width: size in pixels.
        step: bytes from the start of a row to the start of the next; more than a row needs is padding.
        is_bigendian: byte order of 16-bit values; without meaning for the others.
        data: a contiguous buffer of bytes (``bytes``, ``array.array('B')``, uint8 array).

    Returns:
        uint8 (height, width, 3), RGB. For rgb8 it is a view onto ``data``, rows ``step`` bytes apart, and
        read-only where ``data`` is. 16-bit values are scaled by 1/257, so that 65535 becomes 255.

    Raises:
        ValueError: when the encoding is not supported, or the sizes contradict each other.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        raise ValueError(
            f"image encoding {encoding!r} is not supported; supported are: {', '.join(ENCODINGS)}"
        )
    if height < 1 or width < 1:
        raise ValueError(f"image of encoding {encoding!r} has the size {width}x{height} (width x height)")
    for length, name, even in zip((height, width), ("height", "width"), layout.even_size, strict=True):
        if even and length % 2:
            raise ValueError(f"image encoding {encoding!r} needs an even {name}, not {length}")
    row = width * layout.channels * layout.bytes_per_value
    if step < row:
        raise ValueError(
            f"{width}x{height} image of encoding {encoding!r} has rows of {row} bytes but the step {step}"
        )
    buffer: Image = np.frombuffer(data, np.uint8)
    if buffer.size != step * height:
        raise ValueError(
            f"{width}x{height} image of encoding {encoding!r} with step {step} "
            f"needs {step * height} bytes but has {buffer.size}"
        )
    pixels: Any = buffer.reshape(height, step)[:, :row]
    if layout.bytes_per_value == 2:
        # A step that is odd would leave rows unaligned, which OpenCV does not read.
        values = np.ascontiguousarray(pixels).view(">u2" if is_bigendian else "<u2").astype(np.uint16)
        pixels = cv2.convertScaleAbs(values, alpha=1 / 257)
    if layout.channels > 1:
        pixels = pixels.reshape(height, width, layout.channels)
    if layout.conversion is None:
        return np.asarray(pixels)
    try:
        return np.asarray(cv2.cvtColor(pixels, layout.conversion), np.uint8)
    except cv2.error as error:  # Bayer patterns of two rows, and what nobody thought of
        raise ValueError(f"{width}x{height} image of encoding {encoding!r}: {error.err}") from None


def decode_compressed(format: str, data: Any) -> Image:
    """The pixels of a sensor_msgs/CompressedImage as RGB.

    Args:
        format: ``"jpeg"``, ``"png"``, or image_transport's
            ``"<encoding>; <codec> compressed <encoding in the codec>"``.
        data: a contiguous buffer with one file of a format OpenCV reads.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: when ``format`` is a depth image or a video, or ``data`` is not an image.
    """
    if "compresseddepth" in format.lower():
        raise ValueError(f"compressed image format {format!r} is a depth image; jpeg or png is needed")
    buffer: Image = np.frombuffer(data, np.uint8)
    # Turned by its EXIF orientation, an image would no longer fit its camera's calibration.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    reason = ""
    try:
        pixels: Any = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error as error:  # a header with an impossible size
        pixels, reason = None, f": {error.err}"
    if pixels is None:
        raise ValueError(
            f"{buffer.size} bytes with the compressed image format {format!r} do not decode{reason}"
        )
    # image_transport puts RGB values where the codec expects BGR when it says so after "compressed".
    if not format.partition("compressed")[2].strip().startswith("rgb"):
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    image: Image = pixels
    return image
