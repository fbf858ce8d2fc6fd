"""Which balancing method a run uses, and its settings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METHODS = (
    "equal",
    "fixed",
    "uncertainty",
    "dwa",
    "random",
    "famo",
    "gradnorm",
    "pcgrad",
    "cagrad",
    "mgda",
    "imtl_g",
    "nash_mtl",
    "aligned_mtl",
    "upgrad",
)


@dataclass(frozen=True)
class BalancingConfig:
    """A method and the settings of those that have any.

    Attributes:
        method: one of ``METHODS``, of which ``training.balancing.methods`` says what each does, or
            ``module:attribute`` of one's own (see ``training.balancing.own``).
        weights: ``fixed`` only: factor of each task's loss, not negative; 1 where it is not given.
        temperature: ``dwa``: the larger, the more alike the weights are.
        window: ``dwa``: optimiser steps that a loss is averaged over before the weights change.
        lr: ``uncertainty``, ``famo``, ``gradnorm``: learning rate of the weights' own Adam.
        alpha: ``gradnorm``: how strongly tasks that learn slowly are pushed, 0 or more.
        c: ``cagrad``: how far the direction may lie from the sum of the gradients, in its norm, 0..1.
        options: keyword arguments of a method of one's own.

    Raises:
        ValueError: for an unknown method, with the nearest known one, and values out of range.
    """

    method: str = "equal"
    weights: dict[str, float] = field(default_factory=dict)
    temperature: float = 2.0
    window: int = 200
    lr: float = 0.025
    alpha: float = 1.5
    c: float = 0.4
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.is_own and self.method not in METHODS:
            raise ValueError(
                f"unknown balancing method {self.method!r}; {_near(self.method, METHODS)}, or your own as "
                "module:attribute"
            )
        if self.options and not self.is_own:
            raise ValueError(f"balancing.options belong to a method of your own, not to {self.method!r}")
        if self.weights and self.method != "fixed":
            raise ValueError(f"balancing.weights belong to the method 'fixed', not to {self.method!r}")
        for task, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"balancing.weights.{task} is {weight}; it must be 0 or more")
        for key, value, fits, range_ in (
            ("temperature", self.temperature, self.temperature > 0, "more than 0"),
            ("window", self.window, self.window >= 1, "at least 1"),
            ("lr", self.lr, self.lr > 0, "more than 0"),
            ("alpha", self.alpha, self.alpha >= 0, "0 or more"),
            ("c", self.c, 0 <= self.c < 1, "0 or more and less than 1"),
        ):
            if not (math.isfinite(value) and fits):
                raise ValueError(f"balancing.{key} is {value}; it must be {range_}")

    @property
    def is_own(self) -> bool:
        """Whether the method is the user's, ``module:attribute``."""
        return all(self.method.partition(":"))


def check_tasks(weights: Mapping[str, float], tasks: tuple[str, ...]) -> None:
    """Refuses weights of tasks that the network does not have.

    Raises:
        ValueError: naming the task and the nearest known one.
    """
    for task in weights:
        if task not in tasks:
            raise ValueError(f"balancing.weights names an unknown task {task!r}; {_near(task, tasks)}")


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
