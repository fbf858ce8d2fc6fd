"""The network as an ONNX graph: export, names of its outputs, parts of it, and graphs kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pvt_mtl_perception.inference.backends.backend import DTYPES, require
from pvt_mtl_perception.inference.backends.cache import read_cached, write_cached
from pvt_mtl_perception.inference.backends.rewrites import for_engines
from pvt_mtl_perception.model.heads import DETECTION_LEVELS, DetectionOutput, RetinaNetOutput
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.model.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
INPUT = "images"
# Goes up when an export of the same network becomes another graph, or is kept in another way.
GRAPH_VERSION = 6
_GFL = DetectionOutput._fields


def named_outputs(output: NetworkOutput) -> dict[str, Tensor]:
    """A network's outputs as a flat mapping; ``network_output`` is the way back.

    The names are ``classification.<group>``, ``segmentation``, and for detection ``detection.logits.p3`` to
    ``p7`` and ``detection.distances.p3`` to ``p7``, or ``detection.logits`` and ``detection.deltas`` where
    the head is RetinaNet's.
    """
    named: dict[str, Tensor] = {}
    for group, logits in (output.classification or {}).items():
        named[f"classification.{group}"] = logits
    if isinstance(output.detection, RetinaNetOutput):
        named["detection.logits"] = output.detection.logits
        named["detection.deltas"] = output.detection.deltas
    elif output.detection is not None:
        for kind, maps in zip(_GFL, output.detection, strict=True):
            named |= {f"detection.{kind}.p{lv}": x for lv, x in zip(DETECTION_LEVELS, maps, strict=True)}
    if output.segmentation is not None:
        named["segmentation"] = output.segmentation
    return named


def output_names(network: MultiTaskNetwork, tasks: Collection[str]) -> list[str]:
    """The names of ``named_outputs`` for a subset of the tasks, in its order."""
    names: list[str] = []
    if "classification" in tasks:
        names += [f"classification.{group}" for group in network.labels.classification]
    if "detection" in tasks and network.spec.detection is not None:
        if network.spec.detection.type == "retinanet":
            names += ["detection.logits", "detection.deltas"]
        else:
            names += [f"detection.{kind}.p{lv}" for kind in _GFL for lv in DETECTION_LEVELS]
    if "segmentation" in tasks:
        names.append("segmentation")
    return names


def network_output(named: Mapping[str, Tensor], spec: ModelSpec, size: Sequence[int]) -> NetworkOutput:
    """The structure of what ``named_outputs`` flattened.

    Args:
        named: the outputs of a subset of the tasks.
        spec: the network's.
        size: height and width of the images.
    """
    groups = {
        name.partition(".")[2]: logits for name, logits in named.items() if name.startswith("classification.")
    }
    detection: DetectionOutput | RetinaNetOutput | None = None
    if "detection.deltas" in named and spec.detection is not None:
        height, width = size
        sizes = tuple((-(-height // stride), -(-width // stride)) for stride in spec.detection.strides)
        detection = RetinaNetOutput(named["detection.logits"], named["detection.deltas"], sizes)
    elif "detection.distances.p3" in named:
        detection = DetectionOutput(
            *([named[f"detection.{kind}.p{lv}"] for lv in DETECTION_LEVELS] for kind in _GFL)
        )
    return NetworkOutput(groups or None, detection, named.get("segmentation"))


class _NamedNetwork(nn.Module):
    """The network with float32 images in and a flat tuple of float32 tensors out, whatever its precision."""

    def __init__(self, network: MultiTaskNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        named = named_outputs(self.network(images.to(self.dtype)))
        return tuple(tensor.float() for tensor in named.values())


def export_graph(
    network: MultiTaskNetwork,
    size: tuple[int, int],
    precision: str = "fp32",
    strip_bytes: int | None = None,
) -> ModelProto:
    """The network with all its heads as an ONNX model with a dynamic batch.

    Its input is ``images``, float32 (batch, 3, height, width), normalised; its outputs are float32 and named
    as in ``named_outputs``. Suppression of overlapping boxes and everything after the logits stay outside.

    Args:
        network: left as it is.
        size: height and width of the input, multiples of 32, which the graph is bound to.
        precision: of the weights and of the computation.
        strip_bytes: see ``for_engines``.

    Raises:
        BackendUnavailableError: when onnx is not installed.
        ValueError: for a size that is no multiple of 32, or an unknown precision.
    """
    require("onnx")
    import onnx

    if size[0] < 32 or size[1] < 32 or size[0] % 32 or size[1] % 32:
        raise ValueError(f"input size {size[1]}x{size[0]}: both must be multiples of 32")
    dtype = DTYPES[precision]
    module = _NamedNetwork(for_engines(network, size, dtype, strip_bytes), dtype).eval()
    names = output_names(network, network.tasks)
    buffer = io.BytesIO()
    # The tracing exporter: the one by torch.export makes an equally fast graph in eight times the time, which
    # a node would spend at its first start.
    with torch.no_grad(), warnings.catch_warnings():
        # That this exporter is not the newest, and that sizes become constants, which they shall.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, *size),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            # Or the exporter drops weights that equal others and forgets to name those instead.
            keep_initializers_as_inputs=True,
            input_names=[INPUT],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in (INPUT, *names)},
        )
    model = onnx.load_from_string(buffer.getvalue())
    del model.graph.input[1:]
    onnx.checker.check_model(model, full_check=True)
    return model


def network_digest(network: MultiTaskNetwork) -> str:
    """SHA-256 of a network's spec, label groups and weights, in 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(network.spec.to_dict(), sort_keys=True).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def serialized_graph(
    network: MultiTaskNetwork,
    size: tuple[int, int],
    precision: str = "fp32",
    strip_bytes: int | None = None,
) -> bytes:
    """``export_graph`` as bytes, exported once: the next process reads it from the cache folder.

    Raises:
        BackendUnavailableError, ValueError: from ``export_graph``.
    """
    parts = [network_digest(network), f"{size[1]}x{size[0]}", precision, f"opset{OPSET}", str(GRAPH_VERSION)]
    if strip_bytes is not None:
        parts.append(f"strips{strip_bytes}")
    key = "-".join(parts)
    kept = read_cached(f"{key}.onnx")
    if kept is None:
        kept = export_graph(network, size, precision, strip_bytes).SerializeToString()
        write_cached(f"{key}.onnx", kept)
    return kept


def subgraph(serialized: bytes, outputs: Sequence[str]) -> bytes:
    """The part of a graph that these outputs need."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.load_from_string(serialized)
    if [output.name for output in model.graph.output] == list(outputs):
        return serialized
    part: bytes = Extractor(model).extract_model([INPUT], list(outputs)).SerializeToString()
    return part
