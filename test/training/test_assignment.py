"""ATSS against a plain reading of algorithm 1 of the paper, one object and one point at a time."""

from __future__ import annotations

import statistics

import pytest
import torch

from pvt_mtl_perception.model.anchors import anchor_points
from pvt_mtl_perception.training.assignment import assign, pad_boxes

SIZES = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
STRIDES = (8, 16, 32, 64, 128)


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)]
    return width * height / (sum(areas) - width * height)


def reference(boxes: list[list[float]], anchor_scale: float) -> list[int]:
    points, levels = [], []
    for (height, width), stride in zip(SIZES, STRIDES, strict=True):
        levels.append(range(len(points), len(points) + height * width))
        points += [
            ((x + 0.5) * stride, (y + 0.5) * stride, stride) for y in range(height) for x in range(width)
        ]
    anchors = [
        [
            x - s * anchor_scale / 2,
            y - s * anchor_scale / 2,
            x + s * anchor_scale / 2,
            y + s * anchor_scale / 2,
        ]
        for x, y, s in points
    ]
    claims: dict[int, list[tuple[float, int]]] = {}
    for number, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates = []
        for level in levels:
            by_distance = sorted(level, key=lambda i: (points[i][0] - cx) ** 2 + (points[i][1] - cy) ** 2)
            candidates += by_distance[:9]
        overlaps = {i: iou(anchors[i], box) for i in candidates}
        threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        for i, overlap in overlaps.items():
            x, y, _ = points[i]
            if overlap >= threshold and box[0] < x < box[2] and box[1] < y < box[3]:
                claims.setdefault(i, []).append((overlap, number))
    return [max(claims[i])[1] if i in claims else -1 for i in range(len(points))]


@pytest.mark.parametrize("seed", range(6))
def test_assignment_equals_the_plain_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = []
    for count in (5, 0, 9):
        # Odd fractions, so that no two points are equally far from a centre.
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([120.0, 70.0]) + 0.137
        side = torch.rand(count, 2, generator=generator) * 60 + 6.071
        images.append(torch.cat((corner, corner + side), 1))
    points, strides = anchor_points(SIZES, STRIDES)
    boxes, real = pad_boxes(images)
    found = assign(points, strides, [h * w for h, w in SIZES], boxes, real, anchor_scale=6.0)
    for row, image in zip(found.tolist(), images, strict=True):
        assert row == reference(image.tolist(), 6.0)
    assert (found[0] >= 0).sum() >= 5
    assert (found[1] == -1).all()


def test_anchor_points_lie_in_the_middle_of_their_cells() -> None:
    points, strides = anchor_points([(2, 3), (1, 1)], (8, 16))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert strides.tolist() == [8] * 6 + [16]
