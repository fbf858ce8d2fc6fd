from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import CLASSIFICATION_GROUPS, make_checkpoint

from pvt_mtl_perception.cli import evaluate as verb
from pvt_mtl_perception.data.camvid import CamVidDataset
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.evaluation.evaluator import SCORE_THRESHOLD, evaluate, measure
from pvt_mtl_perception.evaluation.passes import FinishedPasses, Pass, Scored
from pvt_mtl_perception.evaluation.pictures import frame_scores, gallery
from pvt_mtl_perception.evaluation.records import Records, average_precision, class_iou, load_records
from pvt_mtl_perception.evaluation.report import format_scores
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import load_label_set
from pvt_mtl_perception.model.checkpoint import TaskLabels
from pvt_mtl_perception.paths import share_directory
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation
from pvt_mtl_perception.training.distributed import alone

LABELS = TaskLabels(
    classification={group: load_label_set(name) for group, name in CLASSIFICATION_GROUPS.items()},
    detection=load_label_set("driving_detection"),
    segmentation=load_label_set("driving_segmentation"),
)


class Oracle:
    """Answers with a data set's own labels, so that every score has a value known beforehand.

    Attributes:
        spoilt: numbers of images for which the masks and classes of the answer are wrong and boxes missing.
        checked: whether the thresholds are those of an evaluation.
    """

    labels = LABELS
    spoilt: Collection[int] = ()
    checked = True
    score_threshold, max_detections = 0.4, 7

    def __init__(self, dataset: Sequence[Sample]) -> None:
        self._answers = iter([(dataset[i], i) for i in range(len(dataset))])

    def predict(self, images: Sequence[np.ndarray]) -> list[Result]:
        assert not self.checked or (self.score_threshold, self.max_detections) == (SCORE_THRESHOLD, 100)
        return [self._answer(image, *next(self._answers)) for image in images]

    def predict_stream(self, items, images):
        return ((item, self.predict(images(item))) for item in items)

    def _answer(self, image: np.ndarray, sample: Sample, number: int) -> Result:
        np.testing.assert_array_equal(image, sample.image)
        classes = dict(sample.classes or {})
        if number in self.spoilt:
            sample = dataclasses.replace(
                sample,
                mask=np.roll(sample.mask, 90, 0),
                boxes=sample.boxes[:0],
                box_labels=sample.box_labels[:0],
            )
            classes = {group: (label + 1) % 3 for group, label in classes.items()}
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
    assert rows["car"][1:] == ["50.0", "75.0", "-", "-", "-", "-", "9", "boxes"]
    assert rows["road"][1:] == ["95.0", "-"] and rows["scene"][1:] == ["75.0", "50.0", "100.0"]
    assert rows["tunnel"][1:] == ["0.0", "1", "images"] and rows["highway"][1:] == ["100.0", "3", "images"]
    assert "25.0      25.0      25.0      25.0      25.0         -      25.0" in format_scores(scores)


def test_pictures_show_labels_beside_predictions_and_frames_are_chosen_by_what_went_wrong() -> None:
    dataset = SyntheticDataset("test", size=3, frame_size=(320, 192))
    samples = [dataset[i] for i in range(3)]
    oracle = Oracle(dataset)
    oracle.spoilt = {1}
    records = measure(oracle, dataset, batch_size=2, progress=False).records()
    scores = frame_scores(records)
    np.testing.assert_allclose(scores[[0, 2]], 1.0)
    assert scores[1] < 0.5
    oracle = Oracle([samples[0], samples[1], samples[0]])
    oracle.checked = False
    pictures = gallery(oracle, dataset, records, count=1, seed=1)
    assert [(p.kind, p.name) for p in pictures[:2]] == [("best", samples[0].name), ("worst", samples[1].name)]
    assert [p.kind for p in pictures] == ["best", "worst", "random"]
    assert pictures[0].image.shape == (192, 640, 3)
    # A perfect prediction looks like its labels.
    np.testing.assert_array_equal(pictures[0].image[:, :320], pictures[0].image[:, 320:])


def test_records_and_scores_of_stretches_together_are_those_of_the_whole() -> None:
    dataset = SyntheticDataset("test", size=5, frame_size=(320, 192))
    whole = measure(Oracle(dataset), dataset, progress=False)
    assert len(whole.names) == len(set(whole.names)) == 5
    records = whole.records({"data": "synthetic"})
    assert len(records) == 5 and records.description == {"data": "synthetic"}
    assert np.nanmean(average_precision(records.detection)[0]) == pytest.approx(1.0)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors")


def test_eval_verb_scores_a_checkpoint_and_writes_scores_records_and_a_report(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    words = [str(checkpoint), "--data", "synthetic", "--frames", "4", "--batch-size", "3", "--device", "cpu"]
    more = ["--corruptions", "fog", "jpeg", "--strengths", "1", "5", "--cost", "--cost-batch", "2"]
    more += ["--nms-threshold", "0.3", "--cost-calls", "2"]
    assert verb.run(arguments(*words, *more, "--out", str(out))) == 0
    printed = capsys.readouterr().out
    written = json.loads((out / "scores.json").read_text())
    scores = written["sources"]["synthetic/test"]
    predictor = Predictor(checkpoint, "cpu", nms_threshold=0.3)
    expected = evaluate(predictor, SyntheticDataset("test", size=4), progress=False)
    assert scores == json.loads(json.dumps(expected))
    assert 0 <= scores["segmentation"]["miou"] < 0.5 and math.isfinite(scores["segmentation"]["miou"])
    assert f"{100 * expected['segmentation']['miou']:10.1f}" in printed
    best = written["best_threshold"]["synthetic/test"]
    assert f"is highest with a score threshold of {best['score_threshold']:.2f}:" in printed
    assert 0 < best["f1"] < 1
    assert {name: list(rows) for name, rows in written["corruptions"].items()} == {
        "fog": ["1", "5"],
        "jpeg": ["1", "5"],
    }
    fog = written["corruptions"]["fog"]["5"]["synthetic/test"]
    assert fog["images"] == 4 and fog["segmentation"] != scores["segmentation"]
    records = load_records(out / "synthetic_test.npz")
    assert np.nanmean(class_iou(records.segmentation)) == pytest.approx(scores["segmentation"]["miou"])
    assert np.nanmean(average_precision(records.detection)[0]) == pytest.approx(scores["detection"]["ap"])
    assert load_records(out / "synthetic_test_fog_5.npz").description["strength"] == 5
    cost = written["cost"]
    assert [one["batch"] for one in cost["latency"]] == [1, 2] and cost["latency"][0]["median_ms"] > 0
    page = (out / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", ""), "a report needs no other file"
    for heading in ("Detection", "Segmentation", "Classification", "Worst frames", "Robustness", "Cost"):
        assert f"{heading}</h" in page
    # Precision-recall, F1 by threshold, IoU, its confusion, three groups, five robustness plots.
    assert page.count("data:image/png") == 12 and page.count("data:image/jpeg") == 9 + 2


def interrupt_pass(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Ctrl-C when this pass over the images begins, counted from 1; returns the passes that began."""
    begun: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        begun.append(len(begun) + 1)
        if len(begun) == number:
            raise KeyboardInterrupt
        return measure(*given, **named)

    monkeypatch.setattr("pvt_mtl_perception.evaluation.run.measure", counted)
    return begun


def test_an_interrupted_evaluation_goes_on_and_ends_as_if_it_had_not_been(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(checkpoint), "--data", "synthetic", "--frames", "2", "--device", "cpu"]
    words += ["--corruptions", "fog", "noise", "--strengths", "2"]
    assert verb.run(arguments(*words, "--out", str(tmp_path / "whole"))) == 0

    passes = interrupt_pass(monkeypatch, 3)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        verb.run(arguments(*words, "--out", str(out)))
    assert sorted(path.name for path in (out / "eval_unfinished").iterdir()) == [
        "scores.json",
        "synthetic_test.npz",
        "synthetic_test_fog_2.npz",
    ]
    capsys.readouterr()
    assert verb.run(arguments(*words, "--out", str(out))) == 0
    assert len(passes) == 4
    assert f"going on: {out / 'eval_unfinished'} holds 2 passes over images" in capsys.readouterr().out
    files = sorted(path.name for path in out.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "whole").iterdir())
    for name in files:
        if name != "report.html":
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_evaluation_with_other_settings_does_not_go_on_with_the_passes(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = [str(checkpoint), "--data", "synthetic", "--frames", "1", "--device", "cpu"]
    given = arguments(*words, "--out", str(tmp_path))
    predictor = Predictor(checkpoint, "cpu")
    kept = verb._finished_passes(given, predictor, verb._sources(given), None, alone())
    kept.add(Pass("synthetic/test"), Scored({"images": 99}, Records(("a",))))
    with pytest.raises(
        ValueError, match=r"eval_unfinished holds passes .* nms_threshold 0\.5, not 0\.7: cont"
    ):
        verb.run(arguments(*words, "--nms-threshold", "0.7", "--out", str(tmp_path)))
    with pytest.raises(ValueError, match=r"holds passes .* sources \[.*frames=1.*\], not \[.*frames=2"):
        verb.run(arguments(*words[:-3], "2", *words[-2:], "--out", str(tmp_path)))
    (tmp_path / "eval_unfinished" / "scores.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"scores\.json is no list of finished passes; remove .* to begin anew"
    ):
        verb.run(given)


def test_a_pass_whose_file_is_damaged_or_of_other_images_is_done_again(tmp_path: Path) -> None:
    kept = FinishedPasses(tmp_path, {}, {"checkpoint": "a"})
    one, other = Pass("camvid/val"), Pass("camvid/val", "fog", 3)
    kept.add(one, Scored({"images": 1}, Records(("a",))))
    again = FinishedPasses(tmp_path, {}, {})
    found = again.find(one, 1)
    assert found is not None and found.scores == {"images": 1}
    assert found.records.description == {"checkpoint": "a", "source": "camvid/val"}
    assert again.find(other, 1) is None and again.find(one, 2) is None
    path = tmp_path / "eval_unfinished" / "camvid_val.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert again.find(one, 1) is None
    path.unlink()
    assert again.find(one, 1) is None


def test_an_old_report_does_not_stand_beside_new_scores(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "report.html").write_text("of another model")
    monkeypatch.setattr("pvt_mtl_perception.evaluation.html.write_report", interrupted)
    words = [str(checkpoint), "--data", "synthetic", "--frames", "1", "--device", "cpu"]
    with pytest.raises(KeyboardInterrupt):
        verb.run(arguments(*words, "--out", str(tmp_path)))
    assert (tmp_path / "scores.json").is_file() and not (tmp_path / "report.html").exists()
    monkeypatch.undo()
    assert verb.run(arguments(*words, "--out", str(tmp_path))) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "scores.json",
        "synthetic_test.npz",
    ]


def test_eval_verb_scores_the_sources_of_a_training_configuration(
    checkpoint: Path, tmp_path: Path, camvid_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMVID_ROOT", str(camvid_root))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"extends: [{share_directory() / 'config/training/synthetic_mtl.yaml'}]\n"
        "evaluate:\n"
        "  - {kind: synthetic, split: test, frames: 2}\n"
        "  - {kind: camvid, root: $CAMVID_ROOT, split: val, limit: 2}\n"
        "  - {kind: camvid, root: nowhere, split: held_out, optional: true}\n"
        "  - {kind: synthetic, split: test, frames: 1}\n"
    )
    words = [str(checkpoint), "--data", str(config), "--device", "cpu", "--out", str(tmp_path)]
    assert verb.run(arguments(*words)) == 0
    sources = json.loads((tmp_path / "scores.json").read_text())["sources"]
    assert {name: scores["images"] for name, scores in sources.items()} == {
        "synthetic/test": 2,
        "camvid/val": 2,
        "synthetic/test 2": 1,
    }
    # CamVid in its own taxonomy.
    assert set(sources["camvid/val"]["segmentation"]["per_class"]) <= set(load_label_set("camvid").names)
    assert sources["camvid/val"]["detection"]["per_class"]["car"]["boxes"] > 0


def test_eval_verb_says_what_is_wrong(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(checkpoint)
    with pytest.raises(ValueError, match="'val'"):
        verb.run(arguments(name, "--data", "synthetic", "--split", "val"))
    with pytest.raises(ValueError, match="frames is at least 1, found 0"):
        verb.run(arguments(name, "--data", "synthetic", "--frames", "0"))
    with pytest.raises(ValueError, match=r"unknown kind of data source 'cocoa'.*did you mean 'coco'"):
        verb.run(arguments(name, "--data", "cocoa", "--root", "."))
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    with pytest.raises(ValueError, match="--data camvid needs --root"):
        verb.run(arguments(name, "--data", "camvid", "--device", "cpu"))
    with pytest.raises(ValueError, match=r"--corruptions snow: known are fog, rain.* and all"):
        verb.run(arguments(name, "--data", "synthetic", "--corruptions", "snow"))
    with pytest.raises(ValueError, match="--strengths 6"):
        verb.run(arguments(name, "--data", "synthetic", "--corruptions", "fog", "--strengths", "6"))
    with pytest.raises(FileNotFoundError, match="no training configuration"):
        verb.run(arguments(name, "--data", str(tmp_path / "none.yaml")))
    with pytest.raises(ValueError, match="--split is for a data source"):
        verb.run(arguments(name, "--data", str(tmp_path / "none.yaml"), "--split", "val"))


def test_a_folder_that_cannot_be_is_said_before_anything_is_scored(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    occupied = tmp_path / "occupied"
    occupied.touch()
    words = ["--data", "synthetic", "--frames", "1", "--device", "cpu", "--out", str(occupied)]
    with pytest.raises(FileExistsError, match="occupied"):
        verb.run(arguments(str(checkpoint), *words))
    assert capsys.readouterr().out == ""


def test_two_processes_score_as_one_and_go_on_with_what_one_has_done(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_process, together = tmp_path / "alone", tmp_path / "together"
    words = [str(checkpoint), "--data", "synthetic", "--frames", "5", "--batch-size", "1", "--device", "cpu"]
    words += ["--corruptions", "noise", "--strengths", "1", "2"]
    assert verb.run(arguments(*words, "--out", str(one_process))) == 0
    interrupt_pass(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        verb.run(arguments(*words, "--out", str(together)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *launch, "-m", "pvt_mtl_perception.cli", "eval", *words, "--out", str(together)],
        check=True,
        # The same number of threads, because sums differ in the last bits with it.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        timeout=300,
    )
    assert (one_process / "scores.json").read_text() == (together / "scores.json").read_text()
    assert not (together / "eval_unfinished").exists()
    for name in ("synthetic_test.npz", "synthetic_test_noise_2.npz"):
        one, other = (load_records(out / name) for out in (one_process, together))
        assert one.names == other.names
        np.testing.assert_array_equal(one.detection.matched, other.detection.matched)
        np.testing.assert_array_equal(one.segmentation.counts, other.segmentation.counts)
