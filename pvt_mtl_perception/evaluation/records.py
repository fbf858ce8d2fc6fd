"""What an evaluation leaves of each image: enough to compute every score again from any resample of images.

A mean over images of AP or mIoU is neither AP nor mIoU. A bootstrap therefore draws images, pools their
records, and computes the score from the pool: the functions here take how often each image was drawn.
"""

from __future__ import annotations

import json
import lzma
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pvt_mtl_perception.paths import replaced

FORMAT = 1

AREAS = ("all", "small", "medium", "large")
"""COCO's ranges of a box's area in source pixels: any, below 32², 32² to 96², from 96²."""

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)

Weights = npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class ClassificationRecords:
    """One label group on N images.

    Attributes:
        classes: names of the C classes.
        labels: int32 (N,), -1 where the image is not labelled.
        predictions: int32 (N,), the likeliest class; -1 where not labelled.
        ranks: int32 (N,), how many classes the model holds likelier than the labelled one: 0 is right, below
            5 is right among the first five; -1 where not labelled.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    predictions: npt.NDArray[np.int32]
    ranks: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class SegmentationRecords:
    """Masks of N images, as one confusion matrix an image, of which the cells above zero are kept.

    Attributes:
        classes: names of the C classes that are scored.
        labelled: bool (N,), whether the image has a mask.
        images: int32 (K,), which image a cell belongs to, rising.
        cells: int32 (K,), ``label * (C + 1) + prediction``; the last column takes predictions that the
            scored label set ignores. Pixels whose label is ignored are in no cell.
        counts: int64 (K,), pixels.
        boundary: int32 (N, C, 4), pixels of class boundaries: labelled ones, those of them that a predicted
            one is near, predicted ones, those of them that a labelled one is near (``boundary.py``).
    """

    classes: tuple[str, ...]
    labelled: npt.NDArray[np.bool_]
    images: npt.NDArray[np.int32]
    cells: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    boundary: npt.NDArray[np.int32]

    def confusions(self) -> sparse.csr_array:
        """The matrices of all images: sparse int64 (N, C * (C + 1)), each flattened by rows.

        ``weights @ confusions()`` is the pooled matrix of a resample.
        """
        classes = len(self.classes)
        shape = (len(self.labelled), classes * (classes + 1))
        return sparse.csr_array((self.counts, (self.images, self.cells)), shape=shape)


@dataclass(frozen=True, eq=False)
class DetectionRecords:
    """Matches of the D detections on N images, by COCO's rules, at T IoU thresholds and in A ranges of area.

    Attributes:
        classes: names of the C classes.
        labelled: bool (N,), whether the image's boxes are labelled.
        images: int32 (D,), which image a detection is in, rising.
        labels: int32 (D,), its class.
        scores: float32 (D,), falling among the detections of one class in one image.
        matched: bool (A, T, D), whether it has a labelled box, areas as in ``AREAS`` and thresholds as in
            ``IOU_THRESHOLDS``.
        ignored: bool (A, T, D), whether it counts neither way: its box is a crowd or ignore region, or is
            out of the range of areas.
        positives: int32 (N, C, A), labelled boxes that are to be found.
    """

    classes: tuple[str, ...]
    labelled: npt.NDArray[np.bool_]
    images: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    matched: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    positives: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Records:
    """The records of one model on one data set, in the order of the data set.

    Attributes:
        names: of the N images.
        classification: by label group; groups without any label are absent.
        detection, segmentation: None where the model lacks the task or no image is labelled.
        description: plain data on where the records come from.
    """

    names: tuple[str, ...]
    classification: Mapping[str, ClassificationRecords] = field(default_factory=dict)
    detection: DetectionRecords | None = None
    segmentation: SegmentationRecords | None = None
    description: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


def _weights(count: int, weights: Weights | None) -> npt.NDArray[np.float64]:
    if weights is None:
        return np.ones(count)
    if weights.shape != (count,):
        raise ValueError(f"weights have shape {weights.shape} for {count} images")
    return np.asarray(weights, np.float64)


def confusion_matrix(
    records: ClassificationRecords | SegmentationRecords, weights: Weights | None = None
) -> npt.NDArray[np.float64]:
    """The pooled confusion matrix: rows are labels, columns predictions.

    Args:
        records: of classification or segmentation.
        weights: (N,), how often each image counts; once where None.

    Returns:
        float64 (C, C) for classification; (C, C + 1) for segmentation, the last column being predictions
        that the scored label set ignores.
    """
    classes = len(records.classes)
    if isinstance(records, SegmentationRecords):
        pooled = _weights(len(records.labelled), weights) @ records.confusions()
        return np.asarray(pooled, np.float64).reshape(classes, classes + 1)
    there = records.labels >= 0
    cells = records.labels[there].astype(np.int64) * classes + records.predictions[there]
    counted = np.bincount(
        cells, weights=_weights(len(records.labels), weights)[there], minlength=classes * classes
    )
    return np.asarray(counted, np.float64).reshape(classes, classes)


def class_iou(records: SegmentationRecords, weights: Weights | None = None) -> npt.NDArray[np.float64]:
    """Intersection over union of each class over the pooled pixels (Everingham 2010).

    Returns:
        float64 (C,), 0..1; NaN for a class that no drawn image is labelled with. mIoU is ``np.nanmean``.
    """
    return iou_of(confusion_matrix(records, weights))


def iou_of(confusion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of each class of a (C, C + 1) matrix; NaN without a label."""
    hits = np.diagonal(confusion)
    labelled, predicted = confusion.sum(1), confusion[:, : len(confusion)].sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(labelled > 0, hits / (labelled + predicted - hits), np.nan)


def pixel_accuracy(records: SegmentationRecords, weights: Weights | None = None) -> float:
    """Share of the pooled labelled pixels that are right, 0..1; NaN without any."""
    confusion = confusion_matrix(records, weights)
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def class_boundary_f(records: SegmentationRecords, weights: Weights | None = None) -> npt.NDArray[np.float64]:
    """F measure of each class's pooled boundary pixels: float64 (C,), 0..1; NaN for a class without any."""
    counts = np.tensordot(_weights(len(records.labelled), weights), records.boundary, 1)
    return boundary_f_of(counts)


def boundary_f_of(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Harmonic mean of precision and recall from (C, 4) counts; NaN without a labelled boundary."""
    labelled, found, predicted, right = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = found / labelled
        precision = np.where(predicted > 0, right / predicted, 0.0)
        f = np.where(recall + precision > 0, 2 * precision * recall / (precision + recall), 0.0)
    return np.where(labelled > 0, f, np.nan)


def accuracy(records: ClassificationRecords, weights: Weights | None = None, among: int = 1) -> float:
    """Share of the labelled images whose class is among the model's first, 0..1; NaN without any."""
    there = records.labels >= 0
    weight = _weights(len(there), weights)[there]
    return float((weight * (records.ranks[there] < among)).sum() / weight.sum()) if weight.any() else np.nan


def balanced_accuracy(records: ClassificationRecords, weights: Weights | None = None) -> float:
    """Mean recall of the classes that occur in the labels, 0..1; NaN without any label."""
    confusion = confusion_matrix(records, weights)
    labelled = confusion.sum(1)
    present = labelled > 0
    return float((np.diagonal(confusion)[present] / labelled[present]).mean()) if present.any() else np.nan


def precision_curves(
    records: DetectionRecords, weights: Weights | None = None, areas: int = len(AREAS)
) -> npt.NDArray[np.float64]:
    """Interpolated precision by recall of each class, as COCO's evaluation accumulates it (Lin 2014).

    Args:
        records: of detection.
        weights: (N,), how often each image counts; once where None.
        areas: of ``AREAS`` the first so many.

    Returns:
        float64 (A, T, C, 101) at ``RECALL_POINTS``, 0..1; NaN where there is no box to be found.
    """
    weight = _weights(len(records.labelled), weights)
    positives = np.tensordot(weight, records.positives, 1)
    curves = np.full((areas, len(IOU_THRESHOLDS), len(records.classes), len(RECALL_POINTS)), np.nan)
    # Stable, as pycocotools sorts: of equal scores the earlier image comes first.
    order = np.argsort(-records.scores, kind="stable")
    order = order[weight[records.images[order]] > 0]
    labels = records.labels[order]
    for label in np.flatnonzero(positives[:, 0]):
        chosen = order[labels == label]
        drawn = weight[records.images[chosen]]
        matched, ignored = records.matched[:areas, :, chosen], records.ignored[:areas, :, chosen]
        true = np.cumsum(drawn * (matched & ~ignored), axis=-1)
        false = np.cumsum(drawn * (~matched & ~ignored), axis=-1)
        precision = true / np.maximum(true + false, np.spacing(1))
        precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
        for area in np.flatnonzero(positives[label, :areas]):
            recall = true[area] / positives[label, area]
            for threshold in range(len(IOU_THRESHOLDS)):
                at = np.searchsorted(recall[threshold], RECALL_POINTS)
                reached = np.append(precision[area, threshold], 0.0)
                curves[area, threshold, label] = reached[at]
    return curves


def average_precision(
    records: DetectionRecords, weights: Weights | None = None, areas: int = len(AREAS)
) -> npt.NDArray[np.float64]:
    """COCO's average precision: float64 (A, T, C), 0..1; NaN where there is no box to be found.

    AP is ``np.nanmean(result[0])``, AP50 ``np.nanmean(result[0, 0])``; arguments as ``precision_curves``.
    """
    return np.asarray(precision_curves(records, weights, areas).mean(-1))


class OperatingPoint(NamedTuple):
    """Means over classes when detections below a score are left out, all 0..1."""

    score_threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """What is found, and what is right of it, when detections below a score are left out.

    Attributes:
        thresholds: float64 (S,), rising, 0..1.
        precision: float64 (S, C), share of the detections that have a labelled box; NaN where there are none.
        recall: float64 (S, C), share of the labelled boxes that are found; NaN for a class without any.
        f1: float64 (S, C), harmonic mean of both (van Rijsbergen 1979); NaN for a class without boxes.
    """

    thresholds: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]

    def best(self) -> OperatingPoint:
        """That of the highest F1, the mean over the classes with boxes; of several the highest threshold.

        Precision is the mean over those of the classes that have detections.

        Raises:
            ValueError: when no class has a box.
        """
        there = ~np.isnan(self.recall[0])
        if not there.any():
            raise ValueError("there is no labelled box")
        f1 = self.f1[:, there].mean(1)
        at = len(f1) - 1 - int(np.argmax(f1[::-1]))
        precision = self.precision[at, there]
        reported = ~np.isnan(precision)
        return OperatingPoint(
            float(self.thresholds[at]),
            float(precision[reported].mean()) if reported.any() else 0.0,
            float(self.recall[at, there].mean()),
            float(f1[at]),
        )


def operating_points(records: DetectionRecords, iou: int = 0) -> OperatingPoints:
    """Precision, recall and F1 of each class at score thresholds from 0.01 to 0.99.

    Detections in ignore regions count neither way.

    Args:
        records: of detection.
        iou: number of the threshold in ``IOU_THRESHOLDS`` from which a detection is right.
    """
    thresholds = np.arange(1, 100) / 100
    positives = records.positives[:, :, 0].sum(0).astype(np.float64)
    right = records.matched[0, iou] & ~records.ignored[0, iou]
    counted = ~records.ignored[0, iou]
    found = np.zeros((2, len(thresholds), len(records.classes)))
    # A detection stands at all thresholds up to its score. In float32, as the scores are.
    last = np.searchsorted(thresholds.astype(np.float32), records.scores, side="right")
    for row, chosen in enumerate((right, counted)):
        chosen = chosen & (last > 0)
        np.add.at(found[row], (last[chosen] - 1, records.labels[chosen]), 1)
    true, reported = found[:, ::-1].cumsum(1)[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return OperatingPoints(
            thresholds=thresholds,
            precision=np.where(reported > 0, true / reported, np.nan),
            recall=np.where(positives > 0, true / positives, np.nan),
            f1=np.where(positives > 0, 2 * true / (reported + positives), np.nan),
        )


def save_records(path: Path, records: Records) -> None:
    """Writes one compressed ``.npz`` without pickled objects; replaces the file whole.

    Of names that are absolute paths it keeps what lies below their common folder, so that records of one data
    set are alike wherever it lies.

    By LZMA, which numpy reads and does not write: half as large as by ``numpy.savez_compressed``.

    Keys are ``header`` (JSON: format, names, classes, description) and ``<task>/<attribute>``, for
    classification ``classification/<group>/<attribute>``.

    Raises:
        OSError: from the file system.
    """
    header: dict[str, Any] = {
        "format": FORMAT,
        "names": _below_common_folder(records.names),
        "classes": {},
        "description": dict(records.description),
    }
    arrays: dict[str, npt.NDArray[Any]] = {}
    parts: dict[str, Any] = {
        f"classification/{group}": part for group, part in records.classification.items()
    }
    parts |= {"detection": records.detection, "segmentation": records.segmentation}
    for name, part in parts.items():
        if part is not None:
            values = dict(vars(part))
            header["classes"][name] = list(values.pop("classes"))
            arrays |= {f"{name}/{key}": value for key, value in values.items()}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with replaced(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_LZMA) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load_records(path: Path) -> Records:
    """Reads what ``save_records`` wrote.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is not of this format, naming it.
    """
    header, arrays = _read(path)
    parts: dict[str, dict[str, Any]] = {
        name: {"classes": tuple(classes)} for name, classes in header["classes"].items()
    }
    for key, value in arrays.items():
        name, _, attribute = key.rpartition("/")
        parts[name][attribute] = value
    detection, segmentation = parts.pop("detection", None), parts.pop("segmentation", None)
    return Records(
        names=tuple(header["names"]),
        classification={
            name.partition("/")[2]: ClassificationRecords(**values) for name, values in parts.items()
        },
        detection=DetectionRecords(**detection) if detection else None,
        segmentation=SegmentationRecords(**segmentation) if segmentation else None,
        description=header["description"],
    )


def labelled_names(path: Path, task: str, group: str | None = None) -> frozenset[str]:
    """The images that are labelled for a task, from what ``save_records`` wrote; the rest is not read.

    Args:
        path: of the records.
        task: ``classification``, ``detection`` or ``segmentation``.
        group: of a classification; any of its groups where None.

    Raises:
        FileNotFoundError, ValueError: as ``load_records``.
    """

    def tells(key: str) -> bool:
        if task != "classification":
            return key == f"{task}/labelled"
        # Detection has labels, too: those of what was detected.
        first, *of, last = key.split("/")
        return first == task and last == "labels" and group in (None, "/".join(of))

    header, arrays = _read(path, tells)
    # Classes of a group are -1 without a label.
    labelled = [array if array.dtype == np.bool_ else array >= 0 for array in arrays.values()]
    return frozenset(name for name, *flags in zip(header["names"], *labelled, strict=True) if any(flags))


def _below_common_folder(names: Sequence[str]) -> list[str]:
    if not names or not all(map(os.path.isabs, names)):
        return list(names)
    folder = os.path.commonpath(list(map(os.path.dirname, names)))
    return [os.path.relpath(name, folder) for name in names]


def _read(
    path: Path, wanted: Callable[[str], bool] = lambda key: True
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The header, and the arrays whose keys are wanted."""
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            keys = [key for key in file.files if key != "header" and wanted(key)]
            arrays = {key: file[key] for key in keys}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise ValueError(f"{path}: not records of an evaluation: {error}") from None
    header["names"] = _below_common_folder(header["names"])
    if header["format"] != FORMAT:
        raise ValueError(f"{path}: records of format {header['format']}; this version reads {FORMAT}")
    return header, arrays
