"""RetinaNet's loss; what a sample does not label contributes exactly zero to every gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from pvt_mtl_perception.model.anchors import RETINANET_CODER, retinanet_anchors
from pvt_mtl_perception.model.heads import RetinaNetOutput
from pvt_mtl_perception.model.spec import DetectionSpec
from pvt_mtl_perception.training.losses import Normaliser, clamped

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4
IGNORED_COVERAGE = 0.5
"""Share of a background anchor's area inside an ignore box from which on it is not learned."""


def retinanet_loss(
    output: RetinaNetOutput,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    ignore_boxes: Sequence[Tensor],
    labelled: Tensor,
    spec: DetectionSpec,
    normaliser: Normaliser = clamped,
) -> dict[str, Tensor]:
    """Focal loss and L1 loss of the coded boxes (Lin 2017b), matched and averaged as torchvision does.

    An image's sums are divided by the number of its foreground anchors, and the images are averaged. An image
    of which no class is labelled counts for nothing, not even in that average.

    Args:
        output: of the RetinaNet head for B images.
        boxes: for each image float (N_i, 4) ``xyxy`` in input pixels.
        labels: for each image int64 (N_i,).
        ignore_boxes: for each image float (M_i, 4): background mostly inside one of them is not learned.
        labelled: bool (B, classes): the classes that each image's source labels.
        spec: of the head.
        normaliser: what the sum over the images is divided by, see ``losses.Normaliser``.

    Returns:
        Scalars ``classification`` and ``regression``, to be summed.
    """
    logits, deltas = output.logits.float(), output.deltas.float()
    anchors = retinanet_anchors(output.sizes, spec.strides, logits.device)
    owner = torch.stack([_match(own, anchors) for own in boxes])
    learned = owner != Matcher.BETWEEN_THRESHOLDS
    for i, ignored in enumerate(ignore_boxes):
        if len(ignored):
            learned[i] &= (owner[i] >= 0) | (_coverage(ignored, anchors) < IGNORED_COVERAGE)

    image, anchor = torch.nonzero(owner >= 0, as_tuple=True)
    # Objects of all images in a row, each image's behind those of the image before.
    first = torch.tensor([0, *(len(own) for own in boxes)], device=logits.device).cumsum(0)
    target = first[image] + owner[image, anchor]
    positives = (owner >= 0).sum(1).clamp(min=1)

    truth = torch.zeros_like(logits)
    truth[image, anchor, torch.cat(list(labels))[target]] = 1.0
    focal = sigmoid_focal_loss(logits, truth)
    focal = torch.where(learned[..., None] & labelled[:, None, :], focal, 0.0)
    wanted = RETINANET_CODER.encode_single(torch.cat(list(boxes)).float()[target], anchors[anchor])
    distance = F.l1_loss(deltas[image, anchor], wanted, reduction="none").sum(1)

    images = normaliser(labelled.any(1).sum(), 1.0)
    return {
        "classification": (focal.sum((1, 2)) / positives).sum() / images,
        "regression": (distance / positives[image]).sum() / images,
    }


def _match(boxes: Tensor, anchors: Tensor) -> Tensor:
    """int64 (A,): each anchor's object, -1 for background, -2 for neither."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
    matcher = Matcher(FOREGROUND_IOU, BACKGROUND_IOU, allow_low_quality_matches=True)
    matched: Tensor = matcher(box_iou(boxes.float(), anchors))
    return matched


def _coverage(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(A,): the largest share of each anchor's area that one of the boxes covers, 0..1."""
    low = torch.maximum(boxes[:, None, :2], anchors[:, :2])
    high = torch.minimum(boxes[:, None, 2:], anchors[:, 2:])
    area = (anchors[:, 2:] - anchors[:, :2]).prod(1)
    return ((high - low).clamp(min=0).prod(2) / area).amax(0)
