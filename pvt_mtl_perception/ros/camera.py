"""One camera of the node: its topics, the gate before its subscription, and its newest frame."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Classification, Detection2DArray, LabelInfo

from pvt_mtl_perception.inference.render import colorize, draw_overlay
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.result import Result
from pvt_mtl_perception.ros import qos
from pvt_mtl_perception.ros.camera_statistics import CameraStatistics
from pvt_mtl_perception.ros.image_conversion import image_message
from pvt_mtl_perception.ros.message_conversion import (
    classification_message,
    detections_message,
    label_info_message,
)

DETECTIONS = "detections"
CLASSIFICATION = "classification"
MASK = "segmentation/mask"
CONFIDENCE = "segmentation/confidence"
COLOR = "segmentation/color"
LABEL_INFO = "segmentation/label_info"
OVERLAY = "overlay"

# In the order of publication: what is small and what others wait for goes first.
OUTPUT_TYPES: Mapping[str, Any] = {
    DETECTIONS: Detection2DArray,
    CLASSIFICATION: Classification,
    MASK: Image,
    CONFIDENCE: Image,
    COLOR: Image,
    OVERLAY: Image,
}
_TASK = {
    DETECTIONS: "detection",
    CLASSIFICATION: "classification",
    MASK: "segmentation",
    CONFIDENCE: "segmentation",
    COLOR: "segmentation",
}


@dataclass(frozen=True)
class Frame:
    """An image that waits for its turn.

    Attributes:
        camera: whose it is.
        message: as it came.
        received: monotonic seconds at which it reached this machine.
    """

    camera: Camera
    message: Image | CompressedImage
    received: float

    @property
    def stamp(self) -> float:
        """The header's stamp in seconds; as a float it is exact to a microsecond."""
        stamp = self.message.header.stamp
        return float(stamp.sec + 1e-9 * stamp.nanosec)


class ImageGate(CallbackGroup):
    """A callback group whose subscription, with its events, is served only while the gate is open.

    A closed gate leaves images in the middleware, whose queue of one keeps the newest. Taking each image of
    a 1080p stream costs 2 ms with the interpreter locked, for images that are never looked at.

    The events cannot be served alone: they wake the executor for as long as an image waits to be taken.
    """

    def __init__(self, is_open: Callable[[], bool]) -> None:
        super().__init__()
        self._is_open = is_open

    def can_execute(self, entity: Any) -> bool:
        """Whether the gate is open."""
        return self._is_open()

    def beginning_execution(self, entity: Any) -> bool:
        """As ``can_execute``; the executor asks again right before it takes."""
        return self._is_open()

    def ending_execution(self, entity: Any) -> None:
        """Nothing to give back."""


class Camera:
    """Topics and state of one camera.

    Attributes:
        name: prefix of its topics, empty for a single camera.
        statistics: what it has gone through.
        subscription: while the node is active.
        newest: the frame that waits, or None.
        look: lets one image in though nobody wants it, so that a silent topic is noticed.
        last_image: monotonic seconds of the latest taken image, or of activation.
        last_open: monotonic seconds at which an image would last have been taken.
        suspected: whether the last report found it without images for too long.
        silent: whether the warning about missing images stands.
        complaint: why an incompatible publisher is not heard, or empty.
        failure_logged: monotonic seconds of the latest log line about a frame that failed.

    Raises:
        ValueError: for a QoS override that is none, naming it.
    """

    def __init__(self, node: LifecycleNode, name: str, labels: TaskLabels, tasks: Collection[str]) -> None:
        self.name = name
        self.statistics = CameraStatistics()
        self.subscription: Subscription | None = None
        self.newest: Frame | None = None
        self.look = False
        self.last_image = self.last_open = time.monotonic()
        self.suspected = False
        self.silent = False
        self.complaint = ""
        self.failure_logged = -math.inf
        self._was_wanted = False
        self._node = node
        self._labels = labels
        self._tasks = frozenset(tasks)
        self._publishers: dict[str, LifecyclePublisher] = {}
        self._label_info: LifecyclePublisher | None = None
        try:
            for topic, message_type in OUTPUT_TYPES.items():
                if topic == OVERLAY or _TASK[topic] in self._tasks:
                    self._publishers[topic] = self._publisher(topic, message_type, qos.output())
            if "segmentation" in self._tasks:
                self._label_info = self._publisher(LABEL_INFO, LabelInfo, qos.latched())
        except Exception:
            self.destroy_publishers()
            raise

    def _publisher(self, topic: str, message_type: Any, profile: Any) -> LifecyclePublisher:
        name = self.topic(topic)
        with qos.naming_overrides(self._node.resolve_topic_name(name), "publisher"):
            return self._node.create_lifecycle_publisher(
                message_type,
                name,
                profile,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )

    def topic(self, name: str) -> str:
        """The camera's relative topic."""
        return f"{self.name}/{name}" if self.name else name

    def destroy_publishers(self) -> None:
        """Takes the camera's topics from the graph."""
        for publisher in [*self._publishers.values(), self._label_info]:
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        self._label_info = None

    def wanted(self) -> frozenset[str]:
        """The outputs that somebody has subscribed to."""
        return frozenset(
            topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count() > 0
        )

    def tasks_for(self, wanted: Collection[str]) -> frozenset[str]:
        """The tasks that these outputs need; an overlay shows all of the model's."""
        return self._tasks if OVERLAY in wanted else frozenset(_TASK[topic] for topic in wanted)

    def put(self, frame: Frame, sequence: int | None) -> None:
        """Keeps a frame until a worker has time, in place of the one that waits.

        Args:
            frame: the newest.
            sequence: its publisher's running number, or None where it means nothing.
        """
        self.statistics.on_taken(sequence, self._was_wanted)
        self._was_wanted = bool(self.wanted())
        if self.newest is not None:
            self.statistics.on_replaced()
        self.newest = frame
        self.look = False
        self.last_image = time.monotonic()
        self.suspected = False

    def on_subscribed(self) -> None:
        """Images that came while nobody was subscribed are nobody's."""
        self.statistics.on_subscribed()
        self.last_image = self.last_open = time.monotonic()
        self.suspected = False
        self.silent = False
        self.complaint = ""

    def drop(self) -> None:
        """The frame that waits is too old to go with the other cameras' frames."""
        if self.take() is not None:
            self.statistics.on_replaced()

    def take(self) -> Frame | None:
        """The frame that waits, which then waits no more."""
        frame, self.newest = self.newest, None
        return frame

    def publish_label_info(self, header: Header) -> None:
        """Says which id of the mask is which class; late subscribers get it too."""
        if self._label_info is not None and self._labels.segmentation is not None:
            self._label_info.publish(label_info_message(header, self._labels.segmentation))

    def publish(
        self,
        header: Header,
        image: npt.NDArray[np.uint8],
        result: Result,
        wanted: Collection[str],
        opacity: float,
    ) -> None:
        """Publishes the wanted outputs of one frame.

        Args:
            header: the source image's, which every output carries unchanged.
            image: uint8 (H, W, 3) RGB, for the overlay.
            result: with every task that ``tasks_for(wanted)`` names.
            wanted: outputs to publish.
            opacity: of the overlay's mask, 0..1.
        """
        for topic, publisher in self._publishers.items():
            if topic in wanted:
                publisher.publish(self._message(topic, header, image, result, opacity))

    def _message(
        self, topic: str, header: Header, image: npt.NDArray[np.uint8], result: Result, opacity: float
    ) -> Any:
        labels = self._labels
        if topic == OVERLAY:
            return image_message(header, draw_overlay(image, result, labels, opacity), "rgb8")
        if topic == DETECTIONS:
            assert result.detections is not None
            assert labels.detection is not None
            return detections_message(header, result.detections, labels.detection)
        if topic == CLASSIFICATION:
            assert result.classification is not None
            return classification_message(header, result.classification, labels.classification)
        assert result.segmentation is not None
        assert labels.segmentation is not None
        if topic == COLOR:
            return image_message(header, colorize(result.segmentation.mask, labels.segmentation), "rgb8")
        if topic == CONFIDENCE:
            assert result.segmentation.confidence is not None
            return image_message(header, result.segmentation.confidence, "mono8")
        return image_message(header, result.segmentation.mask, "mono8")
