"""From the Gramian of the tasks' gradients to their weights.

The weights of all methods are on the scale of the plain sum's, which are 1: methods defined on the mean, and
affine combinations, are multiplied by the number of tasks. Learning rates and clipping norms then mean the
same under every method.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor
from torchjd.aggregation import (
    AlignedMTLWeighting,
    IMTLGWeighting,
    MGDAWeighting,
    PCGradWeighting,
    UPGradWeighting,
)
from torchjd.linalg import DualConeProjector

from pvt_mtl_perception.training.balancing.scalarized import seed_of_step


class PCGrad:
    """Each gradient is projected off those it conflicts with, in random order, then summed (Yu 2020, alg. 1).

    The order follows from seed and step, so that processes agree and a resumed run draws the same.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.weighting = PCGradWeighting()

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        # torchjd draws the order from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of_step(self.seed, step))
            return self.weighting(gramian)


class MGDA:
    """n times the convex combination of least norm, by Frank-Wolfe (Sener 2018, algorithm 2)."""

    def __init__(self) -> None:
        self.weighting = MGDAWeighting(epsilon=1e-5, max_iters=250)

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        return len(gramian) * self.weighting(gramian)


class IMTLG:
    """n times the affine combination with equal projections on all unit gradients (Liu 2021, eq. 4).

    Weights may be negative.
    """

    def __init__(self) -> None:
        self.weighting = IMTLGWeighting()

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        return len(gramian) * self.weighting(gramian)


class AlignedMTL:
    """The sum, with all singular values of the Jacobian set to the smallest (Senushkin 2023, algorithm 1)."""

    def __init__(self) -> None:
        self.weighting = AlignedMTLWeighting()

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        return len(gramian) * self.weighting(gramian)


class UPGrad:
    """The sum of the gradients, each projected on the dual cone of all (Quinton 2024, section 3.2)."""

    def __init__(self) -> None:
        self.weighting = UPGradWeighting(projector=_LeastSquaresProjector())

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        return len(gramian) * self.weighting(gramian)


class CAGrad:
    """The direction near the sum of the gradients that is best for the worst-off task (Liu 2021b, alg. 1).

    The dual over the simplex is solved by scipy's SLSQP; torchjd's class needs cvxpy and Clarabel for it.

    Args:
        c: radius of the ball around the sum, in its norm.
    """

    def __init__(self, c: float) -> None:
        self.c = c

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        matrix = gramian.numpy()
        n = len(matrix)
        to_mean = matrix.mean(axis=1)
        radius = self.c * math.sqrt(max(float(to_mean.mean()), 0.0))

        def norm(w: Any) -> float:
            return math.sqrt(max(float(w @ matrix @ w), 0.0) + 1e-12)

        solution = minimize(
            lambda w: w @ to_mean + radius * norm(w),
            np.full(n, 1 / n),
            jac=lambda w: to_mean + radius * (matrix @ w) / norm(w),
            bounds=[(0.0, 1.0)] * n,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(n)},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 200},
        )
        w = np.clip(solution.x, 0.0, None)
        w /= w.sum()
        return torch.from_numpy(1.0 + n * radius / norm(w) * w)


class NashMTL:
    """The bargaining solution G a = 1/a (Navon 2022, claim 3.1), for gradients of root mean square norm 1.

    1/2 a'Ga - sum(log a) is convex and has its only minimum there: damped Newton steps find it to rounding.
    torchjd's class iterates convex programs and needs cvxpy and ECOS, which has no wheels for Python 3.13. A
    Pareto stationary point has no solution; a small ridge bounds the weights there.
    """

    _RIDGE = 1e-6
    _ITERATIONS = 100

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        """Weights (n,) of the Gramian (n, n)."""
        # In unit gradients the problem is the same, and well conditioned.
        lengths, cosines = _cosines(gramian)
        matrix = cosines.numpy() + self._RIDGE * np.eye(len(gramian))
        a = np.ones(len(gramian))
        for _ in range(self._ITERATIONS):
            slope = matrix @ a - 1.0 / a
            newton = np.linalg.solve(matrix + np.diag(a**-2.0), slope)
            decrement = math.sqrt(max(float(slope @ newton), 0.0))
            # The function is self-concordant: this length keeps a positive and always descends.
            a = a - newton / (1.0 + decrement)
            if decrement < 1e-9:
                break
        return torch.from_numpy(a) / lengths


class _LeastSquaresProjector(DualConeProjector):
    """Solves torchjd's projection, min v'Gv with v >= u, as non-negative least squares in v - u.

    torchjd's own projector needs qpsolvers and quadprog.
    """

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        lengths, cosines = _cosines(G)
        eigenvalues, vectors = torch.linalg.eigh(cosines)
        root = (eigenvalues.clamp(min=0.0).sqrt()[:, None] * vectors.T).numpy()
        rows = [u + nnls(root, -root @ u)[0] for u in (U * lengths).numpy()]
        return torch.from_numpy(np.stack(rows)) / lengths


def _cosines(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """The norms (n,) of the gradients and the Gramian (n, n) of the unit gradients."""
    lengths = gramian.diagonal().sqrt()
    return lengths, gramian / (lengths[:, None] * lengths)
