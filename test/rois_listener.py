"""A listener for tests: prints each DetectedObjectsWithFeature of a topic as one line of JSON.

A process of its own, because only its environment may have Autoware's messages.
"""

from __future__ import annotations

import json
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from tier4_perception_msgs.msg import DetectedObjectsWithFeature


def show(message: DetectedObjectsWithFeature) -> None:
    header = message.header
    objects = []
    for item in message.feature_objects:
        roi = item.feature.roi
        objects.append(
            {
                "roi": [roi.x_offset, roi.y_offset, roi.width, roi.height],
                "existence_probability": item.object.existence_probability,
                "classification": [[entry.label, entry.probability] for entry in item.object.classification],
            }
        )
    stamp = [header.stamp.sec, header.stamp.nanosec]
    print("rois", json.dumps({"frame_id": header.frame_id, "stamp": stamp, "objects": objects}), flush=True)


def main() -> None:
    """Entry point."""
    rclpy.init(args=[])
    node = rclpy.create_node("rois_listener")
    node.create_subscription(DetectedObjectsWithFeature, sys.argv[1], show, 5)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(0)


if __name__ == "__main__":
    main()
