"""CARLA's messages through the real node, recorded and scored live: separate processes over DDS."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from carla_messages import (
    EGO,
    INSTANCE,
    PERIOD,
    RGB,
    SEMANTIC,
    CarlaFrame,
    carla_frame,
    stamp,
    topic,
    write_carla_bag,
)
from ros_client import START_TIMEOUT, TIMEOUT

from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.data.synthetic import Drive
from pvt_mtl_perception.evaluation.carla import CarlaLabels, Instances
from pvt_mtl_perception.evaluation.evaluator import score_results
from pvt_mtl_perception.evaluation.report import format_scores
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import TaskLabels

PLAYER = "pvt_mtl_perception.ros.bag_player"
FRAMES = 8


@pytest.fixture(scope="module")
def drive() -> list[CarlaFrame]:
    source = Drive(3, width=320, height=192)
    return [carla_frame(source, 5 * index) for index in range(FRAMES)]


@pytest.fixture(scope="module", autouse=True)
def node(module_spawn: Any, checkpoint: Path) -> Any:
    """As carla.launch.py starts it: in the vehicle's namespace, with cameras named as the sensors."""
    parameters = {"model_path": checkpoint, "device": "cpu", "backend": "eager", "cameras": f"[{RGB}]"}
    arguments = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    return module_spawn(
        *("-m", "pvt_mtl_perception.ros.perception_node", "--ros-args", *arguments),
        *("-r", f"__ns:=/carla/{EGO}"),
        environment={"OMP_NUM_THREADS": "1"},
    )


def start(module_spawn: Any, bag: Path, sensors: list[str], subscribers: int) -> Any:
    """A player that publishes as these sensors do, once so many listen to each."""
    arguments = [word for sensor in sensors for word in ("--topic", topic(sensor))]
    return module_spawn(
        "-m", PLAYER, bag, *arguments, "--subscribers", str(subscribers), "--timeout", "180", "--stay"
    )


@pytest.mark.parametrize(
    ("interface", "options", "sensors"),
    [
        ("bridge", ["--frames", "3"], [SEMANTIC]),
        ("native", ["--best-effort", "--instance", INSTANCE], [SEMANTIC, INSTANCE]),
    ],
)
def test_live_scores_are_those_of_the_nodes_results_on_the_same_frames(
    tmp_path: Path,
    module_spawn: Any,
    checkpoint: Path,
    drive: list[CarlaFrame],
    interface: str,
    options: list[str],
    sensors: list[str],
) -> None:
    # Arrange
    source = write_carla_bag(tmp_path / "carla", drive, interface, period=20 * PERIOD)
    bag = tmp_path / "live"

    # Act: the simulator's cameras and the recorder of results, each a process. The truth comes first, so that
    # it is there when enough results are.
    truth = start(module_spawn, source, sensors, 1)
    evaluation = module_spawn(
        "-m", "pvt_mtl_perception.cli", "carla-eval", bag, "--live", "--model", checkpoint, *options
    )
    truth.wait_for("playing", START_TIMEOUT)
    images = start(module_spawn, source, [RGB], 2)
    evaluation.wait_for("every topic has a publisher", START_TIMEOUT)
    if "--frames" not in options:
        images.wait_for("played", TIMEOUT)
        evaluation.wait_for(r"[3-8]result", TIMEOUT)
        evaluation.process.send_signal(signal.SIGINT)
    assert evaluation.wait(START_TIMEOUT) == 0, evaluation.output
    for player in (truth, images):
        player.stop()

    # Assert: the table is that of the frames that the recording names, predicted without ROS.
    numbers = matched(bag, sensors)
    assert len(numbers) >= 3
    predictor = Predictor(checkpoint, device="cpu")
    labels = CarlaLabels(predictor.labels)
    pairs = []
    for number in numbers:
        frame = drive[number]
        instances = Instances(frame.tags, frame.ids) if INSTANCE in sensors else None
        sample = labels.sample(frame.sample.image, frame.tags, instances, str(number))
        pairs.append((sample, predictor.predict([sample.image])[0]))
    scored = TaskLabels({}, predictor.labels.detection, predictor.labels.segmentation)
    assert format_scores(score_results(scored, pairs).scores()) in evaluation.output
    assert f"{RGB}: {len(numbers)} of " in evaluation.output
    assert f"boxes {'exact' if INSTANCE in sensors else 'derived'}" in evaluation.output


def matched(bag: Path, sensors: list[str]) -> list[int]:
    """The frames of which the recording has truth, detections and mask."""
    wanted = [f"/carla/{EGO}/{RGB}/{name}" for name in ("detections", "segmentation/mask")]
    wanted += [topic(sensor) for sensor in sensors]
    with BagReader(bag) as reader:
        stamps: dict[str, set[int]] = {name: set() for name in wanted}
        for name, _, content in reader.messages(wanted):
            time = content.header.stamp
            stamps[name].add(time.sec * 10**9 + time.nanosec)
    return [n for n in range(FRAMES) if all(stamp(n) in found for found in stamps.values())]


def test_a_recording_without_carla_says_what_is_missing_and_ends_cleanly(
    tmp_path: Path, module_spawn: Any, checkpoint: Path
) -> None:
    evaluation = module_spawn(
        *("-m", "pvt_mtl_perception.cli", "carla-eval", tmp_path / "live", "--live"),
        *("--model", checkpoint, "--ego", "nobody"),
    )
    evaluation.wait_for(f"no publisher that fits yet: .*{topic(SEMANTIC, 'nobody')}$", START_TIMEOUT)
    evaluation.process.send_signal(signal.SIGINT)
    assert evaluation.wait(START_TIMEOUT) == 2
    assert re.search(f"error: nothing came on .*{topic(SEMANTIC, 'nobody')}, so", evaluation.lines[-1])
    assert not (tmp_path / "live").exists()
    assert "Traceback" not in evaluation.output
