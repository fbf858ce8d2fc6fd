"""Time another model's ONNX file beside this one, in one run: ``python benchmarks/peers.py --help``.

The peer is timed from a float32 image tensor to its raw outputs, since how it is decoded is its own affair.
Of this model two times stand beside it: the network alone, and the whole predictor from uint8 frames to
boxes, mask and classes, which is more than is asked of the peer. In PyTorch onnx2torch runs the peer's graph.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from tqdm import tqdm

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.inference.backends.backend import DTYPES, BackendUnavailableError, require
from pvt_mtl_perception.inference.backends.openvino import program_options
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.process import prepare_script
from pvt_mtl_perception.paths import shipped_checkpoint

Floats = npt.NDArray[np.float32]
ENGINES = ("eager:fp32", "onnxruntime:fp32", "openvino:fp32", "openvino:bf16")


@dataclass(frozen=True)
class Row:
    """One engine; median milliseconds a frame, and the peer's divided by ours."""

    engine: str
    precision: str
    peer: float
    network: float
    predict: float
    ratio_network: float
    ratio_predict: float


def fixed_graph(path: Path, batch: int, size: tuple[int, int] | None) -> tuple[onnx.ModelProto, list[int]]:
    """The peer's graph and its input's shape; dimensions that it leaves open are set.

    Raises:
        SystemExit: when it has no single input of images, or another fixed size than the one asked for.
    """
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise SystemExit(f"{path} needs one input (N, 3, H, W); it has {[entry.name for entry in inputs]}")
    dims = inputs[0].type.tensor_type.shape.dim
    wanted = [batch, 3, *(size or (384, 640))]
    for dim, value in zip(dims, wanted, strict=True):
        if not dim.dim_value:
            dim.dim_value = value
    shape = [dim.dim_value for dim in dims]
    if shape != wanted and size is not None:
        raise SystemExit(f"{path} takes {shape} and nothing else, asked for was {wanted}")
    return model, shape


def _named_once(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without Identity nodes on constants, by which exporters let equal weights be one; onnx2torch cannot."""
    constants = {tensor.name for tensor in model.graph.initializer}
    names: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in constants:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def eager(model: onnx.ModelProto, precision: str, device: torch.device) -> Callable[[Floats], object]:
    """The graph as a PyTorch module."""
    try:
        from onnx2torch import convert
    except ModuleNotFoundError:
        raise BackendUnavailableError(
            "the peer in PyTorch needs onnx2torch: pip install 'pvt_mtl_perception[peers]'"
        ) from None
    module = convert(_named_once(model)).eval().to(device, DTYPES[precision])
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.to(memory_format=torch.channels_last)

    def run(images: Floats) -> object:
        with torch.inference_mode():
            batch = torch.from_numpy(images).to(device, DTYPES[precision])
            return module(batch.contiguous(memory_format=torch.channels_last))

    return run


def onnxruntime(model: onnx.ModelProto, precision: str, device: torch.device) -> Callable[[Floats], object]:
    """The graph in ONNX Runtime, with the options of the backend."""
    require("onnxruntime")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def openvino(model: onnx.ModelProto, precision: str, device: torch.device) -> Callable[[Floats], object]:
    """The graph in OpenVINO, with the options of the backend."""
    require("openvino")
    import openvino as ov

    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendUnavailableError("this CPU does not compute in bf16")
    program = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", program_options(precision)
    )
    return lambda images: program([images])


RUNNERS: Mapping[str, Callable[[onnx.ModelProto, str, torch.device], Callable[[Floats], object]]] = {
    "eager": eager,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def measure(engine: str, model: onnx.ModelProto, shape: list[int], args: argparse.Namespace) -> Row:
    """Peer, network and predictor in turn.

    Raises:
        BackendUnavailableError, ValueError: when this engine cannot be used here.
    """
    name, _, precision = engine.partition(":")
    predictor = Predictor(
        args.checkpoint or shipped_checkpoint(),
        args.device,
        precision,
        input_size=(shape[2], shape[3]),
        backend=name,
    )
    peer = RUNNERS[name](model, precision, predictor.device)
    frames = [render_frame(i, shape[3], shape[2], "test").image for i in range(shape[0])]
    images = np.random.default_rng(0).random(shape, np.float32)
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames)

    def network() -> object:
        with torch.inference_mode():
            return predictor.forward(batch, predictor.tasks)

    calls: dict[str, Callable[[], object]] = {
        "peer": lambda: peer(images),
        "network": network,
        "predict": lambda: predictor.predict(frames),
    }
    times: dict[str, list[float]] = {key: [] for key in calls}
    for turn in tqdm(range(args.rounds + 2), desc=engine, leave=False, unit="round"):
        for key, call in calls.items():
            for attempt in range(args.calls + 1):
                start = time.perf_counter()
                call()
                if predictor.device.type == "cuda":
                    torch.cuda.synchronize(predictor.device)
                # The first call after another's turn finds nothing in the caches.
                if turn >= 2 and attempt:
                    times[key].append(1000 * (time.perf_counter() - start) / shape[0])
    ms = {key: float(np.median(values)) for key, values in times.items()}
    ratios = {f"ratio_{key}": ms["peer"] / ms[key] for key in ("network", "predict")}
    return Row(name, precision, **ms, **ratios)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", type=Path, help="ONNX file")
    parser.add_argument("--checkpoint", type=Path, help="of this model; the shipped one by default")
    parser.add_argument("--size", type=image_size, metavar="WxH", help="default: the peer's")
    parser.add_argument("--batch", type=int, default=1, help="where the peer leaves it open")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines", nargs="+", default=ENGINES, metavar="NAME:PRECISION")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--calls", type=int, default=3, help="of each in a round")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if not args.peer.is_file():
        raise SystemExit(f"no ONNX file at {args.peer}")
    model, shape = fixed_graph(args.peer, args.batch, tuple(args.size) if args.size else None)
    rows, refused = [], []
    for engine in args.engines:
        try:
            rows.append(measure(engine, model, shape, args))
        except (BackendUnavailableError, ValueError) as error:
            refused.append(f"{engine}: not measured, {error}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{args.peer.name} beside {(args.checkpoint or shipped_checkpoint()).stem} at {shape[3]}x{shape[2]}, "
        f"batch {shape[0]}, {args.device}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"load averages {load}"
    )
    print("median ms a frame; ratio: peer / ours")
    print(f"{'engine':<13}{'precision':<10}{'peer':>9}{'network':>9}{'ratio':>7}{'decoded':>9}{'ratio':>7}")
    for row in rows:
        print(
            f"{row.engine:<13}{row.precision:<10}{row.peer:>9.1f}{row.network:>9.1f}{row.ratio_network:>7.2f}"
            f"{row.predict:>9.1f}{row.ratio_predict:>7.2f}"
        )
    for line in refused:
        print(line)
    if args.json:
        report: dict[str, Any] = {"peer": args.peer.name, "shape": shape, "load": os.getloadavg()}
        report |= {"rows": [asdict(row) for row in rows], "refused": refused}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    prepare_script()
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
