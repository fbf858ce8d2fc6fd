"""Arguments that several verbs share: which model, where, with which thresholds; strengths of corruptions."""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pvt_mtl_perception.paths import shipped_checkpoint

if TYPE_CHECKING:  # importing it loads torch, for which help does not wait
    from pvt_mtl_perception.inference.predictor import Predictor


def count(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT`` as (height, width).

    Raises:
        argparse.ArgumentTypeError: for another form.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, like 640x384")
    return int(found[2]), int(found[1])


def add_strengths(parser: argparse._ActionsContainer) -> None:
    """Adds ``--strengths``, of corruptions."""
    parser.add_argument(
        "--strengths",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 5],
        metavar="S",
        help="of the corruptions, 1 to 5 (default: all)",
    )


def add_nms_threshold(parser: argparse._ActionsContainer) -> None:
    """Adds ``--nms-threshold``."""
    parser.add_argument(
        "--nms-threshold",
        type=float,
        default=0.5,
        metavar="IOU",
        help="overlap above which the lower-scored box goes (default: %(default)s)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--model``, ``--device``, ``--precision``, ``--backend`` and the detection thresholds."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", help="checkpoint file or hf://owner/name[@revision]; the shipped one by default"
    )
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    group.add_argument(
        "--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default: %(default)s"
    )
    group.add_argument(
        "--backend",
        default="auto",
        help="auto (default), the fastest that is installed for the device; eager, compile, cuda_graphs, "
        "onnxruntime, openvino, tensorrt",
    )
    group.add_argument(
        "--score-threshold",
        type=float,
        default=0.35,
        metavar="S",
        help="of boxes, 0..1; default: %(default)s",
    )
    add_nms_threshold(group)
    group.add_argument(
        "--max-detections", type=int, default=100, metavar="N", help="per image; default: %(default)s"
    )


def checkpoint_path(args: argparse.Namespace) -> Path:
    """The file of the checkpoint that ``--model`` names, fetched where it is on the hub, or the shipped one.

    Raises:
        FileNotFoundError, HubError: when there is none.
    """
    from pvt_mtl_perception.model.hub import resolve_checkpoint

    path = resolve_checkpoint(args.model) if args.model else shipped_checkpoint()
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    return path


def load_predictor(args: argparse.Namespace) -> Predictor:
    """The predictor that the arguments describe.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: from ``Predictor``.
    """
    from pvt_mtl_perception.inference.predictor import Predictor

    return Predictor(
        args.model or checkpoint_path(args),
        device=args.device,
        precision=args.precision,
        backend=args.backend,
        score_threshold=args.score_threshold,
        nms_threshold=args.nms_threshold,
        max_detections=args.max_detections,
    )


def make_output_folder(path: Path) -> None:
    """Makes the folder of what is written at the end, so that nothing is computed that has no place.

    Raises:
        OSError: when it cannot be made or written to, naming it.
    """
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()


def checkpoint_digest(path: Path) -> str:
    """SHA-256 of the checkpoint, by which results of another model are told apart."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
