"""What every inference engine offers, and the errors of one that cannot be used here."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from pvt_mtl_perception.model.network import NetworkOutput

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Backend(Protocol):
    """A network that is ready to run; made by a class of this folder from network, device and precision.

    Attributes:
        name: as the registry lists it.
        device: where batches have to be and where outputs are.
    """

    name: str
    device: torch.device

    def __call__(self, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """Raw outputs of a batch; nothing that only other tasks need is computed.

        What an engine prepares for a batch size or a set of tasks, it prepares at the first such call and
        keeps. Calls from several threads are safe, and outputs stay valid after later calls.

        Args:
            images: float32 (B, 3, H, W) on ``device``, normalised; H and W are multiples of 32.
            tasks: a non-empty subset of the network's tasks.
        """
        ...


class BackendUnavailableError(RuntimeError):
    """A backend whose package or device is not there; the message says what to install or choose."""


def check_precision(name: str, precision: str, device: torch.device, supported: Collection[str]) -> None:
    """Refuses a precision that does not exist, or that this backend does not offer on this device.

    Raises:
        ValueError: naming what would be right.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is not known; known: {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision 'fp16' needs a CUDA device; on a CPU use 'fp32' or 'bf16'")
    if precision not in supported:
        raise ValueError(
            f"backend {name!r} offers no precision {precision!r} on {device.type}; "
            f"it has: {', '.join(supported)}"
        )


def check_device(name: str, device: torch.device, kinds: Collection[str]) -> None:
    """Refuses a device that this backend does not run on.

    Raises:
        BackendUnavailableError: naming the devices it runs on.
    """
    if device.type not in kinds:
        raise BackendUnavailableError(
            f"backend {name!r} runs on {' or '.join(kinds)}, not on {device.type}; use 'auto' or 'eager'"
        )


EXTRAS = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
}
"""The extra of this distribution that brings a package."""


def missing_packages(*packages: str) -> list[str]:
    """Those of these packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def require(*packages: str) -> None:
    """Refuses to go on without these packages.

    Raises:
        BackendUnavailableError: naming those that are missing and the extra that brings them.
    """
    if missing := missing_packages(*packages):
        extras = ",".join(dict.fromkeys(EXTRAS[package] for package in missing))
        raise BackendUnavailableError(
            f"{' and '.join(missing)} is not installed: pip install 'pvt_mtl_perception[{extras}]' "
            f"or pip install {' '.join(missing)}"
        )
