"""Losses of the three tasks; what a sample does not label contributes exactly zero to every gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from pvt_mtl_perception.labels import IGNORE_INDEX
from pvt_mtl_perception.model.anchors import (
    anchor_points,
    distances_to_boxes,
    expected_distances,
    flatten_levels,
)
from pvt_mtl_perception.model.heads import DetectionOutput
from pvt_mtl_perception.model.spec import DetectionSpec
from pvt_mtl_perception.training.assignment import assign, broadcast_iou, pad_boxes

# What a sum is divided by, given this process's count and the least that the whole batch's count is taken
# for. The processes of a distributed run divide by their share of the total (Processes.share_of_total), so
# that the mean of their losses is the loss of the whole batch.
Normaliser = Callable[[Tensor, float], Tensor]

GIOU_WEIGHT = 2.0
DISTRIBUTION_WEIGHT = 0.25


def clamped(count: Tensor, minimum: float) -> Tensor:
    """The normaliser of a run of one process."""
    return count.detach().float().clamp(min=minimum)


def quality_focal_loss(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """|y - sigmoid(x)|^beta times binary cross-entropy, element by element (Li 2020, eq. 5).

    Args:
        logits: any shape.
        quality: the same shape, 0..1: IoU of the predicted box at the object's class, 0 elsewhere.
        beta: focusing exponent.
    """
    error = (quality - logits.sigmoid()).abs()
    return error.pow(beta) * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy on the two bins around each distance, weighted by nearness (Li 2020, eq. 6).

    Args:
        logits: (N, reg_max + 1).
        distances: (N,) in strides, 0 <= distance < reg_max.

    Returns:
        (N,)
    """
    left = distances.floor().long()
    right_weight = distances - left
    log_probabilities = F.log_softmax(logits, dim=-1)
    left_term = log_probabilities.gather(1, left[:, None])[:, 0] * (1 - right_weight)
    right_term = log_probabilities.gather(1, left[:, None] + 1)[:, 0] * right_weight
    return -(left_term + right_term)


def detection_loss(
    output: DetectionOutput,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    ignore_boxes: Sequence[Tensor],
    labelled: Tensor,
    spec: DetectionSpec,
    normaliser: Normaliser = clamped,
) -> dict[str, Tensor]:
    """Generalised focal loss (Li 2020, eq. 7) with ATSS assignment.

    Args:
        output: of the detection head for B images.
        boxes: for each image float (N_i, 4) ``xyxy`` in input pixels.
        labels: for each image int64 (N_i,).
        ignore_boxes: for each image float (M_i, 4): background inside them is not learned.
        labelled: bool (B, classes): the classes that each image's source labels.
        spec: of the head.
        normaliser: what sums are divided by, see ``Normaliser``.

    Returns:
        Scalars ``quality``, ``giou`` and ``distribution``, weighted as they are to be summed.
    """
    logits = flatten_levels(output.logits).float()
    distributions = flatten_levels(output.distances).float()
    sizes = [(m.shape[2], m.shape[3]) for m in output.logits]
    points, strides = anchor_points(sizes, spec.strides, logits.device)
    padded, real = pad_boxes(boxes)
    owner = assign(points, strides, [h * w for h, w in sizes], padded, real, spec.anchor_scale)

    image, point = torch.nonzero(owner >= 0, as_tuple=True)
    quality = torch.zeros_like(logits)
    target_index = owner[image, point]
    # Without a box there is nothing to pick from, and nothing is picked.
    target_boxes = padded[image, target_index] if padded.shape[1] else padded.new_zeros(0, 4)
    padded_labels = torch.nn.utils.rnn.pad_sequence(list(labels), batch_first=True)
    target_labels = padded_labels[image, target_index] if padded.shape[1] else target_index
    predicted_distributions = distributions[image, point]
    point_stride = strides[point][:, None]
    predicted = distances_to_boxes(points[point], expected_distances(predicted_distributions) * point_stride)
    with torch.no_grad():
        quality[image, point, target_labels] = broadcast_iou(predicted, target_boxes).clamp(0, 1)
        # Well classified points count more in the box losses, as in the paper's implementation notes.
        weight = logits[image, point].sigmoid().amax(1)
        sides = torch.cat((points[point] - target_boxes[:, :2], target_boxes[:, 2:] - points[point]), dim=1)
        sides = (sides / point_stride).clamp(0, spec.reg_max - 0.01)
    norm = normaliser(weight.sum(), 1.0)
    giou = (generalized_box_iou_loss(predicted, target_boxes) * weight).sum() / norm
    bins = predicted_distributions.reshape(-1, spec.reg_max + 1)
    per_side = distribution_focal_loss(bins, sides.reshape(-1)).reshape(-1, 4)
    distribution = (per_side.mean(1) * weight).sum() / norm

    learned = labelled[:, None, :].expand_as(logits)
    if any(len(b) for b in ignore_boxes):
        learned = learned & ~(_inside_any(points, ignore_boxes) & (owner < 0))[..., None]
    class_loss = quality_focal_loss(logits, quality)
    positives = logits.new_tensor(float(len(image)))
    class_loss = torch.where(learned, class_loss, 0.0).sum() / normaliser(positives, 1.0)
    return {
        "quality": class_loss,
        "giou": GIOU_WEIGHT * giou,
        "distribution": DISTRIBUTION_WEIGHT * distribution,
    }


def _inside_any(points: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """bool (B, A): whether a point lies in one of its image's boxes."""
    padded, real = pad_boxes(boxes)
    low = (points[None, None] >= padded[:, :, None, :2]).all(-1)
    high = (points[None, None] <= padded[:, :, None, 2:]).all(-1)
    return (low & high & real[..., None]).any(1)


def mask_cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy at the target's size, summed over its labelled pixels.

    Args:
        logits: (B, classes, h, w), resized bilinearly.
        target: int64 (B, H, W); ``IGNORE_INDEX`` is unlabelled.
        class_weights: (classes,) or None.
    """
    logits = F.interpolate(logits.float(), size=target.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, target, class_weights, ignore_index=IGNORE_INDEX, reduction="sum")


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    class_weights: Tensor | None = None,
    normaliser: Normaliser = clamped,
    cross_entropy: Callable[..., Tensor] = mask_cross_entropy,
) -> Tensor:
    """Mean cross-entropy over the labelled pixels of the batch, zero where there are none.

    Args:
        logits: (B, classes, h, w) at a fraction of the masks' size.
        masks: uint8 or int64 (B, H, W); ``IGNORE_INDEX`` is unlabelled.
        class_weights: (classes,); the mean is then weighted by each pixel's class.
        normaliser: what sums are divided by, see ``Normaliser``.
        cross_entropy: ``mask_cross_entropy``, or that compiled.
    """
    target = masks.long()
    total = cross_entropy(logits, target, class_weights)
    labelled = target != IGNORE_INDEX
    if class_weights is None:
        return total / normaliser(labelled.sum(), 1.0)
    pixels = torch.bincount(target[labelled], minlength=len(class_weights)).to(class_weights.dtype)
    return total / normaliser((pixels * class_weights).sum(), float(class_weights.min()))


def classification_loss(
    logits: Mapping[str, Tensor],
    classes: Mapping[str, Tensor],
    label_smoothing: float = 0.0,
    normaliser: Normaliser = clamped,
) -> Tensor:
    """Cross-entropy, averaged over the labelled images of each group, summed over the groups.

    Args:
        logits: (B, classes) by group.
        classes: int64 (B,) by group; -1 where the image has no label of the group.
        label_smoothing: share of the target spread over all classes, 0..1.
        normaliser: what sums are divided by, see ``Normaliser``.
    """
    total = torch.stack([x.sum() for x in logits.values()]).sum() * 0.0
    for group, x in logits.items():
        target = classes[group]
        loss = F.cross_entropy(
            x.float(), target, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing
        )
        total = total + loss / normaliser((target >= 0).sum(), 1.0)
    return total
