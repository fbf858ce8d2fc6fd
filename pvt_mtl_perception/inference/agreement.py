"""How far two backends agree on a checkpoint: raw outputs, boxes, masks and class probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from pvt_mtl_perception.inference.backends.graph import named_outputs
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.network import NetworkOutput
from pvt_mtl_perception.result import Detections

MATCHED_IOU = 0.95


@dataclass(frozen=True)
class Agreement:
    """What two backends make of the same images.

    Attributes:
        images: how many.
        outputs: largest absolute difference of each raw output, by name.
        boxes: number of boxes, of the one that found more.
        matched_boxes: those with a partner of the same class and an IoU of at least ``MATCHED_IOU``.
        score_difference: largest of the matched boxes' scores.
        mask_pixels: share of the pixels with equal classes, 0..1; 1 without a mask.
        probability_difference: largest absolute difference of a class probability.
    """

    images: int
    outputs: dict[str, float]
    boxes: int
    matched_boxes: int
    score_difference: float
    mask_pixels: float
    probability_difference: float

    def describe(self) -> str:
        """Lines for people."""
        # NaN, which compares with nothing, is the worst of all.
        worst = max(self.outputs, key=lambda name: (math.isnan(self.outputs[name]), self.outputs[name]))
        return (
            f"{self.images} images: logits differ by at most {self.outputs[worst]:.2g} ({worst})\n"
            f"  boxes: {self.matched_boxes} of {self.boxes} matched (same class, IoU >= {MATCHED_IOU}), "
            f"scores within {self.score_difference:.2g}\n"
            f"  masks: {100 * self.mask_pixels:.3f} % of the pixels equal\n"
            f"  class probabilities within {self.probability_difference:.2g}"
        )


def compare(
    reference: Predictor,
    forward: Callable[[Tensor, Collection[str]], NetworkOutput],
    images: Sequence[npt.NDArray[np.uint8]],
) -> Agreement:
    """A predictor's results beside those that another backend's outputs become in its hands.

    Args:
        reference: preprocesses and decodes for both, with its thresholds.
        forward: another backend of the same checkpoint on the same device, or its predictor's ``forward``.
        images: at least one, uint8 (H, W, 3) RGB; they go through both as one batch.

    Raises:
        ValueError: when there is no image.
    """
    if not images:
        raise ValueError("there is no image to compare on")
    with torch.inference_mode():
        batch, geometries = reference.preprocess(images)
        expected = reference.forward(batch, reference.tasks)
        found = forward(batch, reference.tasks)
        results = [reference.decode(output, geometries) for output in (expected, found)]
        expected_named, found_named = named_outputs(expected), named_outputs(found)
        outputs = {
            name: float((found_named[name].float() - tensor.float()).abs().max())
            for name, tensor in expected_named.items()
        }
    boxes = matched = equal = pixels = 0
    scores = probabilities = 0.0
    for a, b in zip(*results, strict=True):
        if a.detections is not None and b.detections is not None:
            count, difference = _match(a.detections, b.detections)
            boxes += max(len(a.detections), len(b.detections))
            matched += count
            scores = max(scores, difference)
        if a.segmentation is not None and b.segmentation is not None:
            equal += int((a.segmentation.mask == b.segmentation.mask).sum())
            pixels += a.segmentation.mask.size
        if a.classification is not None and b.classification is not None:
            for group, values in a.classification.probabilities.items():
                gap = np.abs(values - b.classification.probabilities[group]).max()
                probabilities = max(probabilities, float(gap))
    return Agreement(
        len(images), outputs, boxes, matched, scores, equal / pixels if pixels else 1.0, probabilities
    )


def _match(a: Detections, b: Detections) -> tuple[int, float]:
    """How many boxes of ``a`` have a partner in ``b``, and the largest difference of their scores."""
    if not len(a) or not len(b):
        return 0, 0.0
    iou = box_iou(torch.from_numpy(a.boxes), torch.from_numpy(b.boxes)).numpy()
    iou = np.where(a.labels[:, None] == b.labels[None], iou, 0)
    partner = iou.argmax(axis=1)
    matched = iou.max(axis=1) >= MATCHED_IOU
    if not matched.any():
        return 0, 0.0
    return int(matched.sum()), float(np.abs(a.scores - b.scores[partner])[matched].max())
