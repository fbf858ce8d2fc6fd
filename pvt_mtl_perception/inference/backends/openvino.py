"""The network in OpenVINO, on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.backend import check_device, check_precision, require
from pvt_mtl_perception.inference.backends.graph import (
    network_output,
    output_names,
    serialized_graph,
)
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}
# Hidden maps of this size are still in the cache when the next operation reads them: at 640x384 on a Zen 4
# with 32 MB of it a frame takes 53 ms instead of 59. ONNX Runtime gains nothing.
STRIP_BYTES = 4 << 20


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


def graph_for_openvino(network: MultiTaskNetwork, size: tuple[int, int]) -> bytes:
    """The exported network, serialised, as this backend runs it at an input of (height, width)."""
    return serialized_graph(network, size, strip_bytes=STRIP_BYTES)


def compile_graph(
    core: Any, graph: bytes, names: Sequence[str], size: tuple[int, int], options: Mapping[str, Any]
) -> Any:
    """A program for one image, whose input and maps have their channels last.

    Args:
        core: an ``openvino.Core``.
        graph: an exported network, serialised.
        names: of the outputs to compute; what only the others need is not in the program.
        size: height and width of the input.
        options: of the CPU device.
    """
    import openvino
    from openvino.preprocess import PrePostProcessor

    whole = core.read_model(graph)
    model = openvino.Model([whole.output(name) for name in names], whole.get_parameters())
    model.reshape([1, 3, *size])
    # Maps are computed in rows of interleaved channels; other outputs would be copied into planes.
    layout = PrePostProcessor(model)
    maps = [layout.output(i) for i, output in enumerate(model.outputs) if len(output.shape) == 4]
    for port in (layout.input(), *maps):
        port.tensor().set_layout(openvino.Layout("NHWC"))
        port.model().set_layout(openvino.Layout("NCHW"))
    return core.compile_model(layout.build(), "CPU", dict(options))


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
        self._requests: dict[tuple[tuple[int, ...], tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()
        self._preparing = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs are float32."""
        import openvino

        size = images.shape[-2], images.shape[-1]
        names = output_names(self._network, tasks)
        # As it lies in memory, rows of interleaved channels: no copy.
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()
        request = self._request(size, tuple(tasks), names)
        # A program computes one image at a time; two threads would only take the cores from each other.
        with self._lock:
            shapes = [tuple(port.shape)[1:] for port in request.model_outputs]
            outputs = [torch.empty((len(rows), *shape)) for shape in shapes]
            for i, image in enumerate(rows[:, None]):
                request.set_input_tensor(openvino.Tensor(image, shared_memory=True))
                for position, output in enumerate(outputs):
                    part = openvino.Tensor(output[i : i + 1].numpy(), shared_memory=True)
                    request.set_output_tensor(position, part)
                request.infer()
        outputs = [output.permute(0, 3, 1, 2) if output.ndim == 4 else output for output in outputs]
        return network_output(dict(zip(names, outputs, strict=True)), self._network.spec, size)

    def _request(self, size: tuple[int, int], tasks: tuple[str, ...], names: list[str]) -> Any:
        key = size, tasks
        if key not in self._requests:
            with self._preparing:  # others run meanwhile
                if key not in self._requests:
                    self._requests[key] = self._prepared(size, names)
        return self._requests[key]

    def _prepared(self, size: tuple[int, int], names: list[str]) -> Any:
        graph = self._graph or graph_for_openvino(self._network, size)
        program = compile_graph(self._core, graph, names, size, program_options(self._precision))
        return program.create_infer_request()
