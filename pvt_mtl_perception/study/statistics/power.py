"""How likely a study of so many seeds shows an effect of a given size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from pvt_mtl_perception.study.statistics.paired import sign_flip_test


@dataclass(frozen=True)
class Power:
    """Shares of simulated studies that reject the hypothesis of no difference, 0..1.

    Attributes:
        sign_flip: by the sign-flip test.
        t: by the paired t test.
        standard_error: of either share, at most; from the number of simulations.
    """

    sign_flip: float
    t: float
    standard_error: float


def simulate_power(
    seeds: int, effect_size: float, alpha: float, simulations: int = 2000, seed: int = 0
) -> Power:
    """Power of the two-sided tests of paired differences that are normally distributed.

    Args:
        seeds: pairs in a study, 2 to 16. Up to 10 take seconds.
        effect_size: d_z, mean over standard deviation of the differences; 0 gives the false-positive rate.
        alpha: level of the test; of the first step of Holm's method it is 0.05 / hypotheses.
        simulations: studies simulated.
        seed: of the simulation.

    Raises:
        ValueError: when ``seeds`` is outside 2..16, where the sign-flip test is exact.
    """
    if not 2 <= seeds <= 16:
        raise ValueError(f"power is simulated for 2 to 16 seeds; got {seeds}")
    differences = np.random.default_rng(seed).normal(effect_size, 1, (simulations, seeds))
    # A p-value of exactly alpha is no result: the rule says below.
    return Power(
        sign_flip=float((sign_flip_test(differences, seed) < alpha).mean()),
        t=float((stats.ttest_1samp(differences, 0, axis=-1).pvalue < alpha).mean()),
        standard_error=0.5 / float(np.sqrt(simulations)),
    )
