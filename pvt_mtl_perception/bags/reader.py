"""Camera images out of a bag of ROS 1, ROS 2 or Foxglove messages, in time order and without ROS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.bags.message_sources import MessageError, open_source
from pvt_mtl_perception.bags.types import COMPRESSED_IMAGE_TYPES, IMAGE_TYPES
from pvt_mtl_perception.inference.image_formats import decode_message

BAG_SUFFIXES = (".mcap", ".db3", ".bag")

_REPAIRS = {".mcap": "mcap recover", ".bag": "rosbag reindex"}
"""Commands that write the index which a recorder that was killed has not written, by suffix."""


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag.

    Attributes:
        name: full topic name.
        type: like ``sensor_msgs/msg/Image``, also for ROS 1, or ``foxglove.RawImage``.
        count: number of messages.
    """

    name: str
    type: str
    count: int

    @property
    def compressed(self) -> bool:
        """Whether its messages are compressed images."""
        return self.type in COMPRESSED_IMAGE_TYPES

    def __str__(self) -> str:
        return f"{self.name} ({self.type}, {self.count} messages)"


@dataclass(frozen=True)
class BagImage:
    """An image message of a bag, not yet decoded.

    Attributes:
        bag: the bag's path, for messages.
        topic: full topic name.
        timestamp: when it was recorded, ns since the epoch.
        stamp: the header's stamp, ns.
        frame_id: the header's frame.
        message: the deserialised message, of one of ``IMAGE_TYPES``.
    """

    bag: str
    topic: str
    timestamp: int
    stamp: int
    frame_id: str
    message: Any

    def decode(self) -> npt.NDArray[np.uint8]:
        """The pixels: uint8 (H, W, 3), RGB; of rgb8 a view onto the message.

        Raises:
            ValueError: when the encoding is not supported or the data are damaged, naming bag, topic and
                stamp.
        """
        try:
            return decode_message(self.message)
        except ValueError as error:
            seconds = f"{self.stamp // 10**9}.{self.stamp % 10**9:09d}"
            raise ValueError(f"{self.bag}, topic {self.topic}, stamp {seconds}: {error}") from None


class BagReader:
    """An open bag: a ROS 1 ``.bag``, a rosbag2 folder, or a single ``.mcap`` or ``.db3`` file.

    Use as a context manager.

    Raises:
        FileNotFoundError: when there is nothing at the path.
        ValueError: when it is no bag or a damaged one, naming the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no bag at {self.path}")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            files = sorted(p.name for p in self.path.iterdir() if p.suffix in BAG_SUFFIXES)
            hint = f"; it holds {', '.join(files)}: give one of these files" if files else ""
            raise ValueError(f"{self.path} is a folder without metadata.yaml, so not a rosbag2 bag{hint}")
        for file in self.path.glob("*.db3") if self.path.is_dir() else [self.path]:
            log = file.with_name(f"{file.name}-wal")
            # rosbags does not read it, and would give the messages before it as all there are.
            if file.suffix == ".db3" and log.is_file() and log.stat().st_size:
                raise ValueError(
                    f"{file} has messages in {log.name} still: it is being recorded, or its recording was "
                    f"cut off; then `sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'` makes it readable"
                )
        try:
            self._source = open_source(self.path)
        except Exception as error:  # damaged bytes make the reader raise almost anything
            parts = sorted(self.path.glob("*.mcap")) if self.path.is_dir() else [self.path]
            repairs = [
                f"`{_REPAIRS[file.suffix]}` makes {file.name} readable"
                for file in parts
                if file.suffix in _REPAIRS
            ]
            hint = f"; where its recording was cut off, {', '.join(repairs)}" if repairs else ""
            raise ValueError(f"{self.path} cannot be read as a bag: {error!r}{hint}") from error
        counts = sorted(self._source.counts.items())
        self.topics = tuple(BagTopic(name, kind, count) for (name, kind), count in counts)

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._source.close()

    @property
    def image_topics(self) -> tuple[BagTopic, ...]:
        """The topics whose messages ``images`` can give: all of them, where a topic has several types."""
        others = {topic.name for topic in self.topics if topic.type not in IMAGE_TYPES}
        return tuple(topic for topic in self.topics if topic.name not in others)

    @property
    def start(self) -> int:
        """When the first message was recorded, ns since the epoch."""
        return self._source.start

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return (self._source.end - self._source.start) / 1e9

    def select(self, names: Sequence[str] = ()) -> tuple[BagTopic, ...]:
        """The image topics with these names, in their order; without names, the bag's only one.

        Raises:
            ValueError: when a topic is absent or holds no images, or when there are no names and not
                exactly one image topic. The message lists the image topics with types and counts.
        """
        images = {topic.name: topic for topic in self.image_topics}
        listed = ", ".join(map(str, images.values()))
        if not images:
            others = ", ".join(map(str, self.topics)) or "none"
            raise ValueError(
                f"{self.path} has no image topic of the types {', '.join(IMAGE_TYPES)}; its topics: {others}"
            )
        if not names:
            if len(images) > 1:
                raise ValueError(f"{self.path} has {len(images)} image topics, name one of them: {listed}")
            return tuple(images.values())
        for name in names:
            if name in images:
                continue
            types = " and a ".join(topic.type for topic in self.topics if topic.name == name)
            what = f"topic {name} is a {types}, not an image" if types else f"no topic {name}"
            raise ValueError(f"{self.path}: {what}; image topics: {listed}")
        return tuple(images[name] for name in dict.fromkeys(names))

    def messages(self, topics: Iterable[str], skip: int = 0) -> Iterator[tuple[str, int, Any]]:
        """Topic, recording time in ns, and message, in time order, without the first ``skip``.

        Raises:
            ValueError: when the file is damaged on the way, naming bag and topic.
        """
        try:
            yield from self._source.messages(frozenset(topics), skip)
        except MessageError as error:
            raise ValueError(f"{self.path}, {error}") from error
        except Exception as error:
            raise ValueError(f"{self.path} is damaged: {error!r}") from error

    def images(self, topics: Iterable[BagTopic], skip: int = 0) -> Iterator[BagImage]:
        """The image messages of the topics in time order, without the first ``skip``.

        Raises:
            ValueError: when the file is damaged on the way, naming bag and topic.
        """
        names = [topic.name for topic in topics]
        for topic, timestamp, message in self.messages(names, skip):
            stamp, frame_id = _stamp_and_frame(message)
            yield BagImage(str(self.path), topic, timestamp, stamp, frame_id, message)


def _stamp_and_frame(message: Any) -> tuple[int, str]:
    """A message's stamp in ns and its frame; Foxglove's messages have both beside the pixels."""
    if hasattr(message, "header"):
        time, frame_id = message.header.stamp, message.header.frame_id
    else:
        time, frame_id = message.timestamp, message.frame_id
    if hasattr(time, "nanos"):
        return time.seconds * 10**9 + time.nanos, frame_id
    return time.sec * 10**9 + time.nanosec, frame_id
