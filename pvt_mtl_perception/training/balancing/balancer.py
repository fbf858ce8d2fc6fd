"""What all balancing methods have in common: the interface and the account of a step's losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pvt_mtl_perception.training.balancing.division import Division

Reduce = Callable[[Tensor], object]
"""Replaces a contiguous tensor by its mean over the processes, in place; every process calls it in turn."""


class Balancer(ABC):
    """Turns the losses of a step into gradients.

    Between two optimiser steps come one ``backward`` for each micro-batch and one ``finish``. Gradients have
    to be None or zero before the first of them. With several processes each has its own balancer over its own
    bare network, not wrapped in DistributedDataParallel, and calls ``finish`` as often as the others;
    ``reduce`` keeps gradients and a method's own state alike on all of them.

    A task is absent from a step when no process gives it in a micro-batch, or when its loss is exactly zero
    everywhere, as that of a batch without labels is. Absent tasks have no part in the aggregation, and a
    method's memory of them stays as it is. The gradients of parameters that only tasks not given depend on
    stay None, so that an optimiser leaves them alone.

    Args:
        tasks: in the order that everything is computed in.
        division: of the network's parameters.

    Attributes:
        steps: how often ``finish`` was called.
        losses: of the tasks of the last finished step, means over its micro-batches and processes.
    """

    def __init__(self, tasks: Iterable[str], division: Division) -> None:
        self.tasks = tuple(tasks)
        self.division = division
        self.steps = 0
        self.losses: dict[str, float] = {}
        self._given: dict[str, Tensor] = {}

    def backward(self, losses: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Adds what a micro-batch contributes to the step.

        Args:
            losses: a scalar for each task that has a label in this micro-batch; the graph is freed.
            share: of the step that this micro-batch makes up: 1/n with n micro-batches.

        Raises:
            ValueError: for a task that the network lacks.
        """
        unknown = sorted(set(losses) - set(self.tasks))
        if unknown:
            raise ValueError(f"a loss for {unknown[0]!r}; the tasks are {', '.join(self.tasks)}")
        present = {task: losses[task] for task in self.tasks if task in losses}
        for task, loss in present.items():
            value = loss.detach().float() * share
            self._given[task] = self._given[task] + value if task in self._given else value
        # A constant has no gradient to add.
        present = {task: loss for task, loss in present.items() if loss.requires_grad}
        if present:
            self._accumulate(present, share)

    @torch.no_grad()
    def finish(self, reduce: Reduce | None = None) -> dict[str, float]:
        """Completes the gradients of the step, in ``.grad`` of the network's parameters.

        Args:
            reduce: mean over the processes; None with one process.

        Returns:
            The weight that each task of the step had in the gradient of the shared parameters.

        Raises:
            FloatingPointError: from gradient methods, when a gradient is not finite, naming the tasks.
        """
        device = next(p.device for task in self.tasks for p in self.division.parameters_of(task))
        account = torch.zeros(2, len(self.tasks), device=device)
        for i, task in enumerate(self.tasks):
            if task in self._given:
                account[0, i] = self._given[task]
                account[1, i] = 1.0
        self._given = {}
        if reduce is not None:
            reduce(account)
        values, shares = account.tolist()
        self.losses = {
            task: value for task, value, share in zip(self.tasks, values, shares, strict=True) if share > 0
        }
        weights = self._complete(self.losses, reduce)
        self.steps += 1
        return weights

    @abstractmethod
    def _accumulate(self, losses: dict[str, Tensor], share: float) -> None:
        """Gradients of a micro-batch; ``losses`` is not empty and in the order of the tasks."""

    @abstractmethod
    def _complete(self, losses: dict[str, float], reduce: Reduce | None) -> dict[str, float]:
        """Gradients of the step, from the losses of the tasks given to any process, means over the step."""

    def state_dict(self) -> dict[str, Tensor]:
        """What has to be kept to go on exactly, between two steps: plain tensors by name, on the CPU."""
        return {"steps": torch.tensor(self.steps)} | self._state()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` of a balancer of the same method and tasks returned.

        Raises:
            ValueError: for a state of another method or other tasks, naming a key.
        """
        state = dict(state)
        expected = {"steps"} | set(self._state())
        # Adam has no moments before its first step.
        different = {key for key in expected ^ set(state) if not key.startswith("adam.")}
        if different:
            key = min(different)
            what = "lacks" if key in expected else "has the unknown key"
            raise ValueError(f"the balancing state {what} {key!r}; it is of another method or of other tasks")
        self.steps = int(state.pop("steps"))
        self._load(state)

    def _state(self) -> dict[str, Tensor]:
        return {}

    def _load(self, state: dict[str, Tensor]) -> None:
        del state


class LearnedNumbers:
    """A number for each task in double precision on the CPU, moved by Adam (Kingma 2015).

    A task without a gradient in a step keeps its number and its moments.

    Args:
        tasks: their names.
        start: first value of each.
        lr: learning rate.
        weight_decay: pulls towards zero.
    """

    def __init__(self, tasks: Iterable[str], start: float, lr: float, weight_decay: float = 0.0) -> None:
        self.values = {task: torch.full((), start, dtype=torch.float64) for task in tasks}
        parameters = list(self.values.values())
        self.adam = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, foreach=False)

    def __getitem__(self, task: str) -> float:
        return float(self.values[task])

    def step(self, gradients: Mapping[str, float]) -> None:
        """One step of Adam down the gradients."""
        for task, value in self.values.items():
            value.grad = torch.tensor(gradients[task], dtype=torch.float64) if task in gradients else None
        self.adam.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Values and moments by name."""
        state = {f"values.{task}": value.clone() for task, value in self.values.items()}
        for index, moments in self.adam.state_dict()["state"].items():
            state |= {f"adam.{index}.{key}": torch.as_tensor(v).clone() for key, v in moments.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` returned."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            kind, _, key = name.partition(".")
            if kind == "values":
                self.values[key].copy_(tensor)
            elif kind == "adam":
                index, _, key = key.partition(".")
                moments.setdefault(int(index), {})[key] = tensor.clone()
        self.adam.load_state_dict({**self.adam.state_dict(), "state": moments})


def average_gradients(parameters: Iterable[nn.Parameter], reduce: Reduce) -> None:
    """Replaces gradients by their means over the processes; None counts as zero."""
    parameters = list(parameters)
    if not parameters:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    reduce(flat)
    pieces = torch.split(flat, [g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True)])
