"""A training batch as pictures: what is labelled beside what is predicted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from pvt_mtl_perception.data.collate import Batch
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.pictures import label_beside_prediction
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import IGNORE_INDEX
from pvt_mtl_perception.model.checkpoint import Checkpoint

# Enough to judge by, few enough to cost less than a step.
PICTURES = 4


def batch_sample(batch: Batch, index: int) -> Sample:
    """One image of a batch with its labels, as a data set would give it.

    Args:
        batch: on the CPU.
        index: of the image.
    """
    labelled = torch.nonzero(batch.detection_labelled[index])[:, 0]
    mask = batch.masks[index].numpy().astype(np.uint8)
    return Sample(
        image=batch.images[index].permute(1, 2, 0).contiguous().numpy(),
        boxes=batch.boxes[index].numpy() if len(labelled) else None,
        box_labels=batch.box_labels[index].numpy() if len(labelled) else None,
        box_classes=tuple(labelled.tolist()) if len(labelled) else None,
        mask=mask if (mask != IGNORE_INDEX).any() else None,
        classes={group: int(ids[index]) for group, ids in batch.classes.items()},
        name=batch.names[index],
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
    samples = [batch_sample(batch, index) for index in range(min(PICTURES, len(batch.images)))]
    results = predictor.predict([sample.image for sample in samples])
    return {
        f"labels and predictions/{index}": label_beside_prediction(sample, result, predictor.labels)
        for index, (sample, result) in enumerate(zip(samples, results, strict=True))
    }
