"""Plays a bag into perception_node, records the results where asked to, and ends with the bag.

ROS 2 bags are played by ``ros2 bag play``, others (ROS 1, Foxglove's messages) by this package's bag_player.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node, SetRemap
from launch_ros.event_handlers import OnStateTransition

if TYPE_CHECKING:
    from pvt_mtl_perception.bags.reader import BagReader, BagTopic

SHARE = Path(__file__).resolve().parents[1]
PERCEPTION = SHARE / "launch" / "perception.launch.py"
PARAMS_FILE = SHARE / "config" / "perception.yaml"
PRESETS = sorted(path.stem for path in (SHARE / "config" / "presets").glob("*.yaml"))
RESULTS = "(detections|classification|overlay|segmentation/(mask|confidence|color|label_info))"
NAMING_TOPICS = ("namespace", "cameras", "image_topic", "compressed_topic", "image_transport")
PLAYED = "played_topics"
"""The launch configuration that holds the bag's topics that the node's cameras are on."""

LAST_FRAMES = 3.0
"""Seconds that the node gets for the last frames once the bag has ended."""

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="The bag to play: a file or a folder."),
    DeclareLaunchArgument(
        "preset",
        default_value="",
        choices=["", *PRESETS],
        description="Data set whose cameras the bag has; stands for cameras, image_topic and "
        "image_transport.",
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of playing, 1 is real time."),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Whether to play it for ever."
    ),
    DeclareLaunchArgument(
        "delay",
        default_value="3.0",
        description="Seconds before the first image, in which recorders and other subscribers find the "
        "player.",
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


def choose_cameras(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node's cameras and their topics in the bag, which it is remapped to.

    Raises:
        ValueError: when the bag has not what the arguments name, or not in the kind that the node reads.
    """
    from pvt_mtl_perception.bags.reader import BagReader

    # Before perception.launch.py has declared its arguments.
    defaults = dict.fromkeys(NAMING_TOPICS, "") | {"params_file": str(PARAMS_FILE)}
    arguments = defaults | context.launch_configurations
    with BagReader(arguments["bag"]) as reader:
        topics = preset_topics(reader, arguments) if arguments["preset"] else named_topics(reader, arguments)
    if len({topic.compressed for topic in topics.values()}) > 1:
        listed = ", ".join(map(str, topics.values()))
        raise ValueError(
            f"{arguments['bag']} has raw and compressed cameras, the node reads one kind: {listed}"
        )
    compressed = next(iter(topics.values())).compressed
    return [
        SetLaunchConfiguration("cameras", ",".join(topics)),
        SetLaunchConfiguration("image_transport", "compressed" if compressed else "raw"),
        SetLaunchConfiguration(PLAYED, ",".join(topic.name for topic in topics.values())),
        *(SetRemap(src=own_topic(camera, compressed), dst=topic.name) for camera, topic in topics.items()),
    ]


def own_topic(camera: str, compressed: bool) -> str:
    """What the node subscribes to where nothing is remapped."""
    return "/".join(filter(None, [camera, "image", "compressed" if compressed else ""]))


def preset_topics(reader: BagReader, arguments: Mapping[str, str]) -> dict[str, BagTopic]:
    """The cameras that the bag has of the preset's."""
    from pvt_mtl_perception.bags.presets import load_preset

    preset = arguments["preset"]
    for name in ("cameras", "image_topic", "compressed_topic", "image_transport"):
        if arguments[name]:
            raise ValueError(f"argument {name}: the preset {preset} says that already; leave one of them out")
    return load_preset(preset).topics(reader)


def named_topics(reader: BagReader, arguments: Mapping[str, str]) -> dict[str, BagTopic]:
    """The topics that the arguments name; where they name neither topics nor cameras, the bag's only one."""
    from pvt_mtl_perception.ros.camera_topics import camera_names, camera_topics, image_transport

    cameras = camera_topics(arguments)
    names = [camera.camera for camera in cameras] or camera_names(arguments)
    transport = arguments["image_transport"]
    wanted: list[str] = []
    if cameras or names != [""]:
        transport = image_transport(arguments)
        given = {camera.camera: getattr(camera, transport) for camera in cameras}
        own = {name: own_topic(name, transport == "compressed") for name in names}
        wanted = [full_name(given.get(name) or own[name], arguments["namespace"]) for name in names]
    reads = f"with image_transport {transport or 'raw or compressed'}"
    try:
        topics = reader.select(wanted)
    except ValueError as error:
        raise ValueError(f"argument image_topic, {reads}: {error}") from None
    for topic in topics:
        if transport and topic.compressed != (transport == "compressed"):
            raise ValueError(f"argument image_topic, {reads}: {arguments['bag']} has {topic}")
    return dict(zip(names, topics, strict=True))


def full_name(topic: str, namespace: str) -> str:
    """A topic as the bag has it."""
    return topic if topic.startswith("/") else "/" + "/".join(filter(None, [namespace.strip("/"), topic]))


def ros2_plays(bag: str, topics: Sequence[str]) -> bool:
    """Whether ``ros2 bag play`` publishes these topics as what the node subscribes to."""
    from pvt_mtl_perception.bags.message_sources import holds_ros2
    from pvt_mtl_perception.bags.reader import BagReader

    if not holds_ros2(Path(bag)):
        return False
    with BagReader(bag) as reader:
        kinds = {topic.type for topic in reader.topics if topic.name in topics}
    return all(kind.startswith("sensor_msgs/") for kind in kinds)


def own_player(arguments: Mapping[str, str], topics: Sequence[str]) -> Node:
    if arguments["use_sim_time"] == "true":
        raise ValueError(
            f"{arguments['bag']} is played by bag_player, which publishes no /clock: no use_sim_time"
        )
    return Node(
        package="pvt_mtl_perception",
        executable="bag_player",
        arguments=[
            arguments["bag"],
            *(word for topic in topics for word in ("--topic", topic)),
            *("--rate", arguments["rate"]),
            *("--delay", arguments["delay"]),
            *(["--loop"] if arguments["loop"] == "true" else []),
        ],
        output="screen",
    )


def ros2_bag_play(arguments: Mapping[str, str]) -> ExecuteProcess:
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
    return ExecuteProcess(cmd=play, output="screen")


def end(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Ends everything with the player, except where Ctrl-C has ended the player: no second shutdown then.

    Raises:
        RuntimeError: when the player failed, so that the launch does not end with status 0.
    """
    if context.is_shutdown:
        return []
    if event.returncode:
        raise RuntimeError(f"the bag was not played: {event.cmd[0]} ended with status {event.returncode}")
    reason = "the bag has ended"
    return [
        LogInfo(msg=reason),
        TimerAction(period=LAST_FRAMES, actions=[EmitEvent(event=Shutdown(reason=reason))]),
    ]


def replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    topics = arguments[PLAYED].split(",")
    plays = ros2_plays(arguments["bag"], topics)
    player = ros2_bag_play(arguments) if plays else own_player(arguments, topics)

    actions: list[LaunchDescriptionEntity] = [
        RegisterEventHandler(OnStateTransition(goal_state="active", entities=[player], handle_once=True)),
        RegisterEventHandler(
            OnProcessExit(
                target_action=player,
                on_exit=end,
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
            OpaqueFunction(function=choose_cameras),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(PERCEPTION))),
            OpaqueFunction(function=replay),
        ]
    )
