from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.transforms import (
    MIN_SIDE,
    MIN_VISIBLE,
    AugmentationConfig,
    PadTo,
    RandomPhotometric,
    RandomScaledCrop,
    RandomWindowOnBox,
    SampleTransform,
    evaluation_transform,
    fill_color,
    training_transform,
)

SIZE = (160, 256)


def sample_with_rectangles(rng: np.random.Generator, height: int = 384, width: int = 640) -> Sample:
    """Non-overlapping rectangles, one mask id each, painted so that red says the column and green the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()[None, :]
    image[..., 1] = np.linspace(0, 255, height).round()[:, None]
    mask = np.zeros((height, width), np.uint8)
    boxes = []
    for row in range(3):
        for column in range(4):
            w, h = rng.integers(20, 100), rng.integers(20, 90)
            x = column * 160 + rng.integers(0, 160 - w)
            y = row * 128 + rng.integers(0, 128 - h)
            boxes.append([x, y, x + w, y + h])
            mask[y : y + h, x : x + w] = len(boxes)
    return Sample(
        image=image,
        boxes=np.array(boxes, np.float32),
        box_labels=np.arange(1, 13),
        box_classes=tuple(range(1, 13)),
        mask=mask,
        name="rectangles",
    )


def extents(region: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


EVERYTHING = AugmentationConfig(aspect_ratio=4 / 3, iou_crop=0.7)


@pytest.mark.parametrize("augmentation", [AugmentationConfig(), EVERYTHING])
@pytest.mark.parametrize("seed", range(25))
def test_box_is_the_extent_of_its_transformed_mask(seed: int, augmentation: AugmentationConfig) -> None:
    sample = sample_with_rectangles(np.random.default_rng(seed))
    result = training_transform(SIZE, (0.6, 2.5), augmentation=augmentation)(sample, seed)
    assert result.image.shape == (*SIZE, 3) and result.mask.shape == SIZE
    for box, label in zip(result.boxes, result.box_labels, strict=True):
        np.testing.assert_allclose(box, extents(result.mask == label), atol=1.0)


@pytest.mark.parametrize("augmentation", [AugmentationConfig(), EVERYTHING])
@pytest.mark.parametrize("seed", range(25))
def test_every_visible_rectangle_keeps_a_box_or_becomes_ignored(
    seed: int, augmentation: AugmentationConfig
) -> None:
    sample = sample_with_rectangles(np.random.default_rng(seed))
    result = training_transform(SIZE, (1.0, 3.0), augmentation=augmentation)(sample, seed)
    for label in range(1, 13):
        region = result.mask == label
        if not region.any():
            continue
        candidates = np.concatenate([result.boxes[result.box_labels == label], result.ignore_boxes])
        distance = np.abs(candidates - extents(region)).max(1)
        assert distance.min() <= 1.0, f"rectangle {label} has no box"


@pytest.mark.parametrize("seed", range(12))
def test_pixels_come_from_where_a_plain_reference_says(seed: int) -> None:
    # The picture encodes its own coordinates, so the source position of a result's pixel can be read off it
    # and compared with the position that the boxes' movement implies.
    sample = sample_with_rectangles(np.random.default_rng(seed))
    result = SampleTransform(RandomScaledCrop(SIZE, (1.0, 2.5), SIZE), v2.RandomHorizontalFlip())(
        sample, seed
    )
    moved = dict(zip(result.box_labels.tolist(), result.boxes, strict=True))
    height, width = result.image.shape[:2]
    checked = 0
    for label, box in moved.items():
        x1, y1, x2, y2 = box
        if x1 <= 0 or y1 <= 0 or x2 >= width or y2 >= height:
            continue
        source = sample.boxes[label - 1]
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        red, green = (
            cv2.getRectSubPix(np.ascontiguousarray(result.image[..., c]), (1, 1), (cx - 0.5, cy - 0.5))[0, 0]
            for c in (0, 1)
        )
        assert abs(red - ((source[0] + source[2]) / 2 - 0.5) * 255 / 639) <= 1.5
        assert abs(green - ((source[1] + source[3]) / 2 - 0.5) * 255 / 383) <= 1.5
        checked += 1
    assert checked or len(moved) < 4


def test_mask_is_not_shifted_against_the_image() -> None:
    # A vertical edge in image and mask: after any resize both put it at the same place to half a pixel.
    for width in (640, 500, 411):
        image = np.zeros((width * 5 // 8, width, 3), np.uint8)
        image[:, width // 2 :] = 255
        mask = (image[..., 0] > 0).astype(np.uint8)
        result = evaluation_transform(SIZE)(Sample(image=image, mask=mask), 0)
        edge_image = SIZE[1] - result.image[80, :, 0].astype(float).sum() / 255
        edge_mask = SIZE[1] - result.mask[80].astype(float).sum()
        assert abs(edge_image - edge_mask) <= 0.5


def test_box_with_little_left_becomes_an_ignore_box_and_one_outside_vanishes() -> None:
    boxes = np.array(
        [[-80, 10, 20, 50], [-20, 60, 80, 90], [-50, 100, -10, 120], [30, 30, 31, 60]], np.float32
    )
    sample = Sample(
        image=np.zeros((160, 256, 3), np.uint8),
        boxes=boxes,
        box_labels=np.arange(4),
        box_classes=(0, 1, 2, 3),
        ignore_boxes=np.array([[200, 100, 300, 300], [300, 10, 310, 20]], np.float32),
    )
    result = evaluation_transform(SIZE)(sample, 0)
    assert 20 / 100 < MIN_VISIBLE < 80 / 100 and MIN_SIDE > 1
    np.testing.assert_array_equal(result.boxes, [[0, 60, 80, 90]])
    np.testing.assert_array_equal(result.box_labels, [1])
    np.testing.assert_array_equal(
        result.ignore_boxes, [[0, 10, 20, 50], [30, 30, 31, 60], [200, 100, 256, 160]]
    )


@pytest.mark.parametrize("photometric", [0.0, 1.0])
def test_padding_is_the_mean_colour_and_unlabelled(photometric: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 400, 3)).astype(np.uint8)
    sample = Sample(image=image, mask=np.zeros((100, 400), np.uint8))
    result = training_transform(SIZE, (0.9, 0.9), augmentation=AugmentationConfig(photometric))(sample, 3)
    padding = result.mask == 255
    assert 0.5 < padding.mean() < 0.9
    assert (result.image[padding] == fill_color()).all()


def test_evaluation_transform_is_the_predictors_letterbox() -> None:
    from pvt_mtl_perception.inference.preprocess import preprocess
    from pvt_mtl_perception.model.checkpoint import Preprocessing

    rng = np.random.default_rng(1)
    for height, width in ((360, 480), (720, 1280), (333, 501), (100, 90)):
        image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 2)
        box = np.array([[10, 20, 70, 80]], np.float32)
        sample = Sample(image=image, boxes=box, box_labels=np.array([0]), box_classes=(0,))
        result = evaluation_transform((192, 320))(sample, 0)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        batch, geometries = preprocess([image], Preprocessing(192, 320, mean, std), torch.device("cpu"))
        ours = (torch.from_numpy(result.image.copy()).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
        # Padding is the mean rounded to a whole grey level.
        np.testing.assert_allclose(
            ours.numpy(), batch[0].permute(1, 2, 0).numpy(), atol=0.5 / 255 / 0.22 + 1e-3
        )
        np.testing.assert_allclose(result.boxes, geometries[0].boxes_to_input(box), atol=1e-3)


def test_same_seed_same_result_and_other_seed_another() -> None:
    sample = sample_with_rectangles(np.random.default_rng(0))
    transform = training_transform(SIZE)
    torch.manual_seed(1)
    first = transform(sample, 7)
    torch.manual_seed(2)
    cv2.setRNGSeed(99)
    again = transform(sample, 7)
    for name in ("image", "boxes", "box_labels", "ignore_boxes", "mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.image, transform(sample, 8).image)


def test_the_process_own_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training_transform(SIZE)(sample_with_rectangles(np.random.default_rng(0)), 1)
    torch.testing.assert_close(torch.rand(3), expected)


def test_unlabelled_tasks_stay_unlabelled() -> None:
    result = training_transform(SIZE)(Sample(image=np.zeros((90, 120, 3), np.uint8), classes={"scene": 2}), 0)
    assert result.boxes is None and result.box_labels is None and result.mask is None
    assert result.classes == {"scene": 2}


def test_photometric_of_strength_zero_changes_nothing_and_of_one_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    unchanged = SampleTransform(RandomPhotometric(0.0))(Sample(image=image), 4).image
    # The matrix is the identity but for rounding.
    assert np.abs(unchanged.astype(int) - image).max() <= 1
    changed = SampleTransform(RandomPhotometric(1.0))(Sample(image=image), 4).image
    assert np.abs(changed.astype(int) - image).mean() > 2


def test_saturation_and_hue_keep_luma_and_brightness_scales_it() -> None:
    image = np.full((8, 8, 3), (120, 90, 60), np.uint8)
    luma = np.array([0.299, 0.587, 0.114])
    for params, gain in (
        ({"saturation": 0.0}, 1.0),
        ({"hue": 0.3}, 1.0),
        ({"brightness": 1.3}, 1.3),
        ({"contrast": 0.6}, 1.0),
    ):
        neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
        neutral |= {"blur": None, "noise": None, "noise_seed": 0}
        transform = RandomPhotometric()
        transform.make_params = lambda flat, params=params, neutral=neutral: neutral | params
        result = SampleTransform(transform)(Sample(image=image), 0).image[0, 0]
        assert abs(result @ luma - gain * (image[0, 0] @ luma)) < 1.0
        if params == {"saturation": 0.0}:
            assert np.ptp(result.astype(int)) <= 1


def test_random_padding_covers_all_places() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    transform = SampleTransform(PadTo((44, 44), (0, 0, 0), random=True))
    places = {
        tuple(extents(transform(Sample(image=image), seed).image[..., 0] == 200)[:2]) for seed in range(300)
    }
    assert len(places) == 25


@pytest.mark.parametrize("seed", range(40))
def test_boxes_lie_in_the_picture_and_are_worth_learning_whatever_the_source(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(40, 500, 2))
    # Boxes of every size, a third of them partly or wholly outside of the image, as some annotations are.
    corner = rng.uniform(-0.3, 1.1, (60, 2)) * (width, height)
    boxes = np.hstack([corner, corner + rng.uniform(0.01, 200, (60, 2))]).astype(np.float32)
    sample = Sample(
        image=rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        boxes=boxes,
        box_labels=np.arange(60) % 5,
        box_classes=tuple(range(5)),
        ignore_boxes=boxes[::7] + np.float32(3),
    )
    result = training_transform(SIZE, (0.3, 4.0), augmentation=EVERYTHING)(sample, seed)
    for found in (result.boxes, result.ignore_boxes):
        assert (
            (found >= 0).all() and (found[:, [0, 2]] <= SIZE[1]).all() and (found[:, [1, 3]] <= SIZE[0]).all()
        )
        assert (found[:, 2:] > found[:, :2]).all()
    assert (result.boxes[:, 2:] - result.boxes[:, :2]).min(initial=np.inf) >= MIN_SIDE
    assert len(result.boxes) == len(result.box_labels) and result.box_classes == sample.box_classes
    assert len(result.boxes) + len(result.ignore_boxes) <= 60 + len(sample.ignore_boxes)


def test_a_crop_on_a_box_shows_parts_of_boxes_and_of_nothing_else() -> None:
    sample = sample_with_rectangles(np.random.default_rng(0))
    transform = SampleTransform(RandomWindowOnBox(1.0))
    areas = []
    for seed in range(30):
        result = transform(sample, seed)
        areas.append(result.image.shape[0] * result.image.shape[1] / (384 * 640))
        assert len(result.boxes) + len(result.ignore_boxes) >= 1
    assert min(areas) < 0.4 and max(areas) <= 1 and np.std(areas) > 0.1
    unlabelled = Sample(image=sample.image)
    np.testing.assert_array_equal(transform(unlabelled, 0).image, sample.image)


def test_stretch_keeps_within_its_bound_and_goes_both_ways() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    box = np.array([[20, 20, 80, 80]], np.float32)
    sample = Sample(image=image, boxes=box, box_labels=np.array([0]), box_classes=(0,))
    transform = SampleTransform(RandomScaledCrop((300, 300), (1.0, 1.0), (150, 150), 4 / 3))
    ratios = []
    for seed in range(60):
        x1, y1, x2, y2 = transform(sample, seed).boxes[0]
        ratios.append((x2 - x1) / (y2 - y1))
    assert 0.74 < min(ratios) < 0.85 and 1.18 < max(ratios) < 1.35


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flip": 1.5}, "flip is a probability"),
        ({"iou_crop": -1}, "iou_crop is a probability"),
        ({"photometric": -1}, "photometric is at least 0"),
        ({"aspect_ratio": 0.5}, "aspect_ratio is at least 1"),
    ],
)
def test_augmentation_refuses_values_out_of_range(keys: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**keys)
