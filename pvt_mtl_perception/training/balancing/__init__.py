"""Balancing of tasks: how several losses become one gradient of the shared parameters, by name.

The trainer makes a balancer once and speaks to all of them in the same way::

    balancer = make_balancer(config, network, seed)
    for batch in step:                       # the micro-batches of an optimiser step
        losses = ...                         # only tasks that have a label in this micro-batch
        balancer.backward(losses, share=1 / len(step))
    weights = balancer.finish(reduce)        # gradients are in .grad now
    optimizer.step()
"""

from pvt_mtl_perception.training.balancing.balancer import Balancer, Reduce
from pvt_mtl_perception.training.balancing.config import METHODS, BalancingConfig
from pvt_mtl_perception.training.balancing.division import Division, divide_parameters
from pvt_mtl_perception.training.balancing.gradients import GradientBalancer, Weighting
from pvt_mtl_perception.training.balancing.methods import make_balancer
from pvt_mtl_perception.training.balancing.scalarized import ScalarizedBalancer

__all__ = [
    "METHODS",
    "Balancer",
    "BalancingConfig",
    "Division",
    "GradientBalancer",
    "Reduce",
    "ScalarizedBalancer",
    "Weighting",
    "divide_parameters",
    "make_balancer",
]
