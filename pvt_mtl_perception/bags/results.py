"""Results of a camera in a bag: written next to each other, read back by the stamp of their frame."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from pvt_mtl_perception.bags import messages
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.types import LATCHED, RELIABLE, typestore
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.paths import naming
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation

Storage = Literal["mcap", "sqlite3"]
BAG_VERSION: Literal[9] = 9
"""rosbag2's metadata version since Jazzy."""


@dataclass(frozen=True)
class ResultTopics:
    """Where the results of one camera go, by the names that the node uses."""

    detections: str
    mask: str
    label_info: str
    classification: str

    @classmethod
    def under(cls, namespace: str) -> ResultTopics:
        """The topics in a namespace, ``/`` or like ``/camera``."""
        prefix = namespace.rstrip("/")
        return cls(
            detections=f"{prefix}/detections",
            mask=f"{prefix}/segmentation/mask",
            label_info=f"{prefix}/segmentation/label_info",
            classification=f"{prefix}/classification",
        )


def result_topics(image_topics: Sequence[str]) -> dict[str, ResultTopics]:
    """For each image topic, where its results go: beside it, or under it where two would share a place.

    ``/camera/image_raw`` has its boxes on ``/camera/detections``; where ``/rig/left`` and ``/rig/right``
    both are read, the first one's are on ``/rig/left/detections``.
    """
    namespaces = {topic: topic.rpartition("/")[0] for topic in image_topics}
    # A topic's own name may be the namespace of another one: /rig/left/compressed is in /rig/left.
    while len(set(namespaces.values())) < len(namespaces):
        users = Counter(namespaces.values())
        namespaces = {
            topic: topic if users[namespace] > 1 else namespace for topic, namespace in namespaces.items()
        }
    return {topic: ResultTopics.under(namespace) for topic, namespace in namespaces.items()}


@contextmanager
def _file_errors(bag: Path) -> Iterator[None]:
    """What the file system refuses comes out of sqlite3 as its own kind of error, and names no file."""
    try:
        with naming(bag):
            yield
    except sqlite3.Error as error:
        raise OSError(f"{bag} cannot be written: {error}") from error


class BagWriter:
    """A new ROS 2 bag that takes messages by topic.

    Use as a context manager: leaving it by an exception leaves a bag without ``metadata.yaml``.

    Args:
        path: the bag's folder, which must not exist.
        storage: ``mcap`` (chunks compressed by zstd) or ``sqlite3``.
        compress: False leaves MCAP's chunks as they are, for images that are to be played in real time.

    Raises:
        rosbags.rosbag2.WriterError: when the path exists.
        OSError: from the file system, also while messages are written; it names the path.
    """

    def __init__(self, path: str | Path, storage: Storage = "mcap", compress: bool = True) -> None:
        self._path = Path(path)
        plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=plugin)
        if storage == "mcap" and compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        with _file_errors(self._path):
            self._writer.open()
        return self

    def __exit__(self, *exception: Any) -> None:
        with _file_errors(self._path):
            self._writer.__exit__(*exception)

    def set_note(self, key: str, value: str) -> None:
        """Puts text into the metadata's ``custom_data``."""
        self._writer.set_custom_data(key, value)

    def write(self, topic: str, timestamp: int, message: Any, qos: Qos = RELIABLE) -> None:
        """Appends a message.

        Args:
            topic: full topic name.
            timestamp: recording time, ns since the epoch.
            message: of a type of ``bags.types.typestore()``.
            qos: what a player offers on the topic; the topic's first message decides.
        """
        self.write_raw(topic, timestamp, message.__msgtype__, self.serialize(message), qos)

    def write_raw(
        self, topic: str, timestamp: int, type: str, data: bytes | memoryview, qos: Qos = RELIABLE
    ) -> None:
        """Appends a serialised message of a type of ``bags.types.typestore()``."""
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic, type, typestore=typestore(), offered_qos_profiles=[qos]
            )
            self._connections[topic] = connection
        with _file_errors(self._path):
            self._writer.write(connection, timestamp, data)

    @staticmethod
    def serialize(message: Any) -> memoryview:
        """The message's CDR bytes."""
        return typestore().serialize_cdr(message, message.__msgtype__)


def write_result(
    writer: BagWriter,
    topics: ResultTopics,
    labels: TaskLabels,
    result: Result,
    timestamp: int,
    header: Any,
) -> None:
    """Appends the messages of one frame's result, each with the frame's header and recording time."""
    if result.detections is not None and labels.detection is not None:
        message = messages.detections_message(header, result.detections, labels.detection)
        writer.write(topics.detections, timestamp, message)
    if result.segmentation is not None:
        message = messages.image_message(header, result.segmentation.mask, "mono8")
        writer.write(topics.mask, timestamp, message)
    if result.classification is not None:
        message = messages.classification_message(header, result.classification, labels.classification)
        writer.write(topics.classification, timestamp, message)


def write_label_info(
    writer: BagWriter, topics: ResultTopics, labels: TaskLabels, timestamp: int, header: Any
) -> None:
    """Appends what a mask's ids mean; nothing where the model has no segmentation."""
    if labels.segmentation is not None:
        message = messages.label_info_message(header, labels.segmentation)
        writer.write(topics.label_info, timestamp, message, LATCHED)


class StampedMessages:
    """One topic's messages by header stamp, read forward once.

    Args:
        reader: the open bag.
        topic: whose messages have a header; one that the bag lacks has no messages.
    """

    def __init__(self, reader: BagReader, topic: str) -> None:
        self._messages: Iterator[tuple[str, int, Any]] = reader.messages([topic])
        self._next: Any = None
        self._advance()

    def _advance(self) -> None:
        self._next = next(self._messages, None)

    def take(self, stamp: int) -> tuple[int, Any] | None:
        """Recording time and message with the stamp, or None; messages before it are passed over."""
        while self._next is not None:
            _, timestamp, message = self._next
            time = message.header.stamp
            have = time.sec * 10**9 + time.nanosec
            if have > stamp:
                return None
            self._advance()
            if have == stamp:
                return timestamp, message
        return None


@dataclass(frozen=True)
class RecordedResult:
    """The outputs of one frame in a bag; a task without a message is None.

    Attributes:
        detections, segmentation, classification: as in ``Result``.
        timestamps: for each task that has one, when its message was recorded, ns since the epoch.
    """

    detections: Detections | None
    segmentation: Segmentation | None
    classification: Classification | None
    timestamps: Mapping[str, int]

    def result(self, height: int, width: int) -> Result:
        """As a result of a frame of this size in pixels."""
        return Result(height, width, self.detections, self.segmentation, self.classification)


class ResultReader:
    """The results of one camera in a bag, taken in the order of the frames' stamps.

    Memory holds one frame's messages, however long the bag is. The stamps of a topic must not go back.

    Args:
        reader: the open bag.
        topics: where its results are.
        labels: the label sets that the class names are of.
    """

    def __init__(self, reader: BagReader, topics: ResultTopics, labels: TaskLabels) -> None:
        self._labels = labels
        self._streams = {
            "detection": StampedMessages(reader, topics.detections),
            "segmentation": StampedMessages(reader, topics.mask),
            "classification": StampedMessages(reader, topics.classification),
        }

    def take(self, stamp: int) -> RecordedResult | None:
        """The outputs of the frame with this header stamp, or None where the bag has none.

        Args:
            stamp: ns; not lower than in the call before.

        Raises:
            KeyError: when a message names a class that the labels lack.
            ValueError: when a mask is not mono8.
        """
        found = {task: stream.take(stamp) for task, stream in self._streams.items()}
        have = {task: item for task, item in found.items() if item is not None}
        if not have:
            return None
        detections = segmentation = classification = None
        if "detection" in have and self._labels.detection is not None:
            detections = messages.detections_from(have["detection"][1], self._labels.detection)
        if "segmentation" in have:
            segmentation = Segmentation(messages.mask_from(have["segmentation"][1]))
        if "classification" in have:
            classification = messages.classification_from(
                have["classification"][1], self._labels.classification
            )
        timestamps = {task: timestamp for task, (timestamp, _) in have.items()}
        return RecordedResult(detections, segmentation, classification, timestamps)
