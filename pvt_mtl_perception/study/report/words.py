"""Numbers as the report prints them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pvt_mtl_perception.study.report.effects import Estimate

NONE = "-"
"""Where there is no value."""


def points(value: float | None, digits: int = 2) -> str:
    """A difference of scores, 0..1, in percentage points with its sign."""
    return NONE if value is None else f"{100 * value:+.{digits}f}"


def interval(low: float | None, high: float | None, scale: float = 100.0) -> str:
    """Both ends with their signs."""
    return NONE if low is None or high is None else f"{scale * low:+.2f} to {scale * high:+.2f}"


def mean_and_spread(values: Collection[float], digits: int = 2) -> str:
    """Mean and standard deviation of scores, 0..1, in percent."""
    if not values:
        return NONE
    numbers = 100 * np.array(list(values))
    spread = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{spread}"


def p_value(value: float | None) -> str:
    """Three decimals, and a bound below them."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def estimate_text(found: Estimate | None, unit: str, scale: float = 1.0) -> str:
    """Mean with interval and number of seeds."""
    if found is None:
        return "no seed finished"
    seeds = f"{len(found.by_seed)} seed{'s' if len(found.by_seed) > 1 else ''}"
    if found.low is None or found.high is None:
        return f"{scale * found.mean:+.2f} {unit} ({seeds})"
    return f"{scale * found.mean:+.2f} {unit} ({interval(found.low, found.high, scale)}, {seeds})"


def listed(names: Sequence[str]) -> str:
    """Names with commas, and "and" before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}"
