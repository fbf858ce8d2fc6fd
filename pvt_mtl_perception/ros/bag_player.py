"""Plays the images of a bag in real time, where ``ros2 bag play`` is not installed or does not read the bag.

Unlike ``ros2 bag play`` it reads ROS 1 bags and Foxglove's images, and waits until its subscribers are there.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from pvt_mtl_perception.bags.messages import copied_image, header
from pvt_mtl_perception.bags.reader import BagReader, BagTopic
from pvt_mtl_perception.bags.results import BagWriter
from pvt_mtl_perception.inference.batches import prefetched

NODE_NAME = "bag_player"
FAREWELL = 0.5
"""Seconds after the last image in which best-effort subscribers, who acknowledge nothing, take it."""

LOOP_GAP = 10**8
"""Nanoseconds between the last image of a round and the first of the next."""

STAY = 0.2
"""Seconds between two looks for a signal, which may reach another thread than the sleeping one."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bag_player", description=__doc__)
    parser.add_argument("bag", type=Path, help="ROS 1 .bag, rosbag2 folder, .mcap or .db3")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic; again for further cameras; not needed where the bag has one",
    )
    parser.add_argument("--rate", type=float, default=1.0, help="speed, 1 is real time; default: %(default)s")
    parser.add_argument(
        "--subscribers",
        type=int,
        default=1,
        help="waits for so many of each topic before it plays; default: %(default)s",
    )
    parser.add_argument(
        "--delay",
        type=float,
        default=0.0,
        help="seconds from then to the first image; default: %(default)s",
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds to wait for them; default: %(default)s"
    )
    parser.add_argument(
        "--log", type=Path, help="JSON lines with each image's topic, stamp and when it was published, in ns"
    )
    parser.add_argument("--loop", action="store_true", help="plays it for ever, until SIGINT")
    parser.add_argument(
        "--stay", action="store_true", help="remains a publisher after the last image, until SIGINT"
    )
    return parser


def _serialized(
    reader: BagReader, topics: Sequence[BagTopic], loop: bool
) -> Iterator[tuple[str, int, int, bytes]]:
    """Topic, recording time and stamp in ns, and the message as ROS 2 sends it.

    Each round of a loop is recorded after the one before.
    """
    shift = 0
    while True:
        latest = 0
        for image in reader.images(topics):
            message = copied_image(header(image.stamp, image.frame_id), image.message)
            latest = image.timestamp + shift
            yield image.topic, latest, image.stamp, bytes(BagWriter.serialize(message))
        if not loop or not latest:
            return
        shift += round(reader.duration * 1e9) + LOOP_GAP


def _wait_for_subscribers(publisher: Publisher, count: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while publisher.get_subscription_count() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{publisher.topic_name} has {publisher.get_subscription_count()} of {count} subscribers "
                f"after {timeout:g} s"
            )
        time.sleep(0.05)


def play(node: Node, args: argparse.Namespace) -> None:
    """Plays the bag once.

    Raises:
        FileNotFoundError, ValueError: from ``BagReader``.
        TimeoutError: when the subscribers do not come.
    """
    if not args.rate > 0:
        raise ValueError(f"--rate is {args.rate}; it must be above 0")
    for name in ("delay", "timeout"):
        if not getattr(args, name) >= 0:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least 0")
    with ExitStack() as stack:
        reader = stack.enter_context(BagReader(args.bag))
        topics = reader.select(args.topic)
        log = stack.enter_context(args.log.open("w")) if args.log else None
        profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
        publishers = {
            topic.name: node.create_publisher(
                CompressedImage if topic.compressed else Image, topic.name, profile
            )
            for topic in topics
        }
        names = ", ".join(publishers)
        print(f"waiting for {args.subscribers} subscribers of {names}", flush=True)
        for publisher in publishers.values():
            _wait_for_subscribers(publisher, args.subscribers, args.timeout)
        time.sleep(args.delay)
        print(f"playing {sum(topic.count for topic in topics)} images", flush=True)
        images = _serialized(reader, topics, args.loop)
        messages = stack.enter_context(closing(prefetched(images, depth=8)))
        begun, first, count = 0.0, 0, 0
        for name, timestamp, stamp, data in messages:
            if not count:
                begun, first = time.monotonic(), timestamp
            due = begun + (timestamp - first) / 1e9 / args.rate
            time.sleep(max(0.0, due - time.monotonic()))
            published = time.time_ns()
            publishers[name].publish(data)
            count += 1
            if log is not None:
                log.write(json.dumps({"topic": name, "stamp": stamp, "published": published}) + "\n")
        for publisher in publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=5))
        print(f"played {count} images in {time.monotonic() - begun:.2f} s", flush=True)
        time.sleep(FAREWELL)
        while args.stay:
            time.sleep(STAY)


def main(args: Sequence[str] | None = None) -> int:
    """Plays a bag.

    Returns:
        The exit status: 2 for a wrong argument, 1 when nobody listens; after Ctrl-C 130, and 0 with
        ``--loop`` or ``--stay``, which have no other end.
    """
    arguments = list(sys.argv if args is None else args)
    # Also where a shell has started it in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    own = argparse.Namespace(loop=False, stay=False)
    try:
        _parser().parse_args(rclpy.utilities.remove_ros_args(arguments)[1:], own)
        play(Node(NODE_NAME), own)
    except KeyboardInterrupt:
        return 0 if own.loop or own.stay else 130
    except TimeoutError as error:
        print(f"bag_player: error: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, NameValidationException) as error:
        print(f"bag_player: error: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
