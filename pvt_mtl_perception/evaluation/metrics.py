"""Scores of each task, accumulated frame by frame: COCO AP, IoU and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.detection import MeanAveragePrecision

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import LabelSet
from pvt_mtl_perception.result import Result


class DetectionMetric:
    """COCO average precision (Lin 2014; 101 recall points, IoU 0.50:0.05:0.95, 100 detections an image).

    Ignore boxes are crowd regions of every class: a detection that lies in one counts neither way. In each
    image only the classes that its source labels count; detections of others are dropped there.

    Args:
        labels: the detection label set of results and samples.
    """

    def __init__(self, labels: LabelSet) -> None:
        self._labels = labels
        # The precision of every threshold and class comes with the extended summary; class_metrics would
        # run the evaluation again for each class and give no AP50.
        # torchmetrics' own thresholds are rounded to float32: recalls of exactly k/100 then fall on the wrong
        # side, and AP differs from pycocotools' in the fourth digit.
        self._metric = MeanAveragePrecision(
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
            extended_summary=True,
            backend="faster_coco_eval",
        )
        self._metric.warn_on_many_detections = False
        self._ground_truth = np.zeros(len(labels), np.int64)
        self.images = 0

    def update(self, result: Result, sample: Sample) -> None:
        """Counts one frame; a frame without boxes labelled is passed over.

        Raises:
            ValueError: when the result has no detections though the sample has boxes, naming the sample.
        """
        if sample.boxes is None or sample.box_labels is None or sample.box_classes is None:
            return
        if result.detections is None:
            raise ValueError(f"{sample.name}: the result has no detections to compare with its boxes")
        detections = result.detections
        labelled = np.isin(detections.labels, sample.box_classes)
        classes = np.array(sample.box_classes, np.int64)
        crowds = len(sample.ignore_boxes) * len(classes)
        self._metric.update(
            [
                {
                    "boxes": torch.from_numpy(detections.boxes[labelled]),
                    "scores": torch.from_numpy(detections.scores[labelled]),
                    "labels": torch.from_numpy(detections.labels[labelled]),
                }
            ],
            [
                {
                    "boxes": torch.from_numpy(
                        np.concatenate([sample.boxes, np.tile(sample.ignore_boxes, (len(classes), 1))])
                    ),
                    "labels": torch.from_numpy(
                        np.concatenate([sample.box_labels, np.repeat(classes, len(sample.ignore_boxes))])
                    ),
                    "iscrowd": torch.cat(
                        [
                            torch.zeros(len(sample.boxes), dtype=torch.int64),
                            torch.ones(crowds, dtype=torch.int64),
                        ]
                    ),
                }
            ],
        )
        self._ground_truth += np.bincount(sample.box_labels, minlength=len(self._labels))
        self.images += 1

    def compute(self) -> dict[str, Any]:
        """The scores so far, 0..1; None where there is nothing to score.

        Returns:
            ``ap`` (mean over IoU 0.50..0.95 and classes), ``ap50``, ``ap75``, ``ap_small`` (area below 32²
            source pixels), ``ap_medium``, ``ap_large`` (from 96²), ``ar100``, and ``per_class``: for each
            class with ground truth its ``ap``, ``ap50`` and number of ``boxes``.
        """
        scores: dict[str, Any] = dict.fromkeys(_DETECTION_SCORES) | {"per_class": {}}
        if not self._ground_truth.any():
            return scores
        summary = self._metric.compute()
        scores |= {ours: _score(float(summary[theirs])) for ours, theirs in _DETECTION_SCORES.items()}
        # (IoU thresholds, recall points, classes, areas, detections an image); all areas and 100 detections.
        precision = summary["precision"][:, :, :, 0, -1].numpy()
        for column, class_id in enumerate(summary["classes"].reshape(-1).tolist()):
            if self._ground_truth[class_id]:
                scores["per_class"][self._labels.names[class_id]] = {
                    "ap": float(precision[:, :, column].mean()),
                    "ap50": float(precision[0, :, column].mean()),
                    "boxes": int(self._ground_truth[class_id]),
                }
        return scores


_DETECTION_SCORES = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
    "ar100": "mar_100",
}


def _score(value: float) -> float | None:
    # pycocotools marks what it cannot score with -1.
    return None if value < 0 else value


class SegmentationMetric:
    """Intersection over union from one confusion matrix over all pixels (Everingham 2010).

    Args:
        labels: the segmentation label set of results and samples.
        target: another label set to score in; masks of both sides pass through its mapping from ``labels``.
            Pixels whose label it ignores do not count; a prediction that it ignores is a miss of the pixel's
            class and a false alarm of none.

    Raises:
        KeyError: when ``target`` has no mapping from ``labels``.
    """

    def __init__(self, labels: LabelSet, target: LabelSet | None = None) -> None:
        self._target = target or labels
        lookup = self._target.lookup_from(labels)
        count = len(self._target)
        self._known = len(labels)
        self._ignore_index = labels.ignore_index
        # The last row and column of the matrix take what is ignored.
        self._column = np.where(lookup == self._target.ignore_index, count, lookup).astype(np.uint32)
        self._row = self._column * np.uint32(count + 1)
        self._counts = np.zeros((count + 1, count + 1), np.int64)
        self.images = 0

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Pixels by label (row) and prediction (column), (classes, classes + 1); ignored ones come last."""
        return self._counts[:-1]

    def update(self, result: Result, sample: Sample) -> None:
        """Counts one frame; a frame without a mask is passed over.

        Raises:
            ValueError: when the result has no mask, or one of another size, though the sample has one, or a
                label is outside the label set; names the sample.
        """
        if sample.mask is None:
            return
        if result.segmentation is None:
            raise ValueError(f"{sample.name}: the result has no mask to compare with the labelled one")
        predicted = result.segmentation.mask
        if predicted.shape != sample.mask.shape:
            raise ValueError(
                f"{sample.name}: predicted mask is {predicted.shape}, label is {sample.mask.shape}"
            )
        present = np.flatnonzero(np.bincount(sample.mask.ravel(), minlength=256))
        strange = present[(present >= self._known) & (present != self._ignore_index)]
        if len(strange):
            raise ValueError(f"{sample.name}: mask holds class id {strange[0]} of a set of {self._known}")
        cells = self._row[sample.mask] + self._column[predicted]
        self._counts += np.bincount(cells.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        self.images += 1

    def compute(self) -> dict[str, Any]:
        """The scores so far, 0..1; None where no pixel is labelled.

        Returns:
            ``miou`` (mean over the classes that occur in the labels), ``pixel_accuracy``, and ``per_class``:
            the IoU of each of those classes.
        """
        confusion = self.confusion
        hits = np.diagonal(confusion).astype(np.float64)
        labelled, predicted = confusion.sum(1), confusion[:, :-1].sum(0)
        present = labelled > 0
        if not present.any():
            return {"miou": None, "pixel_accuracy": None, "per_class": {}}
        iou = hits[present] / (labelled + predicted - hits)[present]
        names = [name for name, there in zip(self._target.names, present, strict=True) if there]
        return {
            "miou": float(iou.mean()),
            "pixel_accuracy": float(hits.sum() / labelled.sum()),
            "per_class": dict(zip(names, iou.tolist(), strict=True)),
        }


class ClassificationMetric:
    """Accuracy of each label group.

    Args:
        groups: the label set of each group.
    """

    def __init__(self, groups: Mapping[str, LabelSet]) -> None:
        self._groups = dict(groups)
        self._confusion = {group: np.zeros((len(s), len(s)), np.int64) for group, s in self._groups.items()}
        self._top5 = dict.fromkeys(self._groups, 0)
        self.images = 0

    def update(self, result: Result, sample: Sample) -> None:
        """Counts one frame; groups that the sample does not label are passed over.

        Raises:
            ValueError: when the result lacks a labelled group, or a class id is outside its label set; names
                the sample.
        """
        labelled = {
            group: class_id
            for group, class_id in (sample.classes or {}).items()
            if group in self._groups and class_id >= 0
        }
        for group, class_id in labelled.items():
            count = len(self._groups[group])
            if class_id >= count:
                raise ValueError(
                    f"{sample.name}: class {class_id} of group {group!r} is outside 0..{count - 1}"
                )
            if result.classification is None or group not in result.classification.probabilities:
                raise ValueError(f"{sample.name}: the result has no {group!r} to compare with its label")
            probabilities = result.classification.probabilities[group]
            # Ties go to the lower id, as argmax does.
            order = np.argsort(-probabilities, kind="stable")
            self._confusion[group][class_id, order[0]] += 1
            self._top5[group] += int(class_id in order[:5])
        self.images += bool(labelled)

    def compute(self) -> dict[str, Any]:
        """For each group with labels so far:

        Returns:
            ``accuracy`` (top-1), ``top5`` where the group has more than five classes, ``balanced_accuracy``
            (mean recall of the classes that occur), ``confusion`` (rows are labels, columns predictions, in
            the order of ids), ``per_class`` recall by name, and ``images``; scores are 0..1.
        """
        scores = {}
        for group, confusion in self._confusion.items():
            labelled = confusion.sum(1)
            if not labelled.any():
                continue
            present = np.flatnonzero(labelled)
            recall = np.diagonal(confusion)[present] / labelled[present]
            names = self._groups[group].names
            images = int(labelled.sum())
            scores[group] = {
                "accuracy": float(np.trace(confusion) / images),
                **({"top5": self._top5[group] / images} if len(names) > 5 else {}),
                "balanced_accuracy": float(recall.mean()),
                "per_class": {names[i]: float(r) for i, r in zip(present, recall, strict=True)},
                "confusion": confusion.tolist(),
                "images": images,
            }
        return scores
