from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CLASSIFICATION_GROUPS, make_checkpoint

from pvt_mtl_perception.cli import evaluate as verb
from pvt_mtl_perception.data.camvid import CamVidDataset
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.evaluation.evaluator import SCORE_THRESHOLD, evaluate
from pvt_mtl_perception.evaluation.report import format_scores
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import load_label_set
from pvt_mtl_perception.model.checkpoint import TaskLabels
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation

LABELS = TaskLabels(
    classification={group: load_label_set(name) for group, name in CLASSIFICATION_GROUPS.items()},
    detection=load_label_set("driving_detection"),
    segmentation=load_label_set("driving_segmentation"),
)


class Oracle:
    """Answers with a data set's own labels, so that every score has a value known beforehand."""

    labels = LABELS
    score_threshold, max_detections = 0.4, 7

    def __init__(self, dataset: Sequence[Sample]) -> None:
        self._answers = iter([dataset[i] for i in range(len(dataset))])

    def predict(self, images: Sequence[np.ndarray]) -> list[Result]:
        assert self.score_threshold == SCORE_THRESHOLD and self.max_detections == 100
        return [self._answer(image, next(self._answers)) for image in images]

    def _answer(self, image: np.ndarray, sample: Sample) -> Result:
        np.testing.assert_array_equal(image, sample.image)
        classes = sample.classes or {}
        return Result(
            *image.shape[:2],
            detections=Detections(sample.boxes, np.ones(len(sample.boxes), np.float32), sample.box_labels),
            segmentation=Segmentation(np.where(sample.mask == 255, 0, sample.mask)),
            classification=Classification(
                {
                    group: np.eye(len(label_set), dtype=np.float32)[classes.get(group, 0)]
                    for group, label_set in LABELS.classification.items()
                }
            ),
        )


def test_a_model_that_knows_the_labels_scores_one_in_every_task() -> None:
    dataset = SyntheticDataset("test", size=5, frame_size=(320, 192))
    oracle = Oracle(dataset)
    scores = evaluate(oracle, dataset, batch_size=2, progress=False)
    assert scores["images"] == 5
    assert scores["detection"]["ap"] == pytest.approx(1.0)
    assert scores["segmentation"]["miou"] == scores["segmentation"]["pixel_accuracy"] == 1.0
    assert {group: values["accuracy"] for group, values in scores["classification"].items()} == {
        "weather": 1.0,
        "scene": 1.0,
        "timeofday": 1.0,
    }
    assert (oracle.score_threshold, oracle.max_detections) == (0.4, 7)


def test_real_camvid_scores_in_its_own_taxonomy(camvid_root: Path) -> None:
    dataset = CamVidDataset(camvid_root, "val")
    dataset.pairs = dataset.pairs[::20]
    scores = evaluate(Oracle(dataset), dataset, load_label_set("camvid"), progress=False)
    assert set(scores["segmentation"]["per_class"]) <= set(load_label_set("camvid").names)
    assert scores["segmentation"]["miou"] == 1.0 and scores["detection"]["ap"] == pytest.approx(1.0)
    # Weather and scene are labelled nowhere in CamVid.
    assert list(scores["classification"]) == ["timeofday"]


def test_table_shows_percent_and_marks_what_could_not_be_scored() -> None:
    scores = {
        "images": 3,
        "detection": {
            **dict.fromkeys(("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar100"), 0.25),
            "ap_large": None,
            "per_class": {"car": {"ap": 0.5, "ap50": 0.75, "boxes": 9}},
        },
        "segmentation": {"miou": 0.123, "pixel_accuracy": 0.9, "per_class": {"road": 0.95}},
        "classification": {
            "scene": {
                "accuracy": 0.75,
                "top5": 1.0,
                "balanced_accuracy": 0.5,
                "per_class": {"highway": 1.0, "tunnel": 0.0},
                "confusion": [[0, 0, 0], [0, 3, 0], [0, 1, 0]],
                "images": 4,
            }
        },
    }
    rows = {line.split("  ")[0].strip() or line.strip().split("  ")[0]: line.split() for line in
            format_scores(scores).splitlines()}  # fmt: skip
    assert rows["car"][1:] == ["50.0", "75.0", "9", "boxes"]
    assert rows["road"][1:] == ["95.0"] and rows["scene"][1:] == ["75.0", "50.0", "100.0"]
    assert rows["tunnel"][1:] == ["0.0", "1", "images"] and rows["highway"][1:] == ["100.0", "3", "images"]
    assert "25.0    25.0    25.0    25.0    25.0       -    25.0" in format_scores(scores)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors")


def test_eval_verb_scores_a_checkpoint_on_synthetic_frames(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "scores.json"
    words = [str(checkpoint), "--data", "synthetic", "--frames", "4", "--batch-size", "3", "--device", "cpu"]
    assert verb.run(arguments(*words, "--json", str(report))) == 0
    written = json.loads(report.read_text())
    assert (written["data"], written["split"], written["images"]) == ("synthetic", "test", 4)
    expected = evaluate(Predictor(checkpoint, "cpu"), SyntheticDataset("test", size=4), progress=False)
    assert written["segmentation"] == expected["segmentation"]
    assert written["detection"] == expected["detection"]
    assert written["classification"]["weather"]["images"] == 4
    assert 0 <= written["segmentation"]["miou"] < 0.5 and math.isfinite(written["segmentation"]["miou"])
    assert f"{100 * expected['segmentation']['miou']:8.1f}" in capsys.readouterr().out


def test_eval_verb_scores_a_checkpoint_on_camvid(checkpoint: Path, tmp_path: Path, camvid_root: Path) -> None:
    few = tmp_path / "camvid"
    few.mkdir()
    for name in ("val", "valannot"):
        (few / name).symlink_to(camvid_root / name)
    (few / "val.txt").write_text("\n".join((camvid_root / "val.txt").read_text().splitlines()[:3]))
    report = tmp_path / "scores.json"
    words = [
        str(checkpoint),
        "--data",
        "camvid",
        "--root",
        str(few),
        "--taxonomy",
        "camvid",
        "--device",
        "cpu",
    ]
    assert verb.run(arguments(*words, "--json", str(report))) == 0
    written = json.loads(report.read_text())
    assert written["images"] == 3 and set(written["segmentation"]["per_class"]) <= set(
        load_label_set("camvid").names
    )
    assert written["detection"]["per_class"]["car"]["boxes"] > 0


def test_eval_verb_says_what_is_wrong(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--split val: synthetic has test, train"):
        verb.run(arguments(str(checkpoint), "--data", "synthetic", "--split", "val"))
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    with pytest.raises(ValueError, match="--data camvid needs --root"):
        verb.run(arguments(str(checkpoint), "--data", "camvid", "--device", "cpu"))
