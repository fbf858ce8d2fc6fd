"""One model on one data set: predict every frame, score every task that both have."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from tqdm import tqdm

from pvt_mtl_perception.data.mixture import SampleSource
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.metrics import (
    MAX_DETECTIONS,
    ClassificationMetric,
    DetectionMetric,
    SegmentationMetric,
)
from pvt_mtl_perception.evaluation.records import Records
from pvt_mtl_perception.inference.batches import batched
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import LabelSet, TaskLabels
from pvt_mtl_perception.result import Result

# AP needs the whole of the precision-recall curve, of which a threshold for use cuts off most.
SCORE_THRESHOLD = 0.01


@dataclass(frozen=True)
class Metrics:
    """The metrics of a model's tasks on one data set.

    Attributes:
        names: of the samples.
        detection, segmentation, classification: None where the model lacks the task.
    """

    names: list[str]
    detection: DetectionMetric | None = None
    segmentation: SegmentationMetric | None = None
    classification: ClassificationMetric | None = None

    @property
    def by_task(self) -> Mapping[str, DetectionMetric | SegmentationMetric | ClassificationMetric]:
        """The metrics that there are."""
        found = {
            "detection": self.detection,
            "segmentation": self.segmentation,
            "classification": self.classification,
        }
        return {task: metric for task, metric in found.items() if metric is not None}

    def scores(self) -> dict[str, Any]:
        """``images``, and what the metric of each task computes that at least one sample labels."""
        scores: dict[str, Any] = {"images": len(self.names)}
        return scores | {task: metric.compute() for task, metric in self.by_task.items() if metric.images}

    def records(self, description: Mapping[str, Any] | None = None) -> Records:
        """What is kept of each sample, for resampling.

        Args:
            description: plain data on where the records come from.
        """
        return Records(
            names=tuple(self.names),
            classification=self.classification.records() if self.classification is not None else {},
            detection=self.detection.records() if self.detection and self.detection.images else None,
            segmentation=(
                self.segmentation.records() if self.segmentation and self.segmentation.images else None
            ),
            description=dict(description or {}),
        )


def _new_metrics(labels: TaskLabels, taxonomy: LabelSet | None) -> Metrics:
    return Metrics(
        names=[],
        detection=DetectionMetric(labels.detection) if labels.detection is not None else None,
        segmentation=(
            SegmentationMetric(labels.segmentation, taxonomy) if labels.segmentation is not None else None
        ),
        classification=ClassificationMetric(labels.classification) if labels.classification else None,
    )


def score_results(
    labels: TaskLabels, frames: Iterable[tuple[Sample, Result]], taxonomy: LabelSet | None = None
) -> Metrics:
    """Counts what is right of results that there are already.

    Args:
        labels: of the model that gave them.
        frames: each with its labels in the model's ids, read once.
        taxonomy: score segmentation in this label set instead, through its mapping table.

    Raises:
        ValueError: when a sample does not fit the label sets or its result lacks a labelled task, naming it.
        KeyError: when ``taxonomy`` has no mapping from the model's segmentation labels.
    """
    metrics = _new_metrics(labels, taxonomy)
    for sample, result in frames:
        metrics.names.append(sample.name)
        for metric in metrics.by_task.values():
            metric.update(result, sample)
    return metrics


def _images(samples: Sequence[Sample]) -> list[npt.NDArray[np.uint8]]:
    return [sample.image for sample in samples]


def predict_samples(
    predictor: Predictor, samples: Iterable[Sample], batch_size: int = 8
) -> Generator[tuple[Sample, Result], None, None]:
    """Each sample with its result at the thresholds of ``measure``; the predictor's own come back at the end.

    Args:
        predictor: the model.
        samples: read once, ``batch_size`` at a time.
        batch_size: frames predicted at once.
    """
    settings = predictor.score_threshold, predictor.max_detections
    predictor.score_threshold, predictor.max_detections = SCORE_THRESHOLD, MAX_DETECTIONS
    try:
        for batch, results in predictor.predict_stream(batched(samples, batch_size), _images):
            yield from zip(batch, results, strict=True)
    finally:
        predictor.score_threshold, predictor.max_detections = settings


def measure(
    predictor: Predictor,
    dataset: SampleSource,
    taxonomy: LabelSet | None = None,
    batch_size: int = 8,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> Metrics:
    """Predicts every sample of a data set, in source pixels, and counts what is right.

    The predictor's score threshold is ``SCORE_THRESHOLD`` and its limit 100 detections while this runs. The
    processes of a group each predict one stretch of the data set, and all of them get the metrics of the
    whole, in its order: the same as of one process.

    Args:
        predictor: its label sets are those of the data set's samples.
        dataset: read once, in order.
        taxonomy: score segmentation in this label set instead, through its mapping table.
        batch_size: frames predicted at once by a process.
        progress: show a bar with rate and remaining time.
        rank, world_size: this process of torch's process group, all of whose processes call this.

    Raises:
        ValueError: when a sample does not fit the model's label sets, naming it.
        KeyError: when ``taxonomy`` has no mapping from the model's segmentation labels.
    """
    metrics = _new_metrics(predictor.labels, taxonomy)
    first, last = (len(dataset) * bound // world_size for bound in (rank, rank + 1))
    samples = (dataset[i] for i in range(first, last))
    with (
        tqdm(total=last - first, unit="image", desc="evaluate", disable=not progress) as bar,
        closing(predict_samples(predictor, samples, batch_size)) as predicted,
    ):
        for sample, result in predicted:
            metrics.names.append(sample.name)
            for metric in metrics.by_task.values():
                metric.update(result, sample)
            bar.update()
    if world_size > 1:
        _gather(metrics, world_size)
    return metrics


def _gather(metrics: Metrics, world_size: int) -> None:
    own = metrics.names, {task: metric.frames for task, metric in metrics.by_task.items()}
    parts: list[Any] = [None] * world_size
    dist.all_gather_object(parts, own)
    metrics.names[:] = [name for names, _ in parts for name in names]
    for task, metric in metrics.by_task.items():
        metric.frames[:] = [frame for _, frames in parts for frame in frames[task]]


def evaluate(
    predictor: Predictor,
    dataset: SampleSource,
    taxonomy: LabelSet | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, Any]:
    """Scores of a model on a data set: what ``Metrics.scores`` returns of ``measure``."""
    return measure(predictor, dataset, taxonomy, batch_size, progress).scores()
