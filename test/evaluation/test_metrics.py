from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from random_detections import IMAGE, SIDE, by_pycocotools, detected, label_set, random_frames
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from pvt_mtl_perception.labels import LabelSet, distinct_colors, load_label_set
from pvt_mtl_perception.result import Classification, Result, Segmentation


@pytest.mark.parametrize("seed", range(4))
def test_ap_equals_pycocotools_with_ignore_boxes_as_crowd(seed: int) -> None:
    frames = random_frames(seed)
    metric = DetectionMetric(label_set(4))
    for result, sample in frames:
        metric.update(result, sample)
    scores = metric.compute()
    reference = by_pycocotools(frames, 4)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    np.testing.assert_allclose([scores[n] for n in names], reference.stats[:6], atol=1e-6)
    assert scores["ar100"] == pytest.approx(reference.stats[8], abs=1e-6)
    assert 0.05 < scores["ap"] < 0.95
    precision = reference.eval["precision"][:, :, :, 0, -1]
    for class_id, name in enumerate("abcd"):
        assert scores["per_class"][name]["ap"] == pytest.approx(precision[:, :, class_id].mean(), abs=1e-6)
        assert scores["per_class"][name]["ap50"] == pytest.approx(precision[0, :, class_id].mean(), abs=1e-6)


def test_perfect_boxes_score_one_and_ignore_boxes_absorb_false_alarms() -> None:
    boxes = np.array([[10, 10, 60, 60], [100, 100, 180, 200]], np.float32)
    sample = Sample(
        image=IMAGE,
        boxes=boxes,
        box_labels=np.array([0, 1]),
        box_classes=(0, 1),
        ignore_boxes=np.array([[200, 200, 300, 300]], np.float32),
    )
    inside, elsewhere = np.array([[210, 210, 250, 250]]), np.array([[300, 10, 340, 50]])
    for extra, expected in ((inside, 1.0), (elsewhere, 0.75)):
        metric = DetectionMetric(label_set(2))
        guesses = np.concatenate([boxes, extra])
        metric.update(detected(guesses, np.array([0.5, 0.5, 0.9]), np.array([0, 1, 0])), sample)
        # A false alarm above the only hit of class a halves its precision: (0.5 + 1) / 2.
        assert metric.compute()["ap50"] == pytest.approx(expected)


def test_classes_that_a_source_does_not_label_count_neither_way() -> None:
    box = np.array([[10, 10, 60, 60]], np.float32)
    sample = Sample(image=IMAGE, boxes=box, box_labels=np.array([0]), box_classes=(0,))
    metric = DetectionMetric(label_set(3))
    metric.update(detected(np.repeat(box, 2, 0) + 5, np.array([0.9, 0.2]), np.array([2, 0])), sample)
    scores = metric.compute()
    assert list(scores["per_class"]) == ["a"]
    assert scores["per_class"]["a"] == {
        "ap": pytest.approx(0.4),
        "ap50": 1.0,
        "ap75": 0.0,
        "ap_small": None,
        "ap_medium": pytest.approx(0.4),
        "ap_large": None,
        "boxes": 1,
    }
    assert scores["ap"] == pytest.approx(0.4) and scores["ap_small"] is None


def test_frames_without_labels_or_objects() -> None:
    metric = DetectionMetric(label_set(2))
    metric.update(detected(np.zeros((0, 4)), np.zeros(0), np.zeros(0)), Sample(image=IMAGE))
    assert metric.images == 0
    empty = Sample(
        image=IMAGE, boxes=np.zeros((0, 4), np.float32), box_labels=np.zeros(0, np.int64), box_classes=(0, 1)
    )
    metric.update(detected(np.array([[0, 0, 9, 9]]), np.array([0.9]), np.array([1])), empty)
    assert metric.images == 1 and metric.compute()["ap"] is None
    with pytest.raises(ValueError, match="lot: the result has no detections"):
        metric.update(
            Result(1, 1),
            Sample(image=IMAGE, boxes=empty.boxes, box_labels=empty.box_labels, box_classes=(0,), name="lot"),
        )


def segmented(mask: Sequence[Sequence[int]]) -> Result:
    array = np.array(mask, np.uint8)
    return Result(*array.shape, segmentation=Segmentation(array))


def masked(mask: Sequence[Sequence[int]], name: str = "") -> Sample:
    array = np.array(mask, np.uint8)
    return Sample(image=np.zeros((*array.shape, 3), np.uint8), mask=array, name=name)


def test_iou_of_a_hand_computed_example_pooled_over_frames() -> None:
    metric = SegmentationMetric(label_set(4))
    metric.update(segmented([[0, 0, 1], [2, 1, 1]]), masked([[0, 0, 0], [2, 1, 255]]))
    metric.update(segmented([[0, 3]]), masked([[1, 1]]))
    scores = metric.compute()
    # a: 2 hits, 3 labelled, 3 predicted → 2/4; b: 1 hit, 3 labelled, 2 predicted → 1/4; c: 1/1;
    # d is predicted once but never labelled, so it is no part of the mean.
    assert scores["per_class"] == {"a": 0.5, "b": 0.25, "c": 1.0}
    assert scores["miou"] == pytest.approx(1.75 / 3)
    assert scores["pixel_accuracy"] == pytest.approx(4 / 7)
    np.testing.assert_array_equal(
        metric.confusion, [[2, 1, 0, 0, 0], [1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    )


def test_iou_equals_a_class_by_class_count() -> None:
    rng = np.random.default_rng(0)
    metric = SegmentationMetric(load_label_set("driving_segmentation"))
    truth = rng.choice([*range(17), 255], (5, 40, 50)).astype(np.uint8)
    guess = np.where(rng.random(truth.shape) < 0.5, truth % 19, rng.integers(0, 19, truth.shape))
    for one, other in zip(guess, truth, strict=True):
        metric.update(segmented(one), masked(other))
    counts = truth != 255
    expected = [
        ((truth == c) & (guess == c)).sum() / (((truth == c) | (guess == c)) & counts).sum()
        for c in range(17)
    ]
    scores = metric.compute()
    np.testing.assert_allclose(list(scores["per_class"].values()), expected)
    assert scores["miou"] == pytest.approx(np.mean(expected))


def test_scores_in_another_taxonomy() -> None:
    driving, camvid = load_label_set("driving_segmentation"), load_label_set("camvid")
    names = driving.names.index
    ignored = [n for n in driving.names if n not in camvid.mappings["driving_segmentation"]]
    assert not ignored, "every driving class counts in CamVid's"
    truth = [[names("car"), names("car"), names("vegetation"), names("road"), names("sky")]]
    guess = [[names("bus"), names("truck"), names("terrain"), names("sidewalk"), names("sky")]]
    metric = SegmentationMetric(driving, camvid)
    metric.update(segmented(guess), masked(truth))
    assert metric.compute()["per_class"] == {"sky": 1.0, "road": 0.0, "tree": 1.0, "car": 1.0}


def test_a_prediction_that_the_target_ignores_is_a_miss_but_no_false_alarm() -> None:
    target = LabelSet("coarse", ("x", "y"), distinct_colors(2), mappings={"letters": {"a": "x", "b": "y"}})
    metric = SegmentationMetric(label_set(3), target)
    metric.update(segmented([[0, 2, 1, 0]]), masked([[0, 0, 1, 2]]))
    # The last pixel's label is ignored; the second is predicted as a class that is ignored.
    scores = metric.compute()
    assert (scores["miou"], scores["pixel_accuracy"]) == (0.75, pytest.approx(2 / 3))
    assert scores["per_class"] == {"x": 0.5, "y": 1.0}
    with pytest.raises(KeyError, match="no mapping from 'letters'"):
        SegmentationMetric(label_set(3), label_set(3, "other"))


def test_unlabelled_pixels_are_255_whatever_the_files_of_a_label_set_hold() -> None:
    labels = dataclasses.replace(label_set(3), ignore_index=7)
    target = LabelSet("coarse", ("x", "y"), distinct_colors(2), 9, {"letters": {"a": "x", "b": "y"}})
    for scored_in, expected in ((None, {"a": 0.5, "b": 1.0}), (target, {"x": 0.5, "y": 1.0})):
        metric = SegmentationMetric(labels, scored_in)
        metric.update(segmented([[0, 2, 1, 0]]), masked([[0, 0, 1, 255]]))
        assert metric.compute()["per_class"] == expected
        with pytest.raises(ValueError, match="mask holds class id 7 of a set of 3"):
            metric.update(segmented([[0, 0]]), masked([[0, 7]]))


def test_masks_that_do_not_fit_are_named() -> None:
    metric = SegmentationMetric(label_set(3))
    with pytest.raises(ValueError, match=r"frame 7: predicted mask is \(1, 2\), label is \(1, 3\)"):
        metric.update(segmented([[0, 0]]), masked([[0, 0, 0]], "frame 7"))
    with pytest.raises(ValueError, match="frame 7: mask holds class id 3 of a set of 3"):
        metric.update(segmented([[0, 0]]), masked([[0, 3]], "frame 7"))
    with pytest.raises(ValueError, match="frame 7: the result has no mask"):
        metric.update(Result(1, 2), masked([[0, 0]], "frame 7"))
    assert metric.images == 0 and metric.compute() == {
        "miou": None,
        "pixel_accuracy": None,
        "boundary_f": None,
        "per_class": {},
        "per_class_boundary_f": {},
    }


def test_accuracy_equals_sklearn() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(8), 300).astype(np.float32)
    truth = np.where(rng.random(300) < 0.5, probabilities.argmax(1), rng.integers(0, 7, 300)) % 7
    metric = ClassificationMetric({"kind": label_set(8), "empty": label_set(2)})
    for row, label in zip(probabilities, truth, strict=True):
        result = Result(
            SIDE, SIDE, classification=Classification({"kind": row, "empty": np.array([0.4, 0.6])})
        )
        metric.update(result, Sample(image=IMAGE, classes={"kind": int(label), "empty": -1}))
    metric.update(Result(SIDE, SIDE), Sample(image=IMAGE))
    scores = metric.compute()
    guess = probabilities.argmax(1)
    assert set(scores) == {"kind"} and metric.images == 300
    kind = scores["kind"]
    assert kind["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert kind["top5"] == pytest.approx(top_k_accuracy_score(truth, probabilities, k=5, labels=range(8)))
    assert kind["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    np.testing.assert_array_equal(kind["confusion"], confusion_matrix(truth, guess, labels=range(8)))
    assert kind["images"] == 300 and list(kind["per_class"]) == list("abcdefg")


def test_class_ids_and_groups_that_do_not_fit_are_named() -> None:
    metric = ClassificationMetric({"kind": label_set(2)})
    result = Result(SIDE, SIDE, classification=Classification({"kind": np.array([0.4, 0.6], np.float32)}))
    with pytest.raises(ValueError, match=r"x: class 2 of group 'kind' is outside 0\.\.1"):
        metric.update(result, Sample(image=IMAGE, classes={"kind": 2}, name="x"))
    with pytest.raises(ValueError, match="x: the result has no 'kind'"):
        metric.update(Result(SIDE, SIDE), Sample(image=IMAGE, classes={"kind": 1}, name="x"))
