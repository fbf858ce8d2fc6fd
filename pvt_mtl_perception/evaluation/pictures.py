"""Frames with what is labelled beside what is predicted, and which frames of a data set to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.mixture import SampleSource
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.records import Records, boundary_f_of, iou_of
from pvt_mtl_perception.inference.decode import DetectionSettings
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.render import draw_overlay
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation

Image = npt.NDArray[np.uint8]

SCORE_THRESHOLD = DetectionSettings.score_threshold
"""Of the boxes that are drawn, and that count for the choice of frames: that of use."""


def labelled_result(sample: Sample, labels: TaskLabels) -> Result:
    """The labels of a sample in the form of a perfect prediction.

    Args:
        sample: in the ids of ``labels``.
        labels: label sets of the model; a task or group that it lacks is left out.
    """
    height, width = sample.image.shape[:2]
    detections = segmentation = None
    if labels.detection is not None and sample.boxes is not None and sample.box_labels is not None:
        detections = Detections(sample.boxes, np.ones(len(sample.boxes), np.float32), sample.box_labels)
    if labels.segmentation is not None and sample.mask is not None:
        segmentation = Segmentation(sample.mask)
    probabilities = {
        group: np.eye(len(labels.classification[group]), dtype=np.float32)[label]
        for group, label in (sample.classes or {}).items()
        if label >= 0 and group in labels.classification
    }
    return Result(
        height=height,
        width=width,
        classification=Classification(probabilities) if probabilities else None,
        detections=detections,
        segmentation=segmentation,
    )


def label_beside_prediction(sample: Sample, result: Result, labels: TaskLabels) -> Image:
    """Two frames in one: labels on the left, the model's result on the right.

    Args:
        sample: the frame, in the ids of ``labels``.
        result: of the same frame.
        labels: label sets of the model.

    Returns:
        uint8 (H, 2 W, 3) RGB.
    """
    return np.hstack(
        [
            draw_overlay(sample.image, labelled_result(sample, labels), labels),
            draw_overlay(sample.image, result, labels),
        ]
    )


def frame_scores(records: Records) -> npt.NDArray[np.float64]:
    """How well each frame went, to choose frames by: no measure of the model.

    The mean over the tasks that label the frame of: mIoU within the frame, F1 of its boxes at IoU 0.5 and
    ``SCORE_THRESHOLD``, and the share of its classes that are right.

    Returns:
        float64 (N,), 0..1; NaN for a frame without labels.
    """
    tasks = []
    if (masks := records.segmentation) is not None:
        classes = len(masks.classes)
        confusions = masks.confusions()
        scores = np.full(len(records), np.nan)
        for image in np.unique(masks.images):
            dense = confusions[[image]].toarray().reshape(classes, classes + 1)
            scores[image] = np.nanmean(iou_of(dense.astype(np.float64)))
        tasks.append(scores)
    if (boxes := records.detection) is not None:
        counted = (boxes.scores >= SCORE_THRESHOLD) & ~boxes.ignored[0, 0]
        # Right ones stand in the columns of both sides, as labelled and as predicted.
        sides = np.zeros((len(records), 4))
        sides[:, 0] = boxes.positives[:, :, 0].sum(1)
        sides[:, 2] = np.bincount(boxes.images[counted], minlength=len(records))
        right = counted & boxes.matched[0, 0]
        sides[:, 1] = sides[:, 3] = np.bincount(boxes.images[right], minlength=len(records))
        scores = boundary_f_of(sides)
        scores[(sides[:, 0] == 0) & boxes.labelled] = 1.0
        scores[(sides[:, 0] == 0) & (sides[:, 2] > 0)] = 0.0
        tasks.append(scores)
    if groups := list(records.classification.values()):
        right = np.array([np.where(group.labels >= 0, group.ranks == 0, np.nan) for group in groups])
        tasks.append(_mean(right))
    return _mean(np.array(tasks)) if tasks else np.full(len(records), np.nan)


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over the first axis, of what is not NaN; NaN where all is."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(0) / there.sum(0))


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame of a gallery.

    Attributes:
        kind: ``best``, ``worst`` or ``random``.
        name: of the sample.
        score: from ``frame_scores``.
        image: from ``label_beside_prediction``.
    """

    kind: str
    name: str
    score: float
    image: Image


def choose_frames(records: Records, count: int = 3, seed: int = 0) -> dict[str, list[int]]:
    """The numbers of the best, the worst and some random frames, by kind; of the labelled ones.

    Args:
        records: of the data set.
        count: frames of each kind.
        seed: of the random ones.
    """
    scores = frame_scores(records)
    labelled = np.flatnonzero(~np.isnan(scores))
    falling = labelled[np.argsort(-scores[labelled], kind="stable")]
    drawn = np.sort(np.random.default_rng(seed).permutation(labelled)[:count])
    chosen = {"best": falling[:count], "worst": falling[::-1][:count], "random": drawn}
    return {kind: numbers.tolist() for kind, numbers in chosen.items()}


def gallery(
    predictor: Predictor, dataset: SampleSource, records: Records, count: int = 3, seed: int = 0
) -> list[Picture]:
    """The best, the worst and some random frames, predicted anew.

    Args:
        predictor: the model of the records, whose thresholds are as it is used.
        dataset: of the records.
        records: with as many images as the data set.
        count: frames of each kind.
        seed: of the random ones.
    """
    scores = frame_scores(records)
    pictures = []
    for kind, numbers in choose_frames(records, count, seed).items():
        for number in numbers:
            sample = dataset[number]
            (result,) = predictor.predict([sample.image])
            image = label_beside_prediction(sample, result, predictor.labels)
            pictures.append(Picture(kind, sample.name, float(scores[number]), image))
    return pictures
