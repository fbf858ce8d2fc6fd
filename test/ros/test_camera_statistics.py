from __future__ import annotations

import numpy as np
import pytest

from pvt_mtl_perception.ros.camera_statistics import CameraStatistics, Percentiles


def test_numbers_missing_between_two_images_are_replaced_frames() -> None:
    statistics = CameraStatistics()
    for number in (7, 8, 12):
        statistics.on_taken(number, wanted=True)
    snapshot = statistics.snapshot(0.0)
    assert (snapshot.received, snapshot.replaced, snapshot.unwanted) == (6, 3, 0)


def test_missing_numbers_count_as_unwanted_while_nobody_listens() -> None:
    statistics = CameraStatistics()
    statistics.on_taken(1, wanted=False)
    statistics.on_taken(31, wanted=False)
    snapshot = statistics.snapshot(0.0)
    assert (snapshot.received, snapshot.replaced, snapshot.unwanted) == (31, 0, 29)


def test_frames_lost_in_transport_are_not_replaced_ones() -> None:
    statistics = CameraStatistics()
    statistics.on_taken(1, wanted=True)
    statistics.on_lost(2)
    statistics.on_taken(6, wanted=True)
    statistics.on_taken(8, wanted=True)
    snapshot = statistics.snapshot(0.0)
    assert (snapshot.received, snapshot.lost, snapshot.replaced) == (6, 2, 3)


def test_a_publisher_that_starts_anew_is_no_gap() -> None:
    statistics = CameraStatistics()
    for number in (500, 1, 2, None, 900, 901):
        statistics.on_taken(number, wanted=True)
    snapshot = statistics.snapshot(0.0)
    assert (snapshot.received, snapshot.replaced) == (6, 0)


def test_images_published_before_a_subscription_are_not_counted() -> None:
    statistics = CameraStatistics()
    statistics.on_taken(5, wanted=True)
    statistics.on_subscribed()
    statistics.on_taken(106, wanted=True)
    snapshot = statistics.snapshot(0.0)
    assert (snapshot.received, snapshot.replaced, snapshot.unwanted) == (2, 0, 0)


def test_rates_are_averaged_over_the_window() -> None:
    statistics = CameraStatistics()
    assert statistics.snapshot(100.0).input_rate == 0.0
    for second in range(1, 9):
        # 10 images a second, later 30, of which every tenth is processed.
        count = 10 if second <= 3 else 30
        for _ in range(count):
            statistics.on_taken(None, wanted=True)
        for _ in range(count // 10):
            statistics.on_published(100.0 + second, 0.05, None)
        snapshot = statistics.snapshot(100.0 + second)
    assert snapshot.input_rate == pytest.approx(30.0)
    assert snapshot.output_rate == pytest.approx(3.0)


def test_percentiles_are_those_of_the_window() -> None:
    percentiles = Percentiles(window=10.0)
    assert percentiles.get(0.0) is None
    for index in range(100):
        percentiles.add(index * 0.2, float(index))
    values = np.arange(49, 100)
    assert percentiles.get(19.8) == pytest.approx((np.percentile(values, 50), np.percentile(values, 95)))
    assert percentiles.get(100.0) is None


def test_latency_and_stamp_age_are_in_milliseconds() -> None:
    statistics = CameraStatistics()
    statistics.on_published(1.0, 0.020, None)
    statistics.on_published(1.1, 0.040, 0.1)
    snapshot = statistics.snapshot(1.2)
    assert snapshot.latency == pytest.approx((30.0, 39.0))
    assert snapshot.stamp_age == pytest.approx((100.0, 100.0))
