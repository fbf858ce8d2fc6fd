"""The network compiled by torch.compile, one program for each input shape and set of tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.eager import EagerBackend
from pvt_mtl_perception.model.compiled import compiled
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput


class CompileBackend:
    """Runs kernels that torch generates for the network; the first call of a shape takes up to minutes.

    On a CPU that needs a C++ compiler.

    Args:
        network: moved and cast in place.
        device: where it runs.
        precision: ``fp32``, ``fp16`` (CUDA only) or ``bf16``.

    Raises:
        ValueError: from ``EagerBackend``; for a CPU without a C++ compiler.
    """

    name = "compile"

    def __init__(self, network: MultiTaskNetwork, device: torch.device, precision: str) -> None:
        self._eager = EagerBackend(network, device, precision)
        self.device = device
        self._forward: Callable[[Tensor, tuple[str, ...]], NetworkOutput] = compiled(
            self._eager.network, device
        )
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs have the backend's dtype."""
        with self._lock:
            return self._forward(images.to(self._eager.dtype), tuple(tasks))
