"""How a step's tasks bear on each other: gradients compared, and what a step for one does to the others.

The network, the gradients in ``.grad`` and the optimiser are not touched.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvt_mtl_perception.training.balancing import Division, Reduce
from pvt_mtl_perception.training.rows import read_rows

StepLosses = Callable[[Mapping[str, Tensor]], Iterator[dict[str, Tensor]]]
"""The losses of a step's micro-batches, each divided by their number, with these tensors in the place of the
network's parameters of these names. Every call has to draw the same random numbers, and every process has to
yield the same tasks."""


@dataclass(frozen=True)
class TaskRelations:
    """What was measured in one step; a pair is left out where a gradient is zero or a number not finite.

    Attributes:
        losses: of each task before the step, mean over micro-batches and processes.
        cosine: for a task and one after it the cosine of their gradients, -1..1, over the parameters that
            both depend on.
        norm_ratio: for the same pairs and parameters the norm of the first one's gradient over that of the
            second's, above 0.
        affinity: for task i and task j, i itself included, the lookahead affinity of i onto j, at most 1;
            positive where i's step lowers j's loss.
    """

    losses: dict[str, float]
    cosine: dict[str, dict[str, float]]
    norm_ratio: dict[str, dict[str, float]]
    affinity: dict[str, dict[str, float]]


def measure_relations(
    network: nn.Module,
    division: Division,
    losses_of: StepLosses,
    learning_rates: Mapping[nn.Parameter, float],
    reduce: Reduce | None = None,
) -> TaskRelations:
    """Gradient cosines, norm ratios and the inter-task affinity by lookahead.

    The affinity is that of Fifty et al. 2021, "Efficiently Identifying Task Groupings for Multi-Task
    Learning": Z_{i->j} = 1 - L_j(X, θ_{s|i}, θ_j) / L_j(X, θ_s, θ_j), θ_{s|i} = θ_s - η ∇_s L_i(X, θ_s, θ_i).
    That is plain gradient descent for task i on the shared parameters alone, and the loss of task j on the
    same batch again. All losses are the tasks' own, without the weights of a balancing method.

    It costs a forward and a backward pass for each task beside one forward pass, and the memory of the shared
    parameters for each task and once more.

    Args:
        network: holds the parameters.
        division: of its parameters.
        losses_of: see ``StepLosses``.
        learning_rates: η of each shared parameter.
        reduce: mean over the processes; None with one process.
    """
    before, gradients = _losses_and_gradients(division, losses_of, reduce)
    gradients = {task: gradient for task, gradient in gradients.items() if _usable(gradient.values())}
    cosine, norm_ratio = _compare(division, gradients)
    names = {parameter: name for name, parameter in network.named_parameters()}
    affinity: dict[str, dict[str, float]] = {}
    for task, gradient in gradients.items():
        moved = {}
        for position, slope in gradient.items():
            parameter = division.shared[position]
            moved[names[parameter]] = parameter.detach().clone().sub_(slope, alpha=learning_rates[parameter])
        with torch.no_grad():
            after = _mean_losses(losses_of(moved), reduce)
        values = {
            other: 1 - after[other] / loss
            for other, loss in before.items()
            if loss > 0 and math.isfinite(loss) and math.isfinite(after[other])
        }
        if values:
            affinity[task] = values
    return TaskRelations(before, cosine, norm_ratio, affinity)


def _losses_and_gradients(
    division: Division, losses_of: StepLosses, reduce: Reduce | None
) -> tuple[dict[str, float], dict[str, dict[int, Tensor]]]:
    """The step's losses and, by position in ``division.shared``, each task's gradient of what it reaches."""
    seen: list[dict[str, Tensor]] = []
    gradients: dict[str, dict[int, Tensor]] = {}
    for losses in losses_of({}):
        seen.append({task: loss.detach() for task, loss in losses.items()})
        last = next(reversed(losses), None)
        for task, loss in losses.items():
            reached = division.reached[task]
            if task not in gradients:
                gradients[task] = {i: torch.zeros_like(division.shared[i]) for i in reached}
            if not reached or not loss.requires_grad:
                continue
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss, [division.shared[i] for i in reached], retain_graph=task != last, allow_unused=True
            )
            for i, gradient in zip(reached, found, strict=True):
                if gradient is not None:
                    gradients[task][i].add_(gradient)
    if reduce is not None:
        for gradient_of in gradients.values():
            _reduce_all(list(gradient_of.values()), reduce)
    return _mean_losses(seen, reduce), gradients


def _reduce_all(tensors: list[Tensor], reduce: Reduce) -> None:
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    reduce(flat)
    for tensor, piece in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def _mean_losses(parts: Iterable[dict[str, Tensor]], reduce: Reduce | None) -> dict[str, float]:
    sums: dict[str, Tensor] = {}
    for losses in parts:
        for task, loss in losses.items():
            sums[task] = sums[task] + loss if task in sums else loss
    if not sums:
        return {}
    account = torch.stack([total.double() for total in sums.values()])
    if reduce is not None:
        reduce(account)
    return dict(zip(sums, account.tolist(), strict=True))


def _usable(gradient: Iterable[Tensor]) -> bool:
    """Whether it is finite and not zero."""
    squares = [_dot(part, part) for part in gradient]
    return bool(squares) and 0 < float(torch.stack(squares).sum()) < math.inf


def _compare(
    division: Division, gradients: Mapping[str, Mapping[int, Tensor]]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    cosine: dict[str, dict[str, float]] = {}
    norm_ratio: dict[str, dict[str, float]] = {}
    tasks = list(gradients)
    for index, first in enumerate(tasks):
        for second in tasks[index + 1 :]:
            common = [i for i in division.reached[first] if i in gradients[second]]
            if not common:
                continue
            a, b = gradients[first], gradients[second]
            products = [[_dot(x[i], y[i]) for i in common] for x, y in ((a, a), (b, b), (a, b))]
            aa, bb, ab = torch.stack([torch.stack(row).sum() for row in products]).tolist()
            if aa > 0 and bb > 0:
                cosine.setdefault(first, {})[second] = ab / math.sqrt(aa * bb)
                norm_ratio.setdefault(first, {})[second] = math.sqrt(aa / bb)
    return cosine, norm_ratio


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum()


def read_relations(path: Path) -> list[dict[str, Any]]:
    """The rows of an ``affinity.jsonl`` in the order of the steps; a line cut off by a kill is left out.

    A row is ``step``, ``lr`` (the largest of the step), ``seconds`` and the attributes of ``TaskRelations``.

    Raises:
        FileNotFoundError: when there is none.
    """
    return read_rows(path)


def append_relations(path: Path, step: int, lr: float, seconds: float, relations: TaskRelations) -> None:
    """Adds a row.

    Args:
        path: the ``affinity.jsonl``.
        step: whose gradients they are, counted from 1 as in ``log.jsonl``.
        lr: its learning rate.
        seconds: that the measurement took.
        relations: what was measured.
    """
    with path.open("a") as file:
        file.write(
            json.dumps({"step": step, "lr": lr, "seconds": seconds} | dataclasses.asdict(relations)) + "\n"
        )
