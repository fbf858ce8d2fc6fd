from __future__ import annotations

import pytest

from pvt_mtl_perception.study.statistics.power import simulate_power


@pytest.mark.parametrize(
    ("effect_size", "alpha", "expected"),
    [
        # TTestPower().power(effect_size, 8, alpha) of statsmodels 0.15.
        (1.0, 0.05, 0.6808339582062661),
        (1.5, 0.05 / 3, 0.8283970468622008),
        # No effect: the level itself.
        (0.0, 0.05, 0.05),
    ],
)
def test_power_of_the_t_test_is_that_of_the_noncentral_t(
    effect_size: float, alpha: float, expected: float
) -> None:
    power = simulate_power(8, effect_size, alpha)
    assert abs(power.t - expected) < 4 * power.standard_error
    # Of 2^8 patterns, 12 is the most in 5 % and 4 in 1.67 %.
    assert power.sign_flip <= power.t + 2 * power.standard_error


def test_sign_flip_test_has_nearly_the_power_of_the_t_test_at_eight_seeds() -> None:
    power = simulate_power(8, 1.0, 0.05)
    assert power.sign_flip > 0.9 * power.t


def test_six_seeds_cannot_show_anything_after_holm_over_three() -> None:
    assert simulate_power(6, 100.0, 0.05 / 3, simulations=50).sign_flip == 0
    assert simulate_power(7, 100.0, 0.05 / 3, simulations=50).sign_flip == 1


def test_seeds_beyond_the_exact_test_are_refused() -> None:
    with pytest.raises(ValueError, match="2 to 16 seeds; got 17"):
        simulate_power(17, 1.0, 0.05)
