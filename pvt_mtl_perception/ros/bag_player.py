"""Plays the images of one topic of a bag in real time, where ``ros2 bag play`` is not installed or too blunt.

Unlike ``ros2 bag play`` it reads ROS 1 bags and foxglove images, and waits until its subscribers are there.
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
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from pvt_mtl_perception.bags.messages import copied_image, header
from pvt_mtl_perception.bags.reader import BagReader, BagTopic
from pvt_mtl_perception.bags.results import BagWriter
from pvt_mtl_perception.bags.types import IMAGE
from pvt_mtl_perception.inference.batches import prefetched

NODE_NAME = "bag_player"
FAREWELL = 0.5
"""Seconds after the last image in which best-effort subscribers, who acknowledge nothing, take it."""

STAY = 0.2
"""Seconds between two looks for a signal, which may reach another thread than the sleeping one."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bag_player", description=__doc__)
    parser.add_argument("bag", type=Path, help="ROS 1 .bag, rosbag2 folder, .mcap or .db3")
    parser.add_argument("--topic", help="image topic; not needed where the bag has one")
    parser.add_argument("--rate", type=float, default=1.0, help="speed, 1 is real time; default: %(default)s")
    parser.add_argument(
        "--subscribers", type=int, default=1, help="waits for so many before it plays; default: %(default)s"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds to wait for them; default: %(default)s"
    )
    parser.add_argument(
        "--log", type=Path, help="JSON lines with each image's stamp and when it was published, in ns"
    )
    parser.add_argument(
        "--stay", action="store_true", help="remains a publisher after the last image, until SIGINT"
    )
    return parser


def _serialized(reader: BagReader, topic: BagTopic) -> Iterator[tuple[int, int, bytes]]:
    """Recording time and stamp in ns, and the message as ROS 2 sends it."""
    for image in reader.images([topic]):
        message = copied_image(header(image.stamp, image.frame_id), image.message)
        yield image.timestamp, image.stamp, bytes(BagWriter.serialize(message))


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
    if args.rate <= 0:
        raise ValueError(f"--rate is {args.rate}; it must be above 0")
    with ExitStack() as stack:
        reader = stack.enter_context(BagReader(args.bag))
        (topic,) = reader.select([args.topic] if args.topic else [])
        log = stack.enter_context(args.log.open("w")) if args.log else None
        publisher = node.create_publisher(
            Image if topic.type == IMAGE else CompressedImage,
            topic.name,
            QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE),
        )
        print(f"waiting for {args.subscribers} subscribers of {publisher.topic_name}", flush=True)
        _wait_for_subscribers(publisher, args.subscribers, args.timeout)
        print(f"playing {topic.count} images", flush=True)
        messages = stack.enter_context(closing(prefetched(_serialized(reader, topic), depth=8)))
        begun, first, count = 0.0, 0, 0
        for timestamp, stamp, data in messages:
            if not count:
                begun, first = time.monotonic(), timestamp
            due = begun + (timestamp - first) / 1e9 / args.rate
            time.sleep(max(0.0, due - time.monotonic()))
            published = time.time_ns()
            publisher.publish(data)
            count += 1
            if log is not None:
                log.write(json.dumps({"stamp": stamp, "published": published}) + "\n")
        publisher.wait_for_all_acked(Duration(seconds=5))
        print(f"played {count} images in {time.monotonic() - begun:.2f} s", flush=True)
        time.sleep(FAREWELL)
        while args.stay:
            time.sleep(STAY)


def main(args: Sequence[str] | None = None) -> int:
    """Plays a bag; the exit status is 2 for a wrong argument, 1 when nobody listens, 130 after Ctrl-C."""
    arguments = list(sys.argv if args is None else args)
    # Also where a shell has started it in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        own = _parser().parse_args(rclpy.utilities.remove_ros_args(arguments)[1:])
        play(Node(NODE_NAME), own)
    except KeyboardInterrupt:
        return 130
    except TimeoutError as error:
        print(f"bag_player: error: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"bag_player: error: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
