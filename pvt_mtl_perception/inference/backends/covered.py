"""Fewer programs for engines that prepare one for minutes: a smaller batch runs in a larger one's program."""

from __future__ import annotations

import threading
from collections.abc import Collection

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pvt_mtl_perception.inference.backends.backend import Backend
from pvt_mtl_perception.model.network import NetworkOutput


class CoveredBackend:
    """Runs a call in the smallest program that covers it, where there is one, instead of preparing its own.

    A program covers what has its image size, at most its images, and no task that it lacks. The images that
    are missing are zeros, and what they and the other tasks give is left out: one camera fewer or one
    listener more costs the time of the larger program, and no minutes of preparation.

    Args:
        backend: prepares one program for each batch shape and set of tasks.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.device = backend.name, backend.device
        self._prepared: set[tuple[tuple[int, ...], frozenset[str]]] = set()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``."""
        shape, wanted = tuple(images.shape), frozenset(tasks)
        with self._lock:
            covering = [
                (prepared[0], own)
                for prepared, own in self._prepared
                if prepared[1:] == shape[1:] and prepared[0] >= shape[0] and own >= wanted
            ]
        smallest = (shape[0], wanted)
        batch, own = min(covering, key=lambda program: (program[0], len(program[1])), default=smallest)
        if (batch, own) == smallest:
            output = self._backend(images, tasks)
            with self._lock:
                self._prepared.add((shape, wanted))
            return output
        if batch > shape[0]:
            images = torch.cat((images, images.new_zeros((batch - shape[0], *shape[1:]))))
        # In the order of the network's tasks, which programs are kept by.
        output = self._backend(images, [task for task in NetworkOutput._fields if task in own])

        def first(value: object) -> object:
            return value[: shape[0]] if isinstance(value, Tensor) else value

        parts = output._asdict().items()
        return NetworkOutput(
            **{task: tree_map(first, value) if task in wanted else None for task, value in parts}
        )
