"""Time every backend on one network and input, in turn and in one run: ``benchmarks/backends.py --help``.

Beside the time on the clock stands the processor time of the process, all its threads together: on a machine
that others use too, it is the steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.inference.agreement import compare
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.process import prepare_process
from pvt_mtl_perception.paths import shipped_checkpoint

STAGES = ("preprocess", "network", "decode", "predict")
REFERENCE = "eager"


@dataclass(frozen=True)
class Row:
    """One backend in one precision.

    Attributes:
        backend, precision: which.
        setup: seconds until the first result.
        ms: median milliseconds a frame by stage; ``predict`` is the whole predictor, all outputs decoded.
        best: smallest milliseconds a frame by stage.
        cpu_ms: median milliseconds of processor time a frame by stage.
        ratio, cpu_ratio: by stage, eager fp32's median of the same run divided by this one's.
        agreement: largest difference of a logit, and shares of matched boxes and equal mask pixels, against
            eager fp32.
    """

    backend: str
    precision: str
    setup: float
    ms: dict[str, float]
    best: dict[str, float]
    cpu_ms: dict[str, float]
    ratio: dict[str, float]
    cpu_ratio: dict[str, float]
    agreement: dict[str, float]


def load_frames(paths: Sequence[Path] | None, size: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    if not paths:
        return [render_frame(seed, size[1], size[0], "test").image for seed in range(4)]
    pictures = [cv2.imread(str(path)) for path in paths]
    return [cv2.cvtColor(cv2.resize(p, size[::-1]), cv2.COLOR_BGR2RGB).view("uint8") for p in pictures]


def timed(
    predictor: Predictor, frames: Sequence[npt.NDArray[np.uint8]], tasks: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Milliseconds a frame of one call: (stages, 2), on the clock and of processor time."""

    def now() -> tuple[float, float]:
        if predictor.device.type == "cuda":
            torch.cuda.synchronize(predictor.device)
        return time.perf_counter(), time.process_time()

    marks = [now()]
    with torch.inference_mode():
        batch, geometries = predictor.preprocess(frames)
        marks.append(now())
        output = predictor.forward(batch, tasks)
        marks.append(now())
        predictor.decode(output, geometries)
        marks.append(now())
    stages = 1000 * np.diff(np.array(marks), axis=0) / len(frames)
    return np.vstack((stages, stages.sum(axis=0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="model file; the one in models/ by default")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument(
        "--backends",
        nargs="+",
        default=["eager:fp32", "onnxruntime:fp32", "openvino:fp32"],
        metavar="NAME[:PRECISION]",
        help="default: %(default)s; eager in fp32 is always measured",
    )
    parser.add_argument("--batch", type=int, default=1, help="frames a call; default: %(default)s")
    parser.add_argument("--source", type=int, nargs=2, default=(384, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--input", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: its own")
    parser.add_argument("--rounds", type=int, default=15, help="of all in turn; default: %(default)s")
    parser.add_argument("--calls", type=int, default=3, help="of each backend a round; default: %(default)s")
    parser.add_argument(
        "--single-tasks",
        action="store_true",
        help="also each task alone, which costs what a single-task network does: the part of three of them "
        "that one network for all takes",
    )
    parser.add_argument("--images", type=Path, nargs="+", help="pictures; rendered street scenes by default")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    names = [name if ":" in name else f"{name}:fp32" for name in args.backends]
    names = list(dict.fromkeys([f"{REFERENCE}:fp32", *names]))
    frames = load_frames(args.images, tuple(args.source))
    batch = [frames[i % len(frames)] for i in range(args.batch)]
    predictors: dict[str, Predictor] = {}
    setup: dict[str, float] = {}
    for name in tqdm(names, desc="prepare", leave=False):
        backend, _, precision = name.partition(":")
        start = time.perf_counter()
        predictors[name] = Predictor(
            args.checkpoint or shipped_checkpoint(),
            args.device,
            precision,
            input_size=tuple(args.input) if args.input else None,
            backend=backend,
        )
        predictors[name].predict(batch)
        setup[name] = time.perf_counter() - start
    reference = predictors[names[0]]
    agreements = {name: compare(reference, predictors[name].forward, frames) for name in names}

    times: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    alone: dict[str, dict[str, list[npt.NDArray[np.float64]]]] = {
        name: {task: [] for task in reference.tasks if args.single_tasks} for name in names
    }

    def turn(name: str, tasks: Sequence[str]) -> list[npt.NDArray[np.float64]]:
        timed(predictors[name], batch, tasks)  # after another's turn its data are in no cache
        return [timed(predictors[name], batch, tasks) for _ in range(args.calls)]

    for _ in tqdm(range(args.rounds), unit="round", leave=False):
        for name in names:
            times[name] += turn(name, reference.tasks)
            for task, values in alone[name].items():
                values += turn(name, (task,))

    medians = {name: np.median(times[name], axis=0) for name in names}
    rows = []
    for name in names:
        backend, _, precision = name.partition(":")
        agreement, median = agreements[name], medians[name]
        ratio = medians[names[0]] / np.maximum(median, 1e-6)
        rows.append(
            Row(
                backend,
                precision,
                setup[name],
                by_stage(median[:, 0]),
                by_stage(np.min(times[name], axis=0)[:, 0]),
                by_stage(median[:, 1]),
                by_stage(ratio[:, 0]),
                by_stage(ratio[:, 1]),
                {
                    "logit difference": max(agreement.outputs.values()),
                    "boxes matched": agreement.matched_boxes / agreement.boxes if agreement.boxes else 1.0,
                    "mask pixels": agreement.mask_pixels,
                },
            )
        )
    size = f"{reference.preprocessing.width}x{reference.preprocessing.height}"
    cores = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    place = cores if args.device == "cpu" else args.device
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{reference.model_name}, input {size}, batch {args.batch}, {place}, torch {torch.__version__}, "
        f"{platform.machine()}, load averages {load}; {args.rounds} rounds of {args.calls} calls"
    )
    print(format_table(rows))
    parts = {
        name: medians[name][-1]
        / np.sum([np.median(values, axis=0)[-1] for values in by_task.values()], axis=0)
        for name, by_task in alone.items()
        if by_task
    }
    for name, (clock, cpu) in parts.items():
        print(
            f"{name}: all tasks decoded take {clock:.2f} of what they take one by one "
            f"({cpu:.2f} of the processor time)"
        )
    if args.json:
        report = {"model": reference.model_name, "input": size, "batch": args.batch, "load": os.getloadavg()}
        report["rows"] = [asdict(row) for row in rows]
        report["of_single_tasks"] = {name: part.tolist() for name, part in parts.items()}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def by_stage(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {stage: round(float(value), 3) for stage, value in zip(STAGES, values, strict=True)}


def format_table(rows: Sequence[Row]) -> str:
    lines = [
        "ms a frame: median (smallest) on the clock, cpu: median of processor time; x: eager fp32 / this one"
    ]
    head = "".join(f"{title:>16}{'x':>6}{'cpu':>8}{'x':>6}" for title in ("network", "all decoded"))
    lines.append(f"{'backend':<12}{'':<6}{'first':>8}{head}{'logits':>9}{'boxes':>8}{'mask':>10}")
    for row in rows:
        cells = "".join(
            f"{f'{row.ms[s]:.1f} ({row.best[s]:.1f})':>16}{row.ratio[s]:>6.2f}{row.cpu_ms[s]:>8.1f}"
            f"{row.cpu_ratio[s]:>6.2f}"
            for s in ("network", "predict")
        )
        agreement = row.agreement
        lines.append(
            f"{row.backend:<12}{row.precision:<6}{row.setup:>6.1f} s{cells}"
            f"{agreement['logit difference']:>9.1e}{agreement['boxes matched']:>8.1%}"
            f"{agreement['mask pixels']:>10.3%}"
        )
    for stage in ("preprocess", "decode"):
        lines.append(
            f"{stage}: " + ", ".join(f"{row.backend} {row.cpu_ms[stage]:.1f} ms cpu" for row in rows)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:
        # As the node and the command line set it. OpenMP has read it when torch was imported: start again.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    prepare_process()
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
