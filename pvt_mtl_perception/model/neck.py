"""Feature pyramids between backbone and heads: FPN and BiFPN, in GroupNorm, computed as far as asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mtl_perception.model.layers import conv3x3, group_norm, upsample_like
from pvt_mtl_perception.model.spec import NeckSpec

Pyramid = dict[int, Tensor]
"""Level l of the pyramid, (B, channels, H/2^l, W/2^l), by l = 2..7."""


def _coarser(convolution: nn.Module, level: Tensor) -> Tensor:
    """The next level by a stride-2 convolution, in float32 where autocast's bf16 would go wrong.

    On CPUs that compute in bf16, oneDNN leaves parts of the weights' gradient unwritten when the input is one
    pixel wide (seen with torch 2.15): anything may stand there.
    """
    if torch.is_autocast_enabled("cpu") and level.shape[-1] == 1:
        with torch.autocast("cpu", enabled=False):
            return convolution(level.float())  # type: ignore[no-any-return]
    return convolution(level)  # type: ignore[no-any-return]


class FPN(nn.Module):
    """Feature pyramid network (Lin 2017) with P6 and P7 from P5 by stride-2 convolutions (Lin 2017b).

    torchvision's FeaturePyramidNetwork computes every level; here a level nobody asked for costs nothing,
    which at stride 4 is a third of the neck.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, levels: Collection[int], separable: bool
    ) -> None:
        super().__init__()
        first = min(levels)
        self.lateral = nn.ModuleDict(
            {
                str(level): nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), group_norm(channels))
                for level, c in zip(range(2, 6), in_channels, strict=True)
                if level >= first
            }
        )
        self.output = nn.ModuleDict(
            {
                str(level): nn.Sequential(
                    *conv3x3(channels, channels, separable=separable, stride=2 if level > 5 else 1),
                    group_norm(channels),
                )
                for level in sorted(levels)
            }
        )

    def forward(self, features: Sequence[Tensor], levels: Collection[int]) -> Pyramid:
        """C2..C5 to the asked-for levels."""
        first = min(levels)
        top_down: Pyramid = {}
        for level in range(5, first - 1, -1):
            if str(level) not in self.lateral:
                continue
            lateral = self.lateral[str(level)](features[level - 2])
            above = top_down.get(level + 1)
            top_down[level] = lateral if above is None else lateral + upsample_like(above, lateral)
        pyramid = {level: self.output[str(level)](top_down[level]) for level in levels if level <= 5}
        if 6 in levels or 7 in levels:
            p5 = pyramid[5] if 5 in pyramid else self.output["5"](top_down[5])
            pyramid[6] = _coarser(self.output["6"], p5)
            if 7 in levels:
                pyramid[7] = _coarser(self.output["7"], F.relu(pyramid[6]))
        return pyramid


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, pointwise 1x1, GroupNorm, SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            *conv3x3(channels, channels, separable=True), group_norm(channels), nn.SiLU(inplace=True)
        )


class WeightedSum(nn.Module):
    """Fast normalised fusion: sum of w_i x_i / (eps + sum of w_j) with w = relu (Tan 2020, eq. 3)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum of tensors of one shape."""
        weights = F.relu(self.weight)
        weights = weights / (weights.sum() + 1e-4)
        total = weights[0] * inputs[0]
        for weight, x in zip(weights[1:], inputs[1:], strict=True):
            total = total + weight * x
        return total


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass over neighbouring levels (Tan 2020, figure 2d)."""

    def __init__(self, levels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = tuple(sorted(levels))
        inner, low, high = self.levels[1:-1], self.levels[0], self.levels[-1]
        self.down_fuse = nn.ModuleDict({str(lv): WeightedSum(2) for lv in (low, *inner)})
        self.down_conv = nn.ModuleDict({str(lv): SeparableConv(channels) for lv in (low, *inner)})
        self.up_fuse = nn.ModuleDict({**{str(lv): WeightedSum(3) for lv in inner}, str(high): WeightedSum(2)})
        self.up_conv = nn.ModuleDict({str(lv): SeparableConv(channels) for lv in (*inner, high)})

    def forward(self, inputs: Pyramid) -> Pyramid:
        """The same levels in and out."""
        down: Pyramid = {self.levels[-1]: inputs[self.levels[-1]]}
        for level in reversed(self.levels[:-1]):
            above = upsample_like(down[level + 1], inputs[level])
            down[level] = self.down_conv[str(level)](self.down_fuse[str(level)](inputs[level], above))
        out: Pyramid = {self.levels[0]: down[self.levels[0]]}
        for level in self.levels[1:]:
            below = F.max_pool2d(out[level - 1], 3, stride=2, padding=1)
            parts = [inputs[level], below]
            if level != self.levels[-1]:
                parts.insert(1, down[level])
            out[level] = self.up_conv[str(level)](self.up_fuse[str(level)](*parts))
        return out


class BiFPN(nn.Module):
    """BiFPN (Tan 2020) over the levels that the network's heads use.

    The levels are fused with one another, so all of them are computed whichever are asked for.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, levels: Collection[int], repeats: int
    ) -> None:
        super().__init__()
        self.levels = tuple(range(min(levels), max(levels) + 1))
        self.lateral = nn.ModuleDict(
            {
                str(level): nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), group_norm(channels))
                for level, c in zip(range(2, 6), in_channels, strict=True)
                if level in self.levels
            }
        )
        self.layers = nn.ModuleList(BiFPNLayer(self.levels, channels) for _ in range(repeats))

    def forward(self, features: Sequence[Tensor], levels: Collection[int]) -> Pyramid:
        """C2..C5 to the asked-for levels."""
        pyramid = {
            level: self.lateral[str(level)](features[level - 2]) for level in self.levels if level <= 5
        }
        for level in self.levels:
            if level > 5:
                pyramid[level] = F.max_pool2d(pyramid[level - 1], 3, stride=2, padding=1)
        for layer in self.layers:
            pyramid = layer(pyramid)
        return {level: pyramid[level] for level in levels}


def build_neck(spec: NeckSpec, in_channels: Sequence[int], levels: Collection[int]) -> nn.Module:
    """The neck of a spec for the levels that the network's heads use."""
    if spec.type == "bifpn":
        return BiFPN(in_channels, spec.channels, levels, spec.repeats)
    return FPN(in_channels, spec.channels, levels, spec.separable)
