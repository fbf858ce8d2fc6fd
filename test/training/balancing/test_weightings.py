"""Every gradient method against an independent computation on the gradients themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from balancing_problems import TinyProblem
from scipy.optimize import minimize

from pvt_mtl_perception.training.balancing import BalancingConfig
from pvt_mtl_perception.training.balancing.gradients import GradientBalancer
from pvt_mtl_perception.training.balancing.methods import make_weighting

GRADIENT_METHODS = ("pcgrad", "cagrad", "mgda", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad")


def conflicting(tasks: int, seed: int, dimensions: int = 6) -> np.ndarray:
    """Rows of different lengths of which at least two conflict."""
    generator = np.random.default_rng(seed)
    while True:
        rows = generator.normal(size=(tasks, dimensions)) * generator.uniform(0.3, 3, (tasks, 1))
        if (rows @ rows.T).min() < 0:
            return rows


def aggregate(method: str, rows: np.ndarray, **settings) -> np.ndarray:
    """The gradient that the shared parameters get from losses with these gradients."""
    problem = TinyProblem(torch.from_numpy(rows))
    weighting = make_weighting(BalancingConfig(method, **settings))
    balancer = GradientBalancer(problem.names, problem.division(), weighting)
    balancer.backward(problem.losses())
    weights = balancer.finish()
    gradient = problem.shared.grad.numpy()
    np.testing.assert_allclose(np.array(list(weights.values())) @ rows, gradient, atol=1e-10)
    # Each task's own parameter gets its plain gradient.
    assert [float(p.grad) for p in problem.own.values()] == [0.5] * len(rows)
    return gradient


CASES = [(tasks, seed) for tasks in (2, 3) for seed in range(4)]


@pytest.mark.parametrize("seed", range(6))
def test_mgda_of_two_tasks_is_the_point_nearest_to_zero_between_them(seed):
    a, b = rows = np.random.default_rng(seed).normal(size=(2, 3)) * [[1.0], [3.0]]
    share = np.clip((b - a) @ b / ((b - a) @ (b - a)), 0, 1)
    np.testing.assert_allclose(aggregate("mgda", rows), 2 * (share * a + (1 - share) * b), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_mgda_of_three_tasks_has_the_least_norm_in_their_hull(seed):
    rows = conflicting(3, seed)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(
        lambda w: (w @ rows) @ (w @ rows), np.ones(3) / 3, bounds=[(0, 1)] * 3, constraints=simplex, tol=1e-14
    )
    norm = np.linalg.norm(aggregate("mgda", rows)) / 3
    assert norm == pytest.approx(np.linalg.norm(best.x @ rows), rel=1e-3)


def project_off(vector: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    for other in others:
        if vector @ other < 0:
            vector = vector - (vector @ other) / (other @ other) * other
    return vector


@pytest.mark.parametrize(("tasks", "seed"), CASES)
def test_pcgrad_projects_each_gradient_off_the_others_in_some_order(tasks, seed):
    rows = conflicting(tasks, seed)
    choices = []
    for i in range(tasks):
        others = [rows[j] for j in range(tasks) if j != i]
        choices.append([project_off(rows[i], list(order)) for order in itertools.permutations(others)])
    possible = [sum(choice) for choice in itertools.product(*choices)]
    gradient = aggregate("pcgrad", rows)
    assert min(np.abs(gradient - p).max() for p in possible) < 1e-9
    assert np.abs(gradient - rows.sum(0)).max() > 1e-3


def test_pcgrad_draws_another_order_in_another_step_and_the_same_in_the_same():
    rows = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [-0.3, -1.0]], dtype=torch.float64)
    gramian = rows @ rows.T
    weighting = make_weighting(BalancingConfig("pcgrad"), seed=5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = [weighting(gramian, step) for step in range(12)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    again = [weighting(gramian, step) for step in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize(("tasks", "seed"), CASES)
def test_imtl_g_projects_equally_on_all_gradients(tasks, seed):
    rows = conflicting(tasks, seed)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gradient = aggregate("imtl_g", rows)
    projections = units @ gradient
    np.testing.assert_allclose(projections, projections[0], rtol=1e-8)
    # The paper's solution: weights of tasks 2..T from differences of gradients and of units, the rest first.
    gradient_differences, unit_differences = rows[0] - rows[1:], units[0] - units[1:]
    others = rows[0] @ unit_differences.T @ np.linalg.inv(gradient_differences @ unit_differences.T)
    weights = np.concatenate(([1 - others.sum()], others))
    np.testing.assert_allclose(gradient, tasks * weights @ rows, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("tasks", "seed"), CASES)
def test_aligned_mtl_sums_rows_of_equal_singular_values(tasks, seed):
    rows = conflicting(tasks, seed)
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(
        aggregate("aligned_mtl", rows), (singular.min() * left @ right).sum(0), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(("tasks", "seed"), CASES)
def test_upgrad_sums_projections_on_the_dual_cone(tasks, seed):
    rows = conflicting(tasks, seed)
    cone = {"type": "ineq", "fun": lambda x: rows @ x, "jac": lambda x: rows}
    projected = [
        minimize(
            lambda x, row=row: ((x - row) ** 2).sum() / 2,
            np.zeros_like(row),
            jac=lambda x, row=row: x - row,
            constraints=cone,
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        ).x
        for row in rows
    ]
    gradient = aggregate("upgrad", rows)
    np.testing.assert_allclose(gradient, sum(projected), atol=2e-6)
    assert (rows @ gradient).min() > -1e-9


@pytest.mark.parametrize("c", [0.0, 0.4, 0.9])
@pytest.mark.parametrize(("tasks", "seed"), CASES)
def test_cagrad_does_best_for_the_worst_off_task_in_the_ball(tasks, seed, c):
    rows = conflicting(tasks, seed)
    mean = rows.mean(0)
    radius = c * np.linalg.norm(mean)
    direction = aggregate("cagrad", rows, c=c) / tasks
    assert np.linalg.norm(direction - mean) <= radius * (1 + 1e-6) + 1e-12
    if c == 0:
        np.testing.assert_allclose(direction, mean, atol=1e-10)
        return
    # By duality the largest gain of the worst-off task is the least of this over the simplex, here on a grid.
    grid = np.linspace(0, 1, 401)
    simplex = np.array([w for w in itertools.product(grid, repeat=tasks - 1) if sum(w) <= 1])
    combined = np.column_stack((simplex, 1 - simplex.sum(1))) @ rows
    bound = (combined @ mean + radius * np.linalg.norm(combined, axis=1)).min()
    assert (rows @ direction).min() == pytest.approx(bound, abs=1e-4 * np.square(rows).sum(1).mean())


@pytest.mark.parametrize(("tasks", "seed"), CASES)
def test_nash_mtl_satisfies_the_bargaining_condition(tasks, seed):
    rows = conflicting(tasks, seed)
    weights = np.linalg.lstsq(rows.T, aggregate("nash_mtl", rows), rcond=None)[0]
    assert weights.min() > 0
    # Claim 3.1 of the paper, in units of the gradients' mean square.
    scale = np.square(rows).sum(1).mean()
    np.testing.assert_allclose(rows @ (weights @ rows) * weights, scale, rtol=1e-4)
    # No direction of the same length has a larger product of the tasks' gains.
    direction = weights @ rows
    product = np.prod(rows @ direction)
    generator = np.random.default_rng(0)
    for _ in range(200):
        other = direction + 0.1 * np.linalg.norm(direction) * generator.normal(size=direction.shape)
        other *= np.linalg.norm(direction) / np.linalg.norm(other)
        gains = rows @ other
        assert gains.min() <= 0 or np.prod(gains) <= product * (1 + 1e-4)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_orthogonal_gradients_of_one_length_are_weighed_as_their_sum(method):
    rows = 0.3 * np.eye(3, 5)
    settings = {"c": 0.0} if method == "cagrad" else {}
    np.testing.assert_allclose(aggregate(method, rows, **settings), rows.sum(0), rtol=1e-5)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_weights_do_not_depend_on_the_unit_of_the_losses(method, factor):
    rows = conflicting(3, 0)
    np.testing.assert_allclose(aggregate(method, factor * rows), factor * aggregate(method, rows), rtol=1e-6)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_task_without_gradient_has_no_part(method):
    rows = conflicting(2, 1)
    with_zero = np.insert(rows, 1, 0.0, axis=0)
    np.testing.assert_allclose(aggregate(method, with_zero), aggregate(method, rows), rtol=1e-9)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_degenerate_gradients_give_finite_weights(method):
    row = np.array([1.0, 2.0, 2.0])
    for rows in ([row, row], [row, -row], [row, 1e-6 * row], [0 * row, 0 * row], [row, -row, 0.5 * row]):
        assert np.isfinite(aggregate(method, np.array(rows))).all()
