"""The network in OpenVINO, on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.backend import check_device, check_precision, require
from pvt_mtl_perception.inference.backends.graph import (
    INPUT,
    network_output,
    output_names,
    serialized_graph,
)
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}


def program_options(precision: str) -> dict[str, Any]:
    """What OpenVINO's CPU device is asked for.

    Args:
        precision: a key of ``PRECISION_HINTS``.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
        # torch's number follows OMP_NUM_THREADS.
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # A thread that is bound to a core waits there for whoever else runs on it, though another core may
        # be free: beside other processes a frame takes a fifth longer.
        "ENABLE_CPU_PINNING": False,
    }


class OpenVinoBackend:
    """Compiles the exported graph for one image and each set of tasks, and runs a batch image by image.

    On a CPU a batch gains nothing over its images one after the other, and one program serves all batches.

    Args:
        network: left as it is.
        device: the CPU.
        precision: ``fp32``, or ``bf16`` where the CPU computes in it (AVX-512 BF16 or AMX).
        graph: the exported network, serialised; exported where needed when None.

    Raises:
        BackendUnavailableError: without OpenVINO, or for another device.
        ValueError: for another precision, or bf16 on a CPU without it.
    """

    name = "openvino"

    def __init__(
        self, network: MultiTaskNetwork, device: torch.device, precision: str, graph: bytes | None = None
    ) -> None:
        require("openvino", "onnx")
        check_device(self.name, device, ("cpu",))
        check_precision(self.name, precision, device, PRECISION_HINTS)
        import openvino

        self.device = device
        self._core = openvino.Core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ValueError("precision 'bf16' with backend 'openvino': this CPU does not compute in bf16")
        self._precision = precision
        self._network = network
        self._graph = graph
        self._programs: dict[tuple[tuple[int, ...], tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs are float32."""
        size = images.shape[-2], images.shape[-1]
        names = output_names(self._network, tasks)
        # As it lies in memory, rows of interleaved channels: no copy.
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()
        # A program computes one image at a time; two threads would only take the cores from each other.
        with self._lock:
            program = self._program(size, tuple(tasks), names)
            answers = [
                program({INPUT: image}, share_inputs=True, share_outputs=False) for image in rows[:, None]
            ]
        parts = [[torch.from_numpy(answer[i]) for answer in answers] for i in range(len(names))]
        outputs = [part[0] if len(part) == 1 else torch.cat(part) for part in parts]
        return network_output(dict(zip(names, outputs, strict=True)), self._network.spec, size)

    def _program(self, size: tuple[int, int], tasks: tuple[str, ...], names: list[str]) -> Any:
        import openvino
        from openvino.preprocess import PrePostProcessor

        key = size, tasks
        if key not in self._programs:
            whole = self._core.read_model(self._graph or serialized_graph(self._network, size))
            model = openvino.Model([whole.output(name) for name in names], whole.get_parameters())
            model.reshape([1, 3, *size])
            layout = PrePostProcessor(model)
            layout.input().tensor().set_layout(openvino.Layout("NHWC"))
            layout.input().model().set_layout(openvino.Layout("NCHW"))
            options = program_options(self._precision)
            self._programs[key] = self._core.compile_model(layout.build(), "CPU", options)
        return self._programs[key]
