"""Methods that combine the gradients of the tasks: a backward pass through the shared parts for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pvt_mtl_perception.training.balancing.balancer import Balancer, Reduce, average_gradients
from pvt_mtl_perception.training.balancing.division import Division

Weighting = Callable[[Tensor, int], Tensor]
"""Float64 Gramian (n, n) of n tasks' gradients on the CPU and the number of the step, to weights (n,).

The Gramian has a positive diagonal with mean 1.
"""


class GradientBalancer(Balancer):
    """A combination of the tasks' gradients of the shared parameters, its weights found from their Gramian.

    The rows of a (tasks, shared parameters) buffer collect each task's gradient over micro-batches and
    processes; its memory is that of the shared parameters times the tasks. Each task's backward pass goes
    through its own head once, through no other head, and through the shared parts that it depends on. One
    pass at a time: all in one batch (``is_grads_batched``) takes twice as long on a CPU.

    The parameters that one task alone depends on get that task's gradient as it is, weight 1. A task whose
    gradient is exactly zero is absent.

    Args:
        tasks: in order.
        division: of the network's parameters.
        weighting: of the method.
    """

    def __init__(self, tasks: Iterable[str], division: Division, weighting: Weighting) -> None:
        super().__init__(tasks, division)
        self.weighting = weighting
        self._sizes = [p.numel() for p in division.shared]
        self._jacobian: Tensor | None = None
        self._rows: dict[str, list[Tensor]] = {}
        self._begun: set[str] = set()

    def _allocate(self) -> None:
        if not self.division.shared:
            return
        first = self.division.shared[0]
        self._jacobian = torch.zeros(
            len(self.tasks), sum(self._sizes), device=first.device, dtype=first.dtype
        )
        self._rows = {task: self._views(self._jacobian[i]) for i, task in enumerate(self.tasks)}

    def _views(self, flat: Tensor) -> list[Tensor]:
        """A flat gradient as tensors of the parameters' shapes and strides, which optimisers are fast on."""
        pieces = torch.split(flat, self._sizes)
        return [
            piece.as_strided(p.shape, p.stride(), piece.storage_offset())
            for piece, p in zip(pieces, self.division.shared, strict=True)
        ]

    def _accumulate(self, losses: dict[str, Tensor], share: float) -> None:
        if self._jacobian is None:
            self._allocate()
        last = next(reversed(losses))
        for task, loss in losses.items():
            reached, own = self.division.reached[task], self.division.own[task]
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss * share, self.division.parameters_of(task), retain_graph=task != last, allow_unused=True
            )
            with torch.no_grad():
                if reached:
                    views = [self._rows[task][i] for i in reached]
                    self._add(views, gradients[: len(reached)], first=task not in self._begun)
                self._begun.add(task)
                for parameter, gradient in zip(own, gradients[len(reached) :], strict=True):
                    if gradient is None:
                        continue
                    if parameter.grad is not None:
                        parameter.grad.add_(gradient)
                    elif gradient.stride() == parameter.stride():
                        parameter.grad = gradient
                    else:
                        parameter.grad = torch.empty_like(parameter).copy_(gradient)

    @staticmethod
    def _add(views: list[Tensor], gradients: Iterable[Tensor | None], first: bool) -> None:
        pairs = list(zip(views, gradients, strict=True))
        if first:
            for view, gradient in pairs:
                if gradient is None:
                    view.zero_()
        known = [(view, gradient) for view, gradient in pairs if gradient is not None]
        if known:
            into, added = (list(side) for side in zip(*known, strict=True))
            if first:
                torch._foreach_copy_(into, added)
            else:
                torch._foreach_add_(into, added)

    def _complete(self, losses: dict[str, float], reduce: Reduce | None) -> dict[str, float]:
        begun, self._begun = self._begun, set()
        if self._jacobian is None:
            self._allocate()
        if reduce is not None:
            average_gradients((p for task in losses for p in self.division.own[task]), reduce)
        if self._jacobian is None:
            return dict.fromkeys(losses, 1.0)
        rows = {task: self._jacobian[self.tasks.index(task)] for task in losses}
        for task, row in rows.items():
            if task not in begun:
                row.zero_()
            if reduce is not None:
                reduce(row)
        weights = self._weights(rows)
        if rows:
            vector = torch.tensor([weights.get(task, 0.0) for task in self.tasks], dtype=torch.float64)
            aggregate = vector.to(self._jacobian) @ self._jacobian
            reached = {i for task in losses for i in self.division.reached[task]}
            views = self._views(aggregate)
            for i in sorted(reached):
                self.division.shared[i].grad = views[i]
        return weights

    def _weights(self, rows: dict[str, Tensor]) -> dict[str, float]:
        gramian = gramian_of(list(rows.values()))
        if not gramian.isfinite().all():
            bad = [task for task, g in zip(rows, gramian.diagonal(), strict=True) if not g.isfinite()]
            raise FloatingPointError(f"the gradient of {' and of '.join(bad or list(rows))} is not finite")
        diagonal = gramian.diagonal()
        active = diagonal > 0
        weights = torch.zeros(len(rows), dtype=torch.float64)
        if int(active.sum()) == 1:
            weights[active] = 1.0
        elif active.any():
            # What the methods compare is relative; their tolerances are not.
            scaled = gramian[active][:, active] / diagonal[active].mean()
            weights[active] = self.weighting(scaled, self.steps)
        return dict(zip(rows, weights.tolist(), strict=True))


def gramian_of(rows: list[Tensor]) -> Tensor:
    """Float64 (n, n) inner products of n vectors, on the CPU."""
    n = len(rows)
    # Not one matrix product, which may round to TensorFloat-32 on a GPU.
    products = [torch.dot(rows[i], rows[j]) for i in range(n) for j in range(i, n)]
    gramian = torch.zeros(n, n, dtype=torch.float64)
    if products:
        above = torch.triu_indices(n, n)
        gramian[above[0], above[1]] = torch.stack(products).to("cpu", torch.float64)
    return gramian + gramian.triu(1).T
