from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pvt_mtl_perception.evaluation.boundary import TOLERANCE, boundary_counts
from pvt_mtl_perception.evaluation.records import boundary_f_of


def boundary_points(mask: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Row, column and class of each boundary pixel, found pixel by pixel."""
    points = []
    height, width = mask.shape
    for y, x in zip(*np.nonzero(~ignored), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < height and 0 <= u < width
            if inside and not ignored[v, u] and mask[v, u] != mask[y, x]:
                points.append((y, x, mask[y, x]))
                break
    return np.array(points, np.int64).reshape(-1, 3)


def by_nearest_neighbours(predicted: np.ndarray, labelled: np.ndarray, classes: int) -> np.ndarray:
    ignored = labelled == 255
    tolerance = TOLERANCE * math.hypot(*labelled.shape)
    counts = np.zeros((classes, 4), int)
    both = boundary_points(labelled, ignored), boundary_points(predicted, ignored)
    for label in range(classes):
        truth, guess = (points[points[:, 2] == label, :2] for points in both)
        counts[label, 0], counts[label, 2] = len(truth), len(guess)
        if len(truth) and len(guess):
            counts[label, 1] = (cKDTree(guess).query(truth)[0] <= tolerance).sum()
            counts[label, 3] = (cKDTree(truth).query(guess)[0] <= tolerance).sum()
    return counts


@pytest.mark.parametrize(("classes", "size"), [(5, (60, 90)), (40, (150, 200)), (3, (9, 300))])
def test_counts_equal_a_search_for_nearest_neighbours(classes: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(classes)
    coarse = rng.integers(0, classes, (6, 8)).astype(np.uint8)
    labelled = np.kron(coarse, np.ones((size[0] // 6 + 1, size[1] // 8 + 1), np.uint8))[: size[0], : size[1]]
    predicted = np.roll(labelled, (1, 2), (0, 1))
    noise = rng.random(size) < 0.02
    predicted[noise] = rng.integers(0, classes + 2, int(noise.sum()))
    labelled = labelled.copy()
    labelled[: size[0] // 4, : size[1] // 3] = 255
    counts = boundary_counts(predicted, labelled, classes)
    np.testing.assert_array_equal(counts, by_nearest_neighbours(predicted, labelled, classes))
    assert (counts[:, 1] < counts[:, 0]).any() and counts[:, 1].any()


def test_a_shift_within_the_tolerance_is_perfect_and_beyond_it_is_not() -> None:
    labelled = np.zeros((300, 400), np.uint8)
    labelled[:, 200:] = 1
    tolerance = int(TOLERANCE * 500)
    for shift, expected in ((0, 1.0), (tolerance, 1.0), (tolerance + 1, 0.0)):
        f = boundary_f_of(boundary_counts(np.roll(labelled, shift, 1)[:, :], labelled, 3).astype(float))
        # Rolling brings class 1 to the left edge, whose outline nothing is near.
        if shift == 0:
            np.testing.assert_array_equal(f, [1.0, 1.0, np.nan])
        else:
            assert f[0] == pytest.approx(2 / 3 if expected else 0.0) and np.isnan(f[2])


def test_what_borders_on_unlabelled_pixels_is_no_outline() -> None:
    labelled = np.full((40, 40), 255, np.uint8)
    labelled[:, :20] = 1
    assert not boundary_counts(np.ones_like(labelled), labelled, 2).any()
