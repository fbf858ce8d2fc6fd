from __future__ import annotations

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from pvt_mtl_perception.inference.preprocess import letterbox_geometry, nearest_indices, preprocess
from pvt_mtl_perception.model.checkpoint import Preprocessing

CPU = torch.device("cpu")
INPUT = Preprocessing(height=384, width=640)


def street(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image: resampling filters agree on it, misplaced pixels do not."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def grey_levels(batch: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray:
    """(B, 3, H, W) normalised to (B, H, W, 3) on the 0..255 scale."""
    return batch.permute(0, 2, 3, 1).numpy() * 255 * preprocessing.std + 255 * np.array(preprocessing.mean)


@pytest.mark.parametrize("size", [(1080, 1920), (719, 1281), (360, 480), (200, 150), (37, 1111), (384, 640)])
def test_resized_image_is_torchvisions(size: tuple[int, int]) -> None:
    image = street(*size)
    batch, (geometry,) = preprocess([image], INPUT, CPU)
    expected = transforms.resize(
        torch.from_numpy(image).permute(2, 0, 1).float(),
        [geometry.resized_height, geometry.resized_width],
        antialias=True,
    )
    expected = transforms.normalize(expected / 255, INPUT.mean, INPUT.std)
    found = batch[0, :, : geometry.resized_height, : geometry.resized_width]
    # Rounding to whole grey levels, twice (rows, then columns), in units of the smallest deviation.
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 255 / min(INPUT.std))


@pytest.mark.parametrize("size", [(1080, 1920), (719, 1281), (200, 150)])
def test_resized_image_is_pillows(size: tuple[int, int]) -> None:
    image = street(*size)
    batch, (geometry,) = preprocess([image], INPUT, CPU)
    resized = (geometry.resized_width, geometry.resized_height)
    expected = np.asarray(PIL.Image.fromarray(image).resize(resized, PIL.Image.Resampling.BILINEAR))
    found = grey_levels(batch, INPUT)[0, : geometry.resized_height, : geometry.resized_width]
    assert np.abs(found - expected.astype(float)).max() < 1.01


def test_padding_is_zero_and_lies_right_and_below() -> None:
    white_wide = np.full((100, 400, 3), 255, np.uint8)
    white_tall = np.full((400, 100, 3), 255, np.uint8)
    batch, (wide, tall) = preprocess([white_wide, white_tall], INPUT, CPU)
    assert (wide.resized_height, wide.resized_width) == (160, 640)
    assert (tall.resized_height, tall.resized_width) == (384, 96)
    assert (batch[0, :, 160:] == 0).all()
    assert (batch[0, :, :160] > 1).all()
    assert (batch[1, :, :, 96:] == 0).all()
    assert (batch[1, :, :, :96] > 1).all()


def test_batch_is_float32_in_channels_last_memory() -> None:
    batch, _ = preprocess([street(90, 160), street(50, 50)], INPUT, CPU)
    assert batch.shape == (2, 3, 384, 640)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_each_image_of_a_mixed_batch_is_as_alone() -> None:
    sizes = [(1080, 1920), (360, 480), (1080, 1920), (384, 640), (100, 30)]
    images = [street(*size, seed=seed) for seed, size in enumerate(sizes)]
    batch, geometries = preprocess(images, INPUT, CPU)
    for i, image in enumerate(images):
        alone, (geometry,) = preprocess([image], INPUT, CPU)
        assert torch.equal(batch[i], alone[0])
        assert geometries[i] == geometry


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[..., ::-1],
        lambda image: image[::-1],
        lambda image: image[:, ::-1, ::-1],
        lambda image: image[10:-7, 5:-3],
        lambda image: image[::2, ::3],
        lambda image: image.transpose(1, 0, 2),
    ],
    ids=["bgr", "upside-down", "mirrored-bgr", "crop", "strided", "transposed"],
)
def test_a_view_gives_what_its_copy_gives(view) -> None:
    image = view(street(300, 500))
    found, _ = preprocess([image], INPUT, CPU)
    expected, _ = preprocess([np.ascontiguousarray(image)], INPUT, CPU)
    # A flipped filter sums in another order, which may move a rounding by one grey level.
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 255 / min(INPUT.std))
    assert (found != expected).float().mean() < 0.01


def test_images_on_immutable_bytes_are_taken() -> None:
    image = np.frombuffer(street(60, 80).tobytes(), np.uint8).reshape(60, 80, 3)
    assert not image.flags.writeable
    found, _ = preprocess([image], INPUT, CPU)
    expected, _ = preprocess([image.copy()], INPUT, CPU)
    assert torch.equal(found, expected)


def test_images_are_left_as_they_are() -> None:
    for image in (street(384, 640), street(200, 300)[..., ::-1]):
        before = image.copy()
        preprocess([image], INPUT, CPU)
        assert np.array_equal(image, before)


@pytest.mark.parametrize("size", [(1080, 1920), (1079, 1919), (361, 477), (100, 30), (1, 5000), (7, 3)])
def test_boxes_survive_the_way_to_the_input_and_back(size: tuple[int, int]) -> None:
    geometry = letterbox_geometry(size, (384, 640))
    height, width = size
    corners = np.random.default_rng(0).random((50, 2, 2)) * [width, height]
    boxes = np.sort(corners, axis=1).reshape(50, 4).astype(np.float32)
    boxes[0] = (0, 0, width, height)
    boxes_input = geometry.boxes_to_input(boxes)
    np.testing.assert_allclose(geometry.boxes_to_source(boxes_input), boxes, rtol=1e-5)
    np.testing.assert_allclose(
        boxes_input[0], (0, 0, geometry.resized_width, geometry.resized_height), rtol=1e-6
    )
    assert geometry.resized_width == 640 or geometry.resized_height == 384


@pytest.mark.parametrize("size", [(1079, 1919), (361, 477), (720, 1283), (503, 211), (150, 200)])
def test_a_rectangle_is_found_where_it_lies_in_the_source(size: tuple[int, int]) -> None:
    """The image's way and the boxes' way agree to half a source pixel, in both directions of scaling."""
    height, width = size
    x1, y1, x2, y2 = width // 5, height // 7, width - width // 3, height - height // 4
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    batch, (geometry,) = preprocess([image], INPUT, CPU)
    light = grey_levels(batch, INPUT)[0, : geometry.resized_height, : geometry.resized_width, 0] / 255
    # The summed light across an edge says where between the pixels it lies.
    middle_y, middle_x = geometry.resized_height // 2, geometry.resized_width // 2
    row, column = light[middle_y], light[:, middle_x]
    box_input = np.array(
        [[middle_x - row[:middle_x].sum(), middle_y - column[:middle_y].sum(),
          middle_x + row[middle_x:].sum(), middle_y + column[middle_y:].sum()]], np.float32
    )  # fmt: skip
    np.testing.assert_allclose(geometry.boxes_to_source(box_input)[0], (x1, y1, x2, y2), atol=0.5)


def test_mask_comes_back_at_source_size_where_it_belongs() -> None:
    """Pixel by pixel against the definition: the input pixel that holds the source pixel's centre."""
    for size in [(50, 83), (500, 300), (384, 640), (37, 101)]:
        geometry = letterbox_geometry(size, (96, 160))
        mask_input = torch.randint(0, 19, (96, 160), dtype=torch.uint8)
        found = geometry.mask_to_source(mask_input).numpy()
        assert found.shape == size
        for y in range(size[0]):
            for x in range(size[1]):
                row = (2 * y + 1) * geometry.resized_height // (2 * size[0])
                column = (2 * x + 1) * geometry.resized_width // (2 * size[1])
                assert found[y, x] == mask_input[row, column]


def test_mask_survives_the_way_to_a_larger_input_and_back() -> None:
    mask = np.random.default_rng(0).integers(0, 19, (123, 211), dtype=np.uint8)
    geometry = letterbox_geometry((123, 211), (384, 640))
    mask_input = geometry.mask_to_input(mask, fill=255)
    assert mask_input.shape == (384, 640)
    assert (mask_input[geometry.resized_height :] == 255).all()
    assert (mask_input[:, geometry.resized_width :] == 255).all()
    assert np.array_equal(geometry.mask_to_source(torch.from_numpy(mask_input)).numpy(), mask)


@pytest.mark.parametrize(("size_from", "size_to"), [(360, 1080), (480, 640), (640, 641), (7, 3), (1, 9)])
def test_nearest_indices_are_those_of_torch(size_from: int, size_to: int) -> None:
    line = torch.arange(size_from, dtype=torch.float32)[None, None]
    expected = torch.nn.functional.interpolate(line, size=size_to, mode="nearest-exact")[0, 0]
    assert nearest_indices(size_from, size_to).tolist() == expected.tolist()
