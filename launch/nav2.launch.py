"""Starts perception_node under Nav2's lifecycle manager, with what a semantic costmap layer listens to."""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

PERCEPTION = Path(__file__).resolve().parent / "perception.launch.py"

ARGUMENTS = [
    # Before perception.launch.py's own, whose default then does not count.
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="Whether the lifecycle manager configures and activates perception_node at once.",
    ),
]


def start_manager(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The manager of one node.

    Raises:
        ValueError: for ``use_respawn``.
    """
    arguments = context.launch_configurations
    if arguments.get("use_respawn") == "true":
        raise ValueError(
            "argument use_respawn: without bonds Nav2's manager does not see that a node was started again, "
            "and leaves it unconfigured; use perception.launch.py, whose node activates itself"
        )
    return [
        # From here on the argument is the node's own, which leaves its transitions to the manager.
        SetLaunchConfiguration("autostart", "false"),
        Node(
            package="nav2_lifecycle_manager",
            executable="lifecycle_manager",
            name="lifecycle_manager_perception",
            # Its services' names are relative: it must share the namespace of the nodes it manages.
            namespace=arguments.get("namespace", ""),
            parameters=[
                {
                    "use_sim_time": arguments.get("use_sim_time") == "true",
                    "autostart": arguments["autostart"] == "true",
                    "node_names": ["perception_node"],
                    # A node in Python has no bond, and without 0.0 the manager would take it for dead.
                    "bond_timeout": 0.0,
                    # The first start prepares the backend, for longer than the few seconds of the default.
                    "service_timeout": 120.0,
                }
            ],
            ros_arguments=["--log-level", arguments.get("log_level", "info")],
            output="screen",
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=start_manager),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(PERCEPTION))),
        ]
    )
