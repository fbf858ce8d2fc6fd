"""Exact rewrites of a network's parts into forms that inference engines run, and run faster."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from timm.models.pvt_v2 import MlpWithDepthwiseConv, OverlapPatchEmbed
from torch import Tensor, nn

from pvt_mtl_perception.model.network import MultiTaskNetwork


def for_engines(
    network: MultiTaskNetwork, size: tuple[int, int], dtype: torch.dtype, strip_bytes: int | None = None
) -> MultiTaskNetwork:
    """A copy on the CPU that computes the same with other operations, for one input size.

    - Adaptive pooling, which adapts to the input's size, becomes matrix products for this size.
    - The linear layers of PVT's MLP become 1x1 convolutions, next to the depthwise one that they enclose: no
      change of layout in between, and OpenVINO computes the first two as one where the maps are large.
    - The LayerNorm after PVT's patch embeddings runs over tokens instead of maps, which OpenVINO otherwise
      takes apart and brings to another layout.
    - GroupNorm becomes means over the pixels and one multiplication and addition a pixel: no change of
      layout, which the groups would need. In half precision it stays, because its squares could overflow.

    Args:
        network: left as it is.
        size: height and width of the input.
        dtype: of the copy's weights.
        strip_bytes: compute the MLP in strips of rows whose hidden maps, in float32, take about so many bytes
            an image, so that they stay in a processor's cache; whole where None.
    """
    fixed = copy.deepcopy(network).cpu().eval().float().to(memory_format=torch.contiguous_format)
    pools = 0
    for parent in list(fixed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(parent, name, FixedSizePool(child))
                pools += 1
            elif isinstance(child, MlpWithDepthwiseConv):
                setattr(parent, name, ConvolutionalMlp(child, strip_bytes))
            elif isinstance(child, OverlapPatchEmbed):
                setattr(parent, name, TokenPatchEmbed(child))
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
    """PVT v2's MLP with 1x1 convolutions for its linear layers; for inference, without dropout.

    Args:
        mlp: whose weights are taken.
        strip_bytes: see ``for_engines``.
    """

    def __init__(self, mlp: MlpWithDepthwiseConv, strip_bytes: int | None) -> None:
        super().__init__()
        self.expand = nn.Sequential(_as_convolution(mlp.fc1), mlp.relu)
        self.depthwise = mlp.dwconv
        self.reduce = nn.Sequential(mlp.act, _as_convolution(mlp.fc2))
        self.strip_bytes = strip_bytes

    def forward(self, x: Tensor, feat_size: tuple[int, int]) -> Tensor:
        """(B, H W, C) to the same shape."""
        height, width = int(feat_size[0]), int(feat_size[1])
        hidden_bytes = height * width * self.depthwise.in_channels * 4
        strips = math.ceil(hidden_bytes / (self.strip_bytes or hidden_bytes))
        if strips == 1:
            return _tokens(self.reduce(self.depthwise(self.expand(_maps(x, width)))))
        rows = math.ceil(height / strips)
        starts = range(0, height, rows)
        return torch.cat([self._strip(x, top, min(height, top + rows), height, width) for top in starts], 1)

    def _strip(self, x: Tensor, top: int, bottom: int, height: int, width: int) -> Tensor:
        """Tokens of the rows ``top`` to ``bottom``, for which the 3x3 convolution sees one row more each."""
        above, below = min(1, top), min(1, height - bottom)
        hidden = self.expand(_maps(x[:, (top - above) * width : (bottom + below) * width], width))
        padded = F.pad(hidden, (1, 1, 1 - above, 1 - below))
        convolution = self.depthwise
        return _tokens(
            self.reduce(F.conv2d(padded, convolution.weight, convolution.bias, groups=convolution.groups))
        )


class TokenPatchEmbed(nn.Module):
    """PVT v2's patch embedding with its LayerNorm over (B, H W, C)."""

    def __init__(self, embed: OverlapPatchEmbed) -> None:
        super().__init__()
        self.proj, self.norm = embed.proj, embed.norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3 or C of the stage before, h, w) to (B, H, W, C)."""
        maps = self.proj(x)
        output: Tensor = self.norm(_tokens(maps)).reshape(maps.shape[0], *maps.shape[2:], -1)
        return output


def _maps(tokens: Tensor, width: int) -> Tensor:
    """(B, H W, C) to (B, C, H, W)."""
    batch, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, channels, -1, width)


def _tokens(maps: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H W, C)."""
    return maps.flatten(2).transpose(1, 2)


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[:, :, None, None])
        if convolution.bias is not None:
            convolution.bias.copy_(linear.bias)
    return convolution


class ChannelsLastGroupNorm(nn.Module):
    """``nn.GroupNorm`` of maps from means over each channel's pixels.

    The mean over a group's channels is a product with a constant matrix.
    """

    group_means: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        size = norm.num_channels // norm.num_groups
        self.eps = norm.eps
        means = torch.full((size, size), 1 / size)
        self.register_buffer("group_means", torch.kron(torch.eye(norm.num_groups), means))
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach()[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        centred = x - (x.mean((2, 3)) @ self.group_means)[:, :, None, None]
        variance = (centred * centred).mean((2, 3)) @ self.group_means
        return centred * (self.weight * torch.rsqrt(variance + self.eps))[:, :, None, None] + self.bias
