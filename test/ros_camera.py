"""A camera process for tests: publishes numbered pictures until it is stopped."""

from __future__ import annotations

import argparse
import sys
import time

import cv2
import numpy as np
import numpy.typing as npt

STAMP_NANOSECONDS = 123456789
PICTURES = 16
"""After so many pictures they begin again."""


def picture(number: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Image ``number`` of every camera: uint8 (height, width, 3) RGB, blurred noise with a few rectangles."""
    generator = np.random.default_rng(number % PICTURES)
    coarse = generator.integers(0, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        x, y = generator.integers(0, width), generator.integers(0, height)
        color = tuple(int(c) for c in generator.integers(0, 256, 3))
        cv2.rectangle(image, (int(x), int(y)), (int(x) + width // 5, int(y) + height // 5), color, -1)
    return np.asarray(image, np.uint8)


def payload(encoding: str, image: npt.NDArray[np.uint8]) -> bytes:
    """What a message of this encoding carries: three bytes a pixel, or a JPEG or PNG file."""
    if encoding in ("jpeg", "png"):
        return bytes(cv2.imencode(f".{encoding}", image[..., ::-1])[1].tobytes())
    return (image if encoding == "rgb8" else image[..., ::-1]).tobytes()


def main() -> None:
    """Entry point."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage, Image

    parser = argparse.ArgumentParser()
    parser.add_argument("topics", nargs="+")
    parser.add_argument("--encoding", default="bgr8", help="rgb8, bgr8, jpeg, png, or nonsense")
    parser.add_argument("--size", default="200x120", help="or several with commas, in turn")
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--reliable", action="store_true")
    parser.add_argument("--stamp-now", action="store_true", help="or the number in seconds")
    parser.add_argument("--apart", type=float, default=0.0, help="seconds from one topic to the next one")
    parser.add_argument("--last-every", type=int, default=1, help="the last topic gets every so many-th only")
    arguments = parser.parse_args()
    sizes = [tuple(int(side) for side in size.split("x")) for size in arguments.size.split(",")]

    rclpy.init(args=[])
    node = rclpy.create_node(f"camera_{time.time_ns() % 1000000}")
    compressed = arguments.encoding in ("jpeg", "png")
    profile = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE if arguments.reliable else ReliabilityPolicy.BEST_EFFORT,
    )
    message_type = CompressedImage if compressed else Image
    publishers = [node.create_publisher(message_type, topic, profile) for topic in arguments.topics]
    number = 0
    payloads = [
        [payload(arguments.encoding, picture(i, width, height)) for i in range(PICTURES)]
        for width, height in sizes
    ]

    def publish() -> None:
        nonlocal number
        width, height = sizes[number % len(sizes)]
        for position, (topic, publisher) in enumerate(zip(arguments.topics, publishers, strict=True)):
            if position + 1 == len(publishers) and number % arguments.last_every:
                continue
            time.sleep(arguments.apart if position else 0.0)
            message = message_type()
            message.header.frame_id = f"{topic.removesuffix('/compressed')} optical"
            if arguments.stamp_now:
                message.header.stamp = node.get_clock().now().to_msg()
            else:
                message.header.stamp.sec = number
                message.header.stamp.nanosec = STAMP_NANOSECONDS + round(1e9 * position * arguments.apart)
            if compressed:
                message.format = f"bgr8; {arguments.encoding} compressed bgr8"
            else:
                message.height, message.width = height, width
                message.encoding = arguments.encoding
                message.step = 3 * width
            message.data.frombytes(payloads[number % len(sizes)][number % PICTURES])
            publisher.publish(message)
        number += 1

    node.create_timer(1.0 / arguments.rate, publish)
    print("publishing", flush=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(0)


if __name__ == "__main__":
    main()
