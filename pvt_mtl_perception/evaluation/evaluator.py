"""One model on one data set: predict every frame, score every task that both have."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from pvt_mtl_perception.data.mixture import SampleSource
from pvt_mtl_perception.evaluation.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import LabelSet

# AP needs the whole of the precision-recall curve, of which a threshold for use cuts off most.
SCORE_THRESHOLD = 0.01


def evaluate(
    predictor: Predictor,
    dataset: SampleSource,
    taxonomy: LabelSet | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, Any]:
    """Scores of a model on a data set, in source pixels.

    The predictor's score threshold is ``SCORE_THRESHOLD`` and its limit 100 detections while this runs.

    Args:
        predictor: its label sets are those of the data set's samples.
        dataset: read once, in order.
        taxonomy: score segmentation in this label set instead, through its mapping table.
        batch_size: frames predicted at once.
        progress: show a bar with rate and remaining time.

    Returns:
        ``images``, and for each task that the model has and at least one sample labels what the task's
        metric computes: ``detection``, ``segmentation``, ``classification``.

    Raises:
        ValueError: when a sample does not fit the model's label sets, naming it.
        KeyError: when ``taxonomy`` has no mapping from the model's segmentation labels.
    """
    labels = predictor.labels
    metrics: dict[str, DetectionMetric | SegmentationMetric | ClassificationMetric] = {}
    if labels.detection is not None:
        metrics["detection"] = DetectionMetric(labels.detection)
    if labels.segmentation is not None:
        metrics["segmentation"] = SegmentationMetric(labels.segmentation, taxonomy)
    if labels.classification:
        metrics["classification"] = ClassificationMetric(labels.classification)
    settings = predictor.score_threshold, predictor.max_detections
    predictor.score_threshold, predictor.max_detections = SCORE_THRESHOLD, 100
    try:
        with tqdm(total=len(dataset), unit="image", desc="evaluate", disable=not progress) as bar:
            for start in range(0, len(dataset), batch_size):
                samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
                results = predictor.predict([sample.image for sample in samples])
                for result, sample in zip(results, samples, strict=True):
                    for metric in metrics.values():
                        metric.update(result, sample)
                bar.update(len(samples))
    finally:
        predictor.score_threshold, predictor.max_detections = settings
    scores: dict[str, Any] = {"images": len(dataset)}
    return scores | {task: metric.compute() for task, metric in metrics.items() if metric.images}
