"""Two evaluations of the same images: by how much their scores differ, and how much of that is the images."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pvt_mtl_perception.evaluation.records import (
    ClassificationRecords,
    DetectionRecords,
    Records,
    SegmentationRecords,
)
from pvt_mtl_perception.evaluation.report import DETECTION_SCORES, classification_scores
from pvt_mtl_perception.study.report.images import VIDEO_BLOCKS, clips_of
from pvt_mtl_perception.study.statistics.bootstrap import (
    NestedBootstrap,
    Resampling,
    nested_bootstrap,
    resample_scores,
)
from pvt_mtl_perception.study.statistics.pooled import (
    Array,
    PooledScore,
    Weights,
    class_average_precision,
    class_iou,
    pooled_score,
)

_SEGMENTATION = ("miou", "boundary_f", "pixel_accuracy")
_NAMED = 3
"""Images or classes that an error names at most."""

_Part = ClassificationRecords | DetectionRecords | SegmentationRecords


@dataclass(frozen=True)
class _Measure:
    """One score or one of each class: ``score`` gives (replicates,) or (replicates, metrics)."""

    task: str
    metrics: Sequence[str]
    images: int
    score: PooledScore


@dataclass(frozen=True, eq=False)
class Difference:
    """A score of two models on the same images.

    Attributes:
        task: "classification", "detection" or "segmentation".
        metric: as of ``pooled_score``; of one class ``per_class.CLASS.ap`` and ``per_class.CLASS.iou``.
        images: labelled for it.
        first, second: the scores on all images, 0..1.
        bootstrap: of second minus first over the images; its interval is at 95 %.
    """

    task: str
    metric: str
    images: int
    first: float
    second: float
    bootstrap: NestedBootstrap


def resampling_of(
    records: Records, replicates: int, seed: int = 0, block_length: int | None = None
) -> Resampling:
    """How the images of an evaluation are drawn.

    Args:
        records: of the evaluation.
        replicates: bootstrap draws.
        seed: of the draws.
        block_length: consecutive images drawn together; None for what a study does with the kind of source:
            blocks of CamVid's frames, single images of others.

    Raises:
        ValueError: when blocks are to be drawn of CamVid and its frames have other names.
    """
    kind = str(records.description.get("source", "")).split("/")[0]
    block = VIDEO_BLOCKS.get(kind, 1) if block_length is None else block_length
    # Where names do not say where a video ends, all images are one.
    clips = clips_of(records.names) if block > 1 and kind in VIDEO_BLOCKS else None
    return Resampling(clips, block, replicates, seed)


def compare_records(
    first: Records,
    second: Records,
    resampling: Resampling,
    per_class: bool = False,
    progress: bool = False,
) -> list[Difference]:
    """Every score that both have, with the paired bootstrap over images of its difference.

    Args:
        first, second: of two models on the same images.
        resampling: how images are drawn, the same ones for both.
        per_class: AP and IoU of every class, too.
        progress: show a bar with rate and remaining time.

    Returns:
        In the order of an evaluation's tables; empty where no task is scored in both.

    Raises:
        ValueError: when they are of different images, label sets or labels, naming them.
    """
    _same_images(first, second)
    measures = list(_measures(first, second, per_class))
    if not measures:
        return []

    def scores(records: Records, weights: Weights) -> Array:
        return np.concatenate(
            [measure.score(records, weights).reshape(len(weights), -1) for measure in measures], axis=1
        )

    once = np.ones((1, len(first)), np.int64)
    defined = np.flatnonzero(~np.isnan(scores(first, once) + scores(second, once))[0])
    both = resample_scores(
        [first, second], lambda records, weights: scores(records, weights)[:, defined], resampling, progress
    )
    names = [(measure, metric) for measure in measures for metric in measure.metrics]
    differences = []
    for column, number in enumerate(defined):
        measure, metric = names[number]
        # One seed each, so that the images are all that is drawn.
        one, other = (
            dataclasses.replace(
                both, observed=both.observed[[row], column], replicates=both.replicates[:, [row], column]
            )
            for row in (0, 1)
        )
        bootstrap = nested_bootstrap(other, one)
        first_score, second_score = both.observed[:, column].tolist()
        differences.append(
            Difference(measure.task, metric, measure.images, first_score, second_score, bootstrap)
        )
    return differences


def _measures(first: Records, second: Records, per_class: bool) -> Iterator[_Measure]:
    """What both can be scored by; refuses tasks whose labels are not the same."""
    for task, one, other, metrics, of_a_class, class_scores in (
        ("detection", first.detection, second.detection, DETECTION_SCORES, "ap", _class_ap),
        ("segmentation", first.segmentation, second.segmentation, _SEGMENTATION, "iou", _class_iou),
    ):
        if one is None or other is None:
            continue
        _same_labels(task, one, other)
        images = int(one.labelled.sum())
        for metric in metrics:
            yield _Measure(task, [metric], images, pooled_score(task, metric))
        if per_class:
            names = [f"per_class.{name}.{of_a_class}" for name in one.classes]
            yield _Measure(task, names, images, class_scores)
    for group, part in first.classification.items():
        if group not in second.classification:
            continue
        _same_labels(f"classification of {group}", part, second.classification[group])
        images = int((part.labels >= 0).sum())
        for name in classification_scores(len(part.classes)):
            metric = f"{group}.{name}"
            yield _Measure("classification", [metric], images, pooled_score("classification", metric))


def _class_ap(records: Records, weights: Weights) -> Array:
    assert records.detection is not None
    return class_average_precision(records.detection, weights)


def _class_iou(records: Records, weights: Weights) -> Array:
    assert records.segmentation is not None
    return class_iou(records.segmentation, weights)


def _same_images(first: Records, second: Records) -> None:
    if len(first) < 2:
        raise ValueError("an interval over images needs two or more of them")
    if first.names == second.names:
        return
    lacking = _lacking(first.names, second.names)
    raise ValueError(f"different images: {lacking or 'the same ones in another order'}")


def _same_labels(what: str, first: _Part, second: _Part) -> None:
    if first.classes != second.classes:
        lacking = _lacking(first.classes, second.classes)
        raise ValueError(f"{what}: different label sets: {lacking or 'the same classes in another order'}")
    differ = int((_labels(first) != _labels(second)).any(axis=1).sum())
    if differ:
        raise ValueError(f"{what}: {differ} images have other labels in the second than in the first")


def _lacking(first: Sequence[str], second: Sequence[str]) -> str:
    """What each of two lists has that the other lacks; empty where that is nothing."""
    found = []
    for here, there, one, other in (("first", "second", first, second), ("second", "first", second, first)):
        if missing := list((Counter(one) - Counter(other)).elements()):
            some = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
            found.append(f"{len(missing)} of the {here}'s {len(one)} are not in the {there} ({some})")
    return ", ".join(found)


def _labels(part: _Part) -> npt.NDArray[np.integer[Any]]:
    """(images, ...) what is labelled, which no prediction changes."""
    if isinstance(part, ClassificationRecords):
        return part.labels[:, None]
    if isinstance(part, DetectionRecords):
        return np.column_stack([part.labelled, part.positives.reshape(len(part.labelled), -1)])
    images, classes = len(part.labelled), len(part.classes)
    # A cell is (label, prediction), with one prediction more than there are classes.
    pixels = sparse.csr_array(
        (part.counts, (part.images, part.cells // (classes + 1))), shape=(images, classes)
    )
    return np.column_stack([part.labelled, pixels.toarray()])
