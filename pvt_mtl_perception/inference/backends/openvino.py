"""The network in OpenVINO, on a CPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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


def program_options(precision: str, streams: int = 1) -> dict[str, Any]:
    """What OpenVINO's CPU device is asked for.

    Args:
        precision: a key of ``PRECISION_HINTS``.
        streams: images that are computed at once; they share the threads evenly.
    """
    share: dict[str, Any] = {"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"}
    return {
        **share,
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


@dataclass(frozen=True)
class Program:
    """A compiled graph.

    Attributes:
        shapes: of the outputs of one image, without the batch.
        idle: those of its requests that compute nothing; it has one for each image that it computes at once.
    """

    shapes: list[tuple[int, ...]]
    idle: queue.SimpleQueue[Any]


class OpenVinoBackend:
    """Compiles the exported graph for each set of tasks, once for one image and once for several at a time.

    Threads that compute an image together wait for each other after each of its operations, and longer where
    other processes want the cores. So an image that comes alone gets all threads, which is soonest done;
    images of a batch, and of calls at once, get an equal part of them each, which together takes less time.
    What is left of a batch, at most half as many images as are computed at once, gets all threads again, one
    image after the other.

    Args:
        network: left as it is.
        device: the CPU.
        precision: ``fp32``, or ``bf16`` where the CPU computes in it (AVX-512 BF16 or AMX).
        graph: the exported network, serialised; exported where needed when None.
        calls: so many at once are prepared for; without preparation they take turns.

    Raises:
        BackendUnavailableError: without OpenVINO, or for another device.
        ValueError: for another precision, or bf16 on a CPU without it.
    """

    name = "openvino"

    def __init__(
        self,
        network: MultiTaskNetwork,
        device: torch.device,
        precision: str,
        graph: bytes | None = None,
        calls: int = 1,
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
        self._expected = calls
        # Of each size and set of tasks, by how many images a program computes at once.
        self._kept: dict[tuple[tuple[int, int], tuple[str, ...]], dict[int, Program]] = {}
        self._preparing = threading.Lock()
        self._calls = 0
        self._counting = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs are float32."""
        size = images.shape[-2], images.shape[-1]
        names = output_names(self._network, tasks)
        # As it lies in memory, rows of interleaved channels: no copy.
        rows = images.permute(0, 2, 3, 1).contiguous()
        programs = self._programs(size, tuple(tasks), names, len(rows))
        outputs = [torch.empty((len(rows), *shape)) for shape in programs[1].shapes]
        with self._counting:
            self._calls += 1
        try:
            done = 0
            while done < len(rows):
                done += self._compute(programs, rows[done:], [output[done:] for output in outputs])
        finally:
            with self._counting:
                self._calls -= 1
        outputs = [output.permute(0, 3, 1, 2) if output.ndim == 4 else output for output in outputs]
        return network_output(dict(zip(names, outputs, strict=True)), self._network.spec, size)

    def _compute(self, programs: Mapping[int, Program], rows: Tensor, outputs: Sequence[Tensor]) -> int:
        """Fills the outputs of the first images of (B, H, W, 3), as many as can be computed at once.

        Returns:
            How many they are.
        """
        at_once = max(programs)
        whole = self._calls == 1 and 2 * len(rows) <= at_once
        idle = programs[1 if whole else at_once].idle
        # Whatever is raised, each request has ended before it is idle, and before its tensors go.
        with ExitStack() as running:
            for i in range(len(rows)):
                try:
                    # Only the first is waited for: two calls that hold some must not wait for each other's.
                    request = idle.get(block=i == 0)
                except queue.Empty:
                    return i
                running.callback(idle.put, request)
                running.callback(request.wait)
                _start(request, rows[i : i + 1], [output[i : i + 1] for output in outputs])
        return len(rows)

    def _programs(
        self, size: tuple[int, int], tasks: tuple[str, ...], names: list[str], batch: int
    ) -> dict[int, Program]:
        """The program for one image and, for a batch or several calls, one for as many at once."""
        key, at_once = (size, tasks), min(max(batch, self._expected), torch.get_num_threads())
        if at_once > max(self._kept.get(key, ()), default=0):
            with self._preparing:  # others run meanwhile
                programs = self._kept.get(key) or {1: self._prepared(size, names, 1)}
                if at_once > max(programs):
                    # Of the programs for several images the largest is enough.
                    programs = {1: programs[1], at_once: self._prepared(size, names, at_once)}
                self._kept[key] = programs
        return self._kept[key]

    def _prepared(self, size: tuple[int, int], names: list[str], at_once: int) -> Program:
        graph = self._graph or graph_for_openvino(self._network, size)
        compiled = compile_graph(self._core, graph, names, size, program_options(self._precision, at_once))
        program = Program([tuple(port.shape)[1:] for port in compiled.outputs], queue.SimpleQueue())
        for _ in range(at_once):
            program.idle.put(compiled.create_infer_request())
        return program


def _start(request: Any, image: Tensor, outputs: Sequence[Tensor]) -> None:
    """Computes an image (1, H, W, 3) into tensors of the shapes that the program gives."""
    import openvino

    request.set_input_tensor(openvino.Tensor(image.numpy(), shared_memory=True))
    for position, output in enumerate(outputs):
        request.set_output_tensor(position, openvino.Tensor(output.numpy(), shared_memory=True))
    request.start_async()
