"""What the networks of a study's arms cost, measured once and kept in ``cost.json`` for its report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.evaluation.cost import measure_cost
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import Checkpoint, Preprocessing, load_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import ModelSpec, load_task_labels
from pvt_mtl_perception.study.config import StudyConfig
from pvt_mtl_perception.study.folder import write_atomically
from pvt_mtl_perception.study.jobs import Job, job_folder

FILE = "cost.json"

Costs = dict[str, dict[str, dict[str, Any]]]
"""By arm and frame size (``1280x720``) what ``measure_cost`` returned, and under which settings."""


def read_costs(out: Path) -> Costs:
    """What was measured so far; empty where nothing was."""
    path = out / FILE
    if not path.is_file():
        return {}
    arms: Costs = json.loads(path.read_text())["arms"]
    return arms


def measure_arms(
    study: StudyConfig,
    jobs: Sequence[Job],
    out: Path,
    arms: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    batch: int,
    calls: int,
    device: str,
    precision: str,
) -> Costs:
    """Measures arms at frame sizes, and writes the file after each, so that a stopped run goes on.

    The network's input is as large as the frame, padded to multiples of 32. The weights are those of the
    arm's first finished seed, because they decide how many boxes go through suppression; where there is none
    they are random, and the entry says so. What is there already under the same settings is not measured
    again.

    Args:
        study: the study.
        jobs: all of its jobs.
        out: its folder.
        arms: which.
        sizes: (width, height) of the frames in pixels.
        batch: frames of the larger batch, measured beside single ones.
        calls: timed ones at each batch size.
        device, precision: as of ``Predictor``.

    Returns:
        Everything in the file. To what ``measure_cost`` returns are added ``settings``, with the id of the
        job that the ``weights`` are of or None, ``cores``, ``load``, the machine's load average before, and
        ``time``.

    Raises:
        ValueError, RuntimeError: from ``Predictor``, for a device or precision that cannot be used.
        OSError: from the file system.
    """
    costs = read_costs(out)
    work = [(size, arm) for size in sizes for arm in arms]
    for (width, height), arm in tqdm(work, unit="network", desc="cost"):
        own = [job for job in jobs if job.arm == arm and job.fraction == study.preregistration.fraction]
        trained = next((job for job in own if _weights(out, job) is not None), None)
        config = own[0].config
        settings = {
            "batches": sorted({1, batch}),
            "calls": calls,
            "device": device,
            "precision": precision,
            "threads": torch.get_num_threads(),
            "weights": None if trained is None else trained.id,
            "spec": config.model.to_dict(),
        }
        entry = costs.get(arm, {}).get(f"{width}x{height}", {})
        if entry.get("settings") == json.loads(json.dumps(settings)):
            continue
        path = None if trained is None else _weights(out, trained)
        checkpoint = load_checkpoint(path) if path is not None else _untrained(config.model)
        predictor = Predictor(
            checkpoint, device=device, precision=precision, input_size=(_padded(height), _padded(width))
        )
        load = os.getloadavg()[0]
        frame = render_frame(0, width, height, "test").image
        measured = measure_cost(checkpoint, predictor, frame, batch, calls)
        costs.setdefault(arm, {})[f"{width}x{height}"] = {
            **measured,
            "settings": settings,
            "cores": os.cpu_count(),
            "load": load,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        content = {"study": study.name, "arms": costs}
        write_atomically(out / FILE, json.dumps(content, indent=1) + "\n")
    return costs


def _padded(pixels: int) -> int:
    return -(-pixels // 32) * 32


def _weights(out: Path, job: Job) -> Path | None:
    """The weights of a job that is finished and kept them."""
    folder = job_folder(out, job)
    path = folder.path / "model.safetensors"
    return path if folder.result.is_file() and path.is_file() else None


def _untrained(spec: ModelSpec) -> Checkpoint:
    labels = load_task_labels(spec)
    return Checkpoint(
        spec=spec,
        labels=labels,
        # The size is given with each measurement.
        preprocessing=Preprocessing(32, 32),
        state_dict=MultiTaskNetwork(spec, labels).state_dict(),
    )


def format_costs(costs: Costs) -> str:
    """A table: for each arm and frame size parameters, operations, latencies and memory."""
    width = max((len(arm) for arm in costs), default=3)
    lines = [
        f"{'arm':<{width}} {'frame':>10} {'M param.':>9} {'GFLOP':>8} {'batch':>6} {'median ms':>10} "
        f"{'p95 ms':>8} {'peak MiB':>9}"
    ]
    for arm, sizes in costs.items():
        for size, cost in sizes.items():
            for latency, memory in zip(cost["latency"], cost["memory"], strict=True):
                lines.append(
                    f"{arm:<{width}} {size:>10} {cost['parameters']['total'] / 1e6:>9.2f} "
                    f"{cost['flops']['total'] / 1e9:>8.2f} {latency['batch']:>6} "
                    f"{latency['median_ms']:>10.1f} {latency['p95_ms']:>8.1f} "
                    f"{memory['peak_bytes'] / 2**20:>9.0f}"
                )
    return "\n".join(lines)
