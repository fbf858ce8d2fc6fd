"""A balancing method of the user's own, named ``module:attribute`` in place of a known name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvt_mtl_perception.training.balancing.balancer import Balancer
from pvt_mtl_perception.training.balancing.division import Division
from pvt_mtl_perception.training.balancing.gradients import GradientBalancer, Weighting


def own_balancer(
    name: str, options: Mapping[str, Any], tasks: tuple[str, ...], division: Division, seed: int
) -> Balancer:
    """The balancer that a module of the user's makes.

    Args:
        name: ``module:attribute``. A subclass of ``Balancer`` is made with ``(tasks, division, **options)``.
            Anything else is called with ``**options`` and returns a ``Weighting``.
        options: keyword arguments.
        tasks: of the network, in order.
        division: of its parameters.
        seed: the run's; given as ``seed`` where that is a parameter and no option.

    Raises:
        ValueError: when there is no such module or attribute, when it does not take the options, and when
            what it returns cannot be called.
    """
    where = f"balancing.method {name}"
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{where}: no module {error.name}; it must be installed, or lie in a folder of PYTHONPATH"
        ) from None
    except TypeError as error:
        raise ValueError(f"{where}: the module's name is to be absolute: {error}") from None
    made_by = getattr(module, attribute, None)
    if not callable(made_by):
        found_in = getattr(module, "__file__", None) or module_name
        raise ValueError(f"{where}: {found_in} has no class or function {attribute!r}")
    is_balancer = isinstance(made_by, type) and issubclass(made_by, Balancer)
    given = (tasks, division) if is_balancer else ()
    try:
        signature = inspect.signature(made_by)
        if "seed" in signature.parameters:
            options = {"seed": seed, **options}
        signature.bind(*given, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} does not take balancing.options {dict(options)}: {error}. A class, or a function that "
            "returns the weighting, is to be named"
        ) from None
    if inspect.isabstract(made_by):
        raise ValueError(f"{where} lacks {', '.join(sorted(made_by.__abstractmethods__))}")
    made = made_by(*given, **options)
    if isinstance(made, Balancer):
        return made
    if not callable(made):
        raise ValueError(
            f"{where} gives a {type(made).__name__}; a weighting takes a Gramian and the number of the step"
        )
    return GradientBalancer(tasks, division, _Checked(where, made))


class _Checked:
    """A weighting whose weights are as many as the gradients, and finite."""

    def __init__(self, where: str, weighting: Weighting) -> None:
        self._where = where
        self._weighting = weighting

    def __call__(self, gramian: Tensor, step: int) -> Tensor:
        weights = torch.as_tensor(self._weighting(gramian, step), dtype=torch.float64)
        if weights.shape != gramian.shape[:1]:
            raise ValueError(
                f"{self._where} gives weights of shape {tuple(weights.shape)} for {len(gramian)} gradients"
            )
        if not weights.isfinite().all():
            raise FloatingPointError(f"{self._where} gives the weights {weights.tolist()}")
        return weights
