"""Balancing on the real network: C5 and pyramid levels computed from it, three heads, one gradient."""

from __future__ import annotations

import re

import pytest
import torch
from balancing_problems import ALL_TASKS, gradients, images, output_losses, quick_network, small_network
from torch import Tensor

from pvt_mtl_perception.training.balancing import METHODS, BalancingConfig, divide_parameters, make_balancer
from pvt_mtl_perception.training.balancing.gradients import GradientBalancer

# Methods that keep something between steps, or draw numbers, or combine gradients.
SELECTED = ("uncertainty", "dwa", "famo", "gradnorm", "pcgrad", "upgrad")
GRADIENT_METHODS = ("pcgrad", "cagrad", "mgda", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad")


def plain_sum(gramian: Tensor, step: int) -> Tensor:
    return torch.ones(len(gramian), dtype=torch.float64)


def assert_same_gradients(ours, reference, tolerance=1e-6):
    """Differences below a share of each gradient's largest element."""
    assert ours.keys() == reference.keys()
    largest = max(g.abs().max() for g in reference.values() if g is not None)
    for name, expected in reference.items():
        if expected is None:
            assert ours[name] is None, name
        else:
            scale = max(expected.abs().max().item(), 1e-3 * largest.item())
            assert (ours[name] - expected).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize(
    "make",
    [
        small_network,
        lambda: small_network(neck="bifpn", backbone="test_convnext"),
        lambda: small_network(("detection", "segmentation"), backbone="test_convnext"),
        lambda: small_network(("classification",), backbone="test_convnext"),
    ],
    ids=["pvt fpn", "bifpn", "dense tasks", "one task"],
)
def test_the_sum_of_the_rows_is_the_plain_gradient(make):
    # In double precision only a wrong gradient differs by more than rounding.
    network = make().double()
    pixels = images().double()
    torch.stack(list(output_losses(network(pixels)).values())).sum().backward()
    reference = gradients(network)
    network.zero_grad()

    balancer = GradientBalancer(network.tasks, divide_parameters(network), plain_sum)
    for _ in range(2):
        # The second time finds the buffer used.
        network.zero_grad()
        balancer.backward(output_losses(network(pixels)))
        weights = balancer.finish()
        assert weights == dict.fromkeys(network.tasks, 1.0)
        assert_same_gradients(gradients(network), reference)
        # Optimisers are fast where gradients lie in memory as the parameters do.
        assert all(p.grad.stride() == p.stride() for p in network.parameters())


def test_every_pass_goes_through_one_head_and_one_at_a_time(monkeypatch):
    """The setting that doubles the time on a CPU is off, and no task goes through the head of another."""
    network = small_network()
    balancer = make_balancer(BalancingConfig("upgrad"), network)
    calls = []
    grad = torch.autograd.grad

    def counted(outputs, inputs, **kwargs):
        calls.append(kwargs)
        return grad(outputs, inputs, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    passes: dict[str, list[torch.Size]] = {}

    def count(name: str, tensor: Tensor) -> None:
        passes[name] = []
        tensor.register_hook(lambda gradient: passes[name].append(gradient.shape))

    features = {}
    network.backbone.register_forward_hook(lambda module, args, output: features.update(enumerate(output)))
    output = network(images())
    count("c5", features[3])
    count("weather", output.classification["weather"])
    count("p3 logits", output.detection.logits[0])
    count("segmentation", output.segmentation)
    balancer.backward(output_losses(output))
    assert len(calls) == 3
    assert not any(call.get("is_grads_batched") for call in calls)
    assert {name: len(shapes) for name, shapes in passes.items()} == {
        "c5": 3,
        "weather": 1,
        "p3 logits": 1,
        "segmentation": 1,
    }
    assert passes["c5"] == [features[3].shape] * 3


@pytest.mark.parametrize("method", METHODS)
def test_two_micro_batches_are_one_batch(method):
    """Two steps, so that what methods learn from the losses counts as well."""
    config = BalancingConfig(method, weights={"detection": 2.0} if method == "fixed" else {}, window=1)
    whole, halves = quick_network(), quick_network()
    one, two = make_balancer(config, whole), make_balancer(config, halves)
    for step in range(2):
        batch = images(4, seed=step)
        whole.zero_grad()
        one.backward(output_losses(whole(batch)))
        weights = one.finish()
        halves.zero_grad()
        for part in batch.chunk(2):
            two.backward(output_losses(halves(part)), share=0.5)
        assert two.finish() == pytest.approx(weights, rel=2e-3)
        assert_same_gradients(gradients(halves), gradients(whole), tolerance=2e-3)
        for network in (whole, halves):
            for parameter in network.parameters():
                parameter.data -= 1e-3 * parameter.grad


@pytest.mark.parametrize("method", METHODS)
def test_disjoint_micro_batches_make_up_one_step(method):
    """Each micro-batch has the labels of one task, as with one data set for each."""
    network = quick_network()
    config = BalancingConfig(method, window=1)
    balancer = make_balancer(config, network)
    for step in range(2):
        network.zero_grad()
        rows = {}
        for task in ALL_TASKS:
            losses = output_losses(network(images(seed=step), tasks=[task]))
            plain = torch.autograd.grad(
                losses[task], list(network.parameters()), retain_graph=True, allow_unused=True
            )
            rows[task] = dict(zip(network.parameters(), plain, strict=True))
            balancer.backward(losses)
        weights = balancer.finish()
        assert weights.keys() == set(ALL_TASKS)
        division = balancer.division
        for parameter in division.shared:
            terms = [weights[t] * rows[t][parameter] for t in ALL_TASKS if rows[t][parameter] is not None]
            scale = max(term.abs().max().item() for term in terms)
            assert (parameter.grad - sum(terms)).abs().max().item() <= 1e-4 * scale + 1e-12
        for task, parameters in division.own.items():
            factor = 1.0 if method in GRADIENT_METHODS else weights[task]
            for parameter in parameters:
                torch.testing.assert_close(parameter.grad, factor * rows[task][parameter])


@pytest.mark.parametrize("method", SELECTED)
def test_steps_of_one_task_leave_the_others_alone(method):
    network = quick_network()
    balancer = make_balancer(BalancingConfig(method, window=1), network)
    balancer.backward(output_losses(network(images())))
    balancer.finish()
    for step in range(2):
        network.zero_grad()
        balancer.backward(output_losses(network(images(seed=step), tasks=["classification"])))
        assert balancer.finish().keys() == {"classification"}
        with_gradient = {n for n, p in network.named_parameters() if p.grad is not None}
        assert with_gradient == {
            n for n, _ in network.named_parameters() if re.match(r"backbone\.|heads\.classification\.", n)
        }
    # The task that comes back finds no trace of the older gradients.
    network.zero_grad()
    balancer.backward(output_losses(network(images(seed=5), tasks=["segmentation"])))
    weights = balancer.finish()
    reference = quick_network()
    (weights["segmentation"] * output_losses(reference(images(seed=5)))["segmentation"]).backward()
    if method in GRADIENT_METHODS:
        assert weights == {"segmentation": 1.0}
    assert_same_gradients(gradients(network), gradients(reference))


@pytest.mark.parametrize("method", SELECTED)
def test_a_batch_without_labels_of_a_task_contributes_exactly_zero(method):
    """The loss of unlabelled images is zero but still part of the graph."""

    def step(network, balancer, seed, with_zero):
        network.zero_grad()
        output = network(images(seed=seed))
        losses = output_losses(output)
        if with_zero:
            losses["detection"] = (
                sum(x.sum() for x in (*output.detection.logits, *output.detection.distances)) * 0
            )
        else:
            del losses["detection"]
        balancer.backward(losses)
        return balancer.finish()

    zero, left_out = quick_network(), quick_network()
    config = BalancingConfig(method, window=1)
    with_zero, without = make_balancer(config, zero), make_balancer(config, left_out)
    for seed in range(2):
        weights = step(zero, with_zero, seed, with_zero=True)
        expected = step(left_out, without, seed, with_zero=False)
        assert {t: w for t, w in weights.items() if t != "detection"} == pytest.approx(expected)
        ours, reference = gradients(zero), gradients(left_out)
        own = {n for n, g in reference.items() if g is None}
        assert all(n.startswith(("heads.detection.", "neck.output.6.", "neck.output.7.")) for n in own)
        assert all(not ours[n].any() for n in own)
        assert_same_gradients(
            {n: g for n, g in ours.items() if n not in own},
            {n: g for n, g in reference.items() if n not in own},
        )


@pytest.mark.parametrize("method", METHODS)
def test_autocast_gives_gradients_near_those_of_full_precision(method):
    full, mixed = quick_network(), quick_network()
    config = BalancingConfig(method)
    one, two = make_balancer(config, full), make_balancer(config, mixed)
    one.backward(output_losses(full(images())))
    one.finish()
    with torch.autocast("cpu", torch.bfloat16):
        output = mixed(images())
    two.backward(output_losses(output))
    two.finish()

    def flat(network):
        return torch.cat([p.grad.reshape(-1) for p in network.parameters()])

    assert all(p.grad.dtype == torch.float32 for p in mixed.parameters())
    ours, reference = flat(mixed), flat(full)
    assert ours.isfinite().all()
    # The methods amplify differences between gradients that nearly cancel: the direction has to agree.
    assert torch.cosine_similarity(ours, reference, dim=0) > 0.98


@pytest.mark.parametrize("method", ["uncertainty", "random", "famo", "gradnorm", "pcgrad", "nash_mtl"])
def test_a_resumed_run_is_the_uninterrupted_one(method):
    def train(network, balancer, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            balancer.backward(output_losses(network(images(seed=step))))
            balancer.finish()
            optimizer.step()

    config = BalancingConfig(method)
    network = quick_network()
    balancer = make_balancer(config, network, seed=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    train(network, balancer, optimizer, range(2))
    saved = {k: v.clone() for k, v in network.state_dict().items()}
    state = balancer.state_dict()
    train(network, balancer, optimizer, range(2, 4))

    resumed = quick_network(seed=9)
    resumed.load_state_dict(saved)
    again = make_balancer(config, resumed, seed=1)
    again.load_state_dict(state)
    train(resumed, again, torch.optim.SGD(resumed.parameters(), lr=1e-3), range(2, 4))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_gradient_that_is_not_finite_names_its_task():
    network = quick_network()
    balancer = make_balancer(BalancingConfig("upgrad"), network)
    losses = output_losses(network(images()))
    losses["segmentation"] = losses["segmentation"] * torch.inf
    balancer.backward(losses)
    with pytest.raises(FloatingPointError, match="the gradient of segmentation is not finite"):
        balancer.finish()


def test_gradients_of_frozen_parameters_stay_none():
    network = quick_network()
    network.backbone.requires_grad_(False)
    balancer = make_balancer(BalancingConfig("mgda"), network)
    balancer.backward(output_losses(network(images())))
    balancer.finish()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name
