"""Exports a checkpoint for another engine and checks what it wrote against the checkpoint itself.

onnx writes one file with a dynamic batch: normalised images in, logits out, thresholds and suppression of
boxes outside, and the model's spec, label sets and preprocessing in its metadata. tensorrt builds the engines
that the node will load on this GPU, and keeps them in the cache folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pvt_mtl_perception.cli.model_arguments import count, image_size

if TYPE_CHECKING:  # importing it loads torch, for which help does not wait
    import numpy as np
    import numpy.typing as npt

    from pvt_mtl_perception.inference.agreement import Agreement
    from pvt_mtl_perception.model.checkpoint import Checkpoint

SUMMARY = "write a checkpoint as ONNX, or build its TensorRT engines"

# Far above the rounding of another order of summation, far below what moves a decision.
LOGIT_TOLERANCE = 1e-2
MASK_AGREEMENT = 0.999
RENDERED_FRAMES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="checkpoint file or hf://owner/name[@revision]"
    )
    parser.add_argument("--format", choices=["onnx", "tensorrt"], default="onnx", help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="onnx: file to write; default: the checkpoint's name, .onnx"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="WxH",
        help="of the network's input, multiples of 32; default: its own",
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="IMAGE", help="onnx: check on these, not on rendered frames"
    )
    parser.add_argument("--device", default="cuda", help="tensorrt: cuda (default) or cuda:N")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16", help="tensorrt")
    parser.add_argument(
        "--batch", type=count, nargs="+", default=[1], metavar="B", help="tensorrt: batch sizes; default: 1"
    )


def run(args: argparse.Namespace) -> int:
    """Exports, checks, and says where the file is and how far it agrees.

    Raises:
        FileNotFoundError, CheckpointError, HubError: for a checkpoint that cannot be used.
        BackendUnavailableError: when a package that it takes is not installed.
        ValueError: when the export disagrees with the checkpoint; an earlier file is then as it was.
    """
    from pvt_mtl_perception.model.checkpoint import load_checkpoint
    from pvt_mtl_perception.paths import remove_partial_of, replaced

    checkpoint = load_checkpoint(args.checkpoint)
    if args.format == "tensorrt":
        return _build_engines(args, checkpoint)
    import numpy as np

    from pvt_mtl_perception.inference.backends.graph import OPSET
    from pvt_mtl_perception.inference.export import export_onnx
    from pvt_mtl_perception.model.hub import source_name

    path = args.out or Path(f"{source_name(args.checkpoint)}.onnx")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for {path.name}")
    if path.is_dir():
        raise IsADirectoryError(f"--out {path} is a folder; a file is wanted, such as {path / 'model.onnx'}")
    if path.exists() and Path(args.checkpoint).exists() and path.samefile(args.checkpoint):
        raise ValueError(f"--out {path} is the checkpoint itself")
    preprocessing = checkpoint.preprocessing
    height, width = args.size or (preprocessing.height, preprocessing.width)
    frames = _frames(args.images, (height, width))
    # As large as the model, and hidden.
    remove_partial_of(path)
    with replaced(path) as unchecked:
        export_onnx(checkpoint, unchecked, (height, width), str(args.checkpoint))
        agreement = _check(unchecked, checkpoint, (height, width), frames)
        print(agreement.describe())
        # Not the built-in max, in which a NaN that does not come first loses.
        difference = float(np.max(list(agreement.outputs.values())))
        # A NaN is neither above nor within the tolerance.
        if not (difference <= LOGIT_TOLERANCE and agreement.mask_pixels >= MASK_AGREEMENT):
            raise ValueError(
                f"{path} is not written: its graph disagrees with the checkpoint: logits by "
                f"{difference:.2g} (at most {LOGIT_TOLERANCE} is rounding), masks on "
                f"{100 * (1 - agreement.mask_pixels):.2f} % of the pixels"
            )
    megabytes = path.stat().st_size / 1e6
    print(f"{path}: {megabytes:.1f} MB, opset {OPSET}, input (batch, 3, {height}, {width})")
    return 0


def _frames(paths: Sequence[Path] | None, size: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    if paths:
        import cv2

        frames = []
        for path in paths:
            picture = cv2.imread(str(path))
            if picture is None:
                raise ValueError(f"--images {path} is no picture that OpenCV reads")
            frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).view("uint8"))
        return frames
    from pvt_mtl_perception.data.synthetic import render_frame

    return [
        render_frame(seed, max(size[1], 64), max(size[0], 48), "test").image
        for seed in range(RENDERED_FRAMES)
    ]


def _check(
    path: Path, checkpoint: Checkpoint, size: tuple[int, int], frames: Sequence[npt.NDArray[np.uint8]]
) -> Agreement:
    """The file itself in ONNX Runtime, or in OpenVINO where that is missing, against eager PyTorch."""
    import torch

    from pvt_mtl_perception.inference.agreement import compare
    from pvt_mtl_perception.inference.backends.backend import Backend, missing_packages
    from pvt_mtl_perception.inference.backends.onnxruntime import OnnxRuntimeBackend
    from pvt_mtl_perception.inference.backends.openvino import OpenVinoBackend
    from pvt_mtl_perception.inference.predictor import Predictor
    from pvt_mtl_perception.model.checkpoint import build_network

    made = OpenVinoBackend if missing_packages("onnxruntime") else OnnxRuntimeBackend
    network, graph = build_network(checkpoint), path.read_bytes()
    backend: Backend = made(network, torch.device("cpu"), "fp32", graph=graph)
    print(f"checked with {backend.name} against eager PyTorch:")
    return compare(Predictor(checkpoint, "cpu", input_size=size), backend, frames)


def _build_engines(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    from tqdm import tqdm

    from pvt_mtl_perception.inference.backends.cache import cache_folder
    from pvt_mtl_perception.inference.backends.tensorrt import TensorRtBackend
    from pvt_mtl_perception.inference.predictor import select_device
    from pvt_mtl_perception.model.checkpoint import build_network

    network = build_network(checkpoint, args.checkpoint)
    backend = TensorRtBackend(network, select_device(args.device), args.precision)
    size = args.size or (checkpoint.preprocessing.height, checkpoint.preprocessing.width)
    for batch in tqdm(args.batch, unit="engine"):
        name = backend.build((batch, 3, *size), network.tasks)
        tqdm.write(f"{cache_folder() / name}")
    return 0
