"""The backends by name, and the fastest one that works on a device."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal, cast

import torch

from pvt_mtl_perception.inference.backends.backend import (
    Backend,
    BackendUnavailableError,
    missing_packages,
)
from pvt_mtl_perception.inference.backends.covered import BackgroundBackend, CoveredBackend
from pvt_mtl_perception.model.network import MultiTaskNetwork

AUTO = "auto"


@dataclass(frozen=True)
class Engine:
    """Where a backend's class is, and what it needs to be chosen.

    Attributes:
        module: below this package.
        cls: name of the class.
        packages: that have to be installed.
        preparation: how long a program takes. For minutes: programs are shared (``CoveredBackend``); for
            seconds: they can be prepared in the background (``BackgroundBackend``).
        shares_threads: whether it gives calls at once a part of the threads each, and wants their number.
    """

    module: str
    cls: str
    packages: tuple[str, ...] = ()
    preparation: Literal["short", "seconds", "minutes"] = "short"
    shares_threads: bool = False


ENGINES = {
    "eager": Engine("eager", "EagerBackend"),
    "compile": Engine("compile", "CompileBackend", preparation="minutes"),
    "cuda_graphs": Engine("cuda_graphs", "CudaGraphsBackend"),
    "onnxruntime": Engine("onnxruntime", "OnnxRuntimeBackend", ("onnxruntime", "onnx"), "seconds"),
    "openvino": Engine("openvino", "OpenVinoBackend", ("openvino", "onnx"), "seconds", True),
    "tensorrt": Engine("tensorrt", "TensorRtBackend", ("tensorrt", "onnx"), "minutes"),
}
BACKENDS = (AUTO, *ENGINES)
"""What the command line and the node accept."""

FASTEST_FIRST = {"cpu": ("openvino", "onnxruntime", "eager"), "cuda": ("cuda_graphs", "eager")}
"""What ``auto`` tries. TensorRT is not among them: nobody expects minutes of building at the first start."""


def build_backend(
    name: str,
    network: MultiTaskNetwork,
    device: torch.device,
    precision: str,
    background: bool = False,
    calls: int = 1,
) -> Backend:
    """A backend with a network in it.

    Args:
        name: one of ``BACKENDS``; ``auto`` takes the first of ``FASTEST_FIRST`` that is installed and offers
            this precision on this device.
        network: given away: some backends move and cast it in place.
        device: where it runs.
        precision: ``fp32``, ``bf16``, or on CUDA ``fp16``.
        background: prepare programs for further sets of tasks in the background where the engine can.
        calls: so many come at once; for those engines that give each a part of the threads.

    Raises:
        ValueError: for an unknown name, or a precision that the backend does not offer here.
        BackendUnavailableError: when its package is not installed or it does not run on this device.
    """
    if name == AUTO:
        for candidate in FASTEST_FIRST[device.type][:-1]:
            if missing_packages(*ENGINES[candidate].packages):
                continue
            try:
                return _load(candidate, network, device, precision, background, calls)
            except (ValueError, BackendUnavailableError):
                continue
        return _load(FASTEST_FIRST[device.type][-1], network, device, precision, background, calls)
    if name not in ENGINES:
        raise ValueError(f"backend {name!r} is not known; known: {', '.join(BACKENDS)}")
    return _load(name, network, device, precision, background, calls)


def _load(
    name: str, network: MultiTaskNetwork, device: torch.device, precision: str, background: bool, calls: int
) -> Backend:
    engine = ENGINES[name]
    module = importlib.import_module(f"{__package__}.{engine.module}")
    options = {"calls": calls} if engine.shares_threads else {}
    backend = cast(Backend, getattr(module, engine.cls)(network, device, precision, **options))
    if engine.preparation == "minutes":
        return CoveredBackend(backend)
    return BackgroundBackend(backend) if background and engine.preparation == "seconds" else backend
