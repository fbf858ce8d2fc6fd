"""Time a frame through the predictor, split into its stages: ``python benchmarks/predictor.py --help``."""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from tqdm import tqdm

from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import Checkpoint, Preprocessing
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import (
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.paths import shipped_checkpoint

SOURCES = ((384, 640), (1080, 1920))
STAGES = ("preprocess", "network", "decode")
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """Milliseconds a frame of one case.

    Attributes:
        source: width x height of the images.
        batch: images a call.
        tasks: the heads that ran.
        stage: one of ``STAGES``, or ``predict`` for the whole call.
        median, p95: over the calls, a call's time divided by ``batch``.
        share: of the median in the median of ``predict`` in the same case.
    """

    source: str
    batch: int
    tasks: str
    stage: str
    median: float
    p95: float
    share: float


def untrained_checkpoint() -> Checkpoint:
    """Random weights in the default architecture: the network's time is the same as a trained one's."""
    torch.manual_seed(0)
    groups = {name: f"driving_{name}" for name in ("weather", "scene", "timeofday")}
    spec = ModelSpec(
        classification=ClassificationSpec(groups),
        detection=DetectionSpec(),
        segmentation=SegmentationSpec(),
    )
    network = MultiTaskNetwork(spec)
    return Checkpoint(spec, network.labels, Preprocessing(height=384, width=640), network.state_dict())


def load_frame(path: Path | None, size: tuple[int, int]) -> np.ndarray:
    """An RGB frame of ``size`` (height, width): the picture at ``path``, or smooth noise without one."""
    if path is None:
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        return cv2.GaussianBlur(noise, (0, 0), 3)
    picture = cv2.imread(str(path))
    if picture is None:
        raise SystemExit(f"--image {path} is no picture that OpenCV reads")
    return cv2.cvtColor(cv2.resize(picture, (size[1], size[0])), cv2.COLOR_BGR2RGB)


def measure(predictor: Predictor, frames: list[np.ndarray], tasks: tuple[str, ...], calls: int) -> list[Row]:
    """Times of one case. The stages and the whole call alternate, so that a slow spell hits all of them."""
    synchronize: Callable[[], object] = (
        torch.cuda.synchronize if predictor.device.type == "cuda" else lambda: None
    )
    times: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "predict")}

    def timed(stage: str, function: Callable[[], T]) -> T:
        synchronize()
        start = time.perf_counter()
        value = function()
        synchronize()
        times[stage].append(1000 * (time.perf_counter() - start) / len(frames))
        return value

    def run() -> None:
        with torch.inference_mode():
            batch, geometries = timed("preprocess", lambda: predictor.preprocess(frames))
            output = timed("network", lambda: predictor.forward(batch, tasks))
            timed("decode", lambda: predictor.decode(output, geometries))
        timed("predict", lambda: predictor.predict(frames, tasks))

    warm_up = 3
    for _ in range(warm_up + calls):
        run()
    height, width = frames[0].shape[:2]
    kept = {stage: values[warm_up:] for stage, values in times.items()}
    whole = float(np.median(kept["predict"]))
    return [
        Row(
            source=f"{width}x{height}",
            batch=len(frames),
            tasks="+".join(tasks),
            stage=stage,
            median=float(np.median(values)),
            p95=float(np.percentile(values, 95)),
            share=float(np.median(values)) / whole,
        )
        for stage, values in kept.items()
    ]


def format_table(rows: list[Row]) -> str:
    """The rows as text, a line a case."""
    head = f"{'source':>10} {'batch':>5}  {'tasks':<38}" + "".join(f"{s:>18}" for s in (*STAGES, "predict"))
    lines = ["ms/frame: median (p95)", head]
    for case, stages in itertools.groupby(rows, key=lambda row: (row.source, row.batch, row.tasks)):
        cells = "".join(f"{f'{row.median:.1f} ({row.p95:.1f})':>18}" for row in stages)
        lines.append(f"{case[0]:>10} {case[1]:>5}  {case[2]:<38}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="model file; the one in models/ by default")
    which.add_argument("--untrained", action="store_true", help="random weights instead of a model file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="images a call")
    parser.add_argument("--calls", type=int, default=30, help="timed calls a case, after three to warm up")
    parser.add_argument("--image", type=Path, help="picture to use; smooth noise by default")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()

    checkpoint = (
        untrained_checkpoint() if arguments.untrained else arguments.checkpoint or shipped_checkpoint()
    )
    predictor = Predictor(checkpoint, arguments.device, arguments.precision)
    size = f"{predictor.preprocessing.width}x{predictor.preprocessing.height}"
    subsets: list[tuple[str, ...]] = [predictor.tasks]
    if len(predictor.tasks) > 1:
        subsets += [(task,) for task in predictor.tasks]
    # Subsets of the tasks at one size show what a head costs; a larger batch, what batching saves.
    cases = [(source, 1, tasks) for source in SOURCES for tasks in subsets]
    cases += [
        (source, batch, predictor.tasks) for source in SOURCES for batch in arguments.batch if batch > 1
    ]
    rows: list[Row] = []
    for source, batch, tasks in tqdm(cases, unit="case"):
        frames = [load_frame(arguments.image, source) for _ in range(batch)]
        rows += measure(predictor, frames, tasks, arguments.calls)
    threads = f", {torch.get_num_threads()} threads" if predictor.device.type == "cpu" else ""
    print(
        f"{predictor.model_name}, input {size}, {predictor.device}, {predictor.precision}{threads}, "
        f"torch {torch.__version__}, {platform.machine()}"
    )
    print(format_table(rows))
    if arguments.json:
        report = {
            "model": predictor.model_name,
            "input": size,
            "device": str(predictor.device),
            "precision": predictor.precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
