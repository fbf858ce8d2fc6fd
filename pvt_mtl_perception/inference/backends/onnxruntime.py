"""The network in ONNX Runtime, on a CPU or a CUDA device."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.backend import (
    BackendUnavailableError,
    check_precision,
    require,
)
from pvt_mtl_perception.inference.backends.graph import (
    INPUT,
    network_output,
    output_names,
    serialized_graph,
    subgraph,
)
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput

PRECISIONS = {"cpu": ("fp32",), "cuda": ("fp32", "fp16")}


class OnnxRuntimeBackend:
    """Runs the exported graph in one session for each set of tasks; any batch size goes through it.

    Args:
        network: left as it is.
        device: a CPU, or a CUDA device with the package onnxruntime-gpu.
        precision: ``fp32``, or on CUDA ``fp16``.
        graph: the exported network, serialised; exported where needed when None.

    Raises:
        BackendUnavailableError: without ONNX Runtime, or when it is built without CUDA.
        ValueError: for another precision.
    """

    name = "onnxruntime"

    def __init__(
        self, network: MultiTaskNetwork, device: torch.device, precision: str, graph: bytes | None = None
    ) -> None:
        require("onnxruntime", "onnx")
        check_precision(self.name, precision, device, PRECISIONS[device.type])
        import onnxruntime

        if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise BackendUnavailableError(
                "backend 'onnxruntime': the installed build has no CUDA; install onnxruntime-gpu in its place"
            )
        self.device = device
        self._precision = precision
        self._network = network
        self._graph = graph
        self._sessions: dict[tuple[tuple[int, ...], tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()
        self._preparing = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs are float32."""
        size = images.shape[-2], images.shape[-1]
        names = output_names(self._network, tasks)
        images = images.contiguous()
        session = self._session(size, tuple(tasks), names)
        with self._lock:
            if self.device.type == "cpu":
                outputs = [torch.from_numpy(array) for array in session.run(names, {INPUT: images.numpy()})]
            else:
                outputs = self._run_on_cuda(session, images, names)
        return network_output(dict(zip(names, outputs, strict=True)), self._network.spec, size)

    def _run_on_cuda(self, session: Any, images: Tensor, names: list[str]) -> list[Tensor]:
        import numpy as np

        binding = session.io_binding()
        index = images.device.index or 0
        binding.bind_input(INPUT, "cuda", index, np.float32, tuple(images.shape), images.data_ptr())
        outputs = []
        for name, described in zip(names, session.get_outputs(), strict=True):
            shape = (len(images), *described.shape[1:])
            output = torch.empty(shape, dtype=torch.float32, device=images.device)
            binding.bind_output(name, "cuda", index, np.float32, shape, output.data_ptr())
            outputs.append(output)
        # ONNX Runtime has its own stream: torch's work on the batch ends before, its own before the outputs
        # are read.
        torch.cuda.current_stream(images.device).synchronize()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return outputs

    def _session(self, size: tuple[int, int], tasks: tuple[str, ...], names: list[str]) -> Any:
        key = size, tasks
        if key not in self._sessions:
            with self._preparing:  # others run meanwhile
                if key not in self._sessions:
                    self._sessions[key] = self._prepared(size, names)
        return self._sessions[key]

    def _prepared(self, size: tuple[int, int], names: list[str]) -> Any:
        import onnxruntime

        whole = self._graph or serialized_graph(self._network, size, self._precision)
        options = onnxruntime.SessionOptions()
        # torch's number follows OMP_NUM_THREADS.
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin between frames would take the cores from whoever brings the next one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": self.device.index or 0}))
        session = onnxruntime.InferenceSession(subgraph(whole, names), options, providers)
        if self.device.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
            # It would go on on the CPU without a word.
            raise BackendUnavailableError(
                "backend 'onnxruntime': its CUDA provider could not be loaded; it needs the CUDA and "
                "cuDNN versions that it was built for"
            )
        return session
