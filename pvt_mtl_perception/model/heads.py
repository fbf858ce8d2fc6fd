"""The heads: pooled classification, detection without and with anchors, Semantic FPN segmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead

from pvt_mtl_perception.labels import LabelSet
from pvt_mtl_perception.model.anchors import RETINANET_ANCHORS
from pvt_mtl_perception.model.layers import ConvNormAct
from pvt_mtl_perception.model.neck import Pyramid
from pvt_mtl_perception.model.spec import DetectionSpec, SegmentationSpec

DETECTION_LEVELS = (3, 4, 5, 6, 7)
SEGMENTATION_LEVELS = (2, 3, 4, 5)


def _output_conv(in_channels: int, out_channels: int, kernel_size: int, bias: float = 0.0) -> nn.Conv2d:
    """The last layer of a dense head: small random weights, so that its first outputs are its biases."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    return conv


class ClassificationHead(nn.Module):
    """Mean of C5 over the image, dropout, one linear layer a label group."""

    def __init__(self, in_channels: int, groups: Mapping[str, LabelSet], dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.ModuleDict(
            {group: nn.Linear(in_channels, len(labels)) for group, labels in groups.items()}
        )
        for layer in self.linear.values():
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, c5: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, h, w) to logits (B, classes) by group."""
        pooled = self.dropout(c5.mean(dim=(2, 3)))
        return {group: layer(pooled) for group, layer in self.linear.items()}


class DetectionOutput(NamedTuple):
    """Raw outputs of the detection head, a tensor a level from P3 to P7.

    Attributes:
        logits: (B, classes, h, w); their sigmoid is the joint score of class and localisation quality.
        distances: (B, 4 (reg_max + 1), h, w): for each of left, top, right, bottom the logits of a
            distribution over 0..reg_max strides.
    """

    logits: list[Tensor]
    distances: list[Tensor]


class DetectionHead(nn.Module):
    """Generalised focal loss head (Li 2020): towers shared by the levels, a learned scale a level."""

    def __init__(self, in_channels: int, num_classes: int, spec: DetectionSpec) -> None:
        super().__init__()

        def tower() -> nn.Sequential:
            widths = [in_channels] + [spec.channels] * spec.num_convs
            return nn.Sequential(*(ConvNormAct(a, b, separable=spec.separable) for a, b in pairwise(widths)))

        self.class_tower = tower()
        self.box_tower = tower()
        width = spec.channels if spec.num_convs else in_channels
        size = 1 if spec.separable else 3
        # A first score of 0.01 keeps the many negatives from dominating (Lin 2017b, section 4.1).
        self.class_logits = _output_conv(width, num_classes, size, bias=-math.log((1 - 0.01) / 0.01))
        self.box_distances = _output_conv(width, 4 * (spec.reg_max + 1), size)
        self.scales = nn.Parameter(torch.ones(len(spec.strides)))

    def forward(self, pyramid: Pyramid) -> DetectionOutput:
        """P3..P7 to their raw outputs."""
        logits, distances = [], []
        for position, level in enumerate(DETECTION_LEVELS):
            x = pyramid[level]
            logits.append(self.class_logits(self.class_tower(x)))
            distances.append(self.box_distances(self.box_tower(x)) * self.scales[position])
        return DetectionOutput(logits, distances)


class RetinaNetOutput(NamedTuple):
    """Raw outputs of the RetinaNet head in the order of ``anchors.retinanet_anchors``.

    Attributes:
        logits: (B, A, classes); their sigmoid is the score.
        deltas: (B, A, 4), from anchor to box in the coding of ``anchors.RETINANET_CODER``.
        sizes: (height, width) of the maps P3 to P7.
    """

    logits: Tensor
    deltas: Tensor
    sizes: tuple[tuple[int, int], ...]


class AnchorDetectionHead(RetinaNetHead):  # type: ignore[misc]
    """torchvision's RetinaNet head on P3 to P7.

    P6 and P7 are the neck's: with the FPN a stride-2 convolution of P5 and another of relu(P6), as in
    torchvision's ``retinanet_resnet50_fpn``. The PVT authors' detectors and ``retinanet_resnet50_fpn_v2``
    take P6 from C5 instead.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, RETINANET_ANCHORS, num_classes)

    def forward(self, pyramid: Pyramid) -> RetinaNetOutput:
        """P3..P7 to their raw outputs."""
        maps = [pyramid[level] for level in DETECTION_LEVELS]
        output = super().forward(maps)
        sizes = tuple((x.shape[2], x.shape[3]) for x in maps)
        return RetinaNetOutput(output["cls_logits"], output["bbox_regression"], sizes)


class SegmentationHead(nn.Module):
    """Semantic FPN (Kirillov 2019): all levels brought to stride 4 by convolution and enlargement, summed."""

    def __init__(self, in_channels: int, num_classes: int, spec: SegmentationSpec) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        for level in SEGMENTATION_LEVELS:
            count = max(1, level - 2)
            self.branches[str(level)] = nn.ModuleList(
                ConvNormAct(in_channels if i == 0 else spec.channels, spec.channels, separable=spec.separable)
                for i in range(count)
            )
        self.predictor = _output_conv(spec.channels, num_classes, 1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """P2..P5 to logits (B, classes, H/4, W/4).

        The last enlargement and the predictor are linear, so they may change places: P3 to P5 are summed at
        stride 8, and what is enlarged is one map of logits instead of three of features.
        """
        coarse: Tensor | None = None
        for level in SEGMENTATION_LEVELS[1:]:
            x = pyramid[level]
            branch = self.branches[str(level)]
            assert isinstance(branch, nn.ModuleList)
            for step, conv in enumerate(branch):
                if step:
                    # The finer level gives the size, so a side that is no multiple of the stride still fits.
                    size = pyramid[level - step].shape[-2:]
                    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
                x = conv(x)
            coarse = x if coarse is None else coarse + x
        assert coarse is not None
        # The bias counts once.
        logits: Tensor = self.predictor(self.branches["2"][0](pyramid[2]))  # type: ignore[index]
        coarse = F.conv2d(coarse, self.predictor.weight)
        return logits + F.interpolate(coarse, size=logits.shape[-2:], mode="bilinear", align_corners=False)
