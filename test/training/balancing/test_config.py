"""Settings of the balancing are checked where they are given."""

from __future__ import annotations

import pytest
from balancing_problems import small_network

from pvt_mtl_perception.training.balancing import METHODS, BalancingConfig, make_balancer


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown balancing method 'pc_grad'; did you mean 'pcgrad'"):
        BalancingConfig("pc_grad")


def test_a_name_like_no_method_lists_the_methods():
    with pytest.raises(ValueError, match="known: equal, fixed, uncertainty"):
        BalancingConfig("xyz")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "pcgrad", "weights": {"detection": 1.0}},
            "balancing.weights belong to the method 'fixed'",
        ),
        ({"method": "fixed", "weights": {"detection": -1.0}}, "balancing.weights.detection is -1.0"),
        ({"method": "fixed", "weights": {"detection": float("nan")}}, "balancing.weights.detection is nan"),
        ({"method": "dwa", "temperature": 0.0}, "balancing.temperature is 0.0; it must be more than 0"),
        ({"method": "dwa", "window": 0}, "balancing.window is 0; it must be at least 1"),
        ({"method": "famo", "lr": 0.0}, "balancing.lr is 0.0; it must be more than 0"),
        ({"method": "gradnorm", "alpha": -0.1}, "balancing.alpha is -0.1; it must be 0 or more"),
        ({"method": "cagrad", "c": 1.0}, "balancing.c is 1.0; it must be 0 or more and less than 1"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BalancingConfig(**settings)


def test_weights_of_an_unknown_task_are_refused_with_the_nearest_one():
    network = small_network()
    with pytest.raises(ValueError, match="an unknown task 'detect'; did you mean 'detection'"):
        make_balancer(BalancingConfig("fixed", weights={"detect": 2.0}), network)


def test_every_method_can_be_made():
    network = small_network()
    for method in METHODS:
        assert make_balancer(BalancingConfig(method), network).tasks == network.tasks


def test_gradnorm_is_refused_where_its_matrix_is_frozen():
    network = small_network()
    network.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match=r"gradnorm compares .* it is frozen"):
        make_balancer(BalancingConfig("gradnorm"), network)
