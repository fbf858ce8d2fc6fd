"""The network in TensorRT, on a CUDA device, with built engines kept on disk."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.backend import check_device, check_precision, require
from pvt_mtl_perception.inference.backends.cache import read_cached, write_cached
from pvt_mtl_perception.inference.backends.graph import (
    GRAPH_VERSION,
    INPUT,
    network_digest,
    network_output,
    output_names,
    serialized_graph,
    subgraph,
)
from pvt_mtl_perception.inference.streams import Turns
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput

PRECISIONS = ("fp32", "fp16", "bf16")


class TensorRtBackend:
    """Builds an engine for each batch size, input size and set of tasks, which takes minutes, and keeps it.

    A kept engine is used again for the same weights, precision, sizes, tasks, GPU and TensorRT version.

    Args:
        network: left as it is.
        device: a CUDA device.
        precision: ``fp32``, ``fp16`` or ``bf16``; the network computes in exactly this one.

    Raises:
        BackendUnavailableError: without TensorRT, or on a CPU.
        ValueError: for another precision.
    """

    name = "tensorrt"

    def __init__(self, network: MultiTaskNetwork, device: torch.device, precision: str) -> None:
        check_device(self.name, device, ("cuda",))
        require("tensorrt", "onnx")
        check_precision(self.name, precision, device, PRECISIONS)
        import tensorrt

        self.device = device
        self._precision = precision
        self._network = network
        self._digest = network_digest(network)
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        self._contexts: dict[tuple[tuple[int, ...], tuple[str, ...]], Any] = {}
        self._turns = Turns()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """As ``Backend.__call__``; outputs are float32."""
        size = images.shape[-2], images.shape[-1]
        key = tuple(images.shape), tuple(tasks)
        images = images.contiguous()
        with self._lock, torch.cuda.device(self.device), self._turns.of_current_stream():
            if key not in self._contexts:
                self._contexts[key] = self._load(*key)
            context = self._contexts[key]
            context.set_tensor_address(INPUT, images.data_ptr())
            outputs = {}
            for name in output_names(self._network, tasks):
                shape = tuple(context.engine.get_tensor_shape(name))
                outputs[name] = torch.empty(shape, dtype=torch.float32, device=self.device)
                context.set_tensor_address(name, outputs[name].data_ptr())
            stream = torch.cuda.current_stream(self.device)
            if not context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError("TensorRT could not run the engine; its log says why")
        return network_output(outputs, self._network.spec, size)

    def build(self, shape: tuple[int, int, int, int], tasks: Collection[str]) -> str:
        """Builds and keeps the engine of a batch without running it.

        Args:
            shape: of the batch: (B, 3, H, W).
            tasks: what it computes.

        Returns:
            The engine's file name in the cache folder.
        """
        name = self._engine_name(shape, tasks)
        if read_cached(name) is None:
            # An engine is of the device that is current when it is built.
            with torch.cuda.device(self.device):
                self._build(shape, tasks)
        return name

    def _engine_name(self, shape: tuple[int, ...], tasks: Collection[str]) -> str:
        import tensorrt

        gpu = torch.cuda.get_device_name(self.device).replace(" ", "_").replace("/", "_")
        batch, _, height, width = shape
        return (
            f"{self._digest}-{width}x{height}-batch{batch}-{'+'.join(tasks)}-{self._precision}-{gpu}"
            f"-tensorrt{tensorrt.__version__}-{GRAPH_VERSION}.engine"
        )

    def _load(self, shape: tuple[int, ...], tasks: tuple[str, ...]) -> Any:
        import tensorrt

        serialized = read_cached(self._engine_name(shape, tasks))
        runtime = tensorrt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(serialized) if serialized is not None else None
        if engine is None:
            engine = runtime.deserialize_cuda_engine(self._build(shape, tasks))
        return engine.create_execution_context()

    def _build(self, shape: tuple[int, ...], tasks: Collection[str]) -> bytes:
        import tensorrt

        size = shape[-2], shape[-1]
        graph = subgraph(
            serialized_graph(self._network, size, self._precision), output_names(self._network, tasks)
        )
        builder = tensorrt.Builder(self._logger)
        # Strongly typed: the graph says in which precision each layer computes.
        flags = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        definition = builder.create_network(flags)
        parser = tensorrt.OnnxParser(definition, self._logger)
        if not parser.parse(graph):
            reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise RuntimeError(f"TensorRT {tensorrt.__version__} cannot read the exported graph: {reasons}")
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, shape, shape, shape)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(definition, config)
        if engine is None:
            raise RuntimeError(f"TensorRT {tensorrt.__version__} could not build an engine; its log says why")
        serialized = bytes(engine)
        write_cached(self._engine_name(shape, tasks), serialized)
        return serialized
