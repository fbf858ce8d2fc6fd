from __future__ import annotations

import array

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from pvt_mtl_perception.ros import image_conversion
from pvt_mtl_perception.ros.image_conversion import image_message, image_to_rgb

RGB = np.random.default_rng(7).integers(0, 256, (24, 34, 3), np.uint8)
GRAY = RGB[..., 1]


def raw_message(encoding: str, pixels: npt.NDArray[np.uint8], padding: int = 0) -> Image:
    """A message whose rows are followed by ``padding`` bytes of rubbish."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 0xAA, np.uint8)])
    message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
    message.data.frombytes(np.ascontiguousarray(rows))
    return message


def bt601_from_uyvy(uyvy: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """ITU-R BT.601 studio swing with each chroma pair used for both of its pixels, in plain loops."""
    height, width, _ = uyvy.shape
    rgb = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            first = column // 2 * 2
            u, v = float(uyvy[row, first, 0]) - 128, float(uyvy[row, first + 1, 0]) - 128
            y = 1.164 * (float(uyvy[row, column, 1]) - 16)
            rgb[row, column] = y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u
    return np.clip(rgb, 0, 255)


@pytest.mark.parametrize("padding", [0, 1, 30])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("rgba8", np.dstack([RGB, GRAY]), RGB),
        ("bgra8", np.dstack([RGB[..., ::-1], GRAY]), RGB),
        ("mono8", GRAY, np.dstack([GRAY] * 3)),
    ],
)
def test_raw_images_become_rgb_whatever_the_step(
    encoding: str, pixels: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8], padding: int
) -> None:
    np.testing.assert_array_equal(image_to_rgb(raw_message(encoding, pixels, padding)), expected)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "luma_first"), [("uyvy", False), ("yuv422", False), ("yuyv", True), ("yuv422_yuy2", True)]
)
def test_packed_yuv_agrees_with_bt601(encoding: str, luma_first: bool, padding: int) -> None:
    # Arrange: values of studio swing; UYVY stores chroma before luma, YUYV luma before chroma.
    generator = np.random.default_rng(3)
    uyvy = np.dstack(
        [generator.integers(60, 196, (12, 16), np.uint8), generator.integers(40, 220, (12, 16), np.uint8)]
    )
    pixels = uyvy[..., ::-1] if luma_first else uyvy

    # Act
    rgb = image_to_rgb(raw_message(encoding, np.ascontiguousarray(pixels), padding))

    # Assert
    np.testing.assert_allclose(rgb, bt601_from_uyvy(uyvy), atol=2)


@pytest.mark.parametrize("padding", [0, 30])
def test_rgb8_is_a_view_on_the_message(padding: int) -> None:
    message = raw_message("rgb8", RGB, padding)
    rgb = image_to_rgb(message)
    message.data[message.step + 4] ^= 0xFF
    assert rgb[1, 1, 1] == RGB[1, 1, 1] ^ 0xFF


def test_byte_order_of_sixteen_bit_values_is_respected() -> None:
    values = np.array([[0, 257, 65535], [30000, 256, 1]], np.uint16)
    images = []
    for is_bigendian in (0, 1):
        data = values.astype(">u2" if is_bigendian else "<u2").view(np.uint8)
        message = raw_message("mono16", data)
        message.width, message.is_bigendian = 3, is_bigendian
        images.append(image_to_rgb(message))
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(images[0], np.dstack([expected] * 3))
    np.testing.assert_array_equal(images[1], images[0])


def test_too_little_data_is_refused_with_the_numbers() -> None:
    message = raw_message("bgr8", RGB)
    message.data = message.data[:-5]
    with pytest.raises(ValueError, match=rf"bgr8.*{24 * 34 * 3}.*{24 * 34 * 3 - 5}"):
        image_to_rgb(message)


def test_a_step_shorter_than_a_row_is_refused() -> None:
    message = raw_message("rgb8", RGB)
    message.step = 34
    with pytest.raises(ValueError, match=r"rgb8.*102.*34"):
        image_to_rgb(message)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="0x0"):
        image_to_rgb(Image(encoding="rgb8"))


def test_an_unknown_encoding_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_conversion, "_cv_bridge", lambda: None)
    with pytest.raises(ValueError, match=r"'32FC1'.*rgb8, bgr8.*cv_bridge"):
        image_to_rgb(raw_message("32FC1", RGB))


@pytest.mark.parametrize(
    "encoding",
    ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "uyvy", "yuv422_yuy2", "bayer_rggb8"],
)
def test_raw_images_agree_with_cv_bridge(encoding: str) -> None:
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge comes with a ROS 2 installation")
    channels = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono16": 2, "uyvy": 2, "yuv422_yuy2": 2}
    shape = (24, 34, channels.get(encoding, 1))
    pixels = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, shape, np.uint8), (5, 5), 2)
    message = raw_message(encoding, pixels.reshape(shape))
    expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    np.testing.assert_allclose(image_to_rgb(message).astype(int), expected.astype(int), atol=2)


def test_png_is_decoded_exactly() -> None:
    _, data = cv2.imencode(".png", RGB[..., ::-1])
    message = CompressedImage(format="rgb8; png compressed bgr8", data=array.array("B", data.tobytes()))
    np.testing.assert_array_equal(image_to_rgb(message), RGB)


@pytest.mark.parametrize("format_", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8"])
def test_jpeg_is_decoded_in_the_order_rgb(format_: str) -> None:
    colors = np.zeros((16, 48, 3), np.uint8)
    colors[:, :16, 0] = colors[:, 16:32, 1] = colors[:, 32:, 2] = 200
    _, data = cv2.imencode(".jpg", colors[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    rgb = image_to_rgb(CompressedImage(format=format_, data=array.array("B", data.tobytes())))
    assert rgb.shape == colors.shape
    np.testing.assert_allclose(rgb[8, [8, 24, 40]].astype(int), colors[8, [8, 24, 40]].astype(int), atol=6)


def test_compressed_rubbish_is_refused_with_its_format() -> None:
    with pytest.raises(ValueError, match="'jpeg'"):
        image_to_rgb(CompressedImage(format="jpeg", data=array.array("B", b"no picture at all")))


@pytest.mark.parametrize(("encoding", "pixels"), [("mono8", GRAY), ("rgb8", RGB), ("rgb8", RGB[:, ::2])])
def test_an_image_message_reads_back_as_its_pixels(encoding: str, pixels: npt.NDArray[np.uint8]) -> None:
    header = Header(frame_id="camera")
    header.stamp.sec, header.stamp.nanosec = 12, 34
    message = image_message(header, pixels, encoding)
    assert message.header == header
    assert (message.height, message.width, message.encoding) == (*pixels.shape[:2], encoding)
    assert message.step == pixels[0].size
    assert bytes(message.data) == pixels.tobytes()
