"""Scores of many bootstrap replicates at once, from the records of an evaluation and weights of its images.

A replicate is a weight per image, the number of times it was drawn: ``weights`` are (replicates, images).
Scores are 0..1 and NaN where there is nothing to score. ``evaluation.records`` has the same scores for one
weighting and in more detail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pvt_mtl_perception.evaluation.records import (
    AREAS,
    RECALL_POINTS,
    ClassificationRecords,
    DetectionRecords,
    Records,
    SegmentationRecords,
    boundary_f_of,
)

Array = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]

PooledScore = Callable[[Records, Weights], Array]
"""Score of each replicate, (replicates,), from records and weights."""

_Part = TypeVar("_Part", DetectionRecords, SegmentationRecords)

_AP = {"ap": (0, slice(None)), "ap50": (0, slice(0, 1)), "ap75": (0, slice(5, 6))} | {
    f"ap_{area}": (number, slice(None)) for number, area in enumerate(AREAS) if number
}


def pooled_score(task: str, metric: str) -> PooledScore:
    """The function that computes a score by the name it has in an evaluation's results.

    Args:
        task: "classification", "detection" or "segmentation".
        metric: of detection ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``,
            ``ar100``; of segmentation ``miou``, ``boundary_f``, ``pixel_accuracy``; of classification
            ``GROUP.accuracy``, ``GROUP.balanced_accuracy``, ``GROUP.top5``, where ``*`` for the group is the
            mean over the groups.

    Returns:
        A function of records and weights; it raises ValueError where the records lack the task or group.

    Raises:
        ValueError: when there is no such score.
    """
    if task == "detection" and metric in _AP:
        area, thresholds = _AP[metric]
        return lambda records, weights: _mean_of_present(
            class_average_precision(_present(records.detection, task), weights, area, thresholds)
        )
    if task == "detection" and metric == "ar100":
        return lambda records, weights: _mean_of_present(
            class_average_recall(_present(records.detection, task), weights)
        )
    if task == "segmentation" and metric in ("miou", "boundary_f"):
        of_class = class_iou if metric == "miou" else class_boundary_f
        return lambda records, weights: _mean_of_present(
            of_class(_present(records.segmentation, task), weights)
        )
    if task == "segmentation" and metric == "pixel_accuracy":
        return lambda records, weights: pixel_accuracy(_present(records.segmentation, task), weights)
    group, _, name = metric.rpartition(".")
    if task == "classification" and group and name in _CLASSIFICATION:
        score = _CLASSIFICATION[name]
        return lambda records, weights: _mean_of_present(
            np.stack([score(part, weights) for part in _groups(records, group)], axis=1)
        )
    raise ValueError(
        f"no pooled score {metric!r} of {task!r}; known: detection {', '.join(_AP)}, ar100; segmentation "
        "miou, boundary_f, pixel_accuracy; classification GROUP.accuracy, GROUP.balanced_accuracy, "
        "GROUP.top5 (* for all groups)"
    )


def accuracy(records: ClassificationRecords, weights: Weights, among: int = 1) -> Array:
    """Share of the labelled images of one label group whose class is among the first, (replicates,)."""
    w = weights.astype(np.float64)
    labelled = records.labels >= 0
    return _ratio(w @ (labelled & (records.ranks < among)), w @ labelled)


def balanced_accuracy(records: ClassificationRecords, weights: Weights) -> Array:
    """Mean recall of the classes that occur in the labels of a replicate, (replicates,)."""
    w = weights.astype(np.float64)
    of_class = records.labels[:, None] == np.arange(len(records.classes))
    hits = w @ (of_class & (records.predictions == records.labels)[:, None])
    return _mean_of_present(_ratio(hits, w @ of_class))


_CLASSIFICATION: Mapping[str, Callable[[ClassificationRecords, Weights], Array]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "top5": partial(accuracy, among=5),
}


def class_iou(records: SegmentationRecords, weights: Weights) -> Array:
    """Intersection over union of each class over the pooled pixels, (replicates, classes)."""
    pooled = _pooled_confusion(records, weights)
    hits = np.diagonal(pooled, axis1=1, axis2=2)
    labelled = pooled.sum(axis=2)
    union = labelled + pooled[:, :, :-1].sum(axis=1) - hits
    return np.where(labelled > 0, _ratio(hits, union), np.nan)


def pixel_accuracy(records: SegmentationRecords, weights: Weights) -> Array:
    """Share of the pooled labelled pixels that are right, (replicates,)."""
    pooled = _pooled_confusion(records, weights)
    return _ratio(np.trace(pooled, axis1=1, axis2=2), pooled.sum(axis=(1, 2)))


def class_boundary_f(records: SegmentationRecords, weights: Weights) -> Array:
    """F measure of each class's pooled boundary pixels, (replicates, classes)."""
    counts = np.tensordot(weights.astype(np.float64), records.boundary, 1)
    return np.stack([boundary_f_of(one) for one in counts])


def class_average_recall(records: DetectionRecords, weights: Weights) -> Array:
    """COCO's average recall of each class at 100 detections an image, (replicates, classes).

    NaN for a class without boxes to be found.
    """
    positives = records.positives[:, :, 0].astype(np.int64)
    found = (records.matched[0] & ~records.ignored[0]).sum(axis=0)
    by_image = sparse.csr_array((found, (records.images, records.labels)), shape=positives.shape)
    hits = np.asarray(weights @ by_image, np.float64) / len(records.matched[0])
    return _ratio(hits, np.asarray(weights @ positives, np.float64))


def class_average_precision(
    records: DetectionRecords, weights: Weights, area: int = 0, thresholds: slice = slice(None)
) -> Array:
    """COCO's average precision of each class (Lin 2014), the mean over IoU thresholds and recall points.

    It equals pycocotools' on a data set in which each image stands as often as its weight says.

    Args:
        records: of detection.
        weights: (replicates, images).
        area: index in ``AREAS``.
        thresholds: which of ``IOU_THRESHOLDS``.

    Returns:
        (replicates, classes), NaN for a class without boxes to be found.
    """
    wanted = weights @ records.positives[:, :, area].astype(np.int64)
    # A range of areas leaves out most detections at every threshold.
    order = np.flatnonzero(~records.ignored[area, thresholds].all(axis=0))
    # Stable: of equal scores the earlier image comes first, as in pycocotools.
    order = order[np.lexsort((-records.scores[order], records.labels[order]))]
    ends = np.searchsorted(records.labels[order], np.arange(wanted.shape[1] + 1)).tolist()
    ap = np.full(wanted.shape, np.nan)
    for label, (start, end) in enumerate(itertools.pairwise(ends)):
        rows = order[start:end]
        present = wanted[:, label] > 0
        ap[present, label] = _average_precision(
            np.take(weights[present], records.images[rows], axis=1),
            records.matched[area, thresholds][:, rows],
            records.ignored[area, thresholds][:, rows],
            wanted[present, label],
        )
    return ap


def _average_precision(
    weights: Weights, matched: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_], wanted: Weights
) -> Array:
    """AP of one class for every replicate, (replicates,).

    Args:
        weights: (replicates, detections), by falling score.
        matched: (thresholds, detections).
        ignored: (thresholds, detections).
        wanted: (replicates,) boxes to be found, above 0.
    """
    found = weights.cumsum(axis=1)
    # Recall points reached, by true positives: (replicates, most wanted + 1).
    recall = np.arange(wanted.max(initial=0) + 1) / wanted[:, None]
    reached_by = np.searchsorted(RECALL_POINTS, recall, side="right").astype(np.float64)
    total = np.zeros(len(weights))
    for hits, passed_over in zip(matched & ~ignored, ignored, strict=True):
        # Precision peaks at true positives, a small part of all detections: nothing else is looked at.
        columns, beside = np.flatnonzero(hits), np.flatnonzero(passed_over)
        passed = np.zeros((len(weights), len(beside) + 1), np.int64)
        np.cumsum(weights[:, beside], axis=1, out=passed[:, 1:])
        counted = found[:, columns] - passed[:, np.searchsorted(beside, columns)]
        true = weights[:, columns].cumsum(axis=1)
        # Before the first drawn detection both are 0, and precision is 0 there.
        precision = true / np.maximum(counted, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.take_along_axis(reached_by, true, axis=1)
        total += np.einsum("rd,rd->r", envelope, reached)
        total -= np.einsum("rd,rd->r", envelope[:, 1:], reached[:, :-1])
    return total / (len(matched) * len(RECALL_POINTS))


def _pooled_confusion(records: SegmentationRecords, weights: Weights) -> Array:
    """(replicates, classes, classes + 1)."""
    classes = len(records.classes)
    pooled = np.asarray(weights @ records.confusions(), np.float64)
    return pooled.reshape(len(weights), classes, classes + 1)


def _present(part: _Part | None, task: str) -> _Part:
    if part is None:
        raise ValueError(f"the records have no {task}")
    return part


def _groups(records: Records, group: str) -> list[ClassificationRecords]:
    found = [part for name, part in records.classification.items() if group in ("*", name)]
    if not found:
        raise ValueError(
            f"the records have no label group {group!r}; they have {sorted(records.classification)}"
        )
    return found


def _ratio(part: Array, whole: Array) -> Array:
    ratio = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean_of_present(scores: Array) -> Array:
    present = ~np.isnan(scores)
    return _ratio(np.where(present, scores, 0).sum(axis=1), present.sum(axis=1).astype(np.float64))
