"""Player, node and recorder as processes over DDS give what the bag gives without ROS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_files import FRAME_ID, TOPIC, stamp, street, write_bag
from checkpoints import make_checkpoint

from pvt_mtl_perception.bags.predict import predict_bag
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import ResultReader, ResultTopics
from pvt_mtl_perception.demo.playback import play_through_node
from pvt_mtl_perception.inference.predictor import Predictor

STREET = Path(__file__).resolve().parents[1] / "data" / "street.mcap"
STREET_TOPIC = "/street/image/compressed"
PLAYER = "pvt_mtl_perception.ros.bag_player"
RECORDER = "pvt_mtl_perception.ros.bag_recorder"


def test_node_publishes_what_the_bag_gives_without_ros(
    tmp_path: Path, ros_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**ros_environment, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    model = make_checkpoint(tmp_path / "tiny.safetensors")
    predictor = Predictor(model, device="cpu", backend="auto")
    predict_bag(STREET, tmp_path / "offline", predictor, progress=False)
    with BagReader(STREET) as reader:
        (topic,) = reader.select()
        images = list(reader.images([topic]))
    assert (topic.name, topic.type, topic.count) == (STREET_TOPIC, "sensor_msgs/msg/CompressedImage", 12)

    playback = play_through_node(
        STREET, topic, model, predictor.tasks, tmp_path, device="cpu", rate=0.6, progress=False
    )

    assert playback.topics == ResultTopics.under("/street/image")
    published = [json.loads(line)["stamp"] for line in playback.published.read_text().splitlines()]
    assert published == [image.stamp for image in images]
    compared = boxes = 0
    with BagReader(playback.recording) as live_bag, BagReader(tmp_path / "offline") as offline_bag:
        assert {topic.name for topic in offline_bag.topics} < {topic.name for topic in live_bag.topics}
        live = ResultReader(live_bag, playback.topics, predictor.labels)
        offline = ResultReader(offline_bag, playback.topics, predictor.labels)
        for image in images:
            expected, found = offline.take(image.stamp), live.take(image.stamp)
            assert expected is not None
            if found is None:  # replaced by a newer one: a busy machine may skip frames, but not change them
                continue
            assert set(found.timestamps) == {"detection", "segmentation", "classification"}
            np.testing.assert_array_equal(found.detections.labels, expected.detections.labels)
            np.testing.assert_allclose(found.detections.boxes, expected.detections.boxes, atol=0.01)
            np.testing.assert_allclose(found.detections.scores, expected.detections.scores, atol=1e-3)
            np.testing.assert_array_equal(found.segmentation.mask, expected.segmentation.mask)
            for group, probabilities in expected.classification.probabilities.items():
                np.testing.assert_allclose(
                    found.classification.probabilities[group], probabilities, atol=1e-4
                )
            compared += 1
            boxes += len(expected.detections)
        infos = list(live_bag.messages([playback.topics.label_info]))
        names = [entry.class_name for entry in infos[0][2].class_map]
    assert compared >= 6
    assert boxes > 20
    assert tuple(names) == predictor.labels.segmentation.names


@pytest.mark.parametrize("kind", ["ros1", "sqlite3"])
def test_player_sends_each_image_unchanged_and_on_time(tmp_path: Path, spawn: Any, kind: str) -> None:
    frames = [street(index) for index in range(6)]
    bag = write_bag(tmp_path / "drive", kind, frames)
    recorder = spawn("-m", RECORDER, tmp_path / "copy", "--topic", f"{TOPIC}:sensor_msgs/msg/Image")
    player = spawn("-m", PLAYER, bag, "--log", tmp_path / "log.jsonl", "--rate", "0.5", "--delay", "0.3")
    assert player.wait(60) == 0, player.output
    recorder.wait_for(rf"{TOPIC}=6$")
    assert recorder.stop() == 0
    with BagReader(tmp_path / "copy") as reader:
        images = list(reader.images(reader.select()))
    for index, image in enumerate(images):
        assert (image.stamp, image.frame_id) == (stamp(index), FRAME_ID)
        np.testing.assert_array_equal(image.decode(), frames[index])
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["stamp"] for entry in log] == [stamp(index) for index in range(6)]
    offsets = [(entry["published"] - log[0]["published"]) / 1e9 for entry in log]
    # Never early; late only by what a busy machine adds.
    assert all(offset >= 0.2 * index - 0.01 for index, offset in enumerate(offsets))
    assert offsets[-1] < 1.0 + 2.0


def test_player_sends_several_cameras_of_a_foxglove_file(tmp_path: Path, spawn: Any) -> None:
    from foxglove_files import NUSCENES_BACK, NUSCENES_FRONT, write_foxglove_mcap

    frames = [street(index) for index in range(5)]
    scene = write_foxglove_mcap(tmp_path / "scene.mcap", frames, [NUSCENES_FRONT, NUSCENES_BACK])
    topics = [word for name in (NUSCENES_FRONT, NUSCENES_BACK) for word in ("--topic", name)]
    kinds = [f"{word}:sensor_msgs/msg/CompressedImage" if word.startswith("/") else word for word in topics]
    recorder = spawn("-m", RECORDER, tmp_path / "copy", *kinds)
    player = spawn("-m", PLAYER, scene, *topics, "--rate", "0.5")
    assert player.wait(60) == 0, player.output
    recorder.wait_for(f"{NUSCENES_FRONT}=5 {NUSCENES_BACK}=5$")
    assert recorder.stop() == 0
    with BagReader(tmp_path / "copy") as reader:
        images = list(reader.images(reader.image_topics))
    for name, frame_id in ((NUSCENES_FRONT, "CAM_FRONT"), (NUSCENES_BACK, "CAM_BACK")):
        sent = [image for image in images if image.topic == name]
        assert [(image.stamp, image.frame_id) for image in sent] == [
            (stamp(index), frame_id) for index in range(5)
        ]
        for image, frame in zip(sent, frames, strict=True):
            np.testing.assert_array_equal(image.decode(), frame)


def test_player_says_that_nobody_listens(tmp_path: Path, spawn: Any) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", [street(0)])
    player = spawn("-m", PLAYER, bag, "--timeout", "1")
    assert player.wait(60) == 1
    assert f"bag_player: error: {TOPIC} has 0 of 1 subscribers after 1 s" in player.output


@pytest.mark.parametrize(("options", "status"), [([], 130), (["--loop"], 0), (["--stay"], 0)])
def test_ctrl_c_is_a_failure_of_a_player_that_would_have_ended(
    tmp_path: Path, spawn: Any, options: list[str], status: int
) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", [street(0)])
    player = spawn("-m", PLAYER, bag, *options)
    player.wait_for("waiting for 1 subscribers")
    assert player.stop() == status, player.output
    assert "Traceback" not in player.output


@pytest.mark.parametrize("option", ["--rate", "--delay", "--timeout"])
def test_player_refuses_what_is_no_number(tmp_path: Path, spawn: Any, option: str) -> None:
    player = spawn("-m", PLAYER, tmp_path / "none", option, "nan")
    assert player.wait(60) == 2
    assert f"bag_player: error: {option} is nan; it must be " in player.output


def test_player_and_recorder_name_what_is_wrong(tmp_path: Path, spawn: Any) -> None:
    player = spawn("-m", PLAYER, tmp_path / "none")
    assert player.wait(60) == 2
    assert f"bag_player: error: no bag at {tmp_path / 'none'}" in player.output
    recorder = spawn("-m", RECORDER, tmp_path / "bag", "--topic", "/a:no_msgs/msg/Thing")
    assert recorder.wait(60) == 2
    assert "bag_recorder: error: message type no_msgs/msg/Thing is not installed" in recorder.output


def test_player_and_recorder_name_a_topic_that_ros_2_does_not_allow(tmp_path: Path, spawn: Any) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", [street(0)], topic="/cam-era/image")
    player = spawn("-m", PLAYER, bag)
    recorder = spawn("-m", RECORDER, tmp_path / "bag", "--topic", "/cam-era/image:sensor_msgs/msg/Image")
    for name, child in (("bag_player", player), ("bag_recorder", recorder)):
        assert child.wait(60) == 2
        assert f"{name}: error: Invalid topic name" in child.output
        assert "'/cam-era/image'" in child.output
        assert "Traceback" not in child.output
