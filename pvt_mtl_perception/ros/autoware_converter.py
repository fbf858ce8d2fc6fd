"""Detections as Autoware's rois: Detection2DArray to tier4_perception_msgs/DetectedObjectsWithFeature.

It needs an Autoware workspace, which has the package tier4_perception_msgs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from pvt_mtl_perception.paths import share_directory
from pvt_mtl_perception.ros import qos
from pvt_mtl_perception.ros.autoware_mapping import MappedObject, load_labels, map_detections

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

    def filled(self, header: Header, found: Sequence[MappedObject]) -> Any:
        """A DetectedObjectsWithFeature."""
        objects = self.objects(header=header)
        for mapped in found:
            converted = self.object()
            converted.object.existence_probability = mapped.probability
            converted.object.classification.append(
                self.classification(label=mapped.label, probability=mapped.probability)
            )
            region, roi = converted.feature.roi, mapped.roi
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
            try:
                found, unlisted = map_detections(message.detections, self._labels)
                self._outputs[camera].publish(self._messages.filled(message.header, found))
            except Exception as error:  # a node does not die of a message
                self.get_logger().error(
                    f"a message of {prefix}detections failed: {error!r}", throttle_duration_sec=5.0
                )
                return
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
