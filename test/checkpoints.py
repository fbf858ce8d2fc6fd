"""Small untrained checkpoints for tests that need a model but not its accuracy."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from pvt_mtl_perception.model.checkpoint import Checkpoint, Preprocessing, save_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import (
    TASKS,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
    load_task_labels,
)

CLASSIFICATION_GROUPS = {
    "weather": "driving_weather",
    "scene": "driving_scene",
    "timeofday": "driving_timeofday",
}


def make_checkpoint(
    path: str | Path,
    tasks: Collection[str] = TASKS,
    seed: int = 0,
    height: int = 96,
    width: int = 160,
) -> Path:
    """Writes a PVT v2-b0 with narrow heads whose random weights answer differently to different images.

    Some thirty boxes an image score above 0.3, so that detections are never all there or all absent.
    """
    spec = ModelSpec(
        neck=NeckSpec(channels=32),
        classification=ClassificationSpec(CLASSIFICATION_GROUPS) if "classification" in tasks else None,
        detection=DetectionSpec(channels=32, num_convs=1) if "detection" in tasks else None,
        segmentation=SegmentationSpec(channels=32) if "segmentation" in tasks else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MultiTaskNetwork(spec)
        with torch.no_grad():
            # As initialised, every class is as likely as every other, whatever the image.
            for name, parameter in network.heads.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=2.0 / parameter[0].numel() ** 0.5)
                elif name.endswith("class_logits.bias"):
                    parameter.fill_(-3.0)
    path = Path(path)
    save_checkpoint(
        path,
        Checkpoint(
            spec=spec,
            labels=load_task_labels(spec),
            preprocessing=Preprocessing(height, width),
            state_dict=network.state_dict(),
            provenance={"data": "none", "seed": seed},
        ),
    )
    return path
