"""What runs while, or instead of, preparing a program: a prepared one that computes more than is asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pvt_mtl_perception.inference.backends.backend import Backend
from pvt_mtl_perception.model.network import NetworkOutput

_log = logging.getLogger(__name__)


def _in_order(tasks: Collection[str]) -> list[str]:
    """In the order of the network's tasks, which programs are kept by."""
    return [task for task in NetworkOutput._fields if task in tasks]


class BackgroundBackend:
    """Runs a new set of tasks in a program that has more, while its own is prepared in a thread.

    So a stream goes on when somebody begins to listen to a part of the results. Without a program that covers
    it a call prepares its own, as ever; so may a batch that is larger than any before.

    Args:
        backend: prepares what it needs for an image size, a set of tasks and batches up to a size, while it
            runs others.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.device = backend.name, backend.device
        self._ready: set[tuple[tuple[int, ...], frozenset[str]]] = set()
        self._begun: set[tuple[tuple[int, ...], frozenset[str]]] = set()
        self._largest = 1
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``."""
        size, wanted = tuple(images.shape[-2:]), frozenset(tasks)
        with self._lock:
            self._largest = max(self._largest, len(images))
            covering = [own for prepared, own in self._ready if prepared == size and own >= wanted]
            prepare = bool(covering) and wanted not in covering and (size, wanted) not in self._begun
            if prepare:
                self._begun.add((size, wanted))
        if prepare:
            threading.Thread(
                target=self._prepare, args=(size, wanted), name="program preparation", daemon=True
            ).start()
        own = min(covering, key=len, default=wanted)
        output = self._backend(images, _in_order(own))
        if not covering:
            with self._lock:
                self._ready.add((size, wanted))
        return NetworkOutput(*(value if task in wanted else None for task, value in output._asdict().items()))

    def _prepare(self, size: tuple[int, ...], tasks: frozenset[str]) -> None:
        try:
            # What serves a batch serves smaller ones, too.
            self._backend(torch.zeros((self._largest, 3, *size), device=self.device), _in_order(tasks))
        except Exception as error:  # whatever the engine raises; the larger program goes on
            _log.warning("%s: no program of its own for %s: %s", self.name, "+".join(_in_order(tasks)), error)
            return
        with self._lock:
            self._ready.add((size, tasks))


class CoveredBackend:
    """Runs a call in the smallest program that covers it, where there is one, instead of preparing its own.

    For engines that prepare a program for minutes.

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
        output = self._backend(images, _in_order(own))

        def first(value: object) -> object:
            return value[: shape[0]] if isinstance(value, Tensor) else value

        parts = output._asdict().items()
        return NetworkOutput(
            **{task: tree_map(first, value) if task in wanted else None for task, value in parts}
        )
