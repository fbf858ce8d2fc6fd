from __future__ import annotations

from pathlib import Path

from checkpoints import make_checkpoint

from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.training.scoring import score_sources, summary


def test_sources_of_one_kind_and_split_are_scored_beside_each_other(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "small.safetensors", ["segmentation"])
    sources = [SourceConfig("synthetic", split="test", frames=frames) for frames in (2, 1)]
    scores = score_sources(checkpoint, sources, "cpu")
    assert [(name, found["images"]) for name, found in scores.items()] == [
        ("synthetic/test", 2),
        ("synthetic/test 2", 1),
    ]
    assert list(summary(scores)) == ["mIoU, synthetic/test", "mIoU, synthetic/test 2"]
