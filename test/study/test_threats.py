"""What the report says of all of a study's primary differences together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.config import ComparisonConfig, EndpointConfig, PreregistrationConfig
from pvt_mtl_perception.study.report.threats import _all_together
from pvt_mtl_perception.study.statistics.claims import Endpoint, judge
from pvt_mtl_perception.study.statistics.paired import compare_pairs, sign_flip_test

NAMES = {"classification": "top-1", "detection": "AP", "segmentation": "mIoU"}
ENDPOINTS = [EndpointConfig(name, task, "synthetic/test", "ap", 0.01) for task, name in NAMES.items()]


def compared(name: str, differences: dict[str, list[float]], primary: bool = True) -> Compared:
    comparison = ComparisonConfig(name, "mtl", dict.fromkeys(NAMES, "other"), primary=primary)
    pairs = {
        Endpoint(endpoint, 0.01): compare_pairs([0.5 + d for d in values], [0.5] * len(values), 0.05)
        for endpoint, values in differences.items()
    }
    return Compared(comparison, 1.0, {}, judge(pairs), {})


def told(*comparisons: Compared) -> str:
    plan = PreregistrationConfig(ENDPOINTS, [one.comparison for one in comparisons])
    results: Any = SimpleNamespace(study=SimpleNamespace(preregistration=plan), fraction=1.0)
    return _all_together(results, comparisons)


def spread(seeds: int, sign_changes: int = 0) -> list[float]:
    """Differences of one sign, but for the smallest ones."""
    values = np.linspace(0.02, 0.06, seeds)
    values[:sign_changes] *= -1
    return values.tolist()


def test_what_one_family_of_all_would_not_show_is_named() -> None:
    weak = spread(10, sign_changes=2)
    weak_p = float(sign_flip_test(weak))
    # Shown among the three of its comparison, not among six.
    assert 3 * weak_p < 0.05 <= 4 * weak_p
    nothing = [-0.02, 0.02] * 5
    found = told(
        compared("one", {"top-1": spread(10), "AP": weak, "mIoU": weak}),
        compared("another", {"top-1": nothing, "AP": nothing, "mIoU": spread(10)}),
        compared("exploration", {"top-1": spread(10), "AP": nothing, "mIoU": nothing}, primary=False),
    )
    p = f"(p = {4 * weak_p:.3f})"
    assert found == (
        " Over all 6 primary differences at once, 2 of the 4 that are shown would still be; "
        f"not AP of one {p} and mIoU of one {p}."
    )


def test_too_few_seeds_for_all_are_told_with_how_many_it_takes() -> None:
    strong = {name: spread(7) for name in NAMES.values()}
    assert told(compared("one", strong), compared("another", strong)) == (
        " Over all 6 primary differences at once 7 seeds can show nothing, whatever the difference: that "
        "takes 8."
    )


def test_a_comparison_with_few_seeds_so_far_does_not_hide_what_the_others_show() -> None:
    done, begun = ({name: spread(seeds) for name in NAMES.values()} for seeds in (10, 4))
    assert told(compared("one", done), compared("another", begun)) == (
        " Over all 6 primary differences at once, all 3 that are shown would still be."
    )


def test_that_one_family_would_show_all_of_them_is_told() -> None:
    strong = {name: spread(10) for name in NAMES.values()}
    assert told(compared("one", strong), compared("another", strong)) == (
        " Over all 6 primary differences at once, all 6 that are shown would still be."
    )


@pytest.mark.parametrize("seeds", [3, 10])
def test_where_nothing_is_shown_nothing_is_said(seeds: int) -> None:
    nothing = {name: ([-0.02, 0.02] * 5)[:seeds] for name in NAMES.values()}
    assert told(compared("one", nothing), compared("another", nothing)) == ""
