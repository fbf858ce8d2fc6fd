"""The node's parameters as one typed table: declaration, validation and values come from it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

When = Literal["startup", "configure", "live"]

_WHEN = {
    "startup": "Read once when the node starts.",
    "configure": "Read when the node is configured; can be set while it is unconfigured.",
    "live": "Can be set at any time.",
}
_CAMERA_NAME = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: as in ``config/perception.yaml``.
        default: its type is the parameter's type; a tuple becomes an array.
        description: a sentence, with the unit where there is one.
        when: when a new value takes effect, and so when one is accepted.
        minimum, maximum: of a number, both inclusive.
        choices: the allowed strings, empty where ``check`` or nothing restricts them.
        allowed: in words, what ``check`` accepts.
        check: whether a value is allowed.
    """

    name: str
    default: Any
    description: str
    when: When
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    allowed: str = ""
    check: Callable[[Any], bool] | None = None

    @property
    def constraint(self) -> str:
        """The allowed values in words, empty where every value of the type is allowed."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.minimum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        return self.allowed

    def refusal(self, value: Any) -> str | None:
        """Why a value of the right type is not allowed, naming the allowed ones, or None."""
        fits = True
        if self.choices:
            fits = value in self.choices
        elif self.minimum is not None and self.maximum is not None:
            fits = self.minimum <= value <= self.maximum
        elif self.check is not None:
            fits = self.check(value)
        return None if fits else f"{self.name} is {value!r}; allowed: {self.constraint}"

    def descriptor(self) -> ParameterDescriptor:
        """For ``ros2 param describe``; integer and floating point ranges are enforced by rclpy too."""
        descriptor = ParameterDescriptor(
            description=f"{self.description} {_WHEN[self.when]}",
            additional_constraints=self.constraint,
            read_only=self.when == "startup",
        )
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, int):
                limits = IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=1)
                descriptor.integer_range = [limits]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                ]
        return descriptor


def _parameter(default: Any, description: str, when: When, **constraints: Any) -> Any:
    return field(
        default=default, metadata={"description": description, "when": when, "constraints": constraints}
    )


def _is_device(value: str) -> bool:
    return re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is not None


def _is_input_size(value: Sequence[int]) -> bool:
    return len(value) == 2 and (
        tuple(value) == (0, 0) or all(0 < side <= 4096 and side % 32 == 0 for side in value)
    )


def _are_cameras(value: Sequence[str]) -> bool:
    names = list(value)
    return names == [""] or (
        bool(names)
        and len(set(names)) == len(names)
        and all(_CAMERA_NAME.fullmatch(name) is not None for name in names)
    )


@dataclass(frozen=True)
class Settings:
    """The parameters' values; each field is a parameter of the same name, type and default."""

    model_path: str = _parameter(
        "",
        "Checkpoint file (.safetensors), or hf://owner/name[@revision] on the Hugging Face hub. "
        "Empty means the one that comes with the package.",
        "configure",
    )
    device: str = _parameter(
        "auto",
        "Where the network runs; auto takes the first CUDA device, or the CPU where there is none.",
        "configure",
        allowed="auto, cpu, cuda, or cuda:N with the number of a device",
        check=_is_device,
    )
    precision: str = _parameter(
        "fp32",
        "Number format of the network.",
        "configure",
        choices=("fp32", "fp16", "bf16"),
    )
    backend: str = _parameter(
        "auto",
        "What runs the network; auto takes the fastest that is installed for the device.",
        "configure",
        choices=("auto", "eager", "compile", "cuda_graphs", "onnxruntime", "openvino", "tensorrt"),
    )
    parallel_batches: int = _parameter(
        1,
        "Batches in work at once; with one camera, images. More give a higher rate where images come faster "
        "than they are processed, and a higher latency.",
        "configure",
        minimum=1,
        maximum=16,
    )
    input_size: tuple[int, ...] = _parameter(
        (0, 0),
        "Height and width of the network's input in pixels; [0, 0] means the checkpoint's own.",
        "configure",
        allowed="[0, 0], or [height, width] with multiples of 32 up to 4096",
        check=_is_input_size,
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras, which prefix their topics (front: front/image, front/detections). "
        "The empty name is a single camera whose topics have no prefix.",
        "configure",
        allowed="[''] for one camera without a prefix, or distinct names like front or left/wide",
        check=_are_cameras,
    )
    image_transport: str = _parameter(
        "raw",
        "Input of every camera: raw subscribes to image, compressed to image/compressed.",
        "configure",
        choices=("raw", "compressed"),
    )
    sync_tolerance: float = _parameter(
        0.0,
        "Seconds by which the stamps of the cameras' images in one batch may differ; a camera's missing "
        "image is waited for as long, and an older one is left out. 0 takes what is there.",
        "configure",
        minimum=0.0,
        maximum=10.0,
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate without outside help; with false the node waits for a lifecycle manager.",
        "startup",
    )
    score_threshold: float = _parameter(
        0.35, "Boxes with a lower score are left out.", "live", minimum=0.0, maximum=1.0
    )
    nms_threshold: float = _parameter(
        0.5,
        "Of two boxes of a class with a higher intersection over union, only the better one stays.",
        "live",
        minimum=0.0,
        maximum=1.0,
    )
    max_detections: int = _parameter(
        100, "At most this many boxes an image, the best ones.", "live", minimum=1, maximum=1000
    )
    overlay_opacity: float = _parameter(
        0.5, "Weight of the mask's colours in the overlay.", "live", minimum=0.0, maximum=1.0
    )
    no_image_warning_period: float = _parameter(
        5.0,
        "Seconds without an image after which a camera warns in the log and in /diagnostics; 0 never warns.",
        "live",
        minimum=0.0,
        maximum=3600.0,
    )


def _specs() -> dict[str, ParameterSpec]:
    return {
        entry.name: ParameterSpec(
            name=entry.name,
            default=entry.default,
            description=entry.metadata["description"],
            when=entry.metadata["when"],
            **entry.metadata["constraints"],
        )
        for entry in dataclasses.fields(Settings)
    }


PARAMETERS = _specs()
"""The table by name."""


def declare(node: Node) -> None:
    """Declares every parameter on the node.

    Raises:
        ValueError: when the command line or a parameter file gives a value that is not allowed.
    """
    for spec in PARAMETERS.values():
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        value = node.declare_parameter(spec.name, default, spec.descriptor()).value
        if reason := spec.refusal(value):
            raise ValueError(f"parameter {reason}")


def unknown_overrides(node: Node) -> dict[str, str]:
    """What the command line or a parameter file sets and nobody declares, each with the nearest known name.

    Args:
        node: after ``declare``.

    Returns:
        by name the nearest parameter's name, empty where none is near.
    """
    names = [
        name
        for name in node._parameter_overrides
        if not node.has_parameter(name) and not name.startswith("qos_overrides.")
    ]
    return {name: next(iter(difflib.get_close_matches(name, PARAMETERS, n=1)), "") for name in names}


def read(node: Node) -> Settings:
    """The values that the node's parameters have now."""
    values: dict[str, Any] = {}
    for name, spec in PARAMETERS.items():
        value = node.get_parameter(name).value
        values[name] = tuple(value) if isinstance(spec.default, tuple) else value
    return Settings(**values)


def refusal(parameters: Sequence[Parameter], unconfigured: bool) -> str | None:
    """Why a change is refused, or None; parameters that are not in the table are none of its business.

    Args:
        parameters: the new values, already of the declared types.
        unconfigured: whether the node is in that lifecycle state.
    """
    for parameter in parameters:
        spec = PARAMETERS.get(parameter.name)
        if spec is None:
            continue
        if reason := spec.refusal(parameter.value):
            return reason
        if spec.when == "configure" and not unconfigured:
            return (
                f"{spec.name} is read when the node is configured: "
                "deactivate it, clean it up, set the parameter, and configure it again"
            )
    return None
