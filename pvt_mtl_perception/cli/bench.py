"""``pvt-mtl bench``: times of network, predictor and node on this machine, every backend in one run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pvt_mtl_perception.cli.model_arguments import count, image_size
from pvt_mtl_perception.paths import shipped_checkpoint

SUMMARY = "time network, predictor and node on this machine, every backend in one run"

_NODE_PACKAGES = ("rclpy", "vision_msgs")


def _engine(text: str) -> tuple[str, str]:
    backend, _, precision = text.partition(":")
    if not backend or precision not in ("", "fp32", "fp16", "bf16"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not BACKEND[:PRECISION]; precisions: fp32 (default), fp16, bf16"
        )
    return backend, precision or "fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "--model", type=Path, help="checkpoint; the one that comes with the package by default"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--backends",
        nargs="+",
        type=_engine,
        metavar="BACKEND[:PRECISION]",
        help="default: those that auto chooses from, in fp32",
    )
    parser.add_argument("--batch", nargs="+", type=count, default=[1, 6], help="frames a call (default: 1 6)")
    parser.add_argument(
        "--input",
        nargs="+",
        type=image_size,
        metavar="WxH",
        help="of the network; the model's own by default",
    )
    parser.add_argument(
        "--source", type=image_size, default=(720, 1280), metavar="WxH", help="default: 1280x720"
    )
    parser.add_argument("--each-task", action="store_true", help="also every head alone")
    parser.add_argument(
        "--rounds", type=count, default=8, help="turns of every backend (default: %(default)s)"
    )
    parser.add_argument(
        "--node",
        action="store_true",
        help="also the running node beside the predictor, 1 and 6 cameras, with the first of --backends",
    )
    parser.add_argument("--out", type=Path, help="folder for bench.md and bench.json")


def run(args: argparse.Namespace) -> int:
    """Runs the verb.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: for a model or a device that cannot be used.
    """
    from pvt_mtl_perception.evaluation.bench import Engine, bench, markdown
    from pvt_mtl_perception.inference.backends.registry import ENGINES, FASTEST_FIRST
    from pvt_mtl_perception.inference.predictor import select_device

    checkpoint = args.model or shipped_checkpoint()
    for backend, _ in args.backends or ():
        if backend not in ENGINES:
            raise ValueError(f"backend {backend!r} is not known; known: {', '.join(ENGINES)}")
    kind = select_device(args.device).type
    engines = [Engine(*pair) for pair in args.backends or [(name, "fp32") for name in FASTEST_FIRST[kind]]]
    report = bench(
        checkpoint,
        args.device,
        engines,
        args.batch,
        args.input or [None],
        args.source,
        args.each_task,
        args.rounds,
    )
    text = markdown(report)
    if args.node:
        report["node"] = [_node(checkpoint, args, cameras) for cameras in (1, 6)]
        text += "\n\n" + "\n".join(part["text"] for part in report["node"])
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "bench.md").write_text(text + "\n")
        (args.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
        print(args.out / "bench.json")
    return 0


def node_command(checkpoint: Path, args: argparse.Namespace, cameras: int, report: Path) -> list[str]:
    """The benchmark of the node, with the first of ``--backends``, as a command that writes ``report``."""
    backend, precision = (args.backends or [("auto", "fp32")])[0]
    return [
        sys.executable, "-m", "pvt_mtl_perception.ros.benchmark", "--checkpoint", str(checkpoint),
        "--device", args.device, "--backend", backend, "--precision", precision, "--cameras", str(cameras),
        "--size", f"{args.source[1]}x{args.source[0]}", "--rate", "30" if cameras == 1 else "10",
        "--json", str(report),
    ]  # fmt: skip


def _node(checkpoint: Path, args: argparse.Namespace, cameras: int) -> dict[str, Any]:
    """Runs ``node_command``: what it measures needs a ROS environment and so a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.json"
        command = node_command(checkpoint, args, cameras, path)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                "the node could not be measured; it needs a ROS environment "
                f"({', '.join(_NODE_PACKAGES)}), and its message stands above"
            )
        report: dict[str, Any] = json.loads(path.read_text())
    return {**report, "text": done.stdout}
