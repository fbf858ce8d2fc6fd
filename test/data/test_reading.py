from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_layouts import make_scene, write_picture
from PIL import ExifTags, Image

from pvt_mtl_perception.data.reading import SampleError, read_ids, read_image


def write_huge_png(path: Path) -> None:
    """A head that promises more pixels than OpenCV reads, and the first row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    width, height = 1 << 16, 1 << 15
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(width + 1)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b""))


def test_a_picture_above_opencvs_limit_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    write_huge_png(path)
    with pytest.raises(cv2.error):
        cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    with pytest.raises(SampleError, match=r"huge\.png: OpenCV does not decode it: .*MAX_IMAGE_PIXELS"):
        read_image(path)
    with pytest.raises(SampleError, match=r"huge\.png: OpenCV does not decode it"):
        read_ids(path)


def test_a_palette_above_pillows_limit_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(make_scene(0).mask(0, (1, 2, 3)), "P").convert("P").save(path)
    picture = Image.open(path)
    picture.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 7, 7, 7])
    picture.save(path)
    assert read_ids(path).shape == (48, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(SampleError, match=r"mask\.png: Pillow does not decode it: .*exceeds limit"):
        read_ids(path)
    write_picture(path, make_scene(0).image)
    monkeypatch.undo()
    with pytest.raises(SampleError, match=r"mask\.png: has 3 channels"):
        read_ids(path)


def test_a_truncated_jpeg_is_an_error_and_bytes_behind_a_whole_one_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_picture(path, make_scene(0).image)
    whole, image = path.read_bytes(), read_image(path)
    for count in (len(whole) // 2, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:count])
        with pytest.raises(SampleError, match=r"a\.jpg: damaged, or not an image"):
            read_image(path)
    path.write_bytes(whole + b"of a camera's own")
    np.testing.assert_array_equal(read_image(path), image)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_is_rgb_as_stored_whatever_exif_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (48, 32), (200, 100, 50)).save(path, exif=exif)
    image = read_image(path)
    assert image.shape == (32, 48, 3)
    np.testing.assert_allclose(image[5, 7].astype(int), (200, 100, 50), atol=2)
