from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_layouts import make_scene, write_cityscapes

from pvt_mtl_perception.data.reading import SampleError
from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.data.transforms import AugmentationConfig
from pvt_mtl_perception.model.spec import ModelSpec, NeckSpec, SegmentationSpec
from pvt_mtl_perception.training.config import PhaseConfig, TrainingConfig
from pvt_mtl_perception.training.trainer import Trainer


def config(root: Path, **changes: object) -> TrainingConfig:
    keys = {
        "model": ModelSpec(neck=NeckSpec(channels=16), segmentation=SegmentationSpec(channels=16)),
        "train": [SourceConfig("cityscapes", root=str(root), scale=(0.8, 1.0))],
        "phases": [PhaseConfig(2, 64, 32, 2)],
        "augmentation": AugmentationConfig(aspect_ratio=1.2, iou_crop=0.5),
        "input_width": 64,
        "input_height": 64,
        "image_every": 0,
        "workers": 0,
    }
    return TrainingConfig(**(keys | changes))


def test_a_run_lists_the_samples_it_skips(tmp_path: Path) -> None:
    stems = write_cityscapes(tmp_path, [make_scene(i) for i in range(3)])
    (tmp_path / "leftImg8bit" / f"{stems[0]}_leftImg8bit.png").write_bytes(b"no picture")
    with pytest.raises(SampleError, match=r"town0_000000_000019_leftImg8bit\.png: damaged"):
        Trainer(config(tmp_path), tmp_path / "raising").run()
    skipping = config(tmp_path, on_bad_sample="skip", segmentation_class_weights="inverse_log")
    assert Trainer(skipping, tmp_path / "skipping").run()
    lines = (tmp_path / "skipping" / "bad_samples.jsonl").read_text().splitlines()
    assert lines
    for line in map(json.loads, lines):
        assert line["source"] == "cityscapes" and line["sample"] == 0 and line["step"] in (0, 1)
        assert "town0_000000_000019_leftImg8bit.png: damaged" in line["error"]
