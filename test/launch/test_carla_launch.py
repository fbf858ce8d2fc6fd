"""carla.launch.py: CARLA's names become topics of the node."""

from __future__ import annotations

from typing import Any

import pytest
from carla_messages import RGB, topic
from launch_files import load

from pvt_mtl_perception.ros.camera_topics import camera_topics

launch = pytest.importorskip("launch", reason="launch comes with a ROS 2 installation")
pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation")


def configured(**arguments: str) -> tuple[dict[str, Any], str]:
    """What perception.launch.py is given, and what was logged."""
    module = load("carla")
    context = launch.LaunchContext()
    context.launch_configurations.update(arguments)
    for argument in module.ARGUMENTS:
        argument.visit(context)
    said = ""
    for action in module.configure(context):
        if isinstance(action, launch.actions.LogInfo):
            said += "".join(part.perform(context) for part in action.msg) + "\n"
        else:
            action.visit(context)
    return context.launch_configurations, said


def test_results_come_out_beside_the_images_by_default() -> None:
    given, said = configured()
    assert given["namespace"] == "carla/ego_vehicle"
    assert given["cameras"] == RGB
    assert given["image_topic"] == "/carla/ego_vehicle/{camera}/image"
    assert given["use_sim_time"] == "true"
    assert f"images from {topic(RGB)}" in said


@pytest.mark.parametrize("interface", ["bridge", "native"])
def test_vehicle_and_several_cameras_have_their_names_in_the_topics(interface: str) -> None:
    given, said = configured(
        interface=interface, ego="hero", cameras="rgb_front, rgb_left", namespace="car", use_sim_time="false"
    )
    cameras = camera_topics({"compressed_topic": "", "params_file": "", **given})
    pairs = dict(pair for camera in cameras for pair in camera.remappings)
    assert pairs["rgb_front/image"] == "/carla/hero/rgb_front/image"
    assert pairs["rgb_left/image"] == "/carla/hero/rgb_left/image"
    assert (given["namespace"], given["use_sim_time"]) == ("car", "false")
    assert "/carla/hero/rgb_front/image, /carla/hero/rgb_left/image" in said


def test_a_build_that_names_its_images_otherwise_is_followed() -> None:
    given, _ = configured(interface="native", image_topic="/carla/{ego}/{camera}/image_raw")
    assert given["image_topic"] == "/carla/ego_vehicle/{camera}/image_raw"


def test_the_version_has_to_fit_the_interface() -> None:
    with pytest.raises(ValueError, match=r"CARLA 0\.9\.15 has no native ROS 2 interface.*interface:=bridge"):
        configured(interface="native", carla_version="0.9.15")
    for version in ("0.9.16", "0.10.0", "0.9.17-dirty"):
        configured(interface="native", carla_version=version)
    assert "other semantic tags" in configured(carla_version="0.9.13")[1]
    assert "other semantic tags" not in configured(carla_version="0.9.14")[1]
    with pytest.raises(ValueError, match=r"'newest' is not like 0\.9\.16"):
        configured(carla_version="newest")
    with pytest.raises(RuntimeError, match=r"bridge.*native"):
        configured(interface="zenoh")


def test_names_that_fit_no_topic_are_refused() -> None:
    with pytest.raises(ValueError, match="argument ego: 'ego vehicle' cannot be part of a topic"):
        configured(ego="ego vehicle")
    with pytest.raises(ValueError, match="argument cameras: '' cannot"):
        configured(cameras="rgb_front,")


def test_the_nodes_arguments_are_passed_on_and_described() -> None:
    description = load("carla").generate_launch_description()
    found = description.get_launch_arguments_with_include_launch_description_actions()
    names = {argument.name for argument, _ in found}
    own = {"ego", "cameras", "interface", "carla_version", "image_topic", "namespace", "use_sim_time"}
    perception = load("perception").generate_launch_description().get_launch_arguments()
    assert names == own | {argument.name for argument in perception}
    assert all(len(argument.description) > 20 for argument, _ in found)
