from __future__ import annotations

import contextlib
import dataclasses
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from pvt_mtl_perception.evaluation.records import (
    AREAS,
    ClassificationRecords,
    DetectionRecords,
    Records,
    SegmentationRecords,
    accuracy,
    average_precision,
    class_boundary_f,
)
from pvt_mtl_perception.study.statistics.pooled import class_average_precision, class_iou, pooled_score

CLASSES = ("car", "rider", "sign", "train")
# Box in xywh, class, score or crowd flag.
Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_frames(seed: int, images: int) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(images):
        count = rng.integers(0, 8)
        boxes = np.hstack([rng.uniform(0, 250, (count, 2)), rng.uniform(8, 140, (count, 2))])
        # No train is ever labelled.
        labels = rng.integers(0, 3, count)
        crowd = rng.random(count) < 0.15
        others = np.hstack([rng.uniform(0, 250, (5, 2)), rng.uniform(8, 140, (5, 2))])
        guesses = np.concatenate([boxes, boxes[::2], others])
        guesses = guesses + rng.normal(0, 3, guesses.shape)
        guesses[:, 2:] = np.maximum(guesses[:, 2:], 2)
        guess_labels = np.concatenate([labels, labels[::2], rng.integers(0, 4, 5)])
        frames.append((boxes, labels, crowd, guesses, guess_labels, rng.random(len(guesses))))
    return frames


def by_pycocotools(frames: list[Frame]) -> COCOeval:
    truth, found = [], []
    for image, (boxes, labels, crowd, guesses, guess_labels, scores) in enumerate(frames):
        truth += [
            {
                "id": len(truth) + i + 1,
                "image_id": image,
                "category_id": int(label),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": int(is_crowd),
            }
            for i, (box, label, is_crowd) in enumerate(zip(boxes, labels, crowd, strict=True))
        ]
        found += [
            {"image_id": image, "category_id": int(label), "bbox": box.tolist(), "score": float(score)}
            for box, label, score in zip(guesses, guess_labels, scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = {
            "images": [{"id": image} for image in range(len(frames))],
            "annotations": truth,
            "categories": [{"id": label} for label in range(len(CLASSES))],
        }
        labelled.createIndex()
        evaluation = COCOeval(labelled, labelled.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def detection_records(evaluation: COCOeval, images: int) -> DetectionRecords:
    # evalImgs runs over classes, areas, images; None where there is neither a box nor a detection.
    table = np.array(evaluation.evalImgs, object).reshape(len(CLASSES), len(AREAS), images)
    positives = np.zeros((images, len(CLASSES), len(AREAS)), np.int32)
    columns = []
    for image in range(images):
        for label in range(len(CLASSES)):
            entries = table[label, :, image]
            if entries[0] is None:
                continue
            for area, entry in enumerate(entries):
                positives[image, label, area] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
            columns.append(
                (
                    np.full(len(entries[0]["dtScores"]), image, np.int32),
                    np.full(len(entries[0]["dtScores"]), label, np.int32),
                    np.array(entries[0]["dtScores"], np.float32),
                    np.array([entry["dtMatches"] > 0 for entry in entries]),
                    np.array([entry["dtIgnore"] > 0 for entry in entries]),
                )
            )
    parts = [np.concatenate(column, axis=-1) for column in zip(*columns, strict=True)]
    return DetectionRecords(CLASSES, np.ones(images, bool), *parts, positives)


def draws(seed: int, replicates: int, images: int) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=replicates)


def test_average_precision_of_a_draw_is_pycocotools_of_the_repeated_images() -> None:
    frames = random_frames(0, 25)
    records = detection_records(by_pycocotools(frames), 25)
    weights = draws(1, 4, 25)
    assert weights.max() >= 3 and weights.min() == 0
    for area in range(len(AREAS)):
        ap = class_average_precision(records, weights, area)
        for row, weight in zip(ap, weights, strict=True):
            repeated = by_pycocotools([frames[image] for image in np.repeat(np.arange(25), weight)])
            # (IoU thresholds, recall points, classes, areas, detections an image), -1 without a labelled box.
            expected = repeated.eval["precision"][:, :, :, area, -1].mean(axis=(0, 1))
            assert np.isnan(row[3]) and expected[3] == -1
            assert row[:3] == pytest.approx(expected[:3], abs=1e-12)


def test_every_detection_score_is_pycocotools_summary() -> None:
    frames = random_frames(2, 40)
    evaluation = by_pycocotools(frames)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    records = Records(tuple("x" * 40), detection=detection_records(evaluation, 40))
    once = np.ones((1, 40), np.int64)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
    scores = [pooled_score("detection", name)(records, once)[0] for name in names]
    assert scores == pytest.approx(evaluation.stats[[0, 1, 2, 3, 4, 5, 8]], abs=1e-12)
    assert len({round(score, 6) for score in scores}) == 7


def test_average_recall_of_a_draw_is_pycocotools_of_the_repeated_images() -> None:
    frames = random_frames(10, 25)
    records = Records(tuple("x" * 25), detection=detection_records(by_pycocotools(frames), 25))
    weights = draws(11, 3, 25)
    recalls = pooled_score("detection", "ar100")(records, weights)
    for recall, weight in zip(recalls, weights, strict=True):
        repeated = by_pycocotools([frames[image] for image in np.repeat(np.arange(25), weight)])
        # (IoU thresholds, classes, areas, detections an image), -1 without a labelled box.
        expected = repeated.eval["recall"][:, :3, 0, -1]
        assert recall == pytest.approx(expected.mean(), abs=1e-12)


def test_batched_average_precision_is_that_of_one_weighting() -> None:
    frames = random_frames(3, 30)
    records = detection_records(by_pycocotools(frames), 30)
    weights = draws(4, 5, 30)
    for area in range(len(AREAS)):
        batched = class_average_precision(records, weights, area)
        single = [average_precision(records, weight)[area].mean(axis=0) for weight in weights]
        assert batched == pytest.approx(np.array(single), abs=1e-12, nan_ok=True)


def test_class_that_a_draw_does_not_hold_is_left_out_of_the_mean() -> None:
    frames = random_frames(5, 10)
    records = detection_records(by_pycocotools(frames), 10)
    weights = np.zeros((2, 10), np.int64)
    weights[0, int(np.flatnonzero(records.positives[:, 0, 0])[0])] = 1
    ap = class_average_precision(records, weights)
    present = records.positives[weights[0] > 0, :, 0][0] > 0
    assert (~np.isnan(ap[0]) == present).all() and np.isnan(ap[1]).all()
    score = pooled_score("detection", "ap")(Records(tuple("x" * 10), detection=records), weights)
    assert score[0] == pytest.approx(np.nanmean(ap[0])) and np.isnan(score[1])


def segmentation_records(masks: np.ndarray, guesses: np.ndarray, classes: int) -> SegmentationRecords:
    images, cells, counts = [], [], []
    for image, (mask, guess) in enumerate(zip(masks, guesses, strict=True)):
        cell, count = np.unique(mask * (classes + 1) + guess, return_counts=True)
        images += [image] * len(cell)
        cells += cell.tolist()
        counts += count.tolist()
    return SegmentationRecords(
        classes=tuple("abcdef"[:classes]),
        labelled=np.ones(len(masks), bool),
        images=np.array(images, np.int32),
        cells=np.array(cells, np.int32),
        counts=np.array(counts, np.int64),
        boundary=np.zeros((len(masks), classes, 4), np.int32),
    )


def test_iou_and_pixel_accuracy_of_a_draw_are_those_of_the_repeated_pixels() -> None:
    rng = np.random.default_rng(6)
    masks = rng.integers(0, 3, (12, 20, 20))
    # The fifth class, 4, is outside the label set of four; the fourth is predicted and never labelled.
    guesses = np.where(rng.random(masks.shape) < 0.7, masks, rng.integers(0, 5, masks.shape))
    segmentation = segmentation_records(masks, guesses, 4)
    weights = draws(7, 5, 12)
    iou = class_iou(segmentation, weights)
    records = Records(tuple("x" * 12), segmentation=segmentation)
    miou = pooled_score("segmentation", "miou")(records, weights)
    pixel = pooled_score("segmentation", "pixel_accuracy")(records, weights)
    for number, weight in enumerate(weights):
        mask = np.repeat(masks, weight, axis=0).ravel()
        guess = np.repeat(guesses, weight, axis=0).ravel()
        matrix = confusion_matrix(mask, guess, labels=range(5))
        hits = np.diagonal(matrix)[:3]
        expected = hits / (matrix.sum(0)[:3] + matrix.sum(1)[:3] - hits)
        assert iou[number, :3] == pytest.approx(expected) and np.isnan(iou[number, 3])
        assert miou[number] == pytest.approx(expected.mean())
        assert pixel[number] == pytest.approx(accuracy_score(mask, guess))


def test_boundary_f_of_a_draw_is_that_of_one_weighting() -> None:
    rng = np.random.default_rng(12)
    masks = rng.integers(0, 3, (12, 4, 4))
    # Labelled pixels, those that are met, predicted pixels, those that are met; no fourth class is labelled.
    labelled, predicted = rng.integers(0, 50, (2, 12, 4))
    labelled[:, 3] = 0
    boundary = np.stack([labelled, labelled // 2, predicted, predicted // 3], axis=2).astype(np.int32)
    segmentation = dataclasses.replace(segmentation_records(masks, masks, 4), boundary=boundary)
    weights = draws(13, 5, 12)
    f = pooled_score("segmentation", "boundary_f")(
        Records(tuple("x" * 12), segmentation=segmentation), weights
    )
    expected = [np.nanmean(class_boundary_f(segmentation, weight)) for weight in weights]
    assert f == pytest.approx(expected) and np.ptp(f) > 0


def classification_records(labels: np.ndarray, predictions: np.ndarray) -> ClassificationRecords:
    ranks = np.where(labels < 0, -1, (labels != predictions) * 2)
    return ClassificationRecords(
        ("a", "b", "c"), labels.astype(np.int32), predictions.astype(np.int32), ranks.astype(np.int32)
    )


def test_accuracies_of_a_draw_are_those_of_the_repeated_images() -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(-1, 3, (2, 60))
    predictions = np.where(
        labels < 0, -1, np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, 3))
    )
    groups = {
        name: classification_records(*pair)
        for name, pair in zip(("weather", "scene"), zip(labels, predictions, strict=True), strict=True)
    }
    records = Records(tuple("x" * 60), classification=groups)
    weights = draws(9, 4, 60)
    for group, (label, prediction) in zip(groups, zip(labels, predictions, strict=True), strict=True):
        top1 = pooled_score("classification", f"{group}.accuracy")(records, weights)
        balanced = pooled_score("classification", f"{group}.balanced_accuracy")(records, weights)
        for number, weight in enumerate(weights):
            drawn = np.repeat(np.arange(60), weight)
            drawn = drawn[label[drawn] >= 0]
            assert top1[number] == pytest.approx(accuracy_score(label[drawn], prediction[drawn]))
            assert balanced[number] == pytest.approx(balanced_accuracy_score(label[drawn], prediction[drawn]))
        among = dataclasses.replace(
            groups[group], ranks=np.where(label < 0, -1, np.arange(60) % 9).astype(np.int32)
        )
        ranked = Records(records.names, classification={group: among})
        top5 = pooled_score("classification", f"{group}.top5")(ranked, weights)
        assert top5 == pytest.approx([accuracy(among, weight, among=5) for weight in weights])
    both = [pooled_score("classification", f"{group}.accuracy")(records, weights) for group in groups]
    mean = pooled_score("classification", "*.accuracy")(records, weights)
    assert mean == pytest.approx(np.mean(both, axis=0))


def test_unknown_scores_and_missing_tasks_are_named() -> None:
    weights = np.ones((1, 1), np.int64)
    for task, metric in (("detection", "ap60"), ("segmentation", "ap"), ("classification", "accuracy")):
        with pytest.raises(ValueError, match=f"no pooled score '{metric}' of '{task}'"):
            pooled_score(task, metric)
    with pytest.raises(ValueError, match="records have no detection"):
        pooled_score("detection", "ap")(Records(("x",)), weights)
    with pytest.raises(ValueError, match="no label group 'weather'"):
        pooled_score("classification", "weather.accuracy")(Records(("x",)), weights)
