"""``pvt-mtl carla-eval`` on bags as CARLA's interfaces fill them: scores, matching, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from carla_messages import (
    EGO,
    INSTANCE,
    RGB,
    SEMANTIC,
    CarlaFrame,
    carla_frame,
    message,
    stamp,
    topic,
    write_carla_bag,
)
from checkpoints import make_checkpoint

from pvt_mtl_perception.bags import messages
from pvt_mtl_perception.bags.matching import matched_by_stamp
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import BagWriter, ResultTopics, write_label_info, write_result
from pvt_mtl_perception.cli import carla_eval, main
from pvt_mtl_perception.cli.carla_frames import CarlaFrames
from pvt_mtl_perception.data.synthetic import Drive
from pvt_mtl_perception.evaluation.carla import CarlaLabels, Instances
from pvt_mtl_perception.evaluation.evaluator import predict_samples, score_results
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import TaskLabels, load_label_set
from pvt_mtl_perception.model.checkpoint import load_checkpoint
from pvt_mtl_perception.result import Detections, Result, Segmentation

FRAMES = 5


@pytest.fixture(scope="module")
def drive() -> list[CarlaFrame]:
    """Frames of a street with cars and people."""
    source = Drive(3, width=320, height=192)
    return [carla_frame(source, 8 * index) for index in range(FRAMES)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "untrained.safetensors")


def scores(out: Path) -> dict:
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize(("interface", "instances"), [("bridge", False), ("native", True)])
def test_a_bag_is_scored_as_the_model_scores_on_the_same_frames(
    tmp_path: Path,
    drive: list[CarlaFrame],
    checkpoint: Path,
    interface: str,
    instances: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Arrange: what the scores must be, from the renderer's frames without bag or message.
    predictor = Predictor(checkpoint, device="cpu")
    labels = CarlaLabels(predictor.labels)
    samples = [
        labels.sample(
            frame.sample.image, frame.tags, Instances(frame.tags, frame.ids) if instances else None, ""
        )
        for frame in drive
        if frame is not drive[2]
    ]
    for sample, frame in zip(samples, [*drive[:2], *drive[3:]], strict=True):
        assert np.array_equal(sample.mask, frame.sample.mask)
    expected = score_results(
        TaskLabels({}, predictor.labels.detection, predictor.labels.segmentation),
        predict_samples(predictor, samples),
    ).scores()
    bag = write_carla_bag(tmp_path / "bag", drive, interface, instances=instances, without_semantic=[2])

    # Act
    options = ["--instance", INSTANCE] if instances else []
    arguments = [str(bag), "--model", str(checkpoint), "--device", "cpu", "--backend", "eager"]
    status = main(["carla-eval", *arguments, *options, "--out", str(tmp_path / "out")])

    # Assert
    printed = capsys.readouterr().out
    assert status == 0
    assert f"{RGB}: 4 of 4 semantic images matched by stamp; boxes" in printed
    assert ("exact, of the instance images" in printed) == instances
    report = scores(tmp_path / "out")
    found = report["sources"][RGB]
    assert found["images"] == 4
    assert found["segmentation"]["miou"] == pytest.approx(expected["segmentation"]["miou"], abs=1e-9)
    assert found["segmentation"]["per_class"] == pytest.approx(expected["segmentation"]["per_class"])
    assert found["detection"]["ap50"] == pytest.approx(expected["detection"]["ap50"], abs=1e-9)
    boxes = {name: row["boxes"] for name, row in found["detection"]["per_class"].items()}
    assert boxes == {name: row["boxes"] for name, row in expected["detection"]["per_class"].items()}
    assert sum(boxes.values()) >= 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Worst frames" in page
    assert (tmp_path / "out" / f"{RGB}.npz").is_file()


def record_results(
    bag: Path, target: Path, checkpoint: Path, results: dict[int, Result], namespace: str = ""
) -> Path:
    """A copy of a bag with results as the node publishes them, beside the RGB images or in a namespace."""
    labels = load_checkpoint(checkpoint).labels
    places = ResultTopics.under(namespace or topic(RGB).rpartition("/")[0])
    with BagReader(bag) as reader, BagWriter(target) as writer:
        for name, time, content in reader.messages(
            [t.name for t in reader.image_topics if t.name != topic(RGB)]
        ):
            writer.write(name, time, messages.copied_image(content.header, content))
        for number, result in results.items():
            header = messages.header(stamp(number), f"{EGO}/{RGB}")
            time = 2_000_000_000 * 10**9 + number
            if number == min(results):
                write_label_info(writer, places, labels, time, header)
            write_result(writer, places, labels, result, time, header)
    return target


def perfect(frame: CarlaFrame) -> Result:
    """The renderer's mask, and the boxes that the frame's labels are."""
    labels = CarlaLabels(load_labels())
    sample = labels.sample(None, frame.tags, Instances(frame.tags, frame.ids), "")
    mask = np.where(sample.mask == 255, 0, sample.mask).astype(np.uint8)
    detections = Detections(sample.boxes, np.ones(len(sample.boxes), np.float32), sample.box_labels)
    return Result(*mask.shape, detections, Segmentation(mask))


def load_labels() -> TaskLabels:
    return TaskLabels({}, load_label_set("driving_detection"), load_label_set("driving_segmentation"))


def test_recorded_results_are_scored_by_stamp_and_perfect_ones_get_full_marks(
    tmp_path: Path, drive: list[CarlaFrame], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_carla_bag(tmp_path / "bag", drive, "native")
    # The node skipped frame 1; the RGB images were not recorded.
    results = {number: perfect(frame) for number, frame in enumerate(drive) if number != 1}
    both = record_results(bag, tmp_path / "both", checkpoint, results)
    arguments = ["carla-eval", str(both), "--model", str(checkpoint), "--recorded", "--instance", INSTANCE]

    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0

    assert "4 of 5 semantic images matched by stamp, 1 without recorded detections" in capsys.readouterr().out
    found = scores(tmp_path / "out")
    assert found["frames"][RGB] == {
        "semantic": 5, "scored": 4, "without": {"recorded detections": 1}
    }  # fmt: skip
    assert found["results"] == "recorded"
    assert found["sources"][RGB]["segmentation"]["miou"] == 1.0
    assert found["sources"][RGB]["detection"]["ap"] == pytest.approx(1.0)

    # One frame's results under another's stamp: no longer right.
    results[0], results[3] = results[3], results[0]
    arguments[1] = str(record_results(bag, tmp_path / "swapped", checkpoint, results, "/car/front"))
    assert main([*arguments, "--taxonomy", "carla", "--results", "/car/front"]) == 0
    table = capsys.readouterr().out.split("segmentation")[1]
    assert float(re.search(r"all classes +([\d.]+)", table)[1]) < 95
    assert re.search(r"^pedestrian ", table, re.MULTILINE), "CARLA's name of a person"


def two_views(tmp_path: Path, drive: list[CarlaFrame]) -> list[str]:
    """The bag with a view of two frames and another of one, and what names them."""
    bag = write_carla_bag(tmp_path / "bag", drive[:2], "bridge", instances=False)
    with BagReader(bag) as reader, BagWriter(tmp_path / "both") as writer:
        seen: set[str] = set()
        for name, time, content in reader.messages([topic(RGB), topic(SEMANTIC)]):
            writer.write(name, time, content)
            # The other view has one frame.
            if name not in seen:
                writer.write(name.replace("_front", "_left"), time, content)
            seen.add(name)
    left = topic("rgb_left"), topic("semantic_segmentation_left")
    return [str(tmp_path / "both"), "--rgb", RGB, left[0], "--semantic", SEMANTIC, left[1]]


def test_several_views_have_a_table_each(
    tmp_path: Path, drive: list[CarlaFrame], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*two_views(tmp_path, drive), "--model", str(checkpoint)]
    arguments += ["--device", "cpu", "--backend", "eager"]

    assert main(["carla-eval", *arguments]) == 0

    front, left = capsys.readouterr().out.split("\n\n/carla")
    assert front.startswith(f"{RGB}: 2 of 2 semantic images matched by stamp; boxes derived")
    assert left.startswith("/ego_vehicle/rgb_left/image: 1 of 1 semantic images matched by stamp")
    assert "2 images\n" in front and "1 images\n" in left


def test_an_interrupted_evaluation_goes_on_with_the_next_view(
    tmp_path: Path,
    drive: list[CarlaFrame],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["carla-eval", *two_views(tmp_path, drive), "--model", str(checkpoint)]
    words += ["--device", "cpu", "--backend", "eager", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0

    score = carla_eval._scored
    begun = []

    def interrupted_once(frames: CarlaFrames, *given: Any) -> Any:
        begun.append(str(frames))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return score(frames, *given)

    monkeypatch.setattr(carla_eval, "_scored", interrupted_once)
    out = tmp_path / "out"
    assert main([*words, str(out)]) == 130
    assert sorted(path.name for path in (out / "eval_unfinished").iterdir()) == [f"{RGB}.npz", "scores.json"]
    capsys.readouterr()
    assert main([*words, str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"going on: {out / 'eval_unfinished'} holds 1 passes" in printed
    assert f"{RGB}: 2 of 2 semantic images matched" in printed
    assert [name.rpartition(" ")[2] for name in begun] == [RGB, topic("rgb_left"), topic("rgb_left")]
    files = sorted(path.name for path in out.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "whole").iterdir())
    for name in files:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_what_does_not_fit_is_refused_with_topic_and_stamp(
    tmp_path: Path, drive: list[CarlaFrame], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_carla_bag(tmp_path / "bag", drive[:2], "bridge")

    def refused(*options: str, path: Path = bag) -> str:
        assert main(["carla-eval", str(path), "--model", str(checkpoint), "--device", "cpu", *options]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    said = refused("--semantic", RGB)
    assert f"stamp 12.350000000, topic {topic(RGB)}: this is no semantic image" in said
    said = refused("--instance", SEMANTIC)
    assert f"topic {topic(SEMANTIC)}: this is no instance image" in said
    said = refused("--ego", "hero")
    assert "no topic /carla/hero/semantic_segmentation_front/image; image topics: " in said
    assert topic(RGB) in said
    assert "has results neither on /carla/ego_vehicle/rgb_front/detections nor" in refused("--recorded")
    assert "--rgb names 2 cameras and --semantic 1" in refused("--rgb", "rgb_front", "rgb_left")
    assert "exists already; --live records a new bag" in refused("--live")
    occupied = tmp_path / "occupied"
    occupied.touch()
    assert main(["carla-eval", str(bag), "--model", str(checkpoint), "--out", str(occupied)]) == 2
    said = capsys.readouterr()
    assert str(occupied) in said.err and said.out == "", "found out only after scoring"
    later = tmp_path / "later"
    with BagReader(bag) as reader, BagWriter(later) as writer:
        for name, time, content in reader.messages([topic(RGB), topic(SEMANTIC)]):
            if name == topic(RGB):
                content.header.stamp.nanosec += 1
            writer.write(name, time, messages.copied_image(content.header, content))
    said = refused(path=later)
    assert f"nothing to score: 0 of 2 semantic images matched by stamp, 2 without {topic(RGB)}" in said


def test_masks_of_other_classes_are_refused(
    tmp_path: Path, drive: list[CarlaFrame], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_carla_bag(tmp_path / "bag", drive[:1], "bridge")
    both = record_results(bag, tmp_path / "both", checkpoint, {0: perfect(drive[0])})
    other = tmp_path / "other"
    with BagReader(both) as reader, BagWriter(other) as writer:
        for name, time, content in reader.messages([t.name for t in reader.topics]):
            if name.endswith("label_info"):
                content.class_map[0].class_name = "street"
            writer.write(name, time, content)
    assert main(["carla-eval", str(other), "--model", str(checkpoint), "--recorded"]) == 2
    assert "the masks are of a model with other classes" in capsys.readouterr().err


def test_topics_are_matched_whatever_their_order_in_the_bag(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    with BagWriter(tmp_path / "bag") as writer:
        for time, (name, number) in enumerate(
            [
                ("/b", 0),
                ("/a", 0),
                ("/a", 1),
                ("/c", 1),
                ("/a", 2),
                ("/b", 2),
                ("/c", 2),
                ("/b", 3),
                ("/a", 4),
            ]
        ):
            copied = messages.copied_image(
                message(pixels, stamp(number)).header, message(pixels, stamp(number))
            )
            writer.write(name, time, copied)
    with BagReader(tmp_path / "bag") as reader:
        found = [
            (time, *(other is not None for other in others))
            for time, _, others in matched_by_stamp(reader, "/a", ["/b", "/c"])
        ]
    assert found == [
        (stamp(0), True, False), (stamp(1), False, True), (stamp(2), True, True), (stamp(4), False, False)
    ]  # fmt: skip
