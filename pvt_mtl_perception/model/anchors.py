"""Where the detection head's outputs lie in the image, and how its distance distributions become boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_points(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Centres of all cells, level after level, row after row.

    Args:
        sizes: (height, width) of each level's map.
        strides: of each level, in input pixels.
        device: where the tensors are made.

    Returns:
        float32 (A, 2) with x, y in input pixels, and float32 (A,) with each point's stride.
    """
    points, point_strides = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        ys = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride
        xs = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        points.append(torch.stack((grid_x.reshape(-1), grid_y.reshape(-1)), dim=1))
        point_strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(points), torch.cat(point_strides)


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, K, h, w) of all levels to (B, A, K) in the order of ``anchor_points``."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)


def expected_distances(distributions: Tensor) -> Tensor:
    """Mean of each side: (..., 4 (reg_max + 1)) logits to (..., 4) strides (Li 2020, eq. 4)."""
    bins = distributions.shape[-1] // 4
    shape = (*distributions.shape[:-1], 4, bins)
    probabilities = distributions.reshape(shape).float().softmax(-1)
    return probabilities @ torch.arange(bins, dtype=torch.float32, device=distributions.device)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Points (..., 2) and left, top, right, bottom distances (..., 4), in pixels, to ``xyxy`` (..., 4)."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)
