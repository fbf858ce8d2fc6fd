"""Methods that weigh the losses: one backward pass a step, whatever the number of tasks.

The weights of a step are settled before it begins, from what earlier steps left behind. So every micro-batch
and every process weighs alike, whichever tasks it has labels for, without waiting for the others.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pvt_mtl_perception.training.balancing.balancer import (
    Balancer,
    LearnedNumbers,
    Reduce,
    average_gradients,
)
from pvt_mtl_perception.training.balancing.division import Division


class ScalarizedBalancer(Balancer):
    """A weighted sum of the losses."""

    def _accumulate(self, losses: dict[str, Tensor], share: float) -> None:
        weights = self.weights()
        total = torch.stack([share * weights[task] * loss for task, loss in losses.items()]).sum()
        torch.autograd.backward(total)

    def _complete(self, losses: dict[str, float], reduce: Reduce | None) -> dict[str, float]:
        weights = self.weights()
        if reduce is not None:
            used = {p: None for task in losses for p in self.division.parameters_of(task)}
            average_gradients(used, reduce)
        self._update({task: value for task, value in losses.items() if value != 0.0}, reduce)
        return {task: weights[task] for task in losses}

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The weight of each task's loss in the coming or current step."""

    def _update(self, losses: Mapping[str, float], reduce: Reduce | None) -> None:
        """Learns from a step's losses: those of its tasks, alike on all processes."""


class FixedBalancer(ScalarizedBalancer):
    """Constant weights, 1 where none is given."""

    def __init__(self, tasks: Iterable[str], division: Division, weights: Mapping[str, float]) -> None:
        super().__init__(tasks, division)
        self._weights = {task: float(weights.get(task, 1.0)) for task in self.tasks}

    def weights(self) -> dict[str, float]:
        """The constants."""
        return self._weights


class RandomBalancer(ScalarizedBalancer):
    """T times the softmax of T normal numbers, new in every step (Lin 2022, algorithm 2).

    The numbers follow from seed and step, so that processes agree and a resumed run draws the same.
    """

    def __init__(self, tasks: Iterable[str], division: Division, seed: int) -> None:
        super().__init__(tasks, division)
        self.seed = seed

    def weights(self) -> dict[str, float]:
        """Drawn for the current step."""
        generator = torch.Generator().manual_seed(seed_of_step(self.seed, self.steps))
        drawn = torch.randn(len(self.tasks), generator=generator, dtype=torch.float64).softmax(0)
        return dict(zip(self.tasks, (len(self.tasks) * drawn).tolist(), strict=True))


class UncertaintyBalancer(ScalarizedBalancer):
    """Minimises the sum of exp(-s) L + s over network and s = log variance (Kendall 2018, eq. 7).

    Both terms are twice those of the paper, so that the weights exp(-s) begin at 1.
    """

    def __init__(self, tasks: Iterable[str], division: Division, lr: float) -> None:
        super().__init__(tasks, division)
        self.log_variances = LearnedNumbers(self.tasks, start=0.0, lr=lr)

    def weights(self) -> dict[str, float]:
        """The precisions exp(-s)."""
        return {task: math.exp(-self.log_variances[task]) for task in self.tasks}

    def _update(self, losses: Mapping[str, float], reduce: Reduce | None) -> None:
        weights = self.weights()
        self.log_variances.step({task: 1.0 - weights[task] * loss for task, loss in losses.items()})

    def _state(self) -> dict[str, Tensor]:
        return self.log_variances.state_dict()

    def _load(self, state: dict[str, Tensor]) -> None:
        self.log_variances.load_state_dict(state)


class DWABalancer(ScalarizedBalancer):
    """T times the softmax of each loss's ratio over two windows, by a temperature (Liu 2019, eq. 7).

    The paper averages losses over epochs; here a window is a number of optimiser steps. A task that is absent
    from a whole window keeps its older averages, and the ratio of a task without two of them is 1.
    """

    def __init__(self, tasks: Iterable[str], division: Division, temperature: float, window: int) -> None:
        super().__init__(tasks, division)
        self.temperature = temperature
        self.window = window
        # Averages of the last window but one and of the last; sum and count of the current one.
        self.history = torch.full((2, len(self.tasks)), math.nan, dtype=torch.float64)
        self.current = torch.zeros(2, len(self.tasks), dtype=torch.float64)

    def weights(self) -> dict[str, float]:
        """Constant within a window."""
        ratios = (self.history[1] / self.history[0]).nan_to_num(nan=1.0)
        weights = len(self.tasks) * (ratios / self.temperature).softmax(0)
        return dict(zip(self.tasks, weights.tolist(), strict=True))

    def _update(self, losses: Mapping[str, float], reduce: Reduce | None) -> None:
        for i, task in enumerate(self.tasks):
            if task in losses:
                self.current[0, i] += losses[task]
                self.current[1, i] += 1
        if (self.steps + 1) % self.window == 0:
            seen = self.current[1] > 0
            averages = self.current[0] / self.current[1]
            self.history[0, seen] = self.history[1, seen]
            self.history[1, seen] = averages[seen]
            self.current.zero_()

    def _state(self) -> dict[str, Tensor]:
        return {"history": self.history.clone(), "current": self.current.clone()}

    def _load(self, state: dict[str, Tensor]) -> None:
        self.history.copy_(state["history"])
        self.current.copy_(state["current"])


class FAMOBalancer(ScalarizedBalancer):
    """Weights z_i / L_i with the sum T, z learned towards equal rates of descent (Liu 2023, algorithm 2).

    The paper computes the losses of a batch a second time after the update of the network. Here the losses
    of the next step stand for them, as the second computation costs a forward pass; and L_i is the loss of
    the last step that had the task, as the weights are settled before a step. Before that all are 1.
    """

    def __init__(self, tasks: Iterable[str], division: Division, lr: float) -> None:
        super().__init__(tasks, division)
        self.logits = LearnedNumbers(self.tasks, start=0.0, lr=lr, weight_decay=1e-3)
        self.last = dict.fromkeys(self.tasks, math.nan)

    def weights(self) -> dict[str, float]:
        """1 for all until every task has had a loss."""
        if any(map(math.isnan, self.last.values())):
            return dict.fromkeys(self.tasks, 1.0)
        ratios = {task: z / self.last[task] for task, z in self._softmax(self.tasks).items()}
        scale = len(self.tasks) / sum(ratios.values())
        return {task: scale * ratio for task, ratio in ratios.items()}

    def _softmax(self, tasks: Iterable[str]) -> dict[str, float]:
        exponentials = {task: math.exp(self.logits[task]) for task in tasks}
        total = sum(exponentials.values())
        return {task: e / total for task, e in exponentials.items()}

    def _update(self, losses: Mapping[str, float], reduce: Reduce | None) -> None:
        descents = {
            task: math.log(self.last[task]) - math.log(loss)
            for task, loss in losses.items()
            if not math.isnan(self.last[task])
        }
        if len(descents) > 1:
            z = self._softmax(descents)
            mean = sum(z[task] * descent for task, descent in descents.items())
            self.logits.step({task: z[task] * (descent - mean) for task, descent in descents.items()})
        self.last.update(losses)

    def _state(self) -> dict[str, Tensor]:
        last = {f"last.{task}": torch.tensor(loss, dtype=torch.float64) for task, loss in self.last.items()}
        return self.logits.state_dict() | last

    def _load(self, state: dict[str, Tensor]) -> None:
        self.logits.load_state_dict(state)
        self.last = {task: float(state[f"last.{task}"]) for task in self.tasks}


class GradNormBalancer(ScalarizedBalancer):
    """Learns weights under which the tasks' gradients have norms in proportion to their backlog (Chen 2018).

    The norms are taken at one weight matrix. Each weight w_i moves down |w_i n_i - target_i|, n_i the norm of
    task i's own gradient there and target_i = mean(w n) (L_i(t) / L_i(0) / mean)^alpha held constant
    (algorithm 1). A step considers its own tasks; their weights keep their sum, which over all is T.

    Args:
        tasks: in order.
        division: of the network's parameters.
        at: a parameter that all tasks depend on, the later the cheaper; None with a single task.
        lr: of Adam.
        alpha: exponent of the backlog.
    """

    # Below this a task would stop learning and, with a norm of zero, never come back.
    _LEAST = 1e-3

    def __init__(
        self, tasks: Iterable[str], division: Division, at: nn.Parameter | None, lr: float, alpha: float
    ) -> None:
        super().__init__(tasks, division)
        self.at = at
        self.alpha = alpha
        self.learned = LearnedNumbers(self.tasks, start=1.0, lr=lr)
        self.first = dict.fromkeys(self.tasks, math.nan)
        self._gradients: dict[str, Tensor] = {}

    def weights(self) -> dict[str, float]:
        """As learned; their sum is T."""
        return {task: self.learned[task] for task in self.tasks}

    def _accumulate(self, losses: dict[str, Tensor], share: float) -> None:
        if self.at is not None:
            for task, loss in losses.items():
                (gradient,) = torch.autograd.grad(loss * share, self.at, retain_graph=True)
                # Processes must agree on the order of the elements.
                gradient = gradient.contiguous()
                kept = self._gradients.get(task)
                self._gradients[task] = gradient if kept is None else kept.add_(gradient)
        super()._accumulate(losses, share)

    def _update(self, losses: Mapping[str, float], reduce: Reduce | None) -> None:
        gradients, self._gradients = self._gradients, {}
        for task, loss in losses.items():
            if math.isnan(self.first[task]):
                self.first[task] = loss
        if self.at is None or len(losses) < 2:
            return
        rows = [gradients[task] if task in gradients else torch.zeros_like(self.at) for task in losses]
        stacked = torch.stack([row.reshape(-1) for row in rows])
        if reduce is not None:
            reduce(stacked)
        norms = dict(zip(losses, torch.linalg.vector_norm(stacked, dim=1).tolist(), strict=True))
        weights = {task: self.learned[task] for task in losses}
        mean_norm = sum(weights[task] * norms[task] for task in losses) / len(losses)
        backlog = {task: loss / self.first[task] for task, loss in losses.items()}
        mean_backlog = sum(backlog.values()) / len(losses)
        slopes = {}
        for task in losses:
            target = mean_norm * (backlog[task] / mean_backlog) ** self.alpha
            slopes[task] = float(np.sign(weights[task] * norms[task] - target)) * norms[task]
        self.learned.step(slopes)
        total = sum(weights.values())
        for task in losses:
            self.learned.values[task].clamp_(min=self._LEAST)
        scale = total / sum(self.learned[task] for task in losses)
        for task in losses:
            self.learned.values[task].mul_(scale)

    def _state(self) -> dict[str, Tensor]:
        first = {
            f"first.{task}": torch.tensor(loss, dtype=torch.float64) for task, loss in self.first.items()
        }
        return self.learned.state_dict() | first

    def _load(self, state: dict[str, Tensor]) -> None:
        self.learned.load_state_dict(state)
        self.first = {task: float(state[f"first.{task}"]) for task in self.tasks}


def seed_of_step(seed: int, step: int) -> int:
    """A seed that differs for every seed of a run and every step."""
    state: Any = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return int(state[0]) >> 1
