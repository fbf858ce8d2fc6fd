"""Launch files for Autoware, Nav2 and bags that ros2 bag cannot play: what they say and what they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bag_files import stamp, street, write_bag, write_foxglove_ros2_bag
from launch_files import (
    declared,
    default,
    has_package,
    load,
    skip_where_launch_ros_does_not_find,
    start,
)
from ros_client import START_TIMEOUT, TIMEOUT, RosClient
from vision_msgs.msg import Detection2DArray

from pvt_mtl_perception.ros.camera_topics import camera_topics

launch = pytest.importorskip("launch", reason="launch comes with a ROS 2 installation")
pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation")


def test_autoware_has_its_topic_names_and_the_nodes_arguments() -> None:
    actions = declared("autoware")
    assert set(declared("perception")) < set(actions)
    arguments = {name: default(actions[name]) for name in ("cameras", "image_topic", "rois_topic")}
    assert arguments["cameras"] == "camera0,camera1,camera2,camera3,camera4,camera5"
    cameras = camera_topics({"compressed_topic": "", "params_file": "", **arguments})
    pairs = dict(pair for camera in cameras for pair in camera.remappings)
    assert pairs["camera5/image"] == "/sensing/camera/camera5/image_raw"
    assert pairs["camera5/image/compressed"] == "/sensing/camera/camera5/image_raw/compressed"
    rois = load("autoware").rois_remappings(arguments["rois_topic"], arguments["cameras"])
    assert rois == [
        (f"camera{index}/rois", f"/perception/object_recognition/detection/rois{index}") for index in range(6)
    ]


def test_autoware_cameras_cannot_share_a_rois_topic() -> None:
    remappings = load("autoware").rois_remappings
    assert remappings("/rois", "") == [("rois", "/rois")]
    assert remappings("/{camera}/rois", "CAM_FRONT, CAM_BACK")[1] == ("CAM_BACK/rois", "/CAM_BACK/rois")
    with pytest.raises(ValueError, match=r"\{index\} or \{camera\}"):
        remappings("/rois", "front,left")


def test_nav2_manager_shares_the_namespace_and_starts_the_node_without_bond() -> None:
    from launch_ros.utilities import evaluate_parameters

    module = load("nav2")
    context = launch.LaunchContext()
    context.launch_configurations.update({"namespace": "robot", "use_sim_time": "true"})
    for argument in module.ARGUMENTS:
        argument.visit(context)
    own, manager = module.start_manager(context)
    manager._perform_substitutions(context)
    own.visit(context)
    assert context.launch_configurations["autostart"] == "false", "the node's, which waits for the manager"
    (parameters,) = evaluate_parameters(context, manager._Node__parameters)
    assert parameters == {
        "use_sim_time": True,
        "autostart": True,
        "node_names": ("perception_node",),
        "bond_timeout": 0.0,
        "service_timeout": 120.0,
    }
    assert manager.node_package == "nav2_lifecycle_manager"
    assert manager.expanded_node_namespace == "/robot"
    assert set(declared("nav2")) == set(declared("perception"))


def test_without_nav2_the_launch_names_what_is_missing(spawn: Any) -> None:
    if has_package("nav2_lifecycle_manager"):
        pytest.skip("nav2_lifecycle_manager is installed")
    skip_where_launch_ros_does_not_find("perception_node")
    launched = start(spawn, "nav2")
    assert launched.wait(TIMEOUT) == 1
    assert "package 'nav2_lifecycle_manager' not found" in launched.output


def test_nav2_launch_activates_the_node(spawn: Any, client: RosClient, checkpoint: Path) -> None:
    if not has_package("nav2_lifecycle_manager"):
        pytest.skip("nav2_lifecycle_manager comes with Nav2")
    skip_where_launch_ros_does_not_find("perception_node")
    launched = start(spawn, "nav2", model_path=checkpoint, device="cpu")
    client.wait_for_state("active")
    assert client.get_parameter("autostart") is False
    assert launched.stop(60) == 0, launched.output


def chosen(bag: Path, **arguments: str) -> Any:
    """The launch context after ``replay`` has chosen cameras."""
    context = launch.LaunchContext()
    context.launch_configurations.update({"bag": str(bag), "preset": "", **arguments})
    for action in load("replay").choose_cameras(context):
        action.visit(context)
    return context


def test_a_preset_sets_cameras_transport_and_remappings(tmp_path: Path) -> None:
    from foxglove_files import NUSCENES_BACK, NUSCENES_FRONT, write_foxglove_mcap

    scene = write_foxglove_mcap(tmp_path / "scene.mcap", [street(0)], [NUSCENES_BACK, NUSCENES_FRONT])
    context = chosen(scene, preset="nuscenes")
    configurations = context.launch_configurations
    assert configurations["cameras"] == "front,back"
    assert configurations["image_transport"] == "compressed"
    assert configurations["ros_remaps"] == [
        ("front/image/compressed", NUSCENES_FRONT),
        ("back/image/compressed", NUSCENES_BACK),
    ]
    assert configurations["played_topics"] == f"{NUSCENES_FRONT},{NUSCENES_BACK}"

    kitti = write_bag(tmp_path / "kitti", "mcap", [street(0)], "/kitti/camera_color_left/image_raw")
    context = chosen(kitti, preset="kitti")
    assert context.launch_configurations["image_transport"] == "raw"
    with pytest.raises(ValueError, match="argument cameras: the preset kitti says that already"):
        chosen(kitti, preset="kitti", cameras="left")
    with pytest.raises(ValueError, match="no camera of the preset nuscenes"):
        chosen(kitti, preset="nuscenes")


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
@pytest.mark.parametrize("compressed", ["", "jpeg"])
def test_without_a_topic_the_bags_only_images_are_replayed(
    tmp_path: Path, kind: str, compressed: str
) -> None:
    bag = write_bag(tmp_path / "drive", kind, [street(0)], "/rig/front", compressed)
    own, transport = ("image/compressed", "compressed") if compressed else ("image", "raw")
    configurations = chosen(bag, namespace="car").launch_configurations
    assert configurations["played_topics"] == "/rig/front"
    assert configurations["image_transport"] == transport
    assert configurations["ros_remaps"] == [(own, "/rig/front")]
    other = "raw" if compressed else "compressed"
    with pytest.raises(ValueError, match=rf"image_transport {other}: .*drive.* has /rig/front \(sensor_msgs"):
        chosen(bag, image_transport=other)


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "has 2 image topics, name one of them"),
        ({"image_topic": "/rig/frnt"}, "no topic /rig/frnt"),
        ({"image_topic": "/note"}, "topic /note is a std_msgs/msg/String, not an image"),
        ({"image_topic": "/rig/front", "image_transport": "compressed"}, "no topic /rig/front/compressed"),
        ({"image_topic": "front"}, "no topic /front"),
        ({"cameras": "front,right"}, "no topic /front/image"),
    ],
)
def test_what_the_bag_does_not_have_is_named_with_what_it_has(
    tmp_path: Path, kind: str, arguments: dict[str, str], reason: str
) -> None:
    bag = write_bag(tmp_path / "drive", kind, [street(0)], "/rig/front", other_topics=["/rig/left"])
    with pytest.raises(ValueError, match=f"argument image_topic.*{reason}.*/rig/front .*1 messages"):
        chosen(bag, **arguments)


def test_named_cameras_are_looked_up_by_full_name(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", [street(0)], "/rig/front", other_topics=["/rig/left/image"])
    assert chosen(bag, image_topic="front", namespace="/rig").launch_configurations["played_topics"] == (
        "/rig/front"
    )
    configurations = chosen(bag, cameras="left", namespace="rig").launch_configurations
    assert (configurations["played_topics"], configurations["cameras"]) == ("/rig/left/image", "left")
    file = tmp_path / "mine.yaml"
    file.write_text("/**: {ros__parameters: {cameras: [front], image_transport: compressed}}")
    with pytest.raises(ValueError, match=r"image_transport compressed: .*no topic /rig/front/compressed"):
        chosen(bag, image_topic="/rig/{camera}", params_file=str(file))


def test_bags_that_ros2_cannot_play_are_played_by_our_own(tmp_path: Path) -> None:
    replay = load("replay")
    bag = str(write_bag(tmp_path / "drive", "ros1", [street(0)], "/cam"))
    assert not replay.ros2_plays(bag, ["/cam"])
    arguments = {"bag": bag, "use_sim_time": "", "rate": "1.0", "delay": "3.0", "loop": "false"}
    assert replay.own_player(arguments, ["/cam"]).node_executable == "bag_player"
    with pytest.raises(ValueError, match="no use_sim_time"):
        replay.own_player({**arguments, "use_sim_time": "true"}, ["/cam"])


def test_foxglove_images_in_a_ros2_bag_are_played_by_our_own(tmp_path: Path) -> None:
    ros2_plays = load("replay").ros2_plays
    bag = write_foxglove_ros2_bag(tmp_path / "drive", "/cam", b"png", other="/camera/image_raw")
    assert not ros2_plays(str(bag), ["/cam"]), "as ROS 2 messages that the node does not subscribe to"
    assert ros2_plays(str(bag), ["/camera/image_raw"])


def test_a_respawned_node_is_refused_under_nav2s_manager() -> None:
    context = launch.LaunchContext()
    context.launch_configurations.update({"use_respawn": "true"})
    with pytest.raises(ValueError, match=r"use_respawn: without bonds.*perception\.launch\.py"):
        load("nav2").start_manager(context)


def test_replay_launch_plays_a_foxglove_bag_with_a_preset_and_ends(
    spawn: Any, client: RosClient, checkpoint: Path, tmp_path: Path
) -> None:
    skip_where_launch_ros_does_not_find("perception_node", "bag_player")
    from foxglove_files import NUSCENES_BACK, NUSCENES_FRONT, write_foxglove_mcap

    frames = [street(index) for index in range(12)]
    scene = write_foxglove_mcap(tmp_path / "scene.mcap", frames, [NUSCENES_BACK, NUSCENES_FRONT], "jpeg")
    listeners = {name: client.listen(Detection2DArray, f"/{name}/detections") for name in ("front", "back")}
    launched = start(
        spawn, "replay", bag=scene, preset="nuscenes", model_path=checkpoint, device="cpu", rate=0.15
    )
    assert launched.wait(START_TIMEOUT) == 0, launched.output
    assert "Traceback" not in launched.output
    for name, listener in listeners.items():
        headers = [message.header for message in listener.messages]
        stamps = [header.stamp.sec * 10**9 + header.stamp.nanosec for header in headers]
        assert {header.frame_id for header in headers} == {f"CAM_{name.upper()}"}
        assert len(stamps) >= 2
        assert stamps == sorted(set(stamps))
        assert set(stamps) <= {stamp(index) for index in range(12)}
