"""Δm, the mean relative gain of a multi-task model over the single-task ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def delta_m(
    multi: npt.ArrayLike, single: npt.ArrayLike, lower_is_better: Sequence[bool]
) -> npt.NDArray[np.float64]:
    """Δm in percent (Maninis 2019; Vandenhende 2021, equation 10); positive is better.

    100 / T · Σ (-1)^l_i (M_mtl,i - M_stl,i) / M_stl,i with l_i = 1 where a lower score is better. CAGrad,
    Nash-MTL and FAMO print the same quantity with the opposite sign.

    Differences are by seed, what they are relative to is the mean over the seeds: ratios to single scores,
    which are noisy, have a mean above 0 where the arms do not differ.

    Args:
        multi: (seeds, tasks) scores of the multi-task model.
        single: (seeds, tasks) scores of the single-task models.
        lower_is_better: for each task, whether its score is an error.

    Returns:
        (seeds,) percent.

    Raises:
        ValueError: when the mean of a task's single-task scores is not above 0, which leaves nothing to be
            relative to.
    """
    m, s = np.asarray(multi, np.float64), np.asarray(single, np.float64)
    signs = np.where(np.asarray(lower_is_better, bool), -1.0, 1.0)
    if m.ndim != 2 or m.shape != s.shape or m.shape[1:] != signs.shape:
        raise ValueError(
            f"delta m needs a score of each of {len(signs)} tasks; got shapes {m.shape} and {s.shape}"
        )
    baseline = s.mean(axis=0)
    if not (baseline > 0).all():
        raise ValueError(f"delta m needs single-task scores above 0; their means are {baseline.tolist()}")
    return np.asarray(100 * (signs * (m - s) / baseline).mean(axis=-1))
