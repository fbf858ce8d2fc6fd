from __future__ import annotations

import dataclasses

import numpy as np

from pvt_mtl_perception.study.statistics.claims import Endpoint, judge, verdict
from pvt_mtl_perception.study.statistics.paired import compare_pairs, equivalence_test

ENDPOINTS = [Endpoint("detection AP", 0.01), Endpoint("segmentation mIoU", 0.01), Endpoint("top-1", 0.01)]
STL = np.array([0.31, 0.33, 0.30, 0.32, 0.34, 0.31, 0.30, 0.32])
GAIN = np.array([0.020, 0.024, 0.031, 0.018, 0.026, 0.022, 0.029, 0.021])
NOISE = np.array([0.002, -0.003, 0.001, 0.004, -0.002, -0.001, 0.003, 0.000])


def test_each_verdict_is_reached_and_said() -> None:
    comparisons = {
        ENDPOINTS[0]: compare_pairs(STL + GAIN, STL),
        ENDPOINTS[1]: compare_pairs(STL + NOISE, STL),
        ENDPOINTS[2]: compare_pairs(STL + 20 * NOISE, STL),
    }
    shown, equivalent, not_shown = judge(comparisons, "PVT v2 multi-task", "single-task")
    assert shown.verdict == "shown" and shown.p_corrected == 3 * 2 / 2**8
    low, high = 100 * shown.comparison.low, 100 * shown.comparison.high
    assert shown.text == (
        "PVT v2 multi-task is shown to score higher than single-task in detection AP (+2.39 points, "
        f"95 % interval {low:+.2f} to {high:+.2f}, sign-flip p = 0.023 after Holm over 3, 8 seeds)."
    )
    assert 2.0 < low < 2.39 < high < 2.8
    assert equivalent.verdict == "equivalent within the margin"
    assert equivalent.text.startswith(
        "PVT v2 multi-task and single-task are equivalent within the margin of 1 point in segmentation mIoU"
    )
    assert "equivalence p < 0.001" in equivalent.text
    assert not_shown.verdict == "not shown"
    assert "A difference between PVT v2 multi-task and single-task in top-1 is not shown (" in not_shown.text


def test_loss_is_shown_as_a_lower_score_and_its_size_bounded() -> None:
    endpoint = Endpoint("AP", 0.05)
    (claim,) = judge({endpoint: compare_pairs(STL - GAIN, STL)})
    assert claim.verdict == "shown"
    assert "MTL is shown to score lower than STL in AP (-2.39 points" in claim.text
    assert "a difference of 5 points or more is excluded, p < 0.001" in claim.text
    assert "Holm" not in claim.text


def test_undecided_gain_says_that_a_loss_is_excluded() -> None:
    differences = np.array([0.05, -0.01, 0.02, 0.06, -0.008, 0.03, -0.009, 0.05])
    (claim,) = judge({ENDPOINTS[0]: compare_pairs(STL + differences, STL)})
    assert claim.verdict == "not shown"
    assert "a loss of 1 point or more is excluded, p = " in claim.text
    assert claim.equivalence.p_non_inferior < 0.05 < claim.equivalence.p_equivalent


def test_shown_needs_both_the_interval_and_the_corrected_p() -> None:
    comparison = compare_pairs(STL + GAIN, STL)
    far = equivalence_test(comparison.differences, 1e-6)
    assert verdict(comparison, 0.049, far) == "shown"
    assert verdict(comparison, 0.05, far) == "not shown"
    assert verdict(dataclasses.replace(comparison, low=0.0), 0.001, far) == "not shown"
    assert verdict(dataclasses.replace(comparison, alpha=0.01), 0.02, far) == "not shown"


def test_five_seeds_show_nothing_however_large_the_gain() -> None:
    (claim,) = judge({ENDPOINTS[0]: compare_pairs(STL[:5] + GAIN[:5], STL[:5])})
    assert claim.comparison.low > 0 and claim.p_corrected == 2 / 2**5
    assert claim.verdict == "not shown"


def test_difference_that_is_shown_is_not_called_equivalent() -> None:
    wide = Endpoint("AP", 0.1)
    (claim,) = judge({wide: compare_pairs(STL + GAIN, STL)})
    assert claim.equivalence.p_equivalent < 0.05 and claim.verdict == "shown"
