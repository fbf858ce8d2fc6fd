"""Random boxes with answers near them, and their scores by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import LabelSet, distinct_colors
from pvt_mtl_perception.result import Detections, Result

SIDE = 400
IMAGE = np.zeros((SIDE, SIDE, 3), np.uint8)


def label_set(count: int, name: str = "letters") -> LabelSet:
    return LabelSet(name, tuple("abcdefghijkl"[:count]), distinct_colors(count))


def detected(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Result:
    order = np.argsort(-scores, kind="stable")
    detections = Detections(
        boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order].astype(np.int64)
    )
    return Result(SIDE, SIDE, detections=detections)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    start = rng.uniform(0, 250, (count, 2))
    return np.hstack([start, start + rng.uniform(5, 140, (count, 2))]).astype(np.float32)


def random_frames(seed: int, images: int = 30, classes: int = 4) -> list[tuple[Result, Sample]]:
    rng = np.random.default_rng(seed)
    frames = []
    for image in range(images):
        boxes = random_boxes(rng, rng.integers(0, 9))
        labels = rng.integers(0, classes, len(boxes))
        # Near copies, some of another class, and some boxes of nothing.
        guesses = np.concatenate([boxes, boxes[: len(boxes) // 2], random_boxes(rng, 4)])
        guesses = guesses + rng.normal(0, 4, guesses.shape)
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        guess_labels = np.concatenate([labels, labels[: len(boxes) // 2], rng.integers(0, classes, 4)])
        wrong = rng.random(len(guess_labels)) < 0.2
        guess_labels[wrong] = rng.integers(0, classes, wrong.sum())
        sample = Sample(
            image=IMAGE,
            boxes=boxes,
            box_labels=labels,
            box_classes=tuple(range(classes)),
            ignore_boxes=random_boxes(rng, rng.integers(0, 3)),
            name=str(image),
        )
        frames.append((detected(guesses, rng.random(len(guesses)), guess_labels), sample))
    return frames


def by_pycocotools(frames: Sequence[tuple[Result, Sample]], classes: int) -> COCOeval:
    def entry(number: int, image: int, label: int, box: np.ndarray, **more: float) -> dict[str, object]:
        x1, y1, x2, y2 = (float(v) for v in box)
        place = [x1, y1, x2 - x1, y2 - y1]
        return {
            "id": number,
            "image_id": image,
            "category_id": label,
            "bbox": place,
            "area": place[2] * place[3],
            "iscrowd": 0,
        } | more

    truth, guesses = [], []
    for image, (result, sample) in enumerate(frames):
        for box, label in zip(sample.boxes, sample.box_labels, strict=True):
            truth.append(entry(len(truth) + 1, image, int(label), box))
        for box in sample.ignore_boxes:
            for label in range(classes):
                truth.append(entry(len(truth) + 1, image, label, box, iscrowd=1))
        found = result.detections
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            guesses.append(entry(len(guesses) + 1, image, int(label), box, score=float(score)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(frames))],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(guesses), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
