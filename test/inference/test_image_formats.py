"""Raw encodings and compressed formats become the RGB pixels they were made from."""

from __future__ import annotations

import array
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pvt_mtl_perception.inference.image_formats import (
    ENCODINGS,
    decode_compressed,
    decode_raw,
)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def smooth_rgb() -> np.ndarray:
    """A picture whose chroma changes slowly, so that 4:2:2 and JPEG keep it."""
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([40 + x * 2, 60 + y * 2, 200 - x], axis=-1).astype(np.uint8)


def test_rgb8_is_a_view_onto_the_message() -> None:
    data = array.array("B", range(2 * 3 * 3))
    image = decode_raw("rgb8", 2, 3, 9, False, data)
    assert image.tolist() == np.arange(18, dtype=np.uint8).reshape(2, 3, 3).tolist()
    data[4] = 200
    assert image[0, 1, 1] == 200


def test_padded_rgb8_rows_are_a_strided_view(rgb: np.ndarray) -> None:
    padded = np.full((6, 31), 255, np.uint8)
    padded[:, :24] = rgb.reshape(6, 24)
    image = decode_raw("rgb8", 6, 8, 31, False, padded.reshape(-1))
    np.testing.assert_array_equal(image, rgb)
    assert np.shares_memory(image, padded)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0])],
)
def test_channel_order(rgb: np.ndarray, encoding: str, channels: list[int], padding: int) -> None:
    rows = rgb[:, :, channels].reshape(6, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=99).tobytes()
    np.testing.assert_array_equal(decode_raw(encoding, 6, 8, rows.shape[1] + padding, False, data), rgb)


def test_mono8_becomes_gray(rgb: np.ndarray) -> None:
    image = decode_raw("mono8", 6, 8, 8, False, rgb[:, :, 0].tobytes())
    np.testing.assert_array_equal(image, np.repeat(rgb[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_values_follow_the_byte_order(order: str) -> None:
    values = np.array([[0, 257, 65535], [32896, 1, 40000]])
    image = decode_raw("mono16", 2, 3, 6, order == ">", values.astype(f"{order}u2").tobytes())
    assert image[:, :, 0].tolist() == np.rint(values / 257).astype(int).tolist()
    assert (image == image[:, :, :1]).all()


def test_rgb16_and_bgr16_differ_in_channel_order(rgb: np.ndarray) -> None:
    wide = rgb.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_raw("rgb16", 6, 8, 48, False, wide.astype("<u2").tobytes()), rgb)
    swapped = np.ascontiguousarray(wide[:, :, ::-1]).astype(">u2")
    np.testing.assert_array_equal(decode_raw("bgr16", 6, 8, 48, True, swapped.tobytes()), rgb)


def yuv_of(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 with studio range, what 4:2:2 cameras send, computed apart from OpenCV."""
    r, g, b = (rgb[:, :, c].astype(float) for c in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return np.rint(np.stack([y, u, v], -1)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("encoding", "luma"), [("uyvy", 1), ("yuv422", 1), ("yuyv", 0), ("yuv422_yuy2", 0)])
def test_packed_422(encoding: str, luma: int) -> None:
    rgb = smooth_rgb()
    yuv = yuv_of(rgb)
    packed = np.empty((*rgb.shape[:2], 2), np.uint8)
    packed[:, :, luma] = yuv[:, :, 0]
    packed[:, 0::2, 1 - luma] = yuv[:, 0::2, 1]
    packed[:, 1::2, 1 - luma] = yuv[:, 0::2, 2]
    image = decode_raw(encoding, 64, 96, 192, False, packed.tobytes())
    assert np.abs(image.astype(int) - rgb).max() <= 6


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns(pattern: str) -> None:
    color = {"r": 200, "g": 120, "b": 30}
    tile = np.array([[color[pattern[0]], color[pattern[1]]], [color[pattern[2]], color[pattern[3]]]])
    raw = np.tile(tile, (8, 8)).astype(np.uint8)
    image = decode_raw(f"bayer_{pattern}8", 16, 16, 16, False, raw.tobytes())
    assert (image[4:12, 4:12] == (200, 120, 30)).all()


def test_unknown_encoding_names_itself_and_the_supported_ones() -> None:
    with pytest.raises(ValueError, match=r"'32FC1' is not supported.*rgb8.*bgra8.*yuv422_yuy2"):
        decode_raw("32FC1", 2, 2, 8, False, bytes(16))


def test_wrong_length_names_encoding_and_both_lengths() -> None:
    with pytest.raises(ValueError, match=r"8x6 image of encoding 'bgr8' .*needs 144 bytes but has 100"):
        decode_raw("bgr8", 6, 8, 24, False, bytes(100))


def test_too_small_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of 24 bytes but the step 8"):
        decode_raw("rgb8", 6, 8, 8, False, bytes(48))


def test_empty_and_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size 8x0"):
        decode_raw("rgb8", 0, 8, 24, False, b"")
    with pytest.raises(ValueError, match="'yuyv' needs an even width, not 3"):
        decode_raw("yuyv", 2, 3, 6, False, bytes(12))


def test_every_encoding_gives_an_rgb_image_of_the_message_size() -> None:
    for name, layout in ENCODINGS.items():
        step = 8 * layout.channels * layout.bytes_per_value
        image = decode_raw(name, 6, 8, step, False, bytes(step * 6))
        assert (image.shape, image.dtype) == ((6, 8, 3), np.uint8), name


@pytest.mark.parametrize("format", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed "])
def test_png_is_lossless(rgb: np.ndarray, format: str) -> None:
    data = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(format, data), rgb)


@pytest.mark.parametrize("format", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8"])
def test_jpeg_is_near(format: str) -> None:
    rgb = smooth_rgb()
    data = array.array(
        "B",
        cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes(),
    )
    assert np.abs(decode_compressed(format, data).astype(int) - rgb).max() <= 8


def test_rgb_values_inside_the_codec_are_not_swapped(rgb: np.ndarray) -> None:
    data = cv2.imencode(".png", rgb)[1].tobytes()
    np.testing.assert_array_equal(decode_compressed("rgb8; png compressed rgb8", data), rgb)


def test_gray_jpeg_becomes_three_channels() -> None:
    data = cv2.imencode(".png", np.full((4, 5), 77, np.uint8))[1].tobytes()
    assert decode_compressed("mono8; png compressed ", data).tolist() == np.full((4, 5, 3), 77).tolist()


def test_an_exif_orientation_does_not_turn_the_image() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(smooth_rgb()).save(file, "jpeg", exif=exif)
    assert decode_compressed("jpeg", file.getvalue()).shape == smooth_rgb().shape


def test_corrupt_and_empty_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 bytes with the compressed image format 'jpeg'"):
        decode_compressed("jpeg", b"\xff\xd8\x00\x00")
    with pytest.raises(ValueError, match="0 bytes"):
        decode_compressed("png", b"")
    jpeg = bytearray(cv2.imencode(".jpg", smooth_rgb())[1].tobytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2  # rows and columns
    with pytest.raises(ValueError, match=r"format 'jpeg' do not decode: .+"):
        decode_compressed("jpeg", bytes(jpeg))
    with pytest.raises(ValueError, match="depth image"):
        decode_compressed("16UC1; compressedDepth png", bytes(20))
