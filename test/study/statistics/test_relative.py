from __future__ import annotations

import numpy as np
import pytest

from pvt_mtl_perception.study.statistics.relative import delta_m


def test_delta_m_by_hand_is_positive_for_a_gain() -> None:
    # mIoU 40 -> 42 is +5 %; an error of 0.5 -> 0.6 is -20 %: (5 - 20) / 2.
    assert delta_m([[42, 0.6]], [[40, 0.5]], [False, True]) == pytest.approx([-7.5])
    assert delta_m([[42, 0.4]], [[40, 0.5]], [False, True]) == pytest.approx([12.5])


def test_delta_m_gives_a_value_for_each_seed() -> None:
    multi = np.array([[0.5, 0.3, 0.9], [0.4, 0.3, 0.9]])
    single = np.array([[0.5, 0.3, 0.9], [0.5, 0.3, 0.9]])
    assert delta_m(multi, single, [False] * 3) == pytest.approx([0, -100 * 0.2 / 3])


def test_delta_m_of_noise_is_no_gain() -> None:
    # The same scores in another order, one of them 0; ratios by seed would be +100 %, -50 % and infinite.
    noisy = np.array([[0.1], [0.2], [0.0]])
    assert delta_m(noisy[[1, 2, 0]], noisy, [False]) == pytest.approx([100, -200, 100])


def test_delta_m_names_scores_it_cannot_divide_by() -> None:
    with pytest.raises(ValueError, match="scores above 0"):
        delta_m([[1.0], [1.0]], [[0.0], [0.0]], [False])
    with pytest.raises(ValueError, match="each of 2 tasks"):
        delta_m([[1.0]], [[1.0]], [False, False])
