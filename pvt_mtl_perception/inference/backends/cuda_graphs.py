"""The network as CUDA graphs: kernels recorded once for each input shape and set of tasks, then replayed."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.backend import check_device
from pvt_mtl_perception.inference.backends.eager import EagerBackend
from pvt_mtl_perception.inference.backends.graph import named_outputs, network_output
from pvt_mtl_perception.inference.streams import Turns
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput

WARM_UP_CALLS = 3
# CUDA takes one recording at a time in a process, whichever network it is of.
_RECORDING = threading.Lock()


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: dict[str, Tensor]


class CudaGraphsBackend:
    """Replays recorded kernels, so that launching them costs the CPU next to nothing.

    Args:
        network: moved and cast in place.
        device: a CUDA device.
        precision: ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        BackendUnavailableError: on a CPU.
        ValueError: for another precision.
    """

    name = "cuda_graphs"

    def __init__(self, network: MultiTaskNetwork, device: torch.device, precision: str) -> None:
        check_device(self.name, device, ("cuda",))
        self._eager = EagerBackend(network, device, precision)
        self.device = device
        self._recordings: dict[tuple[torch.Size, tuple[str, ...]], _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # One for all recordings: they share the pool's memory only where they were made on the same stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._turns = Turns()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs have the backend's dtype."""
        key = images.shape, tuple(tasks)
        with self._lock, torch.cuda.device(self.device), self._turns.of_current_stream():
            recording = self._recordings.get(key)
            if recording is None:
                with _RECORDING:
                    recording = self._recordings[key] = self._record(images, key[1])
            recording.images.copy_(images)
            recording.graph.replay()
            # The next replay overwrites the recording's own.
            outputs = {name: tensor.clone() for name, tensor in recording.outputs.items()}
        return network_output(outputs, self._eager.network.spec, images.shape[-2:])

    def _record(self, images: Tensor, tasks: tuple[str, ...]) -> _Recording:
        static = images.to(self._eager.dtype, copy=True)
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self._eager(static, tasks)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread may use CUDA meanwhile, which a recording in "global" mode would not survive.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            outputs = named_outputs(self._eager(static, tasks))
        return _Recording(graph, static, outputs)
