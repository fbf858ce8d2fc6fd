"""Plays a bag into perception_node, records the results where asked to, and ends with the bag."""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.event_handlers import OnStateTransition

PERCEPTION = Path(__file__).resolve().parent / "perception.launch.py"
RESULTS = "(detections|classification|overlay|segmentation/(mask|confidence|color|label_info))"
LAST_FRAMES = 3.0
"""Seconds that the node gets for the last frames once the bag has ended."""

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="The bag to play: a file or a folder."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of playing, 1 is real time."),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Whether to play it for ever."
    ),
    DeclareLaunchArgument(
        "delay",
        default_value="3.0",
        description="Seconds between the player's start and its first image, in which subscribers find it.",
    ),
    DeclareLaunchArgument(
        "record",
        default_value="",
        description="Folder for a bag with the results; it must not exist. Empty: nothing is recorded.",
    ),
]


def check(context: LaunchContext) -> None:
    arguments = context.launch_configurations
    if not Path(arguments["bag"]).exists():
        raise FileNotFoundError(f"argument bag: there is no {arguments['bag']}")
    if arguments["record"] and Path(arguments["record"]).exists():
        raise FileExistsError(f"argument record: {arguments['record']} exists already")


def replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    play = [
        "ros2",
        "bag",
        "play",
        arguments["bag"],
        "--rate",
        arguments["rate"],
        "--delay",
        arguments["delay"],
    ]
    if arguments["loop"] == "true":
        play.append("--loop")
    if arguments["use_sim_time"] == "true":
        play.append("--clock")
    player = ExecuteProcess(cmd=play, output="screen")

    actions: list[LaunchDescriptionEntity] = [
        RegisterEventHandler(OnStateTransition(goal_state="active", entities=[player], handle_once=True)),
        RegisterEventHandler(
            OnProcessExit(
                target_action=player,
                on_exit=[
                    LogInfo(msg="the bag has ended"),
                    TimerAction(
                        period=LAST_FRAMES, actions=[EmitEvent(event=Shutdown(reason="the bag has ended"))]
                    ),
                ],
            )
        ),
    ]
    if arguments["record"]:
        namespace = arguments["namespace"].strip("/")
        prefix = f"/{namespace}/" if namespace else "/"
        results = f"^{prefix}(.+/)?{RESULTS}$"
        record = ["ros2", "bag", "record", "--output", arguments["record"], "--regex", results]
        actions.append(ExecuteProcess(cmd=record, output="screen"))
    return actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(PERCEPTION))),
            OpaqueFunction(function=replay),
        ]
    )
