"""Scores of each task, accumulated frame by frame: COCO AP, IoU, boundary F and accuracy."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.boundary import boundary_counts
from pvt_mtl_perception.evaluation.records import (
    AREAS,
    IOU_THRESHOLDS,
    RECALL_POINTS,
    ClassificationRecords,
    DetectionRecords,
    SegmentationRecords,
    boundary_f_of,
    iou_of,
)
from pvt_mtl_perception.evaluation.report import classification_scores
from pvt_mtl_perception.labels import IGNORE_INDEX, LabelSet
from pvt_mtl_perception.result import Result

MAX_DETECTIONS = 100
"""Of an image, that COCO's average precision takes."""


class _Boxes(NamedTuple):
    """One image's detections of the classes that its source labels, and what is labelled.

    Attributes:
        boxes, scores, labels: detections, by falling score.
        true_boxes, true_labels: labelled boxes.
        ignore_boxes: crowd regions of every class.
        classes: the labelled classes.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    true_boxes: npt.NDArray[np.float32]
    true_labels: npt.NDArray[np.int64]
    ignore_boxes: npt.NDArray[np.float32]
    classes: tuple[int, ...]

    def truth(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Boxes, labels and crowd flags (0 or 1) with each ignore box as a crowd of each class."""
        classes = np.array(self.classes, np.int64)
        crowds = len(self.ignore_boxes) * len(classes)
        return (
            np.concatenate([self.true_boxes, np.tile(self.ignore_boxes, (len(classes), 1))]),
            np.concatenate([self.true_labels, np.repeat(classes, len(self.ignore_boxes))]),
            np.repeat(np.array([0, 1], np.int64), [len(self.true_boxes), crowds]),
        )


class DetectionMetric:
    """COCO average precision (Lin 2014; 101 recall points, IoU 0.50:0.05:0.95, 100 detections an image).

    Ignore boxes are crowd regions of every class: a detection that lies in one counts neither way. In each
    image only the classes that its source labels count; detections of others are dropped there.

    Args:
        labels: the detection label set of results and samples.

    Attributes:
        frames: what is kept of each frame, None where it is not labelled; of another process's metric it may
            be appended to this one's.
    """

    def __init__(self, labels: LabelSet) -> None:
        self._labels = labels
        self.frames: list[_Boxes | None] = []

    @property
    def images(self) -> int:
        """How many labelled frames were counted."""
        return sum(frame is not None for frame in self.frames)

    def update(self, result: Result, sample: Sample) -> None:
        """Counts one frame; a frame without boxes labelled is passed over.

        Raises:
            ValueError: when the result has no detections though the sample has boxes, naming the sample.
        """
        if sample.boxes is None or sample.box_labels is None or sample.box_classes is None:
            self.frames.append(None)
            return
        if result.detections is None:
            raise ValueError(f"{sample.name}: the result has no detections to compare with its boxes")
        detections = result.detections
        labelled = np.isin(detections.labels, sample.box_classes)
        self.frames.append(
            _Boxes(
                boxes=detections.boxes[labelled][:MAX_DETECTIONS],
                scores=detections.scores[labelled][:MAX_DETECTIONS],
                labels=detections.labels[labelled][:MAX_DETECTIONS],
                true_boxes=sample.boxes,
                true_labels=sample.box_labels,
                ignore_boxes=sample.ignore_boxes,
                classes=sample.box_classes,
            )
        )

    def compute(self) -> dict[str, Any]:
        """The scores so far, 0..1; None where there is nothing to score.

        Returns:
            ``ap`` (mean over IoU 0.50..0.95 and classes), ``ap50``, ``ap75``, ``ap_small`` (area below 32²
            source pixels), ``ap_medium``, ``ap_large`` (from 96²), ``ar100``, and ``per_class``: for each
            class with ground truth the same APs and its number of ``boxes``.
        """
        scores: dict[str, Any] = dict.fromkeys(_DETECTION_SCORES) | {"per_class": {}}
        boxes = np.zeros(len(self._labels), np.int64)
        for frame in self.frames:
            if frame is not None:
                boxes += np.bincount(frame.true_labels, minlength=len(self._labels))
        if not boxes.any():
            return scores
        summary = self._summary()
        scores |= {ours: _score(float(summary[theirs])) for ours, theirs in _DETECTION_SCORES.items()}
        # (IoU thresholds, recall points, classes, areas, detections an image): 100 detections.
        precision = summary["precision"][..., -1].numpy()
        for column, label in enumerate(summary["classes"].reshape(-1).tolist()):
            if boxes[label]:
                by_threshold = precision[:, :, column].mean(1)
                scores["per_class"][self._labels.names[label]] = {
                    "ap": float(by_threshold[:, 0].mean()),
                    "ap50": float(by_threshold[0, 0]),
                    "ap75": float(by_threshold[5, 0]),
                    **{
                        f"ap_{area}": _score(float(by_threshold[:, i].mean()))
                        for i, area in enumerate(AREAS)
                        if i
                    },
                    "boxes": int(boxes[label]),
                }
        return scores

    def _summary(self) -> Mapping[str, torch.Tensor]:
        from torchmetrics.detection import MeanAveragePrecision

        # The precision of every threshold and class comes with the extended summary; class_metrics would
        # run the evaluation again for each class and give no AP50.
        # torchmetrics' own thresholds are rounded to float32: recalls of exactly k/100 then fall on the wrong
        # side, and AP differs from pycocotools' in the fourth digit.
        metric = MeanAveragePrecision(
            iou_thresholds=IOU_THRESHOLDS.tolist(),
            rec_thresholds=RECALL_POINTS.tolist(),
            extended_summary=True,
            backend="faster_coco_eval",
            # The processes of a run gather frames themselves, in the order of the data set.
            sync_on_compute=False,
        )
        metric.warn_on_many_detections = False
        for frame in self.frames:
            if frame is not None:
                boxes, labels, crowd = map(torch.from_numpy, frame.truth())
                metric.update(
                    [
                        {
                            "boxes": torch.from_numpy(frame.boxes),
                            "scores": torch.from_numpy(frame.scores),
                            "labels": torch.from_numpy(frame.labels),
                        }
                    ],
                    [{"boxes": boxes, "labels": labels, "iscrowd": crowd}],
                )
        summary: Mapping[str, torch.Tensor] = metric.compute()
        return summary

    def records(self) -> DetectionRecords:
        """The matches of every frame, by pycocotools, whose evaluation of single images can be read."""
        areas, thresholds = len(AREAS), len(IOU_THRESHOLDS)
        positives = np.zeros((len(self.frames), len(self._labels), areas), np.int32)
        parts: list[tuple[int, int, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]] = []
        found = self._image_matches()
        for image, label in sorted({(image, label) for image, label, _ in found}):
            by_area = [found.get((image, label, area)) for area in range(areas)]
            scores = next(match["dtScores"] for match in by_area if match is not None)
            matched = np.zeros((areas, thresholds, len(scores)), np.bool_)
            ignored = np.zeros_like(matched)
            for area, match in enumerate(by_area):
                if match is not None:
                    matched[area], ignored[area] = match["dtMatches"] > 0, match["dtIgnore"]
                    positives[image, label, area] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
            parts.append((image, label, np.asarray(scores, np.float32), matched, ignored))
        counts = [len(scores) for _, _, scores, _, _ in parts]
        return DetectionRecords(
            classes=self._labels.names,
            labelled=np.array([frame is not None for frame in self.frames], np.bool_),
            images=np.repeat([part[0] for part in parts], counts).astype(np.int32),
            labels=np.repeat([part[1] for part in parts], counts).astype(np.int32),
            scores=np.concatenate([np.zeros(0, np.float32), *(part[2] for part in parts)]),
            matched=_join([part[3] for part in parts], areas, thresholds),
            ignored=_join([part[4] for part in parts], areas, thresholds),
            positives=positives,
        )

    def _image_matches(self) -> dict[tuple[int, int, int], dict[str, Any]]:
        """pycocotools' result of each image, class and range of areas that has boxes or detections."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth: list[dict[str, Any]] = []
        guesses: list[dict[str, Any]] = []
        for image, frame in enumerate(self.frames):
            if frame is None:
                continue
            for box, label, crowd in zip(*frame.truth(), strict=True):
                truth.append(_annotation(len(truth) + 1, image, label, box) | {"iscrowd": int(crowd)})
            for box, label, score in zip(frame.boxes, frame.labels, frame.scores, strict=True):
                guesses.append(_annotation(len(guesses) + 1, image, label, box) | {"score": float(score)})
        categories = [{"id": label} for label in range(len(self._labels))]
        images = [{"id": image} for image in range(len(self.frames))]
        with contextlib.redirect_stdout(io.StringIO()):
            sides = []
            for annotations in (truth, guesses):
                side = COCO()
                side.dataset = {"images": images, "categories": categories, "annotations": annotations}
                side.createIndex()
                sides.append(side)
            evaluation = COCOeval(*sides, "bbox")
            evaluation.params.iouThrs = IOU_THRESHOLDS
            evaluation.evaluate()
        numbers = {tuple(bounds): number for number, bounds in enumerate(evaluation.params.areaRng)}
        return {
            (match["image_id"], match["category_id"], numbers[tuple(match["aRng"])]): match
            for match in evaluation.evalImgs
            if match is not None
        }


def _annotation(number: int, image: int, label: int, box: npt.NDArray[np.float32]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    # In float32, as torchmetrics has the areas: a box of just 32² pixels must fall into the same range.
    return {
        "id": number,
        "image_id": image,
        "category_id": int(label),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }


def _join(parts: Sequence[npt.NDArray[np.bool_]], areas: int, thresholds: int) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.zeros((areas, thresholds, 0), np.bool_), *parts], axis=-1)


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


class _Pixels(NamedTuple):
    """One image's confusion matrix, of which the cells above zero are kept, and its boundary counts."""

    cells: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    boundary: npt.NDArray[np.int32]


class SegmentationMetric:
    """Intersection over union from one confusion matrix over all pixels (Everingham 2010), and boundary F.

    Args:
        labels: the segmentation label set of results and samples.
        target: another label set to score in; masks of both sides pass through its mapping from ``labels``.
            Pixels whose label it ignores do not count; a prediction that it ignores is a miss of the pixel's
            class and a false alarm of none.

    Attributes:
        frames: what is kept of each frame, None where it is not labelled; of another process's metric it may
            be appended to this one's.

    Raises:
        KeyError: when ``target`` has no mapping from ``labels``.
    """

    def __init__(self, labels: LabelSet, target: LabelSet | None = None) -> None:
        self._target = target or labels
        self._known = len(labels)
        self._lookup = self._target.lookup_from(labels)
        count = len(self._target)
        # The last row and column of the matrix take what is ignored.
        self._column = np.minimum(self._lookup, count).astype(np.uint32)
        self._row = self._column * np.uint32(count + 1)
        self.frames: list[_Pixels | None] = []

    @property
    def images(self) -> int:
        """How many labelled frames were counted."""
        return sum(frame is not None for frame in self.frames)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Pixels by label (row) and prediction (column), (classes, classes + 1); ignored ones come last."""
        count = len(self._target)
        total = np.zeros(count * (count + 1), np.int64)
        for frame in self.frames:
            if frame is not None:
                total[frame.cells] += frame.counts
        return total.reshape(count, count + 1)

    def update(self, result: Result, sample: Sample) -> None:
        """Counts one frame; a frame without a mask is passed over.

        Raises:
            ValueError: when the result has no mask, or one of another size, though the sample has one, or a
                label is outside the label set; names the sample.
        """
        if sample.mask is None:
            self.frames.append(None)
            return
        if result.segmentation is None:
            raise ValueError(f"{sample.name}: the result has no mask to compare with the labelled one")
        predicted = result.segmentation.mask
        if predicted.shape != sample.mask.shape:
            raise ValueError(
                f"{sample.name}: predicted mask is {predicted.shape}, label is {sample.mask.shape}"
            )
        present = np.flatnonzero(np.bincount(sample.mask.ravel(), minlength=256))
        strange = present[(present >= self._known) & (present != IGNORE_INDEX)]
        if len(strange):
            raise ValueError(f"{sample.name}: mask holds class id {strange[0]} of a set of {self._known}")
        classes = len(self._target)
        counts = np.bincount((self._row[sample.mask] + self._column[predicted]).ravel())
        # Rows are classes, so what lies beyond the last is the row of ignored labels.
        cells = np.flatnonzero(counts[: classes * (classes + 1)])
        boundary = boundary_counts(self._lookup[predicted], self._lookup[sample.mask], classes)
        self.frames.append(_Pixels(cells.astype(np.int32), counts[cells].astype(np.int64), boundary))

    def compute(self) -> dict[str, Any]:
        """The scores so far, 0..1; None where no pixel is labelled.

        Returns:
            ``miou`` (mean over the classes that occur in the labels), ``pixel_accuracy``, ``boundary_f``
            (mean over the classes with a labelled boundary, see ``boundary_counts``), ``per_class``: the IoU
            of each of those classes, and ``per_class_boundary_f``.
        """
        confusion = self.confusion
        labelled = confusion.sum()
        if not labelled:
            empty = dict.fromkeys(("miou", "pixel_accuracy", "boundary_f"))
            return {**empty, "per_class": {}, "per_class_boundary_f": {}}
        iou = iou_of(confusion.astype(np.float64))
        boundary = np.zeros((len(self._target), 4))
        for frame in self.frames:
            if frame is not None:
                boundary += frame.boundary
        f = boundary_f_of(boundary)
        return {
            "miou": float(np.nanmean(iou)),
            "pixel_accuracy": float(np.trace(confusion) / labelled),
            "boundary_f": None if np.isnan(f).all() else float(np.nanmean(f)),
            "per_class": _by_name(self._target.names, iou),
            "per_class_boundary_f": _by_name(self._target.names, f),
        }

    def records(self) -> SegmentationRecords:
        """The confusion matrix and boundary counts of every frame."""
        there = [(image, frame) for image, frame in enumerate(self.frames) if frame is not None]
        boundary = np.zeros((len(self.frames), len(self._target), 4), np.int32)
        for image, frame in there:
            boundary[image] = frame.boundary
        sizes = [len(frame.cells) for _, frame in there]
        return SegmentationRecords(
            classes=self._target.names,
            labelled=np.array([frame is not None for frame in self.frames], np.bool_),
            images=np.repeat([image for image, _ in there], sizes).astype(np.int32),
            cells=np.concatenate([np.zeros(0, np.int32), *(frame.cells for _, frame in there)]),
            counts=np.concatenate([np.zeros(0, np.int64), *(frame.counts for _, frame in there)]),
            boundary=boundary,
        )


def _by_name(names: Iterable[str], values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True) if not np.isnan(value)}


class _Answer(NamedTuple):
    """One group of one image: its label, the likeliest class, and how many classes were likelier than it."""

    label: int
    predicted: int
    rank: int


class ClassificationMetric:
    """Accuracy of each label group.

    Args:
        groups: the label set of each group.

    Attributes:
        frames: the labelled groups of each frame; of another process's metric it may be appended to this
            one's.
    """

    def __init__(self, groups: Mapping[str, LabelSet]) -> None:
        self._groups = dict(groups)
        self.frames: list[dict[str, _Answer]] = []

    @property
    def images(self) -> int:
        """How many frames with a label were counted."""
        return sum(bool(frame) for frame in self.frames)

    def update(self, result: Result, sample: Sample) -> None:
        """Counts one frame; groups that the sample does not label are passed over.

        Raises:
            ValueError: when the result lacks a labelled group, or a label is outside its set; names the
                sample.
        """
        labelled = {
            group: class_id
            for group, class_id in (sample.classes or {}).items()
            if group in self._groups and class_id >= 0
        }
        answers = {}
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
            answers[group] = _Answer(class_id, int(order[0]), int(np.flatnonzero(order == class_id)[0]))
        self.frames.append(answers)

    def compute(self) -> dict[str, Any]:
        """For each group with labels so far:

        Returns:
            ``accuracy`` (top-1), ``top5`` where the group has more than five classes, ``balanced_accuracy``
            (mean recall of the classes that occur), ``confusion`` (rows are labels, columns predictions, in
            the order of ids), ``per_class`` recall by name, and ``images``; scores are 0..1.
        """
        from sklearn.metrics import accuracy_score, confusion_matrix

        scores = {}
        for group, records in self.records().items():
            there = records.labels >= 0
            labels, predictions = records.labels[there], records.predictions[there]
            names = records.classes
            known = classification_scores(len(names))
            confusion = confusion_matrix(labels, predictions, labels=range(len(names)))
            present = np.flatnonzero(confusion.sum(1))
            recall = np.diagonal(confusion)[present] / confusion.sum(1)[present]
            scores[group] = {
                "accuracy": float(accuracy_score(labels, predictions)),
                **({"top5": float((records.ranks[there] < 5).mean())} if "top5" in known else {}),
                "balanced_accuracy": float(recall.mean()),
                "per_class": {names[i]: float(r) for i, r in zip(present, recall, strict=True)},
                "confusion": confusion.tolist(),
                "images": len(labels),
            }
        return scores

    def records(self) -> dict[str, ClassificationRecords]:
        """Label and answer of every frame, by group; groups without a label so far are absent."""
        unlabelled = _Answer(-1, -1, -1)
        records = {}
        for group, label_set in self._groups.items():
            table = np.array([frame.get(group, unlabelled) for frame in self.frames], np.int32).reshape(-1, 3)
            if (table[:, 0] >= 0).any():
                columns = np.ascontiguousarray(table.T)
                records[group] = ClassificationRecords(label_set.names, *columns)
        return records
