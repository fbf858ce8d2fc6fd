"""The launch files: what they expand to, and a replay from its first image to its end."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_files import TOPIC, street
from bag_files import write_bag as write_ros1_bag
from launch_files import REPOSITORY, ament_prefix_path, declared, load, skip_where_launch_ros_does_not_find
from launch_files import start as start_launch
from ros_camera import picture
from ros_client import START_TIMEOUT, TIMEOUT
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from pvt_mtl_perception.inference.process import PROFILE_VARIABLES

launch = pytest.importorskip("launch", reason="launch comes with a ROS 2 installation")
pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation")

CONFIG = REPOSITORY / "config" / "perception.yaml"
PROFILE = REPOSITORY / "config" / "fastdds_large_images.xml"
NAV2_NAMES = {"namespace", "use_sim_time", "params_file", "autostart", "log_level", "use_respawn"}
OWN_NAMES = {
    "model_path", "device", "precision", "backend", "cameras", "image_topic", "compressed_topic",
    "image_transport",
}  # fmt: skip


def start(
    monkeypatch: pytest.MonkeyPatch, profile: str = "", distribution: str = "jazzy", **arguments: str
) -> tuple[Any, dict[str, str]]:
    """The node's action and the environment it will have."""
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    if profile:
        monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", profile)
    monkeypatch.setenv("ROS_DISTRO", distribution)
    module = load("perception")
    context = launch.LaunchContext()
    context.launch_configurations.update(arguments)
    for argument in module.ARGUMENTS:
        argument.visit(context)
    *actions, node = module.start(context)
    for action in actions:
        action.visit(context)
    return node, context.environment


def test_arguments_are_named_as_in_nav2_and_described() -> None:
    arguments = declared("perception")
    assert set(arguments) == NAV2_NAMES | OWN_NAMES
    assert all(len(argument.description) > 20 for argument in arguments.values())


def test_replay_has_the_nodes_arguments_too() -> None:
    arguments = declared("replay")
    assert set(arguments) == NAV2_NAMES | OWN_NAMES | {"bag", "preset", "rate", "loop", "delay", "record"}
    assert not arguments["bag"].default_value, "the bag has no default"


def test_descriptions_show_the_parameters_defaults() -> None:
    defaults = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    arguments = declared("perception")
    for name in ("device", "precision", "image_transport"):
        assert f'there by default: "{defaults[name]}"' in arguments[name].description
    assert "there by default: true" in arguments["autostart"].description


def test_a_value_that_is_no_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"fp32.*fp16.*bf16"):
        start(monkeypatch, precision="fp8")


def test_only_given_arguments_override_the_parameter_file() -> None:
    overrides = load("perception").overrides
    assert overrides({"device": "", "autostart": "", "namespace": "robot"}) == {}
    given = overrides({"autostart": "false", "use_sim_time": "true", "cameras": "front, left"})
    assert given == {"autostart": False, "use_sim_time": True, "cameras": ["front", "left"]}


def test_remappings_follow_the_parameter_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**: {ros__parameters: {cameras: [front]}}")
    node, _ = start(monkeypatch, params_file=str(file), image_topic="/cam/image_raw")
    pairs = {source[0].text: target[0].text for source, target in node._Node__remappings}
    assert pairs["front/image"] == "/cam/image_raw"


def test_the_profile_for_large_images_is_set_unless_the_user_has_set_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for distribution, set_one, other in (
        ("jazzy", *PROFILE_VARIABLES),
        ("kilted", *reversed(PROFILE_VARIABLES)),
    ):
        _, environment = start(monkeypatch, distribution=distribution)
        assert environment[set_one] == str(PROFILE)
        assert other not in environment
    _, environment = start(monkeypatch, profile="/my/profile.xml")
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/my/profile.xml"
    assert "FASTDDS_DEFAULT_PROFILES_FILE" not in environment


def write_bag(path: Path, topic: str, count: int) -> None:
    """A bag of small images, five a second."""
    store = get_typestore(Stores.ROS2_JAZZY)
    image, header, time = (
        store.types[name]
        for name in ("sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, image.__msgtype__, typestore=store)
        for number in range(count):
            message = image(
                header=header(stamp=time(sec=1000 + number, nanosec=0), frame_id="optical"),
                height=120,
                width=200,
                encoding="rgb8",
                is_bigendian=0,
                step=600,
                data=picture(number, 200, 120).reshape(-1),
            )
            data = store.serialize_cdr(message, image.__msgtype__)
            writer.write(connection, 10**12 + number * 200_000_000, data)


def test_replay_launch_plays_records_and_ends(spawn: Any, checkpoint: Path, tmp_path: Path) -> None:
    # Arrange
    skip_where_launch_ros_does_not_find("perception_node")
    ros2 = shutil.which("ros2")
    command = [ros2 or "", "bag", "play", "--help"]
    if ros2 is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("`ros2 bag` comes with a ROS 2 installation")
    count = 20
    write_bag(tmp_path / "bag", "/camera/image_raw", count)

    # Act
    launched = spawn(
        "launch",
        REPOSITORY / "launch" / "replay.launch.py",
        f"bag:={tmp_path / 'bag'}",
        f"record:={tmp_path / 'results'}",
        f"model_path:={checkpoint}",
        "device:=cpu",
        "image_topic:=/camera/image_raw",
        environment={"OMP_NUM_THREADS": "1", "AMENT_PREFIX_PATH": ament_prefix_path()},
        python=ros2,
    )
    status = launched.wait(300.0)

    # Assert: the bag's end ended everything, and the results have the images' stamps.
    assert status == 0, launched.output
    assert "Traceback" not in launched.output
    with AnyReader([tmp_path / "results"]) as reader:
        topics = {connection.topic for connection in reader.connections}
        detections = [c for c in reader.connections if c.topic == "/detections"]
        stamps = [
            reader.deserialize(data, connection.msgtype).header.stamp.sec
            for connection, _, data in reader.messages(detections)
        ]
    assert topics == {
        "/detections",
        "/classification",
        "/segmentation/mask",
        "/segmentation/confidence",
        "/segmentation/color",
        "/segmentation/label_info",
        "/overlay",
    }
    assert len(stamps) >= count // 2
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= set(range(1000, 1000 + count))


@pytest.mark.parametrize(
    ("bag", "reason"), [("missing.mcap", r"there is no .*missing\.mcap"), ("", r"record: .* exists already")]
)
def test_replay_names_a_wrong_path(tmp_path: Path, bag: str, reason: str) -> None:
    context = launch.LaunchContext()
    context.launch_configurations["bag"] = str(tmp_path / bag)
    context.launch_configurations["record"] = str(tmp_path)
    with pytest.raises(OSError, match=reason):
        load("replay").check(context)


def test_a_player_that_fails_fails_the_launch(spawn: Any, checkpoint: Path, tmp_path: Path) -> None:
    skip_where_launch_ros_does_not_find("perception_node", "bag_player")
    bag = write_ros1_bag(tmp_path / "drive", "ros1", [street(0)])
    launched = start_launch(spawn, "replay", bag=bag, rate=0, model_path=checkpoint, device="cpu")
    assert launched.wait(START_TIMEOUT) == 1, launched.output
    assert "the bag was not played" in launched.output
    assert "ended with status 2" in launched.output
    assert "--rate is 0" in launched.output


def test_a_topic_that_the_bag_does_not_have_ends_the_launch_before_the_node_starts(
    spawn: Any, tmp_path: Path
) -> None:
    bag = write_ros1_bag(tmp_path / "drive", "mcap", [street(0)])
    launched = start_launch(spawn, "replay", bag=bag, image_topic="/no/such/topic")
    assert launched.wait(TIMEOUT) == 1, launched.output
    assert f"no topic /no/such/topic; image topics: {TOPIC} (sensor_msgs" in launched.output
    assert "perception_node" not in launched.output
