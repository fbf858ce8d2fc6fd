"""``python -m pvt_mtl_perception.study.worker FOLDER`` does one job: trains, scores, writes the result."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvt_mtl_perception.inference.process import end_with_parent, prepare_process
from pvt_mtl_perception.study.folder import NMS_THRESHOLD, JobFolder, write_atomically

if TYPE_CHECKING:
    from pvt_mtl_perception.data.sources import SourceConfig

CLAIMED_ELSEWHERE = 75
"""Exit status (EX_TEMPFAIL): another process has the job."""

STOPPED = 143
"""Exit status, 128 + SIGTERM: the training was asked to stop and can be resumed."""


def _sessions(folder: JobFolder) -> list[dict[str, Any]]:
    if not folder.sessions.is_file():
        return []
    rows = []
    for line in folder.sessions.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _append(folder: JobFolder, row: Mapping[str, Any]) -> None:
    with folder.sessions.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _close_killed_session(folder: JobFolder, state: Path) -> None:
    """What a killed process did until its last saved state counts; the rest is done again."""
    rows = _sessions(folder)
    if rows and "stop" not in rows[-1]:
        start = rows[-1]["start"]
        saved = state.stat().st_mtime if state.is_file() else start
        _append(folder, {"stop": max(start, saved), "killed": True})


def _training_time(folder: JobFolder) -> tuple[float, int]:
    """Seconds in all sessions that are closed, and how many there are."""
    rows = _sessions(folder)
    lengths = [
        end["stop"] - begin["start"] for begin, end in pairwise(rows) if "start" in begin and "stop" in end
    ]
    return float(sum(lengths)), len(lengths)


def _measuring_time(path: Path) -> float:
    """Seconds that the relations of the tasks were measured in; rows that a kill cost are not there, as their
    time is not in the sessions.
    """
    from pvt_mtl_perception.training.affinity import read_relations

    return float(sum(row["seconds"] for row in read_relations(path))) if path.is_file() else 0.0


def _commit() -> str | None:
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def _score(
    folder: JobFolder, checkpoint: Path, sources: Sequence[SourceConfig], device: str
) -> dict[str, Any]:
    """By source what it scores; the records of its images go into the folder."""
    from pvt_mtl_perception.data.sources import named_sources
    from pvt_mtl_perception.evaluation.records import save_records
    from pvt_mtl_perception.evaluation.run import evaluate_source
    from pvt_mtl_perception.inference.predictor import Predictor

    predictor = Predictor(checkpoint, device=device, nms_threshold=NMS_THRESHOLD)
    scores = {}
    for name, source in named_sources(sources).items():
        evaluated = evaluate_source(predictor, source)
        if evaluated is None:
            print(f"{name}: no folder {source.root}; not scored")
            continue
        records = dataclasses.replace(evaluated.clean.records, description={"source": name})
        scores[name] = evaluated.clean.scores
        path = folder.records(name)
        path.parent.mkdir(exist_ok=True)
        save_records(path, records)
    return scores


def do_job(folder: JobFolder, device: str) -> int:
    """Trains from where an earlier process stopped, scores the averaged weights, writes ``result.json``.

    Args:
        folder: prepared, and claimed by this process.
        device: of training and evaluation.

    Returns:
        0, or ``STOPPED`` after SIGTERM.

    Raises:
        KeyboardInterrupt: after SIGINT.
        Exception: whatever goes wrong in training or evaluation.
    """
    import cv2
    import timm
    import torch

    from pvt_mtl_perception.model.network import count_parameters
    from pvt_mtl_perception.training.config import load_config
    from pvt_mtl_perception.training.distributed import join_processes
    from pvt_mtl_perception.training.trainer import Trainer

    job = json.loads((folder.path / "job.json").read_text())
    config = load_config(folder.config)
    provenance = {"command": f"pvt-mtl study run, job {job['id']}", "commit": _commit()}
    with join_processes(device) as processes:
        trainer = Trainer(config, folder.path, processes, provenance)
        _close_killed_session(folder, trainer.state_path)
        _append(folder, {"start": time.time(), "host": socket.gethostname(), "device": str(trainer.device)})
        complete = trainer.run()
        _append(folder, {"stop": time.time(), "step": trainer.state.step})
        if not complete:
            return STOPPED
    started = time.perf_counter()
    scores = _score(folder, trainer.model_path, config.evaluate, str(trainer.device))
    seconds, sessions = _training_time(folder)
    # Measuring changes nothing in the training, and an arm that does it is no more expensive.
    measuring = _measuring_time(trainer.affinity_path)
    cuda = trainer.device.type == "cuda"
    result = {
        **job,
        "scores": scores,
        "parameters": count_parameters(trainer.network),
        "training": {
            "steps": config.total_steps,
            "images": sum(phase.steps * phase.batch_size for phase in config.phases),
            "seconds": seconds - measuring,
            "measuring_seconds": measuring,
            "sessions": sessions,
            "device": torch.cuda.get_device_name(trainer.device) if cuda else platform.machine(),
            "threads": torch.get_num_threads(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_memory_bytes": torch.cuda.max_memory_allocated(trainer.device) if cuda else None,
        },
        "evaluation_seconds": time.perf_counter() - started,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": provenance["commit"],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            # Rendered scenes differ with it.
            "opencv": cv2.__version__,
        },
        "config": dataclasses.asdict(config),
    }
    write_atomically(folder.result, json.dumps(result, indent=1) + "\n")
    # As large as four checkpoints, and nothing goes on from it any more.
    trainer.state_path.unlink(missing_ok=True)
    return 0


def main() -> int:
    """The exit status: of ``do_job``, or ``CLAIMED_ELSEWHERE``."""
    parser = argparse.ArgumentParser(prog="python -m pvt_mtl_perception.study.worker", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the job")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--parent", type=int, help="end when the process with this id does")
    args = parser.parse_args()
    if args.parent is not None:
        end_with_parent(args.parent)
    prepare_process()
    folder = JobFolder(args.folder)
    with folder.claim() as mine:
        if not mine:
            return CLAIMED_ELSEWHERE
        if folder.result.is_file():
            return 0
        folder.failure.unlink(missing_ok=True)
        return do_job(folder, args.device)


if __name__ == "__main__":
    sys.exit(main())
