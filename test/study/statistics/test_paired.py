from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pvt_mtl_perception.study.statistics.paired import (
    bca_interval,
    compare_pairs,
    equivalence_test,
    holm,
    sign_flip_test,
    smallest_p,
)

# Darwin's maize: crossed minus self-fertilised height, eighths of an inch (Fisher 1935, section 17).
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)


def four_errors(rate: float, trials: int) -> float:
    return 4 * np.sqrt(rate * (1 - rate) / trials)


def test_sign_flip_test_gives_fishers_count_for_darwins_maize() -> None:
    # Fisher 1935, section 21: 863 of the 2^15 sums reach 314 on one side.
    assert sign_flip_test(MAIZE) == 2 * 863 / 2**15


def test_t_test_and_wilcoxon_give_published_values_for_darwins_maize() -> None:
    comparison = compare_pairs(MAIZE, np.zeros(15))
    # Fisher 1935, section 17: t = 2.148, 5 % point 2.145 at 14 degrees of freedom.
    assert comparison.p_t == pytest.approx(2 * stats.t.sf(2.148, 14), abs=1e-4)
    assert comparison.effect_size == pytest.approx(2.148 / np.sqrt(15), abs=1e-4)
    # The example of scipy.stats.wilcoxon's documentation: W = 24.
    assert comparison.p_wilcoxon == 0.041259765625
    assert comparison.p_sign_flip == 2 * 863 / 2**15
    assert comparison.mean == pytest.approx(314 / 15)


@pytest.mark.parametrize("seeds", [2, 5, 7, 8, 12])
def test_no_sign_flip_p_is_below_two_in_two_to_the_n(seeds: int) -> None:
    differences = np.random.default_rng(seeds).uniform(0.1, 1, seeds)
    assert sign_flip_test(differences) == smallest_p(seeds) == 2 / 2**seeds


def test_seven_seeds_are_the_first_that_can_survive_holm_over_three() -> None:
    assert holm([smallest_p(6)] * 3)[0] > 0.05 > holm([smallest_p(7)] * 3)[0]


def test_sign_flip_test_counts_every_pattern() -> None:
    differences = np.array([1.0, -0.5, 2.0, 0.25, -1.5, 3.0])
    patterns = np.array(list(itertools.product([-1, 1], repeat=6)))
    expected = (np.abs(patterns @ differences) >= abs(differences.sum())).mean()
    assert sign_flip_test(differences) == expected


def test_sign_flip_test_of_many_seeds_is_near_the_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1, 30)
    assert sign_flip_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.005)
    assert sign_flip_test(np.ones(30)) >= 1 / 2**16


def test_sign_flip_test_rejects_a_true_hypothesis_as_often_as_it_says() -> None:
    # Skewed together with its mirror image: symmetric with heavy tails, where the t test is not exact.
    trials = 3000
    rng = np.random.default_rng(1)
    differences = rng.exponential(1, (trials, 8)) * rng.choice([-1, 1], (trials, 8))
    p = sign_flip_test(differences)
    for level in (1 / 128, 6 / 128, 0.25):
        assert abs((p <= level).mean() - level) < four_errors(level, trials)


def test_holm_gives_the_values_of_statsmodels() -> None:
    # multipletests(method="holm") of statsmodels 0.15.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.011, 0.02, 0.021, 0.9, 0.5]) == pytest.approx([0.055, 0.08, 0.08, 1.0, 1.0])
    assert holm([[0.02, 0.5], [0.5, 0.02]]) == pytest.approx(np.array([[0.04, 0.5], [0.5, 0.04]]))


def test_any_of_three_true_hypotheses_is_rejected_in_at_most_five_percent() -> None:
    trials = 1500
    rng = np.random.default_rng(2)
    # Endpoints of one model go together.
    together, alone = rng.normal(size=(trials, 1, 8)), rng.normal(size=(trials, 3, 8))
    corrected = holm(sign_flip_test(together + alone))
    assert 0.005 < (corrected < 0.05).any(axis=1).mean() < 0.05 + four_errors(0.05, trials)


def test_bca_interval_agrees_with_every_resample_enumerated() -> None:
    values = np.array([0.1, 0.4, 0.5, 0.9, 1.2, 4.0])
    means = np.array(list(itertools.product(values, repeat=6))).mean(axis=1)
    # Efron and Tibshirani 1993, equations 14.9, 14.14 and 14.15.
    bias = stats.norm.ppf(((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2)
    left_out = (values.sum() - values) / 5
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert np.array(bca_interval(values)) == pytest.approx(expected, rel=0.03)
    assert expected[1] - values.mean() > 1.5 * (values.mean() - expected[0])


def test_bca_interval_covers_a_skewed_mean_and_misses_more_evenly_than_t() -> None:
    trials, n = 1000, 40
    values = np.random.default_rng(3).exponential(1, (trials, n))
    low, high = bca_interval(values, resamples=599)
    # Coverage at n = 40 is second-order accurate: 1 to 3 % below 95 %.
    coverage = ((low < 1) & (high > 1)).mean()
    assert 0.92 - four_errors(0.92, trials) < coverage < 0.95 + four_errors(0.95, trials)
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values, axis=1)
    t_missed = (values.mean(axis=1) + half < 1).mean(), (values.mean(axis=1) - half > 1).mean()
    missed = (high < 1).mean(), (low > 1).mean()
    assert missed[0] - missed[1] < t_missed[0] - t_missed[1]


def test_bca_interval_of_eight_normal_values_covers_what_its_documentation_says() -> None:
    trials = 1500
    low, high = bca_interval(np.random.default_rng(4).normal(size=(trials, 8)), resamples=999)
    assert abs(((low < 0) & (high > 0)).mean() - 0.88) < four_errors(0.88, trials)


def test_superiority_is_the_mann_whitney_statistic_over_all_pairs() -> None:
    first, second = np.array([3, 5, 5, 8.0]), np.array([4, 5, 2, 9.0])
    comparison = compare_pairs(first, second)
    assert comparison.superiority == stats.mannwhitneyu(first, second).statistic / 16
    # By seed: lower, equal, higher, lower.
    assert comparison.wins == (0 + 0.5 + 1 + 0) / 4


def test_comparison_changes_sign_with_the_order_of_arms() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.5, 0.01, 8), rng.normal(0.49, 0.01, 8)
    one, other = compare_pairs(a, b), compare_pairs(b, a)
    assert one.mean == -other.mean and one.p_sign_flip == other.p_sign_flip
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), rel=0.05)
    assert one.wins == 1 - other.wins and one.superiority == pytest.approx(1 - other.superiority)
    assert one.low < one.mean < one.high
    assert one.differences == pytest.approx(a - b)


def test_smaller_alpha_widens_the_interval() -> None:
    scores = np.random.default_rng(6).normal(size=8)
    wide, narrow = compare_pairs(scores, np.zeros(8), alpha=0.01), compare_pairs(scores, np.zeros(8))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (wide.alpha, narrow.alpha) == (0.01, 0.05)


def test_same_scores_in_both_arms_show_no_difference() -> None:
    comparison = compare_pairs([1.0] * 8, [1.0] * 8)
    assert (comparison.mean, comparison.low, comparison.high) == (0, 0, 0)
    assert comparison.p_sign_flip == comparison.p_wilcoxon == comparison.p_t == 1
    assert comparison.effect_size is None and comparison.wins == comparison.superiority == 0.5


def test_same_difference_in_every_seed_is_an_interval_of_one_point() -> None:
    second = np.random.default_rng(7).uniform(0.3, 0.6, 8)
    comparison = compare_pairs(second + 0.02, second)
    assert (comparison.low, comparison.high) == pytest.approx((0.02, 0.02))
    assert comparison.p_sign_flip == 2 / 2**8 and comparison.p_t == 0 and comparison.effect_size is None


def test_equivalence_test_gives_the_values_of_statsmodels() -> None:
    # ttost_paired of statsmodels 0.15 on the maize, in inches with a margin of five.
    test = equivalence_test(MAIZE / 8, 5)
    assert test.p_non_inferior == pytest.approx(1.0590803595830802e-05, rel=1e-9)
    assert test.p_equivalent == pytest.approx(0.03533171151936542, rel=1e-9)
    # 90 % interval by hand: mean 2.61667, standard error 4.71817 / sqrt(15), t 1.76131.
    assert (test.low, test.high) == pytest.approx((0.4710, 4.7623), abs=1e-3)


def test_equivalence_test_of_published_summary_statistics() -> None:
    # TOSTER's example of TOSTpaired.raw: 65 pairs, means 5.83 and 5.75, standard deviations 1.17 and 1.30,
    # correlation 0.745, margin 0.34. By hand: standard error 0.11043, t(64) = 3.803 and -2.355.
    spread = np.sqrt(1.17**2 + 1.30**2 - 2 * 0.745 * 1.17 * 1.30)
    values = np.random.default_rng(8).normal(size=65)
    differences = 0.08 + spread * (values - values.mean()) / values.std(ddof=1)
    test = equivalence_test(differences, 0.34)
    assert test.p_equivalent == pytest.approx(stats.t.sf(2.3545, 64), rel=2e-3)
    assert test.p_non_inferior == pytest.approx(stats.t.sf(3.8034, 64), rel=5e-3)


def test_equivalence_is_found_where_the_interval_lies_within_the_margin() -> None:
    rng = np.random.default_rng(9)
    outcomes = set()
    for _ in range(100):
        test = equivalence_test(rng.normal(rng.uniform(-1, 1), 1, 8), 1.0)
        within = bool(test.low > -1 and test.high < 1)
        assert within == (test.p_equivalent < 0.05)
        assert (test.low > -1) == (test.p_non_inferior < 0.05)
        outcomes.add(within)
    assert outcomes == {True, False}


def test_arms_that_differ_by_the_margin_are_called_equivalent_in_at_most_five_percent() -> None:
    trials = 1000
    differences = np.random.default_rng(10).normal(1, 0.3, (trials, 8))
    rate = np.mean([equivalence_test(row, 1.0).p_equivalent < 0.05 for row in differences])
    assert abs(rate - 0.05) < four_errors(0.05, trials)


@pytest.mark.parametrize(("value", "expected"), [(0.5, (0, 0)), (-1, (1, 1)), (2, (0, 1)), (0, (0, 0))])
def test_equivalence_of_differences_without_spread(value: float, expected: tuple[float, float]) -> None:
    test = equivalence_test([value] * 4, 1)
    assert (test.p_non_inferior, test.p_equivalent) == expected


def test_bad_scores_are_named() -> None:
    with pytest.raises(ValueError, match="one score per seed in both arms"):
        compare_pairs([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least two seeds"):
        compare_pairs([1], [2])
    with pytest.raises(ValueError, match="finite scores"):
        compare_pairs([1, np.nan], [2, 1])
    with pytest.raises(ValueError, match="margin has to be above 0"):
        equivalence_test([1, 2], 0)
