"""Times of the network and of the whole predictor: backends, precisions, batches and sizes in one run."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.inference.agreement import Agreement, compare
from pvt_mtl_perception.inference.predictor import Predictor

Image = npt.NDArray[np.uint8]

REFERENCE = ("eager", "fp32")
"""What every ratio is to."""

STAGES = ("preprocess", "network", "decode")
_WARM_UP_ROUNDS = 1


@dataclass(frozen=True)
class Row:
    """One case; times are milliseconds a frame: those of a call divided by the batch.

    Attributes:
        backend, precision: what ran the network.
        batch: frames a call.
        input: width x height of the network's input.
        source: width x height of the frames.
        tasks: the heads that ran.
        preprocess, network, decode: medians of the stages.
        predict: median of the whole call, from frames in memory to results in memory.
        p95: of the whole call.
        frames_per_s: at the median.
        network_ratio, predict_ratio: eager fp32's median of the same case and run divided by this one's.
    """

    backend: str
    precision: str
    batch: int
    input: str
    source: str
    tasks: str
    preprocess: float
    network: float
    decode: float
    predict: float
    p95: float
    frames_per_s: float
    network_ratio: float
    predict_ratio: float


@dataclass(frozen=True)
class Engine:
    """A backend in one precision."""

    backend: str
    precision: str


def stage_times(predictor: Predictor, frames: Sequence[Image], tasks: Sequence[str]) -> list[float]:
    """Milliseconds of each of ``STAGES`` in one call.

    Args:
        predictor: its device has finished at the end of every stage.
        frames: uint8 (H, W, 3) RGB, one batch.
        tasks: the heads that run.
    """
    marks = [_now(predictor)]
    with torch.inference_mode():
        batch, geometries = predictor.preprocess(frames)
        marks.append(_now(predictor))
        output = predictor.forward(batch, tasks)
        marks.append(_now(predictor))
        predictor.decode(output, geometries)
        marks.append(_now(predictor))
    return [1000 * (after - before) for before, after in itertools.pairwise(marks)]


def _now(predictor: Predictor) -> float:
    if predictor.device.type == "cuda":
        torch.cuda.synchronize(predictor.device)
    return time.perf_counter()


def measure(
    predictors: dict[Engine, Predictor],
    frames: Sequence[Image],
    subsets: Sequence[Sequence[str]],
    rounds: int,
    calls: int = 3,
) -> list[Row]:
    """One batch with every engine and set of tasks, which take turns: a slow spell meets all of them.

    Args:
        predictors: of the same checkpoint and input size; with ``REFERENCE`` among them.
        frames: one batch.
        subsets: sets of tasks, each by itself.
        rounds: turns of every engine and set of tasks.
        calls: timed ones of each in a round, after one that is not: its data have left the caches.
    """
    times: dict[tuple[Engine, tuple[str, ...]], list[list[float]]] = {}
    for number in range(rounds + _WARM_UP_ROUNDS):
        for tasks, (engine, predictor) in itertools.product(subsets, predictors.items()):
            stage_times(predictor, frames, tasks)
            found = [stage_times(predictor, frames, tasks) for _ in range(calls)]
            if number >= _WARM_UP_ROUNDS:
                times.setdefault((engine, tuple(tasks)), []).extend(found)
    height, width = frames[0].shape[:2]
    rows = []
    for (engine, tasks), values in times.items():
        reference = np.array(times[Engine(*REFERENCE), tasks]) / len(frames)
        base_network, base_predict = np.median(reference[:, 1]), np.median(reference.sum(axis=1))
        stages = np.array(values) / len(frames)
        size = predictors[engine].preprocessing
        whole = stages.sum(axis=1)
        predict = float(np.median(whole))
        medians = dict(zip(STAGES, np.median(stages, axis=0).tolist(), strict=True))
        rows.append(
            Row(
                engine.backend,
                engine.precision,
                len(frames),
                f"{size.width}x{size.height}",
                f"{width}x{height}",
                "+".join(tasks),
                **medians,
                predict=predict,
                p95=float(np.percentile(whole, 95)),
                frames_per_s=1000 / predict,
                network_ratio=float(base_network / medians["network"]),
                predict_ratio=float(base_predict / predict),
            )
        )
    return rows


def bench(
    checkpoint: Path | str,
    device: str,
    engines: Sequence[Engine],
    batches: Sequence[int],
    inputs: Sequence[tuple[int, int] | None],
    source: tuple[int, int],
    each_task: bool = False,
    rounds: int = 8,
) -> dict[str, Any]:
    """Every engine, batch and input size.

    Args:
        checkpoint: file of the model.
        device: as ``Predictor`` has it.
        engines: eager fp32 is measured in any case. One that cannot be used here is left out and named.
        batches: frames a call.
        inputs: (height, width) of the network's input, None for the checkpoint's own.
        source: (height, width) of the frames, which are rendered.
        each_task: also every head alone, which shows what a head costs.
        rounds: see ``measure``.

    Returns:
        ``model``, ``device``, ``threads``, ``torch``, ``machine``, ``load`` (load averages at the end, by
        which others' work shows), ``rows`` (see ``Row``), ``agreement`` (of every engine with eager fp32, see
        ``Agreement``), ``together`` (with ``each_task``: the time of all tasks at once divided by the sum of
        them one by one; one task asked of a network for all costs what a single-task network does) and
        ``left_out`` (by engine the reason).

    Raises:
        FileNotFoundError, ValueError, RuntimeError: when eager fp32 cannot be used, from ``Predictor``.
    """
    reference = Engine(*REFERENCE)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    agreements: list[dict[str, Any]] = []
    frames = [render_frame(seed, source[1], source[0], "test").image for seed in range(min(4, max(batches)))]
    for size in inputs:
        predictors = {reference: Predictor(checkpoint, device, reference.precision, input_size=size)}
        for engine in dict.fromkeys(engines):
            if engine == reference:
                continue
            try:
                predictor = Predictor(
                    checkpoint, device, engine.precision, input_size=size, backend=engine.backend
                )
                agreement = compare(predictors[reference], predictor.forward, frames)
            except Exception as error:  # many prepare themselves in the first call, with errors of their own
                left_out[f"{engine.backend}:{engine.precision}"] = str(error)
                continue
            predictors[engine] = predictor
            agreements.append(_agreement_row(engine, predictor, agreement))
        tasks = predictors[reference].tasks
        subsets = [tasks, *([(task,) for task in tasks] if each_task and len(tasks) > 1 else [])]
        for batch in tqdm(batches, unit="batch", leave=False):
            of_batch = [frames[i % len(frames)] for i in range(batch)]
            rows += measure(_working(predictors, of_batch, subsets, left_out), of_batch, subsets, rounds)
    used = predictors[reference]
    on_cuda = used.device.type == "cuda"
    return {
        "model": used.model_name,
        "device": torch.cuda.get_device_name(used.device) if on_cuda else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "load": list(os.getloadavg()),
        "rows": [asdict(row) for row in rows],
        "agreement": agreements,
        "together": _together(rows) if each_task else [],
        "left_out": left_out,
    }


def _working(
    predictors: dict[Engine, Predictor],
    frames: Sequence[Image],
    subsets: Sequence[Sequence[str]],
    left_out: dict[str, str],
) -> dict[Engine, Predictor]:
    """Those that get through the first calls of a batch, in which some build a program; why others do not."""
    working = {}
    for engine, predictor in predictors.items():
        try:
            for tasks in subsets:
                stage_times(predictor, frames, tasks)
        except Exception as error:
            if engine == Engine(*REFERENCE):
                raise
            left_out[f"{engine.backend}:{engine.precision}, batch {len(frames)}"] = str(error)
        else:
            working[engine] = predictor
    return working


def _agreement_row(engine: Engine, predictor: Predictor, agreement: Agreement) -> dict[str, Any]:
    size = predictor.preprocessing
    return {
        "backend": engine.backend,
        "precision": engine.precision,
        "input": f"{size.width}x{size.height}",
        **asdict(agreement),
    }


def _together(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What all tasks at once take of the sum of them one by one."""
    cases: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        cases.setdefault((row.backend, row.precision, row.input, row.batch), []).append(row)
    parts = []
    for (backend, precision, size, batch), case in cases.items():
        whole = [row for row in case if "+" in row.tasks]
        alone = [row for row in case if "+" not in row.tasks]
        if whole and alone:
            shares = {
                key: getattr(whole[0], key) / sum(getattr(row, key) for row in alone)
                for key in ("network", "predict")
            }
            parts.append(
                {"backend": backend, "precision": precision, "input": size, "batch": batch, **shares}
            )
    return parts


def markdown(report: dict[str, Any]) -> str:
    """The report as a table that reads well in a terminal too."""
    load = ", ".join(f"{value:.1f}" for value in report["load"])
    head = ["backend", "input", "source", "tasks", "batch", "preprocess", "network", "ratio", "decode"]
    head += ["all", "p95", "ratio", "frames/s"]
    lines = [
        f"{report['model']} on {report['device']}, {report['threads']} threads, torch {report['torch']}, "
        f"{report['machine']}, load averages {load}. Median ms a frame; ratios: eager fp32 / this one.",
        "",
        _line(head),
        _line(["---"] * 4 + ["--:"] * (len(head) - 4)),
    ]
    for row in report["rows"]:
        tasks = "all" if "+" in row["tasks"] else row["tasks"]
        ms = {key: f"{row[key]:.1f}" for key in (*STAGES, "predict", "p95", "frames_per_s")}
        ratios = [f"{row[key]:.2f}" for key in ("network_ratio", "predict_ratio")]
        cells = [
            f"{row['backend']} {row['precision']}",
            row["input"],
            row["source"],
            tasks,
            str(row["batch"]),
        ]
        cells += [ms["preprocess"], ms["network"], ratios[0], ms["decode"]]
        lines.append(_line([*cells, ms["predict"], ms["p95"], ratios[1], ms["frames_per_s"]]))
    for part in report["together"]:
        lines.append(
            f"\n{_engine_name(part)}, batch {part['batch']}: all tasks at once take {part['predict']:.2f} of "
            f"the time that they take one by one (the network alone {part['network']:.2f})"
        )
    for part in report["agreement"]:
        agreement = Agreement(**{field.name: part[field.name] for field in fields(Agreement)})
        lines.append(f"\n{_engine_name(part)}, against eager fp32: {agreement.describe()}")
    lines += [f"\n{engine} was left out: {reason}" for engine, reason in report["left_out"].items()]
    return "\n".join(lines)


def _engine_name(part: dict[str, Any]) -> str:
    return f"{part['backend']} {part['precision']}, {part['input']}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
