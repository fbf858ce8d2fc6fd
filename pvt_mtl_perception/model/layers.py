"""Layers that neck and heads are made of: convolutions with GroupNorm, dense or separable."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 8 channels a group up to 32 groups (Wu 2018: 32 groups are the default)."""
    return nn.GroupNorm(min(32, channels // 8) or 1, channels)


def conv3x3(in_channels: int, out_channels: int, *, separable: bool, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution without bias, or its separable stand-in: depthwise 3x3, then pointwise.

    The second takes ``1 / out_channels + 1 / 9`` of the first's multiply-adds (Howard 2017, section 3.1).
    """
    if not separable:
        return [nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)]
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
    ]


class ConvNormAct(nn.Sequential):
    """3x3 convolution, dense or separable, GroupNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, separable: bool = False) -> None:
        convs = conv3x3(in_channels, out_channels, separable=separable)
        for conv in convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(*convs, group_norm(out_channels), nn.ReLU(inplace=True))


def upsample_like(x: Tensor, target: Tensor) -> Tensor:
    """Nearest-neighbour enlargement to the target's height and width."""
    return torch.nn.functional.interpolate(x, size=target.shape[-2:], mode="nearest")
