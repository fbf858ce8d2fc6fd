"""``pvt-mtl compare`` on real and constructed evaluations: differences, intervals, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from random_detections import detected, label_set, random_frames

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.metrics import DetectionMetric, SegmentationMetric
from pvt_mtl_perception.evaluation.records import ClassificationRecords, Records, save_records
from pvt_mtl_perception.model.spec import TASKS
from pvt_mtl_perception.result import Result, Segmentation

IMAGES = 60
WEATHER = ("clear", "rainy", "snowy")


def weather(right: np.ndarray) -> ClassificationRecords:
    """Answers of which those are right; the tenth image is not labelled."""
    labels = np.arange(len(right)) % 3
    predictions = np.where(right, labels, (labels + 1) % 3)
    columns = np.array([labels, predictions, ~right], np.int32)
    columns[:, 9] = -1
    return ClassificationRecords(WEATHER, *columns)


def detection(better: bool) -> DetectionMetric:
    metric = DetectionMetric(label_set(4))
    for result, sample in random_frames(0, IMAGES):
        assert sample.boxes is not None and sample.box_labels is not None
        if better:
            result = detected(sample.boxes, np.ones(len(sample.boxes)), sample.box_labels)
        metric.update(result, sample)
    return metric


def segmentation(wrong: float) -> SegmentationMetric:
    rng = np.random.default_rng(1)
    metric = SegmentationMetric(label_set(4))
    for _ in range(IMAGES):
        truth = np.kron(rng.integers(0, 4, (4, 5)), np.ones((5, 5))).astype(np.uint8)
        guess = np.where(rng.random(truth.shape) < wrong, rng.integers(0, 4, truth.shape), truth)
        sample = Sample(image=np.zeros((*truth.shape, 3), np.uint8), mask=truth)
        metric.update(Result(*truth.shape, segmentation=Segmentation(guess.astype(np.uint8))), sample)
    return metric


def model(better: bool, description: dict[str, str] | None = None) -> Records:
    """A model of all tasks; the better one is better in each."""
    right = np.random.default_rng(2).random(IMAGES) < 0.5
    return Records(
        names=tuple(f"0001TP_{30 * image:06d}.png" for image in range(IMAGES)),
        classification={"weather": weather(right | (np.arange(IMAGES) % 2 == 0) if better else right)},
        detection=detection(better).records(),
        segmentation=segmentation(0.1 if better else 0.4).records(),
        description=description or {"source": "generic/test"},
    )


def evaluation(folder: Path, **records: Records) -> Path:
    """A folder as ``pvt-mtl eval`` leaves it, with these records by data set."""
    folder.mkdir()
    (folder / "scores.json").write_text("{}")
    for name, one in records.items():
        save_records(folder / f"{name}.npz", one)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluations")
    return evaluation(folder / "worse", test=model(False)), evaluation(folder / "better", test=model(True))


def compare(first: Path, second: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["compare", str(first), str(second), "--draws", "200", "--json", str(out), *more]) == 0
    return json.loads(out.read_text())


def scores_of(report: dict[str, Any], source: str = "test") -> dict[str, dict[str, Any]]:
    return {
        f"{task}.{metric}": values
        for task, metrics in report["sources"][source]["scores"].items()
        for metric, values in metrics.items()
    }


def test_the_same_answers_differ_in_nothing(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    copy = shutil.copytree(pair[0], tmp_path / "copy")
    scores = scores_of(compare(pair[0], copy, tmp_path / "table.json", "--per-class"))
    assert len(scores) == 7 + 4 + 3 + 4 + 2
    for values in scores.values():
        assert 0 <= values["a"] == values["b"] <= 1
        assert (values["difference"], values["low"], values["high"], values["standard_error"]) == (0, 0, 0, 0)


def test_a_better_model_is_above_zero_in_every_score_and_below_it_the_other_way_round(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    forth = scores_of(compare(*pair, tmp_path / "forth.json", "--per-class"))
    shown = capsys.readouterr().out
    back = scores_of(compare(*pair[::-1], tmp_path / "back.json", "--per-class"))
    for name, values in forth.items():
        assert 0 < values["low"] <= values["difference"] <= values["high"], name
        assert values["difference"] == pytest.approx(values["b"] - values["a"])
        assert back[name]["difference"] == -values["difference"]
        assert (-back[name]["high"], -back[name]["low"]) == pytest.approx((values["low"], values["high"]))
    assert forth["classification.weather.accuracy"]["images"] == IMAGES - 1
    assert forth["segmentation.miou"]["images"] == IMAGES
    assert shown.count("  higher\n") == len(forth) and "lower" not in shown
    row = next(line for line in shown.splitlines() if line.startswith("mIoU")).split()
    miou = forth["segmentation.miou"]
    a, b = (f"{100 * miou[key]:.2f}" for key in "ab")
    difference, low, high = (f"{100 * miou[key]:+.2f}" for key in ("difference", "low", "high"))
    assert row == ["mIoU", a, b, difference, low, "to", high, "60", "higher"]


def test_the_interval_of_accuracy_is_that_of_a_plain_paired_bootstrap(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images = 300
    # Both fail on the same images, so that an unpaired interval would be far wider.
    hard = rng.random(images) < 0.4
    rights = [~hard ^ (rng.random(images) < share) for share in (0.08, 0.03)]
    names = tuple(map(str, range(images)))
    folders = [
        evaluation(tmp_path / name, test=Records(names, {"weather": weather(right)}))
        for name, right in zip("ab", rights, strict=True)
    ]
    report = compare(*folders, tmp_path / "table.json", "--draws", "4000")
    values = scores_of(report)["classification.weather.accuracy"]
    there = np.arange(images) != 9
    plain, unpaired = [], []
    for _ in range(4000):
        one, other = rng.integers(0, images, (2, images))
        a, b, c = (
            right[drawn][there[drawn]].mean()
            for right, drawn in ((rights[0], one), (rights[1], one), (rights[1], other))
        )
        plain.append(b - a)
        unpaired.append(c - a)
    expected = np.quantile(plain, [0.025, 0.975])
    assert (values["low"], values["high"]) == pytest.approx(expected, abs=0.005)
    assert values["standard_error"] == pytest.approx(np.std(plain), rel=0.05)
    assert np.ptp(np.quantile(unpaired, [0.025, 0.975])) > 1.5 * np.ptp(expected)


def test_scores_are_those_of_the_evaluations_and_tasks_of_one_alone_are_left_out(tmp_path: Path) -> None:
    folders = []
    for number, tasks in enumerate([TASKS, TASKS, ("detection",)]):
        checkpoint = make_checkpoint(tmp_path / f"{number}.safetensors", tasks, seed=number)
        folders.append(tmp_path / f"{number}")
        arguments = ["eval", str(checkpoint), "--data", "synthetic", "--frames", "4", "--device", "cpu"]
        assert main([*arguments, "--out", str(folders[-1])]) == 0
    first, second, boxes = folders
    compared = compare(first, second, tmp_path / "table.json", "--per-class")["sources"]["synthetic_test"]
    for folder, side in ((first, "a"), (second, "b")):
        assert compared[side]["checkpoint"] == f"{folder}.safetensors"
        expected = json.loads((folder / "scores.json").read_text())["sources"]["synthetic/test"]
        found = compared["scores"]
        wanted: dict[str, dict[str, float]] = {task: {} for task in TASKS}
        for task in ("detection", "segmentation"):
            wanted[task] = {name: one for name, one in expected[task].items() if isinstance(one, float)}
        for name, one in expected["detection"]["per_class"].items():
            wanted["detection"][f"per_class.{name}.ap"] = one["ap"]
        for name, iou in expected["segmentation"]["per_class"].items():
            wanted["segmentation"][f"per_class.{name}.iou"] = iou
        for group, scores in expected["classification"].items():
            for name in scores.keys() & {"accuracy", "balanced_accuracy", "top5"}:
                wanted["classification"][f"{group}.{name}"] = scores[name]
        for task, values in wanted.items():
            assert {name: one[side] for name, one in found[task].items()} == pytest.approx(values, abs=1e-6)
    alone = compare(first, boxes, tmp_path / "table.json")["sources"]["synthetic_test"]
    assert list(alone["scores"]) == ["detection"]


def test_a_seed_gives_the_same_file_again_and_another_seed_another(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    files = [tmp_path / f"{number}.json" for number in range(3)]
    for file, seed in zip(files, "001", strict=True):
        compare(*pair, file, "--seed", seed)
    first, again, other = (file.read_text() for file in files)
    assert first == again
    assert scores_of(json.loads(first)) != scores_of(json.loads(other))


def test_frames_of_camvid_are_drawn_in_blocks_and_others_where_that_is_asked_for(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    # Ten neighbouring frames are right or wrong together.
    right = np.repeat(np.arange(IMAGES // 10) % 2 == 0, 10)
    folders = {}
    for source in ("camvid/val", "generic/test"):
        names = tuple(f"0001TP_{30 * image:06d}.png" for image in range(IMAGES))
        folders[source] = [
            evaluation(
                tmp_path / f"{source[:6]}{number}",
                test=Records(names, {"weather": weather(answers)}, description={"source": source}),
            )
            for number, answers in enumerate((right, ~right))
        ]
    errors = {}
    for source, more in (("generic/test", []), ("generic/test", ["--block", "20"]), ("camvid/val", [])):
        report = compare(*folders[source], tmp_path / "table.json", *more)
        block = report["sources"]["test"]["block"]
        errors[source, block] = scores_of(report)["classification.weather.accuracy"]["standard_error"]
        shown = capsys.readouterr().out
        assert ("draws of blocks of 20" in shown) == (block == 20)
    assert list(errors) == [("generic/test", 1), ("generic/test", 20), ("camvid/val", 20)]
    single, asked, own = errors.values()
    assert asked == own != single


def other_images(records: Records) -> Records:
    return dataclasses.replace(records, names=("x.png", "y.png", *records.names[2:]))


def other_order(records: Records) -> Records:
    return dataclasses.replace(records, names=records.names[::-1])


def other_classes(records: Records) -> Records:
    part = dataclasses.replace(records.classification["weather"], classes=("clear", "rainy", "foggy"))
    return dataclasses.replace(records, classification={"weather": part})


def other_boxes(records: Records) -> Records:
    assert records.detection is not None
    positives = records.detection.positives.copy()
    positives[[4, 7], 0, 0] += 1
    return dataclasses.replace(records, detection=dataclasses.replace(records.detection, positives=positives))


def other_mask(records: Records) -> Records:
    part = records.segmentation
    assert part is not None
    counts = part.counts.copy()
    counts[0] += 1
    return dataclasses.replace(records, segmentation=dataclasses.replace(part, counts=counts))


def other_labels(records: Records) -> Records:
    part = records.classification["weather"]
    labels = part.labels.copy()
    labels[0] = 2
    return dataclasses.replace(records, classification={"weather": dataclasses.replace(part, labels=labels)})


def other_task(records: Records) -> Records:
    return Records(records.names, description=records.description)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            other_images,
            "different images: 2 of the first's 60 are not in the second (0001TP_000000.png, "
            "0001TP_000030.png), 2 of the second's 60 are not in the first (x.png, y.png)",
        ),
        (other_order, "different images: the same ones in another order"),
        (
            other_classes,
            "classification of weather: different label sets: 1 of the first's 3 are not in the second "
            "(snowy), 1 of the second's 3 are not in the first (foggy)",
        ),
        (other_boxes, "detection: 2 images have other labels in the second than in the first"),
        (other_mask, "segmentation: 1 images have other labels in the second than"),
        (other_labels, "classification of weather: 1 images have other labels in the second than"),
        (other_task, "have no score in common: their tasks differ"),
    ],
)
def test_evaluations_that_cannot_be_compared_say_why(
    tmp_path: Path,
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    changed: Callable[[Records], Records],
    message: str,
) -> None:
    other = evaluation(tmp_path / "other", test=changed(model(True)))
    out = tmp_path / "table.json"
    assert main(["compare", str(pair[0]), str(other), "--json", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_folders_and_numbers_that_cannot_be_are_named(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, pair)
    other = evaluation(tmp_path / "other", val=model(True))
    link = tmp_path / "link"
    link.symlink_to(first)
    (tmp_path / "empty").mkdir()
    one = evaluation(tmp_path / "one", test=Records(("a",), {"weather": weather(np.ones(10, bool))}))
    two = shutil.copytree(one, tmp_path / "two")
    for arguments, message in (
        ([first, str(tmp_path / "empty")], f"{tmp_path / 'empty'} is no evaluation: `pvt-mtl eval"),
        ([str(tmp_path / "none"), second], f"{tmp_path / 'none'} is no evaluation"),
        ([first, str(link)], "are the same folder"),
        ([first, str(other)], f"no data set in common: {first} has test; {other} has val"),
        ([str(one), str(two)], "an interval over images needs two or more of them"),
        ([first, second, "--draws", "99"], "--draws 99: it has to be 100 or more"),
        ([first, second, "--block", "0"], "--block 0: it has to be 1 or more"),
        ([first, second, "--seed", "-1"], "--seed -1: it has to be 0 or more"),
    ):
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_data_sets_of_one_evaluation_alone_are_named_and_the_others_compared(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    both = evaluation(tmp_path / "both", test=model(True), val=model(True))
    report = compare(pair[0], both, tmp_path / "table.json")
    assert list(report["sources"]) == ["test"]
    assert f"only {both} has val: not compared" in capsys.readouterr().out
