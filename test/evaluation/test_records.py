from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from random_detections import IMAGE, by_pycocotools, detected, label_set, random_frames

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from pvt_mtl_perception.evaluation.records import (
    Records,
    accuracy,
    average_precision,
    balanced_accuracy,
    class_boundary_f,
    class_iou,
    confusion_matrix,
    labelled_names,
    load_records,
    operating_points,
    pixel_accuracy,
    save_records,
)
from pvt_mtl_perception.result import Classification, Result, Segmentation

SIZE = (40, 50)


def segmentation(seed: int, images: int = 6) -> SegmentationMetric:
    rng = np.random.default_rng(seed)
    metric = SegmentationMetric(label_set(4))
    for image in range(images):
        truth = np.kron(rng.integers(0, 4, (4, 5)), np.ones((10, 10))).astype(np.uint8)
        guess = np.where(rng.random(SIZE) < 0.2, rng.integers(0, 4, SIZE), truth).astype(np.uint8)
        truth[: 3 * image] = 255
        sample = Sample(image=np.zeros((*SIZE, 3), np.uint8), mask=None if image == 2 else truth)
        metric.update(Result(*SIZE, segmentation=Segmentation(guess)), sample)
    return metric


def classification(seed: int, images: int = 30) -> ClassificationMetric:
    rng = np.random.default_rng(seed)
    metric = ClassificationMetric({"kind": label_set(8), "empty": label_set(2)})
    for image in range(images):
        probabilities = {"kind": rng.dirichlet(np.ones(8)).astype(np.float32)}
        label = -1 if image == 3 else int(rng.integers(0, 8))
        sample = Sample(image=np.zeros((*SIZE, 3), np.uint8), classes={"kind": label})
        metric.update(Result(*SIZE, classification=Classification(probabilities)), sample)
    return metric


def detection(seed: int, draw: list[int] | None = None) -> DetectionMetric:
    frames = random_frames(seed, images=20)
    metric = DetectionMetric(label_set(4))
    for number in draw if draw is not None else range(len(frames)):
        metric.update(*frames[number])
    return metric


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_the_records_is_that_of_pycocotools_and_of_the_metric(seed: int) -> None:
    metric = detection(seed)
    ap = average_precision(metric.records())
    reference = by_pycocotools(random_frames(seed, images=20), 4).eval["precision"][..., -1]
    expected = np.where(reference < 0, np.nan, reference).mean(1).transpose(2, 0, 1)
    np.testing.assert_allclose(ap, expected, atol=1e-12)
    scores = metric.compute()
    assert np.nanmean(ap[0]) == pytest.approx(scores["ap"], abs=1e-6)
    assert np.nanmean(ap[1]) == pytest.approx(scores["ap_small"], abs=1e-6)


@pytest.mark.parametrize(("seed", "iou"), [(0, 0), (1, 5)])
def test_operating_points_are_those_counted_one_by_one(seed: int, iou: int) -> None:
    records = detection(seed).records()
    # Scores that fall on a threshold count at it.
    records.scores[:40] = np.round(records.scores[:40], 2)
    points = operating_points(records, iou)
    for row in (0, 29, 56, 98):
        for label in range(4):
            kept = [
                number
                for number, score in enumerate(records.scores)
                if score >= np.float32(points.thresholds[row])
                and records.labels[number] == label
                and not records.ignored[0, iou, number]
            ]
            true = sum(bool(records.matched[0, iou, number]) for number in kept)
            boxes = records.positives[:, label, 0].sum()
            expected = true / len(kept) if kept else np.nan
            np.testing.assert_equal(points.precision[row, label], expected)
            assert points.recall[row, label] == true / boxes
            assert points.f1[row, label] == pytest.approx(2 * true / (len(kept) + boxes))
    threshold, precision, recall, f1 = points.best()
    row = int(np.argmax(points.f1.mean(1)))
    assert threshold == points.thresholds[row] == pytest.approx((row + 1) / 100)
    assert precision == pytest.approx(np.nanmean(points.precision[row]))
    assert (recall, f1) == pytest.approx((points.recall[row].mean(), points.f1[row].mean()))


def test_a_class_that_is_never_detected_does_not_raise_precision_and_ties_go_to_the_top() -> None:
    metric = DetectionMetric(label_set(2))
    boxes = np.array([[0, 0, 50, 50], [100, 100, 150, 150]], np.float32)
    truth = Sample(
        IMAGE, boxes=boxes, box_labels=np.array([0, 1]), box_classes=(0, 1), ignore_boxes=boxes[:0], name="a"
    )
    found = np.concatenate([boxes[:1], boxes[:1] + 200])
    metric.update(detected(found, np.array([0.8, 0.4]), np.array([0, 0])), truth)
    points = operating_points(metric.records())
    assert points.precision[9, 0] == 0.5 and np.isnan(points.precision[:, 1]).all()
    assert points.best() == (0.8, 1.0, 0.5, 0.5)


def test_a_class_without_boxes_has_no_operating_point() -> None:
    metric = DetectionMetric(label_set(5))
    for frame in random_frames(0, images=20):
        metric.update(*frame)
    points = operating_points(metric.records())
    assert np.isnan(points.recall[:, 4]).all() and np.isnan(points.f1[:, 4]).all()
    assert points.best()[3] == np.nanmean(points.f1, axis=1).max()
    empty = DetectionMetric(label_set(2))
    with pytest.raises(ValueError, match="no labelled box"):
        operating_points(empty.records()).best()


def test_ap_of_a_resample_is_that_of_a_data_set_with_the_drawn_images() -> None:
    draw = np.random.default_rng(5).integers(0, 20, 20).tolist()
    weights = np.bincount(draw, minlength=20)
    assert weights.max() > 1 and weights.min() == 0
    resampled = average_precision(detection(9).records(), weights)
    drawn = average_precision(detection(9, sorted(draw)).records())
    np.testing.assert_allclose(resampled, drawn, atol=1e-12)
    assert abs(np.nanmean(drawn[0]) - np.nanmean(average_precision(detection(9).records())[0])) > 1e-3


def test_pooled_masks_give_the_metrics_scores_and_weights_count_images() -> None:
    metric = segmentation(0)
    records, scores = metric.records(), metric.compute()
    assert np.nanmean(class_iou(records)) == pytest.approx(scores["miou"])
    assert pixel_accuracy(records) == pytest.approx(scores["pixel_accuracy"])
    assert np.nanmean(class_boundary_f(records)) == pytest.approx(scores["boundary_f"])
    np.testing.assert_array_equal(confusion_matrix(records), metric.confusion)
    weights = np.array([2, 0, 5, 1, 0, 3])
    twice = SegmentationMetric(label_set(4))
    twice.frames = [frame for frame, n in zip(metric.frames, weights, strict=True) for _ in range(n)]
    np.testing.assert_array_equal(confusion_matrix(records, weights), twice.confusion)
    assert np.nanmean(class_boundary_f(records, weights)) == pytest.approx(twice.compute()["boundary_f"])


def test_classes_give_the_metrics_scores_and_weights_count_images() -> None:
    metric = classification(1)
    scores = metric.compute()["kind"]
    records = metric.records()
    assert list(records) == ["kind"]
    kind = records["kind"]
    assert accuracy(kind) == pytest.approx(scores["accuracy"])
    assert accuracy(kind, among=5) == pytest.approx(scores["top5"])
    assert balanced_accuracy(kind) == pytest.approx(scores["balanced_accuracy"])
    weights = np.arange(30) % 3
    right = (kind.ranks == 0) & (kind.labels >= 0)
    assert accuracy(kind, weights) == pytest.approx(
        (weights * right).sum() / (weights * (kind.labels >= 0)).sum()
    )


def test_records_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    records = Records(
        names=tuple(f"image {i}" for i in range(20)),
        classification=classification(0, 20).records(),
        detection=detection(0).records(),
        segmentation=segmentation(0, 20).records(),
        description={"data": "random"},
    )
    path = tmp_path / "records.npz"
    save_records(path, records)
    found = load_records(path)
    assert found.names == records.names and found.description == {"data": "random"}
    pairs = [
        (found.detection, records.detection),
        (found.segmentation, records.segmentation),
        (found.classification["kind"], records.classification["kind"]),
    ]
    for one, other in pairs:
        assert vars(one).keys() == vars(other).keys() and one.classes == other.classes
        for key, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, key), value)
    assert [p.name for p in tmp_path.iterdir()] == ["records.npz"]


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    path.write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"scores\.npz: not records of an evaluation"):
        load_records(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"scores\.npz: not records of an evaluation"):
        load_records(path)
    save_records(path, Records(names=("a",), classification=classification(0, 20).records()))
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:80] + bytes(100) + whole[180:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"scores\.npz: not records of an evaluation"):
            load_records(path)
    with pytest.raises(ValueError, match="weights have shape"):
        average_precision(detection(0).records(), np.ones(3))


def test_labelled_images_are_those_with_a_label_of_the_task_or_group(tmp_path: Path) -> None:
    path, names = tmp_path / "records.npz", {f"image {i}" for i in range(20)}
    groups = classification(0, 20).records()
    groups["few"] = dataclasses.replace(
        groups["kind"], labels=np.where(np.arange(20) < 2, groups["kind"].labels, -1).astype(np.int32)
    )
    save_records(
        path,
        Records(
            names=tuple(sorted(names, key=lambda name: int(name.split()[1]))),
            classification=groups,
            detection=detection(0).records(),
            segmentation=segmentation(0, 20).records(),
        ),
    )
    assert labelled_names(path, "segmentation") == names - {"image 2"}
    assert labelled_names(path, "detection") == names
    assert labelled_names(path, "classification") == names - {"image 3"}
    assert labelled_names(path, "classification", "few") == {"image 0", "image 1"}
    assert labelled_names(path, "classification", "other") == set()
    path.write_bytes(b"no records")
    with pytest.raises(ValueError, match=r"records\.npz: not records"):
        labelled_names(path, "detection")


def test_names_are_the_same_wherever_the_data_lie(tmp_path: Path) -> None:
    for root in ("/one/camvid", "/another/place"):
        names = (f"{root}/train/a_1.png", f"{root}/val/b_2.png")
        save_records(tmp_path / "records.npz", Records(names, {}, None, None, {}))
        with np.load(tmp_path / "records.npz") as file:
            assert root.encode() not in file["header"].tobytes()
        assert load_records(tmp_path / "records.npz").names == ("train/a_1.png", "val/b_2.png")
    save_records(tmp_path / "records.npz", Records(("scene 1", "/scene 2"), {}, None, None, {}))
    assert load_records(tmp_path / "records.npz").names == ("scene 1", "/scene 2")
