"""Exact rewrites of a network's parts into forms that inference engines run, and run faster."""

from __future__ import annotations

import copy

import torch
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from torch import Tensor, nn

from pvt_mtl_perception.model.network import MultiTaskNetwork


def for_engines(network: MultiTaskNetwork, size: tuple[int, int], dtype: torch.dtype) -> MultiTaskNetwork:
    """A copy on the CPU that computes the same with other operations, for one input size.

    - Adaptive pooling, which adapts to the input's size, becomes matrix products for this size.
    - The linear layers of PVT's MLP become 1x1 convolutions, next to the depthwise one that they enclose: no
      change of layout in between, and OpenVINO computes the first two as one where the maps are large.
    - GroupNorm becomes means over the pixels and one multiplication and addition a pixel: no change of
      layout, which the groups would need. In half precision it stays, because its squares could overflow.

    Args:
        network: left as it is.
        size: height and width of the input.
        dtype: of the copy's weights.
    """
    fixed = copy.deepcopy(network).cpu().eval().float().to(memory_format=torch.contiguous_format)
    pools = 0
    for parent in list(fixed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(parent, name, FixedSizePool(child))
                pools += 1
            elif isinstance(child, MlpWithDepthwiseConv):
                setattr(parent, name, ConvolutionalMlp(child))
            elif isinstance(child, nn.GroupNorm) and dtype == torch.float32:
                setattr(parent, name, ChannelsLastGroupNorm(child))
    if pools:
        with torch.no_grad():
            fixed(torch.zeros(1, 3, *size))
    return fixed.to(dtype)


class FixedSizePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` for one input size, as two matrix products.

    Its windows are products of an interval of rows and one of columns, so the mean over a window is the mean
    over columns of means over rows. The matrices are made in the first call.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        size = pool.output_size
        self.size: tuple[int | None, ...] = tuple(size) if isinstance(size, tuple) else (size, size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W) to (..., height, width) of the pool."""
        if not hasattr(self, "rows"):
            for name, length, count in zip(("rows", "columns"), x.shape[-2:], self.size, strict=True):
                matrix = interval_means(int(length), int(count or length))
                self.register_buffer(name, matrix.to(x.device, x.dtype))
        return self.rows @ x @ self.columns.T


def interval_means(length: int, count: int) -> Tensor:
    """float32 (count, length): the matrix that averages ``length`` values as ``nn.AdaptiveAvgPool1d`` does.

    Interval i is floor(i length / count) to ceil((i + 1) length / count), the end excluded.
    """
    position, index = torch.arange(length), torch.arange(count)[:, None]
    start, end = index * length // count, -(-(index + 1) * length // count)
    return ((position >= start) & (position < end)).float() / (end - start)


class ConvolutionalMlp(nn.Module):
    """PVT v2's MLP with 1x1 convolutions for its linear layers; for inference, without dropout."""

    def __init__(self, mlp: MlpWithDepthwiseConv) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _as_convolution(mlp.fc1), mlp.relu, mlp.dwconv, mlp.act, _as_convolution(mlp.fc2)
        )

    def forward(self, x: Tensor, feat_size: tuple[int, int]) -> Tensor:
        """(B, H W, C) to the same shape."""
        batch, _, channels = x.shape
        maps = x.transpose(1, 2).reshape(batch, channels, *feat_size)
        output: Tensor = self.layers(maps).flatten(2).transpose(1, 2)
        return output


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[:, :, None, None])
        if convolution.bias is not None:
            convolution.bias.copy_(linear.bias)
    return convolution


class ChannelsLastGroupNorm(nn.Module):
    """``nn.GroupNorm`` of maps from means over each channel's pixels.

    With a channel's mean m and variance v, the variance of a group is the mean of v plus the variance of m.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.channels, self.eps = norm.num_channels, norm.eps
        self.grouped = (-1, norm.num_groups, norm.num_channels // norm.num_groups)
        self.weight = nn.Parameter(norm.weight.detach().reshape(self.grouped).clone())
        self.bias = nn.Parameter(norm.bias.detach().reshape(self.grouped).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        means = x.mean((2, 3), keepdim=True)
        centred = x - means
        variances = (centred * centred).mean((2, 3)).reshape(self.grouped)
        means = means.reshape(self.grouped)
        group_mean = means.mean(2, keepdim=True)
        spread = means - group_mean
        variance = variances.mean(2, keepdim=True) + (spread * spread).mean(2, keepdim=True)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - group_mean * scale
        return x * scale.reshape(-1, self.channels, 1, 1) + shift.reshape(-1, self.channels, 1, 1)
