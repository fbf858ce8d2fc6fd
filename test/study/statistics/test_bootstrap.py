from __future__ import annotations

import numpy as np
import pytest

from pvt_mtl_perception.evaluation.records import ClassificationRecords, Records
from pvt_mtl_perception.study.statistics.bootstrap import (
    NestedBootstrap,
    Resampling,
    draw_images,
    nested_bootstrap,
    resample_scores,
)
from pvt_mtl_perception.study.statistics.pooled import pooled_score

ACCURACY = pooled_score("classification", "group.accuracy")


def answers(correct: np.ndarray) -> Records:
    """Records of one evaluation of a yes/no group whose label is always yes."""
    labels = np.zeros(len(correct), np.int32)
    wrong = (~correct).astype(np.int32)
    group = ClassificationRecords(("yes", "no"), labels, wrong, wrong)
    return Records(tuple(map(str, range(len(correct)))), classification={"group": group})


def compared(first: np.ndarray, second: np.ndarray, resampling: Resampling) -> NestedBootstrap:
    return nested_bootstrap(
        *(
            resample_scores([answers(row) for row in correct], ACCURACY, resampling)
            for correct in (first, second)
        )
    )


def test_draws_have_the_size_of_the_test_set_and_favour_no_image() -> None:
    rng = np.random.default_rng(0)
    # The second clip is shorter than a block, and the last block is cut.
    clips = ["a"] * 23 + ["b"] * 5 + ["c"] * 12
    for weights in (draw_images(40, 20000, rng), draw_images(40, 20000, rng, clips, 7)):
        assert (weights.sum(axis=1) == 40).all()
        error = weights.std(axis=0) / np.sqrt(20000)
        assert (np.abs(weights.mean(axis=0) - 1) < 4.5 * error).all()


def test_blocks_are_consecutive_frames_of_one_clip() -> None:
    weights = draw_images(20, 200, np.random.default_rng(1), ["a"] * 10 + ["b"] * 10, 10)
    # A block as long as its clip is the whole clip.
    assert (weights[:, :10] == weights[:, :1]).all() and (weights[:, 10:] == weights[:, 10:11]).all()
    assert set(weights[:, 0].tolist()) == {0, 1, 2}
    # Two blocks of three in twelve frames: steps up and down only at their ends.
    single = draw_images(12, 500, np.random.default_rng(2), None, 3)
    changes = np.abs(np.diff(single, axis=1, append=single[:, :1])).sum(axis=1)
    assert changes.max() <= 2 * 4


def test_blocks_see_the_variance_that_neighbouring_frames_hide() -> None:
    n, correlation, series = 500, 0.8, 40
    rng = np.random.default_rng(3)
    values = np.zeros((series, n))
    noise = rng.normal(size=(series, n))
    values[:, 0] = noise[:, 0] / np.sqrt(1 - correlation**2)
    for t in range(1, n):
        values[:, t] = correlation * values[:, t - 1] + noise[:, t]
    true = (1 / (1 - correlation)) ** 2 / n
    single, blocks = (
        (values @ draw_images(n, 1000, rng, None, length).T / n).var(axis=1).mean() for length in (1, 40)
    )
    # Of one AR(1) series (Brockwell and Davis 1991, section 7.1): (1 + 0.8) / (1 - 0.8) = 9 times.
    assert true / single == pytest.approx(9, rel=0.15)
    # Blocks of 40 miss what frames further apart share, and the spread within one series.
    assert 0.75 * true < blocks < 1.05 * true


def test_arms_with_the_same_answers_differ_in_no_replicate() -> None:
    correct = np.random.default_rng(4).random((8, 50)) < 0.7
    result = compared(correct, correct, Resampling(replicates=120))
    assert len(result.replicates) == 120 and (result.replicates == 0).all()
    assert (result.mean, result.low, result.high, result.standard_error) == (0, 0, 0, 0)


def test_image_part_is_the_standard_error_of_paired_answers() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.random((6, 200)) < 0.8, rng.random((6, 200)) < 0.6
    result = compared(first, second, Resampling(replicates=3000))
    by_image = (first.astype(float) - second).mean(axis=0)
    assert result.mean == pytest.approx(by_image.mean())
    assert result.image_standard_error == pytest.approx(by_image.std() / np.sqrt(200), rel=0.06)
    assert result.low < result.mean < result.high and result.undefined == 0


def test_seeds_add_their_own_variance() -> None:
    # All images are answered alike, so that images contribute nothing.
    first = np.repeat(np.array([[True], [True], [False], [True]]), 30, axis=1)
    second = np.zeros((4, 30), bool)
    result = compared(first, second, Resampling(replicates=4000))
    assert result.image_standard_error == 0
    # Differences 1, 1, 0, 1: population standard deviation sqrt(3) / 4 over sqrt(4).
    assert result.standard_error == pytest.approx(np.sqrt(3) / 8, rel=0.05)


def test_interval_covers_the_true_difference_of_arms_over_seeds_and_images() -> None:
    trials, seeds, images = 150, 8, 80
    rng = np.random.default_rng(6)
    covered, narrow = 0, 0
    for trial in range(trials):
        # Both arms find the same images hard, each its own ones harder, and seeds differ: no true gain.
        hard = rng.normal(size=images)
        rows = [
            hard
            + rng.normal(0, 0.7, images)
            + rng.normal(0, 0.25, (seeds, 1))
            + rng.normal(0, 1, (seeds, images))
            for _ in range(2)
        ]
        result = compared(rows[0] > -1, rows[1] > -1, Resampling(replicates=200, seed=trial))
        covered += result.low <= 0 <= result.high
        differences = (rows[0] > -1).mean(axis=1) - (rows[1] > -1).mean(axis=1)
        half = 2.365 * differences.std(ddof=1) / np.sqrt(seeds)
        narrow += abs(differences.mean()) <= half
    assert covered / trials > 0.9
    # The t interval of the seeds alone takes the test set for the world.
    assert narrow < covered


def test_block_draws_of_a_video_widen_the_interval() -> None:
    rng = np.random.default_rng(7)
    # Ten frames in a row are right or wrong together.
    scenes = np.repeat(rng.random((2, 30)) < 0.7, 10, axis=1)
    first, second = (np.tile(row, (4, 1)) for row in scenes)
    single = compared(first, second, Resampling(replicates=600))
    clips = ("a",) * 150 + ("b",) * 150
    blocks = compared(first, second, Resampling(clips, block_length=20, replicates=600))
    assert blocks.standard_error > 2 * single.standard_error


def test_replicates_with_nothing_to_score_are_left_out_and_counted() -> None:
    group = answers(np.array([True, False, True])).classification["group"]
    labels = np.array([0, -1, -1], np.int32)
    records = Records(
        ("a", "b", "c"),
        classification={"group": ClassificationRecords(group.classes, labels, labels, labels)},
    )
    result = nested_bootstrap(*[resample_scores([records] * 2, ACCURACY, Resampling(replicates=1000))] * 2)
    # The only labelled image is missed with probability (2 / 3)^3.
    assert result.undefined + len(result.replicates) == 1000
    assert result.undefined / 1000 == pytest.approx((2 / 3) ** 3, abs=0.06)


def test_arms_share_the_draws_of_images() -> None:
    rng = np.random.default_rng(8)
    resampling = Resampling(("a",) * 20 + ("b",) * 30, block_length=4, replicates=70, seed=3)
    correct = rng.random((2, 50)) < 0.5
    ups, downs = (
        resample_scores([answers(row) for row in rows], ACCURACY, resampling) for rows in (correct, ~correct)
    )
    # What one arm gets right the other gets wrong.
    assert ups.replicates + downs.replicates == pytest.approx(1)
    assert ups.replicates.std() > 0.01


def test_several_scores_are_resampled_as_each_of_them_alone() -> None:
    rng = np.random.default_rng(9)
    arm = [answers(row) for row in rng.random((3, 40)) < 0.6]
    resampling = Resampling(replicates=60, seed=5)
    balanced = pooled_score("classification", "group.balanced_accuracy")
    each = [resample_scores(arm, score, resampling) for score in (ACCURACY, lambda *of: 1 - balanced(*of))]
    both = resample_scores(arm, lambda *of: np.stack([ACCURACY(*of), 1 - balanced(*of)], axis=1), resampling)
    np.testing.assert_array_equal(both.observed, np.stack([one.observed for one in each], axis=1))
    np.testing.assert_array_equal(both.replicates, np.stack([one.replicates for one in each], axis=2))


def test_evaluations_that_cannot_be_paired_are_named() -> None:
    four, five = answers(np.ones(4, bool)), answers(np.ones(5, bool))
    resampling = Resampling(replicates=10)
    with pytest.raises(ValueError, match="evaluation 1 has other images"):
        resample_scores([four, five], ACCURACY, resampling)
    with pytest.raises(ValueError, match="two or more of them; got 1"):
        resample_scores([four], ACCURACY, resampling)
    arm = resample_scores([four] * 2, ACCURACY, resampling)
    with pytest.raises(ValueError, match="same seeds only; got 2 and 3"):
        nested_bootstrap(arm, resample_scores([four] * 3, ACCURACY, resampling))
    with pytest.raises(ValueError, match="same images with the same resampling"):
        nested_bootstrap(arm, resample_scores([five] * 2, ACCURACY, resampling))
    with pytest.raises(ValueError, match="same images with the same resampling"):
        nested_bootstrap(arm, resample_scores([four] * 2, ACCURACY, Resampling(replicates=10, seed=1)))
    with pytest.raises(ValueError, match="3 clips are named for 4 images"):
        draw_images(4, 1, np.random.default_rng(0), ["a"] * 3)
    with pytest.raises(ValueError, match="have to stand together"):
        draw_images(4, 1, np.random.default_rng(0), ["a", "b", "a", "b"], 2)
