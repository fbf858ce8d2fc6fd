"""A process that publishes as an interface of CARLA does: the clock and bgra8 images, until it is stopped."""

from __future__ import annotations

import argparse
import sys

import rclpy
from carla_messages import STORE, carla_frame, message, rgb_bytes, stamp
from rclpy.executors import ExternalShutdownException
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from pvt_mtl_perception.data.synthetic import Drive

WIDTH, HEIGHT = 160, 96
RATE = 10.0
"""Frames a second: the simulator is slower than its own time."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("interface", choices=["bridge", "native"])
    parser.add_argument("topics", nargs="+", help="like /carla/ego_vehicle/rgb_front/image")
    arguments = parser.parse_args()

    rclpy.init(args=[])
    node = rclpy.create_node("carla")
    clock = node.create_publisher(Clock, "/clock", 10)
    publishers = {topic: node.create_publisher(Image, topic, 10) for topic in arguments.topics}
    pixels = rgb_bytes(carla_frame(Drive(3, width=WIDTH, height=HEIGHT), 0).sample.image)
    number = 0

    def publish() -> None:
        nonlocal number
        time = stamp(number)
        now = Clock()
        now.clock.sec, now.clock.nanosec = divmod(time, 10**9)
        clock.publish(now)
        for topic, publisher in publishers.items():
            ego, sensor = topic.split("/")[2:4]
            # The bridge puts the vehicle into the frame's name, the native interface does not.
            frame_id = f"{ego}/{sensor}" if arguments.interface == "bridge" else sensor
            image = message(pixels, time, frame_id)
            publisher.publish(bytes(STORE.serialize_cdr(image, image.__msgtype__)))
        number += 1

    node.create_timer(1.0 / RATE, publish)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(0)


if __name__ == "__main__":
    main()
