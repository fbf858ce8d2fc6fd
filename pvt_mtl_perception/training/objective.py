"""From a network's output and a batch to one loss a task."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pvt_mtl_perception.data.collate import Batch
from pvt_mtl_perception.labels import IGNORE_INDEX
from pvt_mtl_perception.model.heads import RetinaNetOutput
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.training.losses import (
    Normaliser,
    clamped,
    classification_loss,
    detection_loss,
    mask_cross_entropy,
    segmentation_loss,
)
from pvt_mtl_perception.training.retinanet_loss import retinanet_loss


def labelled_tasks(batch: Batch) -> set[str]:
    """The tasks that at least one image of the batch labels."""
    found = set()
    if any(bool((ids >= 0).any()) for ids in batch.classes.values()):
        found.add("classification")
    if bool(batch.detection_labelled.any()):
        found.add("detection")
    if bool((batch.masks != IGNORE_INDEX).any()):
        found.add("segmentation")
    return found


def task_losses(
    output: NetworkOutput,
    batch: Batch,
    network: MultiTaskNetwork,
    label_smoothing: float = 0.0,
    segmentation_class_weights: Tensor | None = None,
    normaliser: Normaliser = clamped,
    cross_entropy: Callable[..., Tensor] = mask_cross_entropy,
) -> dict[str, Tensor]:
    """The loss of each task that the output holds, a scalar each.

    Args:
        output: of ``network`` for the batch's images.
        batch: on the same device.
        network: for its spec and label sets.
        label_smoothing: of the classification.
        segmentation_class_weights: (classes,), or None.
        normaliser: what sums are divided by, see ``losses.Normaliser``.
        cross_entropy: of the segmentation, see ``losses.segmentation_loss``.
    """
    losses: dict[str, Tensor] = {}
    if output.classification is not None:
        losses["classification"] = classification_loss(
            output.classification, batch.classes, label_smoothing, normaliser
        )
    if output.detection is not None and network.spec.detection is not None:
        targets = (batch.boxes, batch.box_labels, batch.ignore_boxes, batch.detection_labelled)
        spec = network.spec.detection
        if isinstance(output.detection, RetinaNetOutput):
            parts = retinanet_loss(output.detection, *targets, spec, normaliser)
        else:
            parts = detection_loss(output.detection, *targets, spec, normaliser)
        losses["detection"] = sum(parts.values(), start=next(iter(parts.values())) * 0)
    if output.segmentation is not None:
        losses["segmentation"] = segmentation_loss(
            output.segmentation,
            batch.masks,
            segmentation_class_weights,
            normaliser,
            cross_entropy,
        )
    return losses
