"""The balancing methods by name.

Weighted losses, one backward pass:

- ``equal``: the sum of the losses.
- ``fixed``: constant weights; tuned, the baseline to beat (Kurin 2022, Xin 2022).
- ``uncertainty``: learned homoscedastic uncertainty (Kendall 2018, "Multi-task learning using uncertainty").
- ``dwa``: dynamic weight average by the rates of descent (Liu 2019, "End-to-end MTL with attention").
- ``random``: random loss weighting (Lin 2022, "Reasonable effectiveness of random weighting").
- ``famo``: equal rates of descent in amortised constant time (Liu 2023, "FAMO").
- ``gradnorm``: learned towards gradient norms in proportion to the backlog (Chen 2018, "GradNorm").

Combined gradients of the shared parameters, a backward pass through these for each task:

- ``pcgrad``: conflicting components projected away (Yu 2020, "Gradient surgery for MTL").
- ``cagrad``: best for the worst-off task near the sum (Liu 2021, "Conflict-averse gradient descent").
- ``mgda``: the convex combination of least norm (Désidéri 2012; Sener 2018, "MTL as multi-objective").
- ``imtl_g``: equal projections on all tasks' gradients (Liu 2021, "Towards impartial MTL").
- ``nash_mtl``: the Nash bargaining solution (Navon 2022, "MTL as a bargaining game").
- ``aligned_mtl``: principal components of equal length (Senushkin 2023, "Independent component alignment").
- ``upgrad``: each projected to conflict with none, then summed (Quinton 2024, "Jacobian descent").

``module:attribute`` names one that is not among them (see ``own``).
"""

from __future__ import annotations

from torch import nn

from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.training.balancing.balancer import Balancer
from pvt_mtl_perception.training.balancing.config import BalancingConfig, check_tasks
from pvt_mtl_perception.training.balancing.division import Division, divide_parameters
from pvt_mtl_perception.training.balancing.gradients import GradientBalancer, Weighting
from pvt_mtl_perception.training.balancing.own import own_balancer
from pvt_mtl_perception.training.balancing.scalarized import (
    DWABalancer,
    FAMOBalancer,
    FixedBalancer,
    GradNormBalancer,
    RandomBalancer,
    UncertaintyBalancer,
)
from pvt_mtl_perception.training.balancing.weightings import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    NashMTL,
    PCGrad,
    UPGrad,
)


def make_balancer(config: BalancingConfig, network: MultiTaskNetwork, seed: int = 0) -> Balancer:
    """The balancer of a method for a network.

    Args:
        config: method and settings.
        network: bare, on its device, with the parameters that are not to be trained already frozen.
        seed: of what a method draws; the same on all processes.

    Raises:
        ValueError: for weights of a task that the network lacks, gradnorm with a frozen backbone, and from
            ``own_balancer``.
    """
    tasks = network.tasks
    check_tasks(config.weights, tasks)
    division = divide_parameters(network)
    if config.is_own:
        return own_balancer(config.method, config.options, tasks, division, seed)
    match config.method:
        case "equal" | "fixed":
            return FixedBalancer(tasks, division, config.weights)
        case "uncertainty":
            return UncertaintyBalancer(tasks, division, config.lr)
        case "dwa":
            return DWABalancer(tasks, division, config.temperature, config.window)
        case "random":
            return RandomBalancer(tasks, division, seed)
        case "famo":
            return FAMOBalancer(tasks, division, config.lr)
        case "gradnorm":
            at = last_common_matrix(network, division)
            if at is None and len(tasks) > 1:
                raise ValueError(
                    "gradnorm compares the tasks' gradients at the last matrix of the backbone; it is frozen"
                )
            return GradNormBalancer(tasks, division, at, config.lr, config.alpha)
    return GradientBalancer(tasks, division, make_weighting(config, seed))


def make_weighting(config: BalancingConfig, seed: int = 0) -> Weighting:
    """The function from Gramian to weights of a gradient method.

    Raises:
        ValueError: for a method that weighs losses.
    """
    match config.method:
        case "pcgrad":
            return PCGrad(seed)
        case "cagrad":
            return CAGrad(config.c)
        case "mgda":
            return MGDA()
        case "imtl_g":
            return IMTLG()
        case "nash_mtl":
            return NashMTL()
        case "aligned_mtl":
            return AlignedMTL()
        case "upgrad":
            return UPGrad()
    raise ValueError(f"the balancing method {config.method!r} has no weighting of gradients")


def last_common_matrix(network: MultiTaskNetwork, division: Division) -> nn.Parameter | None:
    """The last weight of the backbone that all tasks depend on; None where there is none to train.

    It lies in the backbone also where all tasks use the neck, whose last layers each serve one level of the
    pyramid.
    """
    everywhere = set.intersection(*(set(positions) for positions in division.reached.values()))
    common = {division.shared[i] for i in everywhere}
    weights = [p for p in network.backbone.parameters() if p.ndim > 1 and p in common]
    return weights[-1] if weights else None
