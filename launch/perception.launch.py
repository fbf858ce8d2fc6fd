"""Starts perception_node, which configures and activates itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import LifecycleNode
from launch_ros.descriptions import ParameterFile, ParameterValue

SHARE = Path(__file__).resolve().parents[1]
PARAMS_FILE = SHARE / "config" / "perception.yaml"
FASTDDS_PROFILE = SHARE / "config" / "fastdds_large_images.xml"
BOOLEANS = ("", "true", "false")

DEFAULTS: Mapping[str, Any] = yaml.safe_load(PARAMS_FILE.read_text())["/**"]["ros__parameters"]


def node_parameter(
    name: str, description: str, choices: tuple[str, ...] | None = None
) -> DeclareLaunchArgument:
    """An argument that replaces what params_file says of a parameter only where it is given."""
    return DeclareLaunchArgument(
        name,
        default_value="",
        choices=None if choices is None else list(dict.fromkeys(("", *choices))),
        description=f"{description} Empty: as params_file says "
        f"(there by default: {json.dumps(DEFAULTS[name])}).",
    )


ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=list(BOOLEANS),
        description="Whether to take the time from /clock. Empty: as params_file says, otherwise false.",
    ),
    DeclareLaunchArgument(
        "params_file", default_value=str(PARAMS_FILE), description="YAML file with the node's parameters."
    ),
    node_parameter("autostart", "Whether the node configures and activates itself.", BOOLEANS),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity of what the node logs.",
    ),
    DeclareLaunchArgument(
        "use_respawn",
        default_value="false",
        choices=["true", "false"],
        description="Whether to start the node again, after two seconds, when it ends.",
    ),
    node_parameter("model_path", "Checkpoint file (.safetensors)."),
    node_parameter("device", "auto, cpu, cuda or cuda:N."),
    node_parameter("precision", "Number format of the network.", ("fp32", "fp16", "bf16")),
    node_parameter(
        "backend",
        "What runs the network; auto takes the fastest that is installed.",
        ("auto", "eager", "compile", "cuda_graphs", "onnxruntime", "openvino", "tensorrt"),
    ),
    node_parameter("cameras", "Camera names separated by commas, like front,left."),
    DeclareLaunchArgument(
        "image_topic",
        default_value="",
        description="Topic of the raw images, without the /compressed of its compressed form; with several "
        "cameras {camera} stands for the name. Empty: image, or the camera's name and image.",
    ),
    DeclareLaunchArgument(
        "compressed_topic",
        default_value="",
        description="Topic of the compressed images where that is not image_topic and /compressed; "
        "with several cameras {camera} stands for the name.",
    ),
    node_parameter("image_transport", "Kind of images to subscribe to.", ("raw", "compressed")),
]


def overrides(arguments: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that were given as arguments, typed."""
    given = {name: arguments[name] for name in ("use_sim_time", *DEFAULTS) if arguments.get(name)}
    parameters: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("autostart", "use_sim_time"):
            parameters[name] = value == "true"
        elif name == "cameras":
            parameters[name] = [camera.strip() for camera in value.split(",")]
        else:
            parameters[name] = ParameterValue(value, value_type=str)
    return parameters


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    from pvt_mtl_perception.inference.process import PROFILE_VARIABLES, profile_variable
    from pvt_mtl_perception.ros.camera_topics import camera_topics

    arguments = {argument.name: context.launch_configurations[argument.name] for argument in ARGUMENTS}
    actions: list[LaunchDescriptionEntity] = []
    if not any(context.environment.get(variable) for variable in PROFILE_VARIABLES):
        variable = profile_variable()
        actions += [
            SetEnvironmentVariable(variable, str(FASTDDS_PROFILE)),
            LogInfo(
                msg=f"Fast DDS profile for large images: {FASTDDS_PROFILE} (camera drivers need it too; "
                f"to use another, set {variable})"
            ),
        ]
    node = LifecycleNode(
        package="pvt_mtl_perception",
        executable="perception_node",
        name="perception_node",
        namespace=arguments["namespace"],
        parameters=[
            ParameterFile(arguments["params_file"], allow_substs=True),
            overrides(arguments),
        ],
        remappings=[pair for camera in camera_topics(arguments) for pair in camera.remappings],
        ros_arguments=["--log-level", arguments["log_level"]],
        output="screen",
        emulate_tty=True,
        respawn=arguments["use_respawn"] == "true",
        respawn_delay=2.0,
    )
    return [*actions, node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
