"""Networks and losses that balancing is tested on, importable by child processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.model.spec import (
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.training.balancing import Division
from pvt_mtl_perception.training.balancing.division import divide

ALL_TASKS = ("classification", "detection", "segmentation")


def small_network(
    tasks: tuple[str, ...] = ALL_TASKS, neck: str = "fpn", seed: int = 0, backbone: str = "pvt_v2_b0"
) -> MultiTaskNetwork:
    """A network with a thin neck and thin heads."""
    torch.manual_seed(seed)
    spec = ModelSpec(
        backbone=BackboneSpec(backbone),
        neck=NeckSpec(type=neck, channels=16, repeats=1),
        classification=ClassificationSpec({"weather": "driving_weather"})
        if "classification" in tasks
        else None,
        detection=DetectionSpec(channels=16, num_convs=1) if "detection" in tasks else None,
        segmentation=SegmentationSpec(channels=16) if "segmentation" in tasks else None,
    )
    return MultiTaskNetwork(spec).to(memory_format=torch.channels_last)


def quick_network(seed: int = 0) -> MultiTaskNetwork:
    """All heads on timm's ConvNeXt for tests, a quarter of the time of PVT v2 b0."""
    return small_network(seed=seed, backbone="test_convnext")


def images(count: int = 2, seed: int = 0) -> Tensor:
    """Normal pixels, (count, 3, 64, 64)."""
    pixels = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return pixels.to(memory_format=torch.channels_last)


def output_losses(output: NetworkOutput) -> dict[str, Tensor]:
    """A loss for each task, the mean over images of something in which every output takes part."""
    losses: dict[str, Tensor] = {}
    if output.classification is not None:
        losses["classification"] = sum(_full(x).logsumexp(1).mean() for x in output.classification.values())
    if output.detection is not None:
        logits = sum(_full(x).square().mean() for x in output.detection.logits)
        losses["detection"] = logits + sum(_full(x).sin().mean() + 2 for x in output.detection.distances)
    if output.segmentation is not None:
        losses["segmentation"] = _full(output.segmentation).logsumexp(1).mean()
    return losses


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    """A copy of every parameter's gradient by name."""
    return {n: None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}


class TinyProblem(nn.Module):
    """One shared vector and a number of its own for each task; the losses are quadratic.

    Args:
        rows: (tasks, n): gradient of each loss at the start, for unit loss scales.
    """

    def __init__(self, rows: Tensor, tasks: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.names = tasks or tuple(f"task{i}" for i in range(len(rows)))
        self.shared = nn.Parameter(torch.zeros(rows.shape[1], dtype=rows.dtype))
        self.own = nn.ParameterDict(
            {name: nn.Parameter(torch.ones((), dtype=rows.dtype)) for name in self.names}
        )
        self.rows = rows

    def losses(self) -> dict[str, Tensor]:
        """1/2 (1 + own) + rows . shared + 1/2 |shared|^2, above zero near the start."""
        base = self.rows @ self.shared + self.shared.square().sum() / 2
        return {name: base[i] + (1 + self.own[name]) / 2 for i, name in enumerate(self.names)}

    def division(self) -> Division:
        """From the graph of the losses."""
        return divide(list(self.parameters()), self.losses())
