"""The network in PyTorch eager mode, on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.backend import DTYPES, check_precision
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput


class EagerBackend:
    """Runs a network with its weights cast to one precision.

    Args:
        network: moved and cast in place.
        device: where it runs.
        precision: ``fp32``, ``fp16`` (CUDA only) or ``bf16``.

    Raises:
        ValueError: for another precision, or for fp16 on a CPU.
    """

    name = "eager"

    def __init__(self, network: MultiTaskNetwork, device: torch.device, precision: str) -> None:
        check_precision(self.name, precision, device, DTYPES)
        self.device = device
        self.dtype = DTYPES[precision]
        # Casting once instead of autocast: the same speed-up without casting every weight in every call.
        # Channels-last saves a quarter of the time on a CPU, where convolutions need no reordering.
        self.network = network.eval().to(device, self.dtype).to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs have the backend's dtype."""
        output: NetworkOutput = self.network(images.to(self.dtype), tasks)
        return output
