from __future__ import annotations

import numpy as np
import pytest

from pvt_mtl_perception.inference.render import colorize, draw_overlay
from pvt_mtl_perception.labels import LabelSet, TaskLabels
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation

SURFACES = LabelSet("surfaces", ("road", "sky", "tree"), ((128, 64, 128), (70, 130, 180), (10, 200, 30)))
THINGS = LabelSet("things", ("car", "truck"), ((250, 10, 10), (20, 20, 240)))
WEATHER = LabelSet("weather", ("clear", "rainy"), ((255, 200, 0), (0, 100, 255)))
LABELS = TaskLabels({"weather": WEATHER}, THINGS, SURFACES)


def frame(height: int = 240, width: int = 320) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(*rows: tuple[float, float, float, float]) -> Detections:
    count = len(rows)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Detections(np.array(rows, np.float32).reshape(count, 4), scores, np.arange(count) % len(THINGS))


def full_result(height: int = 240, width: int = 320) -> Result:
    mask = np.random.default_rng(1).integers(0, 3, (height, width), dtype=np.uint8)
    return Result(
        height,
        width,
        boxes((50, 60, 150, 160), (0, 0, width, height), (200, 100, 210.4, 230.7)),
        Segmentation(mask),
        Classification({"weather": np.array([0.25, 0.75], np.float32)}),
    )


def test_colorize_gives_each_pixel_its_class_colour() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    colored = colorize(mask, SURFACES)
    assert colored.dtype == np.uint8
    for y, x in np.ndindex(mask.shape):
        expected = SURFACES.colors[mask[y, x]] if mask[y, x] < 3 else (0, 0, 0)
        assert tuple(colored[y, x]) == expected


def test_colorize_takes_views() -> None:
    mask = np.random.default_rng(0).integers(0, 3, (40, 50), dtype=np.uint8)
    assert np.array_equal(colorize(mask[::-1, ::2], SURFACES), colorize(mask, SURFACES)[::-1, ::2])


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_mask_is_blended_by_opacity(opacity: float) -> None:
    image = frame()
    mask = np.random.default_rng(1).integers(0, 3, image.shape[:2], dtype=np.uint8)
    result = Result(240, 320, segmentation=Segmentation(mask))
    drawn = draw_overlay(image, result, LABELS, opacity)
    expected = (1 - opacity) * image + opacity * SURFACES.palette[mask]
    assert np.abs(drawn - expected).max() <= 0.51


def test_pixels_without_a_class_show_the_image() -> None:
    image = frame()
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[50:100] = 255
    drawn = draw_overlay(image, Result(240, 320, segmentation=Segmentation(mask)), LABELS, opacity=1.0)
    assert np.array_equal(drawn[50:100], image[50:100])
    assert (drawn[:50] == SURFACES.colors[0]).all()


def test_box_is_outlined_in_its_colour_and_the_rest_is_the_image() -> None:
    image = np.full((720, 1280, 3), 90, np.uint8)
    drawn = draw_overlay(image, Result(720, 1280, boxes((300, 200, 700, 500))), LABELS)
    edges = [drawn[350, 300], drawn[350, 699], drawn[499, 500], drawn[200, 650]]
    assert all(tuple(pixel) == THINGS.colors[0] for pixel in edges)
    assert (drawn[210:490, 310:690] == 90).all()
    changed = np.argwhere((drawn != image).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert 297 <= left <= 300
    assert 699 <= right <= 702
    assert 499 <= bottom <= 502
    assert 150 <= top < 190, "the label lies above the box"


def test_label_stays_inside_the_image() -> None:
    image = np.full((240, 320, 3), 90, np.uint8)
    drawn = draw_overlay(image, Result(240, 320, boxes((300, 1, 320, 30))), LABELS)
    inside = drawn[:, :299]
    # The box begins at 300; coloured pixels left of it are its label, moved into the image.
    assert (inside == THINGS.colors[0]).all(axis=2).sum() > 50


def test_surer_boxes_lie_on_top() -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    same_place = Detections(
        np.array([[300, 200, 700, 500]] * 2, np.float32), np.array([0.9, 0.4], np.float32), np.array([0, 1])
    )
    drawn = draw_overlay(image, Result(720, 1280, same_place), LABELS)
    assert tuple(drawn[350, 300]) == THINGS.colors[0]


def test_classification_panel_has_a_bar_as_long_as_the_probability() -> None:
    image = np.full((720, 1280, 3), 200, np.uint8)

    def bar_length(probability: float) -> int:
        probabilities = np.array([1 - probability, probability], np.float32)
        drawn = draw_overlay(
            image, Result(720, 1280, classification=Classification({"weather": probabilities})), LABELS
        )
        return int((drawn == WEATHER.colors[1]).all(axis=2).sum(axis=1).max())

    assert bar_length(1.0) > 50
    assert bar_length(0.6) == pytest.approx(0.6 * bar_length(1.0), abs=3)


def test_inputs_are_left_as_they_are() -> None:
    image, result = frame(), full_result()
    assert result.detections is not None and result.segmentation is not None
    before = image.copy(), result.detections.boxes.copy(), result.segmentation.mask.copy()
    drawn = draw_overlay(image, result, LABELS)
    assert not np.shares_memory(drawn, image)
    assert np.array_equal(image, before[0])
    assert np.array_equal(result.detections.boxes, before[1])
    assert np.array_equal(result.segmentation.mask, before[2])
    assert not np.shares_memory(draw_overlay(image, Result(240, 320), LABELS), image)


def test_views_and_read_only_images_are_drawn_like_copies() -> None:
    image = frame()
    expected = draw_overlay(image, full_result(), LABELS)
    bgr = image[..., ::-1].copy()
    assert np.array_equal(draw_overlay(bgr[..., ::-1], full_result(), LABELS), expected)
    image.flags.writeable = False
    assert np.array_equal(draw_overlay(image, full_result(), LABELS), expected)


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (2160, 3840)])
def test_any_image_size_can_be_drawn(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert draw_overlay(image, full_result(*size), LABELS).shape == image.shape


def test_another_size_than_the_results_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(240, 320, 3\).*\(100, 320, 3\)"):
        draw_overlay(frame(), Result(100, 320), LABELS)
    with pytest.raises(ValueError, match=r"opacity is 1\.5"):
        draw_overlay(frame(), Result(240, 320), LABELS, opacity=1.5)
