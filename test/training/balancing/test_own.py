"""Methods that are named by module and attribute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from balancing_problems import small_network

from pvt_mtl_perception.training.balancing import (
    BalancingConfig,
    ScalarizedBalancer,
    make_balancer,
)
from pvt_mtl_perception.training.config import config_yaml, load_config

DOCS = Path(__file__).resolve().parents[3] / "docs"

MODULE = """
import torch

from pvt_mtl_perception.training.balancing import ScalarizedBalancer


class Constant:
    def __init__(self, value=1.0):
        self.value = value

    def __call__(self, gramian, step):
        return torch.full((len(gramian),), self.value)


class ByStep(ScalarizedBalancer):
    def __init__(self, tasks, division, slope):
        super().__init__(tasks, division)
        self.slope = slope

    def weights(self):
        return dict.fromkeys(self.tasks, 1.0 + self.slope * self.steps)


class Lacking(ScalarizedBalancer):
    pass


class Drawn:
    def __init__(self, seed, scale=1.0):
        self.value = scale * seed

    def __call__(self, gramian, step):
        return torch.full((len(gramian),), self.value)


def directly(gramian, step):
    return torch.ones(len(gramian))


def too_few():
    return lambda gramian, step: torch.ones(1)


def not_finite():
    return lambda gramian, step: torch.full((len(gramian),), float("nan"))


def nothing():
    return None


broken = 3
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_methods.py").write_text(MODULE)
    (tmp_path / "own_methods_without.py").write_text("import a_module_that_is_absent\n")
    monkeypatch.syspath_prepend(tmp_path)


def losses(network) -> dict[str, torch.Tensor]:
    """A loss for each task that depends on its own head and on the shared part differently."""
    torch.manual_seed(0)
    output = network(torch.randn(2, 3, 64, 64))
    return {
        "classification": sum(x.square().mean() for x in output.classification.values()),
        "detection": sum(x.square().mean() for x in output.detection.logits),
        "segmentation": output.segmentation.square().mean(),
    }


def gradients(config: BalancingConfig, steps: int = 1) -> tuple[list[torch.Tensor | None], dict[str, float]]:
    torch.manual_seed(1)
    network = small_network()
    network.eval()
    balancer = make_balancer(config, network)
    for _ in range(steps):
        network.zero_grad()
        balancer.backward(losses(network))
        weights = balancer.finish()
    return [p.grad for p in network.parameters()], weights


def test_a_weighting_of_gradients_is_what_it_returns() -> None:
    mine, weights = gradients(BalancingConfig("own_methods:Constant", options={"value": 1.0}))
    plain, _ = gradients(BalancingConfig("equal"))
    assert weights == dict.fromkeys(weights, 1.0) and len(weights) == 3
    for one, other in zip(mine, plain, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    _, weights = gradients(BalancingConfig("own_methods:Constant", options={"value": 0.25}))
    assert weights == dict.fromkeys(weights, 0.25)


def test_the_documented_one_works(tmp_path: Path) -> None:
    section = (DOCS / "training.md").read_text().split("\n### A method of one's own\n")[1]
    (tmp_path / "my_methods.py").write_text(section.split("```python\n")[1].split("```")[0])
    _, weights = gradients(BalancingConfig("my_methods:LeastNorm", options={"power": 2.0}))
    assert sum(weights.values()) == pytest.approx(3.0)
    assert len(set(weights.values())) == 3


def test_a_weighting_of_losses_is_a_balancer_with_the_options() -> None:
    balancer = make_balancer(BalancingConfig("own_methods:ByStep", options={"slope": 0.5}), small_network())
    assert isinstance(balancer, ScalarizedBalancer)
    _, weights = gradients(BalancingConfig("own_methods:ByStep", options={"slope": 0.5}), steps=3)
    assert weights == dict.fromkeys(weights, 2.0)


def test_a_method_that_draws_gets_the_runs_seed() -> None:
    network = small_network()
    balancer = make_balancer(BalancingConfig("own_methods:Drawn", options={"scale": 2.0}), network, seed=7)
    balancer.backward(losses(network))
    assert balancer.finish() == dict.fromkeys(network.tasks, 14.0)
    config = BalancingConfig("own_methods:Drawn", options={"seed": 3})
    balancer = make_balancer(config, network, seed=7)
    balancer.backward(losses(network))
    assert balancer.finish() == dict.fromkeys(network.tasks, 3.0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("own_method:Constant", {}, "own_method:Constant: no module own_method; .* PYTHONPATH"),
        ("own_methods:Constants", {}, r"own_methods\.py has no class or function 'Constants'"),
        ("own_methods:broken", {}, "has no class or function 'broken'"),
        ("own_methods:Constant", {"valeu": 1}, r"does not take balancing\.options .*'valeu'"),
        ("own_methods:ByStep", {}, r"does not take balancing\.options \{\}: .*'slope'"),
        (
            "own_methods:directly",
            {},
            r"missing .* 'gramian'\. A class, or a function that returns the weight",
        ),
        ("own_methods:Lacking", {}, "own_methods:Lacking lacks weights"),
        ("itertools:foo", {}, "itertools has no class or function 'foo'"),
        (".own_methods:Constant", {}, "the module's name is to be absolute"),
        ("own_methods:nothing", {}, "gives a NoneType; a weighting takes a Gramian"),
    ],
)
def test_what_cannot_be_used_is_named(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_balancer(BalancingConfig(method, options=options), small_network())


def test_what_a_module_itself_lacks_is_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_absent"):
        make_balancer(BalancingConfig("own_methods_without:Constant"), small_network())


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("own_methods:too_few", ValueError, r"weights of shape \(1,\) for 3 gradients"),
        ("own_methods:not_finite", FloatingPointError, r"gives the weights \[nan, nan, nan\]"),
    ],
)
def test_weights_that_cannot_be_are_named(method: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"balancing.method {method} {message}|{method}.*{message}"):
        gradients(BalancingConfig(method))


def test_options_are_of_own_methods_alone_and_come_back_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"balancing\.options belong to a method of your own, not to 'dwa'"):
        BalancingConfig("dwa", options={"value": 1})
    (tmp_path / "run.yaml").write_text(
        "train: [{kind: synthetic}]\n"
        "model: {segmentation: {}}\n"
        "phases: [{steps: 1, width: 64, height: 64, batch_size: 1}]\n"
        "balancing: {method: 'own_methods:Constant', options: {value: 0.5, more: [1, a]}}\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert config.balancing.options == {"value": 0.5, "more": [1, "a"]}
    (tmp_path / "again.yaml").write_text(config_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
