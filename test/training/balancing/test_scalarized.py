"""Every method that weighs losses against its formula, and torchjd's class where it has one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torchjd.scalarization
from balancing_problems import TinyProblem

from pvt_mtl_perception.training.balancing.balancer import Balancer
from pvt_mtl_perception.training.balancing.scalarized import (
    DWABalancer,
    FAMOBalancer,
    FixedBalancer,
    GradNormBalancer,
    RandomBalancer,
    UncertaintyBalancer,
)

ROWS = torch.tensor([[1.0, -0.5, 0.2], [-2.0, 0.3, 0.7], [0.1, 0.1, -0.3]], dtype=torch.float64)
NAMES = ("task0", "task1", "task2")
# Losses of six steps for each task.
LOSSES = np.array(
    [
        [2.0, 0.5, 1.0],
        [1.5, 0.5, 1.2],
        [1.0, 0.4, 1.1],
        [0.9, 0.45, 0.8],
        [0.5, 0.4, 0.7],
        [0.6, 0.3, 0.9],
    ]
)


class GivenLosses:
    """Losses with the values of a table and the gradients ROWS."""

    def __init__(self) -> None:
        self.problem = TinyProblem(ROWS)

    def step(self, balancer: Balancer, values, tasks=NAMES) -> tuple[dict[str, float], torch.Tensor | None]:
        """Weights and gradient of a step."""
        self.problem.zero_grad()
        losses = {}
        for task, value in zip(NAMES, values, strict=True):
            if task in tasks:
                own = self.problem.own[task]
                linear = self.problem.rows[NAMES.index(task)] @ self.problem.shared
                losses[task] = float(value) * own + linear
        balancer.backward(losses)
        weights = balancer.finish()
        return weights, self.problem.shared.grad


@pytest.fixture
def given() -> GivenLosses:
    return GivenLosses()


def check_gradient(weights: dict[str, float], gradient: torch.Tensor) -> None:
    expected = sum(weight * ROWS[NAMES.index(task)] for task, weight in weights.items())
    torch.testing.assert_close(gradient, expected)


def test_fixed_weights_are_factors_and_one_where_not_given(given):
    balancer = FixedBalancer(NAMES, given.problem.division(), {"task1": 3.0})
    weights, gradient = given.step(balancer, LOSSES[0])
    assert weights == {"task0": 1.0, "task1": 3.0, "task2": 1.0}
    check_gradient(weights, gradient)
    assert given.problem.own["task1"].grad == pytest.approx(3.0 * 0.5)


def test_random_weights_have_the_sum_of_equal_ones_and_follow_from_seed_and_step(given):
    first, second, other = (RandomBalancer(NAMES, given.problem.division(), seed) for seed in (3, 3, 4))
    drawn = []
    for values in LOSSES:
        weights, gradient = given.step(first, values)
        check_gradient(weights, gradient)
        torch.rand(3)
        assert given.step(second, values)[0] == weights
        assert given.step(other, values)[0] != weights
        drawn.append(list(weights.values()))
    assert np.sum(drawn, axis=1) == pytest.approx([3.0] * len(drawn))
    assert len({tuple(w) for w in drawn}) == len(drawn)


def test_random_weights_are_softmaxes_of_normal_numbers(given):
    balancer = RandomBalancer(NAMES, given.problem.division(), 0)
    drawn = []
    for balancer.steps in range(3000):
        drawn.append(list(balancer.weights().values()))
    centred = np.log(drawn) - np.log(drawn).mean(1, keepdims=True)
    # Three independent normals less their mean.
    assert centred.std() == pytest.approx(math.sqrt(2 / 3), rel=0.03)
    assert np.abs(centred.mean(0)).max() < 0.06


def test_uncertainty_follows_the_loss_of_torchjd_with_adam(given):
    balancer = UncertaintyBalancer(NAMES, given.problem.division(), lr=0.1)
    reference = torchjd.scalarization.UW(3).double()
    adam = torch.optim.Adam(reference.parameters(), lr=0.1)
    for values in LOSSES:
        weights, gradient = given.step(balancer, values)
        expected = torch.exp(-reference.log_var).detach().numpy()
        np.testing.assert_allclose(list(weights.values()), expected, rtol=1e-6)
        check_gradient(weights, gradient)
        adam.zero_grad()
        # Twice the paper's objective; Adam does not see the factor.
        (2 * reference(torch.from_numpy(values))).backward()
        adam.step()


def test_uncertainty_comes_to_rest_where_weighted_losses_are_one(given):
    balancer = UncertaintyBalancer(NAMES, given.problem.division(), lr=0.02)
    for _ in range(400):
        weights, _ = given.step(balancer, [4.0, 0.5, 1.0])
    assert list(weights.values()) == pytest.approx([0.25, 2.0, 1.0], rel=0.02)


def test_dwa_follows_torchjd_with_windows_for_epochs(given):
    balancer = DWABalancer(NAMES, given.problem.division(), temperature=2.0, window=2)
    reference = torchjd.scalarization.DWA(temperature=2.0)
    for number, values in enumerate(LOSSES):
        weights, gradient = given.step(balancer, values)
        tensor = torch.from_numpy(values).requires_grad_()
        (expected,) = torch.autograd.grad(reference(tensor), tensor)
        np.testing.assert_allclose(list(weights.values()), expected, rtol=1e-6)
        check_gradient(weights, gradient)
        if number % 2:
            reference.step()
    # By hand, from the windows of steps 2 and 3 and of steps 0 and 1.
    ratios = LOSSES[2:4].mean(0) / LOSSES[0:2].mean(0)
    by_hand = 3 * np.exp(ratios / 2) / np.exp(ratios / 2).sum()
    np.testing.assert_allclose(list(weights.values()), by_hand, rtol=1e-6)


def test_dwa_keeps_the_averages_of_a_task_that_a_window_lacks(given):
    balancer = DWABalancer(NAMES, given.problem.division(), temperature=1.0, window=1)
    given.step(balancer, [2.0, 1.0, 1.0])
    given.step(balancer, [1.0, 1.0, 2.0], tasks=("task0", "task2"))
    weights, _ = given.step(balancer, [1.0, 1.0, 1.0])
    ratios = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(list(weights.values()), 3 * np.exp(ratios) / np.exp(ratios).sum(), rtol=1e-6)
    # The window's loss of task1 is its second average, 1 as before.
    weights, _ = given.step(balancer, [1.0, 1.0, 1.0])
    ratios = np.array([1.0, 1.0, 0.5])
    np.testing.assert_allclose(list(weights.values()), 3 * np.exp(ratios) / np.exp(ratios).sum(), rtol=1e-6)


def test_famo_follows_torchjd_given_the_next_losses(given):
    balancer = FAMOBalancer(NAMES, given.problem.division(), lr=0.1)
    reference = torchjd.scalarization.FAMO(3, lr=0.1, weight_decay=1e-3).double()
    previous = None
    for values in LOSSES:
        weights, gradient = given.step(balancer, values)
        check_gradient(weights, gradient)
        if previous is None:
            assert list(weights.values()) == [1.0, 1.0, 1.0]
        else:
            # Settled before the step: logits as of the last update, losses of the step before.
            tensor = torch.from_numpy(previous).requires_grad_()
            (expected,) = torch.autograd.grad(reference(tensor), tensor)
            np.testing.assert_allclose(list(weights.values()), 3 * expected / expected.sum(), rtol=1e-5)
            reference.update(torch.from_numpy(values))
        previous = values


def test_famo_weighs_a_task_more_that_descends_less(given):
    balancer = FAMOBalancer(NAMES, given.problem.division(), lr=0.05)
    for number in range(20):
        weights, _ = given.step(balancer, [0.9**number, 1.0, 1.0])
    products = {task: weights[task] * loss for task, loss in zip(NAMES, [0.9**18, 1.0, 1.0], strict=True)}
    assert products["task0"] < products["task1"] == pytest.approx(products["task2"])
    assert sum(weights.values()) == pytest.approx(3)


def gradnorm_by_hand(weights, norms, losses, first, alpha):
    """Gradients of the sum of |w_i n_i - target_i| by the weights, the targets held constant."""
    tensor = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    scaled = tensor * torch.tensor(norms)
    backlog = torch.tensor(losses) / torch.tensor(first)
    target = (scaled.mean() * (backlog / backlog.mean()) ** alpha).detach()
    (scaled - target).abs().sum().backward()
    return tensor.grad


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_follows_its_algorithm(given, alpha):
    shared = given.problem.shared
    balancer = GradNormBalancer(NAMES, given.problem.division(), shared, lr=0.05, alpha=alpha)
    by_hand = [torch.ones((), dtype=torch.float64) for _ in NAMES]
    adam = torch.optim.Adam(by_hand, lr=0.05)
    norms = ROWS.norm(dim=1).tolist()
    for values in LOSSES:
        weights, gradient = given.step(balancer, values)
        check_gradient(weights, gradient)
        np.testing.assert_allclose(list(weights.values()), [float(w) for w in by_hand], rtol=1e-6)
        slopes = gradnorm_by_hand(list(weights.values()), norms, values, LOSSES[0], alpha)
        for weight, slope in zip(by_hand, slopes, strict=True):
            weight.grad = slope
        adam.step()
        total = sum(float(w) for w in by_hand)
        for weight in by_hand:
            weight.mul_(3 / total)
    assert sum(balancer.weights().values()) == pytest.approx(3)


def test_gradnorm_without_backlog_comes_to_equal_norms(given):
    shared = given.problem.shared
    balancer = GradNormBalancer(NAMES, given.problem.division(), shared, lr=0.02, alpha=0.0)
    for _ in range(300):
        weights, _ = given.step(balancer, [1.0, 1.0, 1.0])
    norms = ROWS.norm(dim=1).numpy() * list(weights.values())
    assert norms == pytest.approx([norms.mean()] * 3, rel=0.1)


def make_all(given) -> dict[str, Balancer]:
    division = given.problem.division()
    return {
        "uncertainty": UncertaintyBalancer(NAMES, division, 0.1),
        "dwa": DWABalancer(NAMES, division, 2.0, 1),
        "random": RandomBalancer(NAMES, division, 0),
        "famo": FAMOBalancer(NAMES, division, 0.1),
        "gradnorm": GradNormBalancer(NAMES, division, given.problem.shared, 0.1, 1.5),
    }


@pytest.mark.parametrize("method", ["uncertainty", "dwa", "random", "famo", "gradnorm"])
@pytest.mark.parametrize("absence", ["left out", "zero loss"])
def test_an_absent_task_changes_nothing_for_itself(given, method, absence):
    balancer = make_all(given)[method]
    for values in LOSSES[:3]:
        given.step(balancer, values)
    before = {k: v for k, v in balancer.state_dict().items() if "task1" in k}
    for values in LOSSES[3:]:
        if absence == "left out":
            _, gradient = given.step(balancer, values, tasks=("task0", "task2"))
            assert given.problem.own["task1"].grad is None
        else:
            given.problem.zero_grad()
            x = given.problem
            losses = {
                task: value * x.own[task] + row @ x.shared
                for task, value, row in zip(NAMES, values, ROWS, strict=True)
            }
            losses["task1"] = x.own["task1"] * 0 + (x.shared * 0).sum()
            balancer.backward(losses)
            balancer.finish()
            assert float(x.own["task1"].grad) == 0.0
            gradient = x.shared.grad
        assert gradient.isfinite().all()
    after = balancer.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if not k.startswith("adam."))
    assert all(math.isfinite(w) and w > 0 for w in balancer.weights().values())


@pytest.mark.parametrize("method", ["uncertainty", "dwa", "random", "famo", "gradnorm"])
def test_state_goes_on_exactly(given, method):
    one = make_all(given)[method]
    for values in LOSSES[:3]:
        given.step(one, values)
    state = {k: v.clone() for k, v in one.state_dict().items()}
    other = make_all(given)[method]
    other.load_state_dict(state)
    for values in itertools.chain(LOSSES[3:], LOSSES):
        assert given.step(one, values)[0] == given.step(other, values)[0]
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_state_of_another_method_is_refused(given):
    balancers = make_all(given)
    with pytest.raises(ValueError, match=r"the balancing state lacks 'first\.task0'"):
        balancers["gradnorm"].load_state_dict(balancers["uncertainty"].state_dict())
    with pytest.raises(ValueError, match="has the unknown key 'current'"):
        balancers["random"].load_state_dict(balancers["dwa"].state_dict())


def test_a_loss_of_no_task_is_refused(given):
    balancer = make_all(given)["random"]
    with pytest.raises(ValueError, match="a loss for 'depth'; the tasks are task0, task1, task2"):
        balancer.backward({"depth": given.problem.shared.sum()})
