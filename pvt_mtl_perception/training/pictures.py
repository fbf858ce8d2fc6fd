"""A training batch as pictures: what is labelled beside what is predicted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.collate import Batch
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.render import draw_overlay
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.model.checkpoint import Checkpoint
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation

# Enough to judge by, few enough to cost less than a step.
PICTURES = 4


def labelled_result(batch: Batch, index: int, labels: TaskLabels) -> Result:
    """The labels of one image of a batch, in the form of a perfect prediction.

    Args:
        batch: on the CPU.
        index: of the image.
        labels: label sets of the model; a task without labels is None.
    """
    height, width = batch.images.shape[-2:]
    detections = segmentation = None
    probabilities: dict[str, npt.NDArray[np.float32]] = {}
    if labels.detection is not None and bool(batch.detection_labelled[index].any()):
        boxes = batch.boxes[index].numpy()
        detections = Detections(boxes, np.ones(len(boxes), np.float32), batch.box_labels[index].numpy())
    mask = batch.masks[index].numpy()
    if labels.segmentation is not None and (mask != labels.segmentation.ignore_index).any():
        segmentation = Segmentation(mask)
    for group, ids in batch.classes.items():
        if (class_id := int(ids[index])) >= 0:
            probabilities[group] = np.eye(len(labels.classification[group]), dtype=np.float32)[class_id]
    return Result(
        height=height,
        width=width,
        classification=Classification(probabilities) if probabilities else None,
        detections=detections,
        segmentation=segmentation,
    )


def labels_beside_predictions(checkpoint: Checkpoint, batch: Batch) -> Mapping[str, npt.NDArray[np.uint8]]:
    """The first images of a batch with their labels on the left and the model's results on the right.

    Args:
        checkpoint: of the model, which predicts on the CPU.
        batch: on the CPU.

    Returns:
        uint8 (H, 2 W, 3) RGB by name, ``PICTURES`` at most.
    """
    height, width = batch.images.shape[-2:]
    predictor = Predictor(checkpoint, device="cpu", input_size=(height, width))
    frames = [image.permute(1, 2, 0).contiguous().numpy() for image in batch.images[:PICTURES]]
    results = predictor.predict(frames)
    return {
        f"labels and predictions/{index}": np.hstack(
            [
                draw_overlay(frame, labelled_result(batch, index, predictor.labels), predictor.labels),
                draw_overlay(frame, result, predictor.labels),
            ]
        )
        for index, (frame, result) in enumerate(zip(frames, results, strict=True))
    }
