"""The multi-task network: one backbone, one neck, a head for each task, computing only what is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn

from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.model.backbone import Backbone, check_input_size
from pvt_mtl_perception.model.heads import (
    DETECTION_LEVELS,
    SEGMENTATION_LEVELS,
    AnchorDetectionHead,
    ClassificationHead,
    DetectionHead,
    DetectionOutput,
    RetinaNetOutput,
    SegmentationHead,
)
from pvt_mtl_perception.model.neck import build_neck
from pvt_mtl_perception.model.spec import ModelSpec, load_task_labels


class NetworkOutput(NamedTuple):
    """Raw outputs by task; None for a task that was not asked for.

    Attributes:
        classification: logits (B, classes) by label group.
        detection: of P3 to P7; ``RetinaNetOutput`` where the spec's type is ``retinanet``.
        segmentation: logits (B, classes, H/4, W/4).
    """

    classification: dict[str, Tensor] | None = None
    detection: DetectionOutput | RetinaNetOutput | None = None
    segmentation: Tensor | None = None


@contextmanager
def _own_randomness(part: str, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed ^ zlib.crc32(part.encode()))
        yield


class MultiTaskNetwork(nn.Module):
    """Classification, detection and segmentation heads, any non-empty subset, on one shared encoder.

    The initial weights of backbone and heads follow from torch's seed and the part's own spec: with one seed
    a single-task and a multi-task network begin with the same ones.

    A single-task network is a spec with one task; a HydraNet-style one is a spec with RegNetY and BiFPN.

    Args:
        spec: what to build.
        labels: label sets of the heads; read from the files that the spec names when None.
    """

    def __init__(self, spec: ModelSpec, labels: TaskLabels | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.labels = labels if labels is not None else load_task_labels(spec)
        # One number is drawn; which parts there are changes neither another part's weights nor what follows.
        seed = int(torch.randint(1 << 31, (), device="cpu"))
        with _own_randomness("backbone", seed):
            self.backbone = Backbone(spec.backbone)
        self.neck: nn.Module | None = None
        self.heads = nn.ModuleDict()
        levels: set[int] = set()
        if spec.classification is not None:
            with _own_randomness("classification", seed):
                self.heads["classification"] = ClassificationHead(
                    self.backbone.channels[-1], self.labels.classification, spec.classification.dropout
                )
        if spec.detection is not None and self.labels.detection is not None:
            levels |= set(DETECTION_LEVELS)
            width, classes = spec.neck.channels, len(self.labels.detection)
            with _own_randomness("detection", seed):
                if spec.detection.type == "retinanet":
                    self.heads["detection"] = AnchorDetectionHead(width, classes)
                else:
                    self.heads["detection"] = DetectionHead(width, classes, spec.detection)
        if spec.segmentation is not None and self.labels.segmentation is not None:
            levels |= set(SEGMENTATION_LEVELS)
            with _own_randomness("segmentation", seed):
                self.heads["segmentation"] = SegmentationHead(
                    spec.neck.channels, len(self.labels.segmentation), spec.segmentation
                )
        if levels:
            with _own_randomness("neck", seed):
                self.neck = build_neck(spec.neck, self.backbone.channels, levels)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this network has heads for."""
        return self.spec.tasks

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm's layer decay orders the parameters: stem, the backbone's blocks, then all of the rest.

        ``timm.optim.create_optimizer_v2(network, layer_decay=...)`` calls it. Neck and heads match nothing,
        which timm takes for the last layer, so they keep the full learning rate.

        Args:
            coarse: a layer is a whole stage instead of a block.
        """
        # timm's names of a block: stages_0.blocks.1 (PVT, ConvNeXt), s1.b2 (RegNet), layer1.0 (ResNet).
        stage = r"backbone\.body\.[a-z]+_?(\d+)\."
        in_stage = r"backbone\.body\.[a-z]+_?\d+\.(?:norm|downsample|[a-z_.]*\d+\.)"
        blocks: list[tuple[str, tuple[int, ...] | None]] = [
            (rf"{stage}norm", MATCH_PREV_GROUP),
            (rf"{stage}downsample", (0,)),
            (rf"{stage}[a-z_.]*(\d+)\.", None),
        ]
        return {"stem": rf"(?!{in_stage})backbone\.", "blocks": stage if coarse else blocks}

    def forward(self, images: Tensor, tasks: Collection[str] | None = None) -> NetworkOutput:
        """Runs the heads of the asked-for tasks.

        Args:
            images: float (B, 3, H, W), normalised; H and W are multiples of 32.
            tasks: a subset of ``self.tasks``; None for all of them.

        Raises:
            ValueError: for a task this network lacks, or sides that are no multiples of 32.
        """
        check_input_size(images)
        wanted = self.tasks if tasks is None else tuple(tasks)
        unknown = sorted(set(wanted) - set(self.tasks))
        if unknown:
            raise ValueError(f"this network has no head for {unknown[0]!r}; it has {', '.join(self.tasks)}")
        features = self.backbone(images)
        levels: set[int] = set()
        if "detection" in wanted:
            levels |= set(DETECTION_LEVELS)
        if "segmentation" in wanted:
            levels |= set(SEGMENTATION_LEVELS)
        pyramid = self.neck(features, levels) if levels and self.neck is not None else {}
        return NetworkOutput(
            classification=self.heads["classification"](features[-1]) if "classification" in wanted else None,
            detection=self.heads["detection"](pyramid) if "detection" in wanted else None,
            segmentation=self.heads["segmentation"](pyramid) if "segmentation" in wanted else None,
        )


def count_parameters(network: nn.Module) -> dict[str, int]:
    """Parameters by part (``backbone``, ``neck``, ``heads.<task>``) and in ``total``."""
    counts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        part = ".".join(parts[:2]) if parts[0] == "heads" else parts[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts["total"] = sum(counts.values())
    return counts
