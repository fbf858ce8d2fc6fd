"""A bag through the node: player, node and recorder as three processes that talk over ROS 2."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pvt_mtl_perception.bags.reader import BagTopic
from pvt_mtl_perception.bags.results import ResultTopics, result_topics
from pvt_mtl_perception.bags.types import (
    CLASSIFICATION,
    DETECTIONS,
    DIAGNOSTICS,
    IMAGE,
    LABEL_INFO,
)
from pvt_mtl_perception.demo.processes import Child, wait_until
from pvt_mtl_perception.inference.decode import DetectionSettings
from pvt_mtl_perception.inference.process import ros_environment

DIAGNOSTICS_TOPIC = "/diagnostics"

READY = "ready"
RECORDED = "recorded "
PLAYED = "played "
"""How lines of recorder and player begin."""

_START_TIMEOUT = 180.0
"""Seconds for loading torch and the model, which a busy machine stretches."""

_LAST_FRAMES = 60.0
"""Seconds after the last image in which results may still come."""

_QUIET = 2.0
"""Seconds without a result after which the node has finished."""

_REFUSED = re.compile(r"cannot configure: (.*)")


@dataclass(frozen=True)
class Playback:
    """What a playback left behind.

    Attributes:
        recording: bag with what the node published and its diagnostics.
        published: JSON lines with each image's ``stamp`` and when it was ``published``, ns.
        topics: where the results are in the recording.
        node_log: what the node printed.
    """

    recording: Path
    published: Path
    topics: ResultTopics
    node_log: Path


def play_through_node(
    bag: Path,
    topic: BagTopic,
    model: Path,
    tasks: Collection[str],
    folder: Path,
    device: str = "auto",
    score_threshold: float = DetectionSettings.score_threshold,
    rate: float = 1.0,
    progress: bool = True,
) -> Playback:
    """Plays a bag's images in real time through the node and records what it publishes.

    Args:
        bag: a ROS 1 or ROS 2 bag.
        topic: its image topic.
        model: checkpoint file.
        tasks: that the checkpoint has.
        folder: for the recording and logs; must not hold a recording.
        device: for the node.
        score_threshold: of published boxes.
        rate: of playing, 1 is real time.
        progress: shows a bar of results.

    Raises:
        ChildError: when one of the processes fails, with its last lines.
        ValueError: when the node refuses its configuration.
    """
    namespace = topic.name.rpartition("/")[0]
    places = result_topics([topic.name])[topic.name]
    kinds = {
        "detection": f"{places.detections}:{DETECTIONS}",
        "segmentation": f"{places.mask}:{IMAGE}",
        "classification": f"{places.classification}:{CLASSIFICATION}",
    }
    recorded = [kind for task, kind in kinds.items() if task in tasks]
    playback = Playback(folder / "recording", folder / "published.jsonl", places, folder / "node.log")
    environment = ros_environment()
    compressed = topic.compressed
    with ExitStack() as stack:
        node = stack.enter_context(
            Child(
                "perception node",
                "pvt_mtl_perception.ros.perception_node",
                [
                    "--ros-args",
                    *(["-r", f"__ns:={namespace}"] if namespace else []),
                    *("-r", f"{'image/compressed' if compressed else 'image'}:={topic.name}"),
                    *("-p", f"image_transport:={'compressed' if compressed else 'raw'}"),
                    *("-p", f"model_path:={model.absolute()}"),
                    *("-p", f"device:={device}"),
                    *("-p", f"score_threshold:={score_threshold}"),
                ],
                playback.node_log,
                environment,
            )
        )
        arguments = [str(playback.recording)]
        for entry in (*recorded, f"{DIAGNOSTICS_TOPIC}:{DIAGNOSTICS}"):
            arguments += ["--topic", entry]
        if "segmentation" in tasks:
            arguments += ["--latched", f"{places.label_info}:{LABEL_INFO}"]
        recorder = stack.enter_context(
            Child(
                "recorder",
                "pvt_mtl_perception.ros.bag_recorder",
                arguments,
                folder / "recorder.log",
                environment,
            )
        )

        def ready() -> bool:
            if refused := _REFUSED.search(node.output):
                raise ValueError(f"the node cannot start: {refused[1]}")
            return READY in recorder.output.splitlines()

        wait_until(ready, [node, recorder], _START_TIMEOUT, "publishing its topics")
        player = stack.enter_context(
            Child(
                "player",
                "pvt_mtl_perception.ros.bag_player",
                [
                    str(bag),
                    *("--topic", topic.name),
                    *("--log", str(playback.published)),
                    *("--rate", str(rate)),
                    # The node tells replaced frames from the numbers of a publisher that is still there.
                    "--stay",
                ],
                folder / "player.log",
                environment,
            )
        )
        with tqdm(
            total=topic.count, desc="play", unit="frame", disable=not progress, dynamic_ncols=True
        ) as bar:
            _watch(player, node, recorder, bar)
        player.stop()
        if status := recorder.stop():
            raise recorder.error(f"ended with status {status}")
    return playback


def _watch(player: Child, node: Child, recorder: Child, bar: tqdm) -> None:
    """Until the player has ended and no result has come for a while."""
    newest: float | None = None
    longest_gap = 0.0
    shown = 0

    def update() -> None:
        nonlocal newest, longest_gap, shown
        frames = _frames(recorder)
        if frames > shown:
            now = time.monotonic()
            longest_gap = max(longest_gap, now - newest) if newest is not None else 0.0
            newest = now
            bar.update(frames - shown)
            shown = frames

    def ended() -> bool:
        update()
        return PLAYED in player.tail()

    def quiet() -> bool:
        update()
        return time.monotonic() - max(newest or 0.0, bag_ended) > max(_QUIET, 2 * longest_gap)

    wait_until(ended, [player, node, recorder], float("inf"), "the bag's end")
    bag_ended = time.monotonic()
    wait_until(quiet, [node, player, recorder], _LAST_FRAMES, "the last result")


def _frames(recorder: Child) -> int:
    """Frames with a result so far, as the recorder has last said."""
    lines = [line for line in recorder.tail().splitlines() if line.startswith(RECORDED)]
    if not lines:
        return 0
    counts = dict(word.rsplit("=", 1) for word in lines[-1].removeprefix(RECORDED).split())
    return max((int(count) for name, count in counts.items() if name != DIAGNOSTICS_TOPIC), default=0)
