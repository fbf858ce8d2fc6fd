"""Detections as Autoware's rois: Detection2DArray to tier4_perception_msgs/DetectedObjectsWithFeature.

It needs an Autoware workspace, which has the package tier4_perception_msgs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rclpy
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from vision_msgs.msg import Detection2DArray

from pvt_mtl_perception.paths import share_directory
from pvt_mtl_perception.ros import qos
from pvt_mtl_perception.ros.autoware_mapping import load_labels, region_of_interest

NODE_NAME = "autoware_converter"
_PACKAGE = "tier4_perception_msgs"


class AutowareMessages:
    """Autoware's message classes, wherever this version of it has them.

    Raises:
        ModuleNotFoundError: when tier4_perception_msgs is not installed, saying what to do.
    """

    def __init__(self) -> None:
        try:
            messages = importlib.import_module(f"{_PACKAGE}.msg")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{_PACKAGE} is not installed ({error}): source the Autoware workspace first"
            ) from error
        self.objects = messages.DetectedObjectsWithFeature
        self.object = messages.DetectedObjectWithFeature
        # autoware_perception_msgs, or autoware_auto_perception_msgs in older versions.
        package = type(self.object().object).__module__.partition(".")[0]
        self.classification = importlib.import_module(f"{package}.msg").ObjectClassification

    def convert(self, message: Detection2DArray, labels: Mapping[str, int | None], unlisted: set[str]) -> Any:
        """One DetectedObjectWithFeature a box with a label, its header and order kept.

        Args:
            message: of the perception node.
            labels: from ``load_labels``.
            unlisted: gets the classes that ``labels`` lacks, whose boxes are left out.
        """
        objects = self.objects(header=message.header)
        for detection in message.detections:
            hypothesis = max((result.hypothesis for result in detection.results), key=lambda item: item.score)
            if hypothesis.class_id not in labels:
                unlisted.add(hypothesis.class_id)
            label = labels.get(hypothesis.class_id)
            box = detection.bbox
            roi = region_of_interest(box.center.position.x, box.center.position.y, box.size_x, box.size_y)
            if label is None or roi is None:
                continue
            converted = self.object()
            converted.object.existence_probability = hypothesis.score
            converted.object.classification.append(
                self.classification(label=label, probability=hypothesis.score)
            )
            region = converted.feature.roi
            region.x_offset, region.y_offset = roi.x_offset, roi.y_offset
            region.width, region.height = roi.width, roi.height
            objects.feature_objects.append(converted)
        return objects


class AutowareConverter(Node):
    """For each camera, ``<camera>/detections`` to ``<camera>/rois``.

    It listens only while somebody listens to it, so that the perception node does not work for nobody.

    Parameters: ``cameras``, as the perception node has them; ``labels_file``, empty for
    ``config/autoware/labels.yaml``.

    Raises:
        ModuleNotFoundError: from ``AutowareMessages``.
        OSError, ValueError: from ``load_labels``.
    """

    def __init__(self, **node_options: Any) -> None:
        super().__init__(NODE_NAME, **node_options)
        self._messages = AutowareMessages()
        cameras = self.declare_parameter("cameras", [""]).value
        path = self.declare_parameter("labels_file", "").value
        self._labels = load_labels(path or share_directory() / "config" / "autoware" / "labels.yaml")
        self._unlisted: set[str] = set()
        self._outputs: dict[str, Publisher] = {}
        self._inputs: dict[str, Subscription] = {}
        for camera in cameras:
            self._add(camera)

    def _add(self, camera: str) -> None:
        prefix = f"{camera}/" if camera else ""

        def on_matched(status: Any) -> None:
            if status.current_count and camera not in self._inputs:
                self._inputs[camera] = self.create_subscription(
                    Detection2DArray, f"{prefix}detections", on_detections, qos.output()
                )
            elif not status.current_count and camera in self._inputs:
                self.destroy_subscription(self._inputs.pop(camera))

        def on_detections(message: Detection2DArray) -> None:
            unlisted: set[str] = set()
            self._outputs[camera].publish(self._messages.convert(message, self._labels, unlisted))
            for name in sorted(unlisted - self._unlisted):
                self.get_logger().warning(f"class {name!r} is not in labels_file; its boxes are left out")
            self._unlisted |= unlisted

        self._outputs[camera] = self.create_publisher(
            self._messages.objects,
            f"{prefix}rois",
            qos.output(),
            event_callbacks=PublisherEventCallbacks(matched=on_matched),
        )


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; the exit status is 1 where it cannot start, saying why."""
    rclpy.init(args=list(args) if args is not None else None)
    try:
        rclpy.spin(AutowareConverter())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ImportError, OSError, ValueError) as error:
        get_logger(NODE_NAME).fatal(str(error))
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
