from __future__ import annotations

import cv2
import numpy as np
import pytest

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.corruptions import CORRUPTIONS, STRENGTHS, CorruptedSource, corrupt


def street(height: int = 120, width: int = 200) -> np.ndarray:
    """A picture with edges and texture: sky, road and a sign."""
    image = np.full((height, width, 3), (120, 150, 200), np.uint8)
    image[height // 2 :] = 90
    cv2.circle(image, (width // 2, height // 2), height // 5, (200, 40, 40), cv2.FILLED)
    grain = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 60, image.shape), (0, 0), 2)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1) + grain, 0, 255).astype(np.uint8)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_strength_and_follows_from_its_seed(name: str) -> None:
    image = street()
    before = image.copy()
    corrupted = [corrupt(image, name, strength, seed=3) for strength in STRENGTHS]
    np.testing.assert_array_equal(image, before)
    assert all(one.dtype == np.uint8 and one.shape == image.shape for one in corrupted)
    distances = [difference(one, image) for one in corrupted]
    assert distances == sorted(distances) and distances[0] > 0.3 and distances[-1] > 1.5 * distances[0]
    np.testing.assert_array_equal(corrupted[2], corrupt(image, name, 3, seed=3))
    if name != "jpeg":
        assert difference(corrupted[2], corrupt(image, name, 3, seed=4)) > 0


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (720, 1280)])
def test_images_of_any_size_can_be_corrupted(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 100, np.uint8)
    for name in CORRUPTIONS:
        assert corrupt(image, name, 5).shape == image.shape


def test_what_each_corruption_does() -> None:
    image = street()
    height = image.shape[0]
    fog = corrupt(image, "fog", 4).astype(float)
    # Less contrast, and less of the far road is seen than of the near.
    assert fog.std() < 0.6 * image.std()
    change = np.abs(fog - image).mean((1, 2))
    assert change[height // 2 + 2] > change[-1]
    assert corrupt(image, "rain", 3).mean() > image.mean()
    assert corrupt(image, "night", 3).mean() < 0.6 * image.mean()
    flat = np.full((200, 200, 3), 128, np.uint8)
    assert corrupt(flat, "noise", 1).astype(float).std() == pytest.approx(0.08 * 255, rel=0.03)
    np.testing.assert_array_equal(corrupt(flat, "motion_blur", 5), flat)
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, 100:] = 200
    smeared = ((corrupt(stripes, "motion_blur", 5)[100, :, 0] % 200) > 0).sum()
    assert 8 <= smeared <= 14, "6 % of 200 pixels"
    np.testing.assert_array_equal(
        corrupt(image, "jpeg", 5),
        cv2.imdecode(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 7])[1], 1)[..., ::-1],
    )


def test_a_corrupted_source_keeps_labels_and_differs_from_image_to_image() -> None:
    mask = np.zeros((120, 200), np.uint8)
    data = [Sample(image=street(), mask=mask, name=str(i)) for i in range(3)]
    noisy = CorruptedSource(data, "noise", 2)
    assert len(noisy) == 3 and noisy[1].mask is mask and noisy[1].name == "1"
    np.testing.assert_array_equal(noisy[1].image, CorruptedSource(data, "noise", 2)[1].image)
    assert difference(noisy[1].image, noisy[2].image) > 1


def test_unknown_names_and_strengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"corruption 'snow' is not known; known: fog, rain"):
        CorruptedSource([], "snow", 1)
    with pytest.raises(ValueError, match="strength is 6; it goes from 1 to 5"):
        corrupt(street(), "fog", 6)
