"""Adaptive training sample selection (Zhang 2020): which anchor point answers for which object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

CANDIDATES_PER_LEVEL = 9


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (N_i, 4) of each image to (B, max N, 4), zeros behind, and bool (B, max N): which are real."""
    counts = torch.tensor([len(b) for b in boxes], device=boxes[0].device)
    padded = pad_sequence([b.reshape(-1, 4) for b in boxes], batch_first=True)
    real = torch.arange(padded.shape[1], device=padded.device)[None] < counts[:, None]
    return padded, real


def broadcast_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of ``xyxy`` boxes (..., 4) and (..., 4) after broadcasting, (...), 0..1.

    torchvision.ops.box_iou compares every box with every other; here each has its own partner.
    """
    overlap = (
        torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    ).clamp(min=0)
    intersection = overlap.prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return intersection / (area - intersection).clamp(min=1e-9)


@torch.no_grad()
def assign(
    points: Tensor,
    point_strides: Tensor,
    points_per_level: Sequence[int],
    boxes: Tensor,
    real: Tensor,
    anchor_scale: float,
) -> Tensor:
    """For each anchor point the object it answers for (Zhang 2020, algorithm 1).

    Every object takes its nearest points on each level as candidates, and of them those whose square anchor
    overlaps it by at least mean + standard deviation of the candidates' IoU and whose centre lies inside it.
    A point that several objects claim goes to the one it overlaps most.

    Args:
        points: float (A, 2) in input pixels, from ``model.anchors.anchor_points``.
        point_strides: float (A,).
        points_per_level: how many of the points belong to each level.
        boxes: float (B, M, 4) ``xyxy`` in input pixels, padded.
        real: bool (B, M), False for padding.
        anchor_scale: side of the square anchor in strides.

    Returns:
        int64 (B, A): index into M, -1 for background.
    """
    batch, most = real.shape
    if most == 0:
        return torch.full((batch, len(points)), -1, dtype=torch.int64, device=points.device)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = torch.cdist(centres, points[None].expand(batch, -1, -1))
    candidates = []
    first = 0
    for count in points_per_level:
        nearest = distance[..., first : first + count].topk(min(CANDIDATES_PER_LEVEL, count), largest=False)
        candidates.append(nearest.indices + first)
        first += count
    index = torch.cat(candidates, dim=2)
    half = point_strides * (anchor_scale / 2)
    anchors = torch.cat((points - half[:, None], points + half[:, None]), dim=1)
    iou = broadcast_iou(boxes[:, :, None], anchors[index])
    threshold = iou.mean(2, keepdim=True) + iou.std(2, keepdim=True)
    chosen = points[index]
    inside = torch.cat((chosen - boxes[:, :, None, :2], boxes[:, :, None, 2:] - chosen), -1).amin(-1) > 0.01
    positive = (iou >= threshold) & inside & real[..., None]
    overlap = boxes.new_full((batch, most, len(points)), -1.0)
    overlap.scatter_(2, index, torch.where(positive, iou, -1.0))
    best, owner = overlap.max(1)
    return torch.where(best >= 0, owner, -1)
