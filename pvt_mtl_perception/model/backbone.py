"""The shared encoder: any timm model with features at strides 4, 8, 16 and 32."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.distributed
from timm.layers.norm_act import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pvt_mtl_perception.model.spec import BackboneSpec

REDUCTIONS = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A timm feature extractor that yields C2 to C5.

    Attributes:
        channels: width of C2, C3, C4 and C5.

    Raises:
        ValueError: when timm does not know the name, the model lacks one of the strides, or ``norm`` is about
            BatchNorm and the model has none.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        if not timm.is_model(spec.name):
            near = ", ".join(timm.list_models(f"{spec.name.split('_')[0]}*")[:8]) or "timm.list_models()"
            raise ValueError(f"backbone.name {spec.name!r} is no timm model; similar: {near}")
        kwargs: dict[str, Any] = {"drop_path_rate": spec.drop_path_rate} if spec.drop_path_rate else {}
        body: Any = timm.create_model(spec.name, features_only=True, pretrained=False, **kwargs)
        reductions = body.feature_info.reduction()
        missing = [r for r in REDUCTIONS if r not in reductions]
        if missing:
            raise ValueError(
                f"backbone.name {spec.name!r} has features at strides {reductions}; needs {list(REDUCTIONS)}"
            )
        # Some families also yield features at stride 2.
        self.indices = tuple(reductions.index(r) for r in REDUCTIONS)
        self.channels: tuple[int, ...] = tuple(body.feature_info.channels()[i] for i in self.indices)
        self.body = _with_norm(body, spec)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images to C2..C5, each (B, channels, H/stride, W/stride)."""
        features: list[Tensor] = self.body(images)
        return [features[i] for i in self.indices]


def _with_norm(body: nn.Module, spec: BackboneSpec) -> nn.Module:
    """The body with its BatchNorm layers converted as the spec says.

    timm's conversions, because its layers may hold the activation too, which torch's would drop.
    """
    if spec.norm == "batch":
        return body
    if not any(isinstance(module, _BatchNorm) for module in body.modules()):
        raise ValueError(
            f"backbone.norm is {spec.norm!r}, but {spec.name} has no BatchNorm; leave it at batch"
        )
    if spec.norm == "frozen":
        frozen: nn.Module = freeze_batch_norm_2d(body)  # type: ignore[no-untyped-call]
        return frozen
    # One process alone, such as a node, has nobody to synchronise with; the weights' names are the same.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        synchronised: nn.Module = convert_sync_batchnorm(body)  # type: ignore[no-untyped-call]
        return synchronised
    return body


def check_input_size(images: Tensor) -> None:
    """Refuses a batch whose sides are not multiples of 32.

    Raises:
        ValueError: naming the shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 32 or images.shape[3] % 32:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; needs (B, 3, H, W) with H and W multiples of 32"
        )
