"""A tiny study on pictures on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from data_layouts import make_scene, write_generic

BASE = {
    "model": {
        "neck": {"channels": 16},
        "classification": {"label_sets": {"weather": "driving_weather"}},
        "segmentation": {"channels": 16, "label_set": "$LABELS"},
    },
    "phases": [{"steps": 3, "width": 64, "height": 64, "batch_size": 2}],
    "optimizer": {"lr": 0.002, "warmup_steps": 1, "ema_decay": 0.9},
    "image_every": 0,
    "input_width": 64,
    "input_height": 64,
    "workers": 0,
    "checkpoint_every": 5,
}


def study_content(**changes: Any) -> dict[str, Any]:
    """Two arms of which one learns segmentation alone, and two seeds."""
    content: dict[str, Any] = {
        "name": "tiny",
        "training": {"extends": ["base.yaml"]},
        "arms": {"stl_seg": {"training": {"model": {"classification": None}}}, "mtl": {}},
        "seeds": [0, 1],
        "preregistration": {
            "endpoints": [
                {
                    "name": "mIoU",
                    "task": "segmentation",
                    "source": "generic/train",
                    "metric": "miou",
                    "margin": 0.01,
                }
            ],
            "comparisons": [{"name": "mtl or not", "arm": "mtl", "against": {"segmentation": "stl_seg"}}],
        },
    }
    return content | changes


def write_study(folder: Path, content: dict[str, Any]) -> Path:
    """Pictures, labels, ``base.yaml`` and ``study.yaml`` with this content; the study's path."""
    root = folder / "data"
    if not root.is_dir():
        write_generic(
            root, [make_scene(i, (64, 64), 2) for i in range(4)], ("car", "bus"), {"weather": "rainy"}
        )
    labels = folder / "regions.yaml"
    labels.write_text("name: regions\nclasses: [outside, left, right]\n")
    source = {
        "kind": "generic",
        "root": str(root),
        "masks": "masks",
        "table": "classes.csv",
        "segmentation_labels": str(labels),
        "classification_labels": {"weather": "driving_weather"},
    }
    base = BASE | {"train": [source], "evaluate": [copy.deepcopy(source)]}
    text = yaml.safe_dump(base).replace("$LABELS", str(labels))
    (folder / "base.yaml").write_text(text)
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    return study
