"""Starts perception_node on the cameras of a CARLA vehicle, results beside each camera's images."""

from __future__ import annotations

import re
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetLaunchConfiguration,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource

PERCEPTION = Path(__file__).resolve().parent / "perception.launch.py"
FIRST_NATIVE = (0, 9, 16)
"""The first release whose server has a ROS 2 interface."""
FIRST_TAGS = (0, 9, 14)
"""The first release with the tags that carla-eval reads."""

# They come before perception.launch.py's own, whose defaults then do not count.
ARGUMENTS = [
    DeclareLaunchArgument(
        "ego",
        default_value="ego_vehicle",
        description="The vehicle's name: role_name, and natively ros_name.",
    ),
    DeclareLaunchArgument(
        "cameras",
        default_value="rgb_front",
        description="Names of the vehicle's RGB cameras separated by commas, like rgb_front,rgb_left: id in "
        "the bridge's objects file, natively ros_name.",
    ),
    DeclareLaunchArgument(
        "interface",
        default_value="bridge",
        choices=["bridge", "native"],
        description="Who publishes: carla_ros_bridge, or the server itself, started with --ros2.",
    ),
    DeclareLaunchArgument(
        "carla_version",
        default_value="0.9.16",
        description="Version of the simulator. The native interface needs 0.9.16; carla-eval needs tags as "
        "they are since 0.9.14.",
    ),
    DeclareLaunchArgument(
        "image_topic",
        default_value="/carla/{ego}/{camera}/image",
        description="Topic of the RGB images; {ego} and {camera} stand for the names. Builds of the native "
        "interface exist that call it /carla/{ego}/{camera}/image_raw.",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of the node and its topics. Empty: carla/<ego>, so that results come out "
        "beside the images, on /carla/<ego>/<camera>/detections and so on.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="true",
        choices=["true", "false"],
        description="Whether to take the time from /clock, which both interfaces publish.",
    ),
]


def version_of(text: str) -> tuple[int, ...]:
    """A version as numbers; a build's suffix does not count.

    Raises:
        ValueError: when it does not begin like 0.9.16.
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise ValueError(f"argument carla_version: {text!r} is not like 0.9.16")
    return tuple(int(part or 0) for part in match.groups())


def part_of_topic(name: str, argument: str) -> str:
    """The name without blanks around it.

    Raises:
        ValueError: when it cannot be part of a topic.
    """
    name = name.strip()
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError(
            f"argument {argument}: {name!r} cannot be part of a topic: letters, digits and _ only, and no "
            "digit first"
        )
    return name


def configure(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Turns CARLA's names into arguments of perception.launch.py.

    Raises:
        ValueError: for names or a version that do not fit.
    """
    arguments = context.launch_configurations
    ego = part_of_topic(arguments["ego"], "ego")
    cameras = [part_of_topic(name, "cameras") for name in arguments["cameras"].split(",")]
    version = version_of(arguments["carla_version"])
    actions: list[LaunchDescriptionEntity] = []
    if arguments["interface"] == "native" and version < FIRST_NATIVE:
        raise ValueError(
            f"argument interface: CARLA {arguments['carla_version']} has no native ROS 2 interface, which "
            "came with 0.9.16; use interface:=bridge"
        )
    if version < FIRST_TAGS:
        message = (
            f"CARLA {arguments['carla_version']} has other semantic tags than 0.9.14 and later: perception "
            "works, pvt-mtl carla-eval does not"
        )
        actions.append(LogInfo(msg=message))
    topic = arguments["image_topic"].replace("{ego}", ego)
    return [
        *actions,
        SetLaunchConfiguration("cameras", ",".join(cameras)),
        SetLaunchConfiguration("image_topic", topic),
        SetLaunchConfiguration("namespace", arguments["namespace"] or f"carla/{ego}"),
        LogInfo(
            msg=f"CARLA {arguments['carla_version']}, {arguments['interface']}: images from "
            + ", ".join(topic.replace("{camera}", camera) for camera in cameras)
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=configure),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(PERCEPTION))),
        ]
    )
