"""Where the detection heads' outputs lie in the image, and how they become boxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator

RETINANET_RATIOS = (0.5, 1.0, 2.0)
"""Height to width."""
RETINANET_SCALES = (4 * 2**0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
"""Square root of the anchors' areas in strides (Lin 2017b, section 4)."""
RETINANET_ANCHORS = len(RETINANET_RATIOS) * len(RETINANET_SCALES)
RETINANET_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
"""Offsets of the centre in anchor sizes and logarithms of the size ratios (Girshick 2014, appendix C)."""


def anchor_points(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Centres of all cells, level after level, row after row.

    Args:
        sizes: (height, width) of each level's map.
        strides: of each level, in input pixels.
        device: where the tensors are made.

    Returns:
        float32 (A, 2) with x, y in input pixels, and float32 (A,) with each point's stride. The same tensors
        for the same arguments: they are read only.
    """
    return _anchor_points(tuple(sizes), tuple(strides), torch.device(device))


@lru_cache(maxsize=32)
def _anchor_points(
    sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    points, point_strides = [], []
    # Made while predicting, they must serve a training too.
    with torch.inference_mode(False):
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


def retinanet_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """torchvision's anchors of all cells: level after level, row after row, the nine of a cell together.

    They are centred on the cells' top left corners and their sides are whole pixels, as in torchvision.

    Args:
        sizes: (height, width) of each level's map.
        strides: of each level, in input pixels.
        device: where the tensor is made.

    Returns:
        float32 (A, 4) ``xyxy`` in input pixels.
    """
    generator = AnchorGenerator(
        tuple(tuple(int(stride * scale) for scale in RETINANET_SCALES) for stride in strides),
        (RETINANET_RATIOS,) * len(strides),
    )
    generator.set_cell_anchors(torch.float32, torch.device(device))
    grids: list[Tensor] = generator.grid_anchors(sizes, [(stride, stride) for stride in strides])
    return torch.cat(grids)
