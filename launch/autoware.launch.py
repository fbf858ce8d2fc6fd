"""Starts perception_node on Autoware's cameras, and the converter that gives Autoware its rois."""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parents[1]
PERCEPTION = SHARE / "launch" / "perception.launch.py"
LABELS = SHARE / "config" / "autoware" / "labels.yaml"

# They come before perception.launch.py's own, whose defaults then do not count.
ARGUMENTS = [
    DeclareLaunchArgument(
        "namespace",
        default_value="perception/pvt_mtl",
        description="Namespace of both nodes and of the topics that Autoware has no name for.",
    ),
    DeclareLaunchArgument(
        "cameras",
        default_value=",".join(f"camera{index}" for index in range(6)),
        description="Camera names separated by commas, in the order of Autoware's rois. With Autoware's "
        "CARLA interface: CAM_FRONT,CAM_FRONT_LEFT and so on.",
    ),
    DeclareLaunchArgument(
        "image_topic",
        default_value="/sensing/camera/{camera}/image_raw",
        description="Topic of the raw images, without the /compressed of its compressed form; {camera} "
        "stands for the name.",
    ),
    DeclareLaunchArgument(
        "rois_topic",
        default_value="/perception/object_recognition/detection/rois{index}",
        description="Topic of the converted detections; {index} is the camera's place in `cameras`, from 0, "
        "{camera} its name.",
    ),
    DeclareLaunchArgument(
        "labels_file",
        default_value=str(LABELS),
        description="YAML file with Autoware's label for each class.",
    ),
]


def rois_remappings(rois_topic: str, cameras: str) -> list[tuple[str, str]]:
    """Where each camera's converted detections go.

    Raises:
        ValueError: when several cameras would share one topic.
    """
    names = [camera.strip() for camera in cameras.split(",")]
    pairs = [
        (
            f"{name}/rois" if name else "rois",
            rois_topic.replace("{index}", str(index)).replace("{camera}", name),
        )
        for index, name in enumerate(names)
    ]
    if len({target for _, target in pairs}) < len(names):
        raise ValueError(
            f"rois_topic is {rois_topic!r}; with the cameras {cameras} it must contain {{index}} or "
            "{camera}, like /perception/object_recognition/detection/rois{index}"
        )
    return pairs


def start_converter(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    return [
        Node(
            package="pvt_mtl_perception",
            executable="autoware_converter",
            name="autoware_converter",
            namespace=arguments["namespace"],
            parameters=[
                {
                    "cameras": [camera.strip() for camera in arguments["cameras"].split(",")],
                    "labels_file": arguments["labels_file"],
                    "use_sim_time": arguments["use_sim_time"] == "true",
                }
            ],
            remappings=rois_remappings(arguments["rois_topic"], arguments["cameras"]),
            ros_arguments=["--log-level", arguments["log_level"]],
            output="screen",
            emulate_tty=True,
            respawn=arguments["use_respawn"] == "true",
            respawn_delay=2.0,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *ARGUMENTS,
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(PERCEPTION))),
            OpaqueFunction(function=start_converter),
        ]
    )
