"""Finished jobs of a study without training: simulated answers, scored by the package's own metrics."""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.evaluator import Metrics
from pvt_mtl_perception.evaluation.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from pvt_mtl_perception.evaluation.records import save_records
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.model.network import MultiTaskNetwork, count_parameters
from pvt_mtl_perception.model.spec import load_task_labels, spec_from_dict
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation
from pvt_mtl_perception.study.jobs import Job, job_folder, prepare

WIDTH, HEIGHT = 320, 192

Skill = Callable[[Job, str], float]
"""How well a job does a task, 0..1."""

REPOSITORY = Path(__file__).resolve().parents[1]
TASKS = ("classification", "detection", "segmentation")
BASE_SKILL = {"classification": 0.6, "detection": 0.5, "segmentation": 0.5}
SINGLES = {"top-1": "stl_cla", "AP": "stl_det", "mIoU": "stl_seg"}
"""The single-task arm of each endpoint."""

GAINS: dict[str, dict[str, float]] = {
    "mtl": {"classification": 0.0, "detection": -0.1, "segmentation": 0.12},
    "hydranet": {"classification": -0.1, "detection": 0.1, "segmentation": 0.0},
    "det_seg": {"detection": 0.05, "segmentation": 0.1},
}


def simulated_study(**changes: Any) -> dict[str, Any]:
    """Single-task arms, their combinations, and a 2x2 of backbone and neck, at two data fractions."""
    training = REPOSITORY / "config" / "training"

    def without(*tasks: str) -> dict[str, Any]:
        return {"training": {"model": dict.fromkeys(tasks)}}

    singles = {task: f"stl_{task[:3]}" for task in TASKS}
    endpoints = {"classification": "*.accuracy", "detection": "ap", "segmentation": "miou"}
    names = {"classification": "top-1", "detection": "AP", "segmentation": "mIoU"}
    values: dict[str, Any] = {
        "name": "simulated",
        "question": "Does it pay?",
        "training": {
            "extends": [str(training / "synthetic_mtl.yaml")],
            "evaluate": [{"kind": "synthetic", "split": "test", "frames": 20}],
            "phases": [{"steps": 20, "width": 64, "height": 64, "batch_size": 2}],
        },
        "arms": {
            **{singles[task]: without(*(t for t in TASKS if t != task)) for task in TASKS},
            "mtl": {"description": "all tasks | weights 1"},
            "cls_det": without("segmentation"),
            "det_seg": without("classification"),
            "hydranet": {"training": {"extends": [str(training / "parts" / "hydranet.yaml")]}},
            "pvt_bifpn": {"training": {"model": {"neck": {"type": "bifpn"}}}},
            "regnet_fpn": {"training": {"model": {"backbone": {"name": "regnety_004"}}}},
        },
        "fractions": [0.5, 1.0],
        "seeds": [3, 4, 5],
        "preregistration": {
            "endpoints": [
                {
                    "name": names[task],
                    "task": task,
                    "source": "synthetic/test",
                    "metric": endpoints[task],
                    "margin": 0.01,
                }
                for task in TASKS
            ],
            "comparisons": [
                {"name": "one against three", "arm": "mtl", "against": singles},
                {
                    "name": "beside HydraNet-style",
                    "arm": "mtl",
                    "against": dict.fromkeys(TASKS, "hydranet"),
                    "primary": False,
                },
            ],
        },
    }
    return values | changes


def skill_of(job: Job, task: str) -> float:
    """Skills that differ between arms, rise with the seed, and fall with the data."""
    gain = GAINS.get(str(job.arm), {}).get(task, 0.0)
    return BASE_SKILL[task] + gain + 0.01 * job.seed - 0.2 * (job.fraction < 1)


def labelled_images(
    sets: TaskLabels, images: int, seed: int = 0, names: Sequence[str] | None = None
) -> list[Sample]:
    """Images of stripes with a few boxes in them, labelled for everything that there are classes for."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(images):
        start = rng.uniform(0, (220, 110), (rng.integers(2, 8), 2))
        boxes = np.hstack([start, start + rng.uniform(8, (120, 90), start.shape)]).astype(np.float32)
        mask = np.repeat(rng.integers(0, 8, HEIGHT // 16), 16)[:, None].repeat(WIDTH, 1).astype(np.uint8)
        samples.append(
            Sample(
                image=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                boxes=boxes,
                box_labels=rng.integers(0, 4, len(boxes)),
                box_classes=tuple(range(len(sets.detection or ()))),
                mask=mask,
                classes={group: int(rng.integers(0, len(s))) for group, s in sets.classification.items()},
                name=names[number] if names else f"frame {number}",
            )
        )
    return samples


def answer(
    sample: Sample, sets: TaskLabels, skill: Callable[[str], float], rng: np.random.Generator
) -> Result:
    """What a model of such skill says of an image."""
    found = masked = classified = None
    if sets.detection is not None:
        able = skill("detection")
        seen = rng.random(len(sample.boxes)) < able
        boxes = sample.boxes[seen] + rng.normal(0, 10 * (1 - able), (seen.sum(), 4)).astype(np.float32)
        false = rng.uniform(0, (200, 100), (rng.integers(0, 4), 2)).astype(np.float32)
        boxes = np.concatenate([boxes, np.hstack([false, false + 40])]).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.concatenate([sample.box_labels[seen], rng.integers(0, 4, len(false))])
        scores = np.concatenate([rng.uniform(0.4, 1, seen.sum()), rng.uniform(0.3, 0.6, len(false))])
        order = np.argsort(-scores, kind="stable")
        found = Detections(boxes[order], scores[order].astype(np.float32), labels[order].astype(np.int64))
    if sets.segmentation is not None:
        wrong = rng.random((HEIGHT // 16, WIDTH // 16)) > skill("segmentation")
        guess = rng.integers(0, 8, wrong.shape).astype(np.uint8)
        large = np.ones((16, 16), np.uint8)
        mask = np.where(np.kron(wrong, large), np.kron(guess, large), sample.mask).astype(np.uint8)
        masked = Segmentation(mask)
    if sets.classification:
        by_group = {}
        for group, label_set in sets.classification.items():
            odds = rng.random(len(label_set))
            if rng.random() < skill("classification"):
                odds[sample.classes[group]] = 2
            by_group[group] = (odds / odds.sum()).astype(np.float32)
        classified = Classification(by_group)
    return Result(HEIGHT, WIDTH, found, masked, classified)


@functools.cache
def _parameters(spec: str) -> dict[str, int]:
    return count_parameters(MultiTaskNetwork(spec_from_dict(json.loads(spec))))


def finish(
    out: Path, job: Job, samples: Sequence[Sample], skill: Skill, records: bool = True
) -> dict[str, Any]:
    """Writes a job's result, and its records, as the job itself would; returns its scores."""
    spec = job.config.model
    sets = load_task_labels(spec)
    metrics = Metrics(
        [sample.name for sample in samples],
        DetectionMetric(sets.detection) if sets.detection else None,
        SegmentationMetric(sets.segmentation) if sets.segmentation else None,
        ClassificationMetric(sets.classification) if sets.classification else None,
    )
    rng = np.random.default_rng(zlib.crc32(job.id.encode()))
    for sample in samples:
        result = answer(sample, sets, lambda task: skill(job, task), rng)
        for metric in metrics.by_task.values():
            metric.update(result, sample)
    folder = job_folder(out, job)
    prepare(folder, job)
    source = f"{job.config.evaluate[0].kind}/{job.config.evaluate[0].split}"
    scores = {source: metrics.scores()}
    if records:
        folder.records(source).parent.mkdir(exist_ok=True)
        save_records(folder.records(source), metrics.records({"source": source}))
    content = {
        **{"id": job.id, "arm": job.arm, "fraction": job.fraction, "seed": job.seed},
        "scores": scores,
        "parameters": _parameters(json.dumps(spec.to_dict())),
        "training": {
            "steps": job.config.total_steps,
            "seconds": 100.0 + 50 * len(spec.tasks) + job.seed,
            "device": "x86_64",
            "threads": 2,
            "peak_memory_bytes": (900 + 100 * len(spec.tasks)) * 2**20,
            "peak_device_memory_bytes": None,
        },
        "evaluation_seconds": 5.0,
        "finished": f"2026-01-01T00:{job.seed:02d}:00+00:00",
        "commit": "0123abc",
        "versions": {"python": "3.12", "torch": "2.15", "timm": "1.0"},
        "config": json.loads(json.dumps(dataclasses.asdict(job.config))),
    }
    folder.result.write_text(json.dumps(content))
    return scores
