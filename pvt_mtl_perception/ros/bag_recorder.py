"""Records topics into an MCAP bag, with the time each message reached this machine.

For machines without ``ros2 bag record``. It says when every topic has its publisher, so that a player need
not start too early, and it ends with a complete bag on SIGINT, SIGTERM, or when its parent is gone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from pvt_mtl_perception.bags.results import BagWriter
from pvt_mtl_perception.bags.types import LATCHED, RELIABLE

NODE_NAME = "bag_recorder"
STATUS_PERIOD = 0.5
"""Seconds between two lines that say how much has been recorded."""

WAITING_PERIOD = 5.0
"""Seconds between two lines that say which topics have no publisher yet."""


def _topic(text: str) -> tuple[str, str]:
    name, _, kind = text.partition(":")
    if not name.startswith("/") or kind.count("/") != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not like /name:package/msg/Type")
    return name, kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bag_recorder", description=__doc__)
    parser.add_argument("bag", type=Path, help="folder of the new bag")
    parser.add_argument(
        "--topic",
        type=_topic,
        action="append",
        default=[],
        metavar="NAME:TYPE",
        help="like /detections:vision_msgs/msg/Detection2DArray; again for further topics",
    )
    parser.add_argument(
        "--latched",
        type=_topic,
        action="append",
        default=[],
        metavar="NAME:TYPE",
        help="as --topic, for what is published once and kept for late subscribers",
    )
    parser.add_argument(
        "--best-effort",
        type=_topic,
        action="append",
        default=[],
        metavar="NAME:TYPE",
        help="as --topic, for a publisher that does not offer to be reliable",
    )
    return parser


def _message_class(kind: str) -> Any:
    package, _, name = kind.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise ValueError(f"message type {kind} is not installed") from None


class BagRecorder(Node):
    """Subscribes to topics and writes what comes into a bag.

    Args:
        writer: the open bag.
        topics: names and types, reliable.
        latched: names and types, transient local.
        best_effort: names and types.

    Attributes:
        counts: messages recorded, by topic.
        unmatched: topics that have had no publisher yet.

    Raises:
        ValueError: for a message type that is not installed.
    """

    def __init__(
        self,
        writer: BagWriter,
        topics: Sequence[tuple[str, str]],
        latched: Sequence[tuple[str, str]],
        best_effort: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(NODE_NAME)
        self._writer = writer
        self.counts = {name: 0 for name, _ in (*topics, *latched, *best_effort)}
        self.unmatched = set(self.counts)
        for name, kind in topics:
            self._subscribe(name, kind, RELIABLE)
        for name, kind in latched:
            self._subscribe(name, kind, LATCHED, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for name, kind in best_effort:
            self._subscribe(name, kind, RELIABLE, ReliabilityPolicy.BEST_EFFORT)

    def _subscribe(
        self,
        name: str,
        kind: str,
        offered: Any,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
    ) -> None:
        def record(data: bytes, info: dict[str, Any]) -> None:
            received = info.get("received_timestamp") or time.time_ns()
            self._writer.write_raw(name, received, kind, data, offered)
            self.counts[name] += 1

        self.create_subscription(
            _message_class(kind),
            name,
            record,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=100,
                reliability=reliability,
                durability=durability,
            ),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(matched=self._on_matched(name)),
        )

    def _on_matched(self, name: str) -> Callable[[Any], None]:
        def matched(status: Any) -> None:
            if status.current_count:
                self.unmatched.discard(name)

        return matched


def _say(line: str) -> None:
    print(line, flush=True)


def record(node: BagRecorder, stopped: Callable[[], bool]) -> None:
    """Records until ``stopped``; says what it waits for, ``ready``, and every half second what it has."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ready = False
    said: dict[str, int] = {}
    due = 0.0
    waiting_due = time.monotonic() + WAITING_PERIOD
    while not stopped():
        executor.spin_once(timeout_sec=0.1)
        if not ready and not node.unmatched:
            ready = True
            _say("ready")
        if node.unmatched and time.monotonic() >= waiting_due:
            waiting_due = time.monotonic() + WAITING_PERIOD
            _say("waiting for " + ", ".join(sorted(node.unmatched)))
        if node.counts != said and time.monotonic() >= due:
            due = time.monotonic() + STATUS_PERIOD
            said = dict(node.counts)
            _say("recorded " + " ".join(f"{name}={count}" for name, count in said.items()))
    executor.remove_node(node)


def main(args: Sequence[str] | None = None) -> int:
    """Records; the exit status is 2 when an argument is wrong, otherwise 0."""
    arguments = list(sys.argv if args is None else args)
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stops.append(number))
    parent = os.getppid()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        own = _parser().parse_args(rclpy.utilities.remove_ros_args(arguments)[1:])
        if own.bag.exists():
            raise FileExistsError(f"{own.bag} exists already")
        with BagWriter(own.bag) as writer:
            node = BagRecorder(writer, own.topic, own.latched, own.best_effort)
            record(node, lambda: bool(stops) or os.getppid() != parent)
        _say(f"closed {own.bag} with {sum(node.counts.values())} messages")
    except (OSError, ValueError, NameValidationException) as error:
        print(f"bag_recorder: error: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
