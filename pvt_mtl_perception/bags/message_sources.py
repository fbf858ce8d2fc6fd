"""Messages out of bag files: by rosbags where they are ROS messages, by mcap where an MCAP holds others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mcap.reader import make_reader
from mcap.records import Schema
from mcap_protobuf.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

from pvt_mtl_perception.bags.types import ros1_typestore, typestore

_ROS2_SCHEMAS = ("ros2msg", "ros2idl", "omgidl", "")


class MessageError(ValueError):
    """A message whose bytes are not what its type says."""


class MessageSource(Protocol):
    """An open bag file.

    Attributes:
        counts: number of messages by topic and type; types are written like ``sensor_msgs/msg/Image`` for ROS
            1 and ROS 2, and like ``foxglove.CompressedImage`` for protobuf.
        start, end: when the first and the last message were recorded, ns since the epoch.
    """

    counts: Mapping[tuple[str, str], int]
    start: int
    end: int

    def messages(self, topics: Collection[str], skip: int = 0) -> Iterator[tuple[str, int, Any]]:
        """Topic, recording time in ns, and message, in time order, without the first ``skip``.

        Raises:
            MessageError: for a message that cannot be deserialised, naming topic and type.
            Exception: of almost any kind, where the file's bytes are damaged.
        """
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


def holds_ros2(path: Path) -> bool:
    """Whether a bag has ROS 2 messages alone, which ``ros2 bag play`` can play.

    Args:
        path: a bag; only an ``.mcap`` file is looked into, the others show it by their names.
    """
    return path.suffix != ".bag" and not (path.suffix == ".mcap" and _holds_other_than_ros2(path))


def open_source(path: Path) -> MessageSource:
    """Opens a bag by what it holds.

    Raises:
        Exception: of almost any kind, where it is no bag or a damaged one.
    """
    if path.suffix == ".bag" or holds_ros2(path):
        return _RosbagsSource(path)
    return _McapSource(path)


def _holds_other_than_ros2(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            summary = make_reader(file).get_summary()
        except Exception:  # not an MCAP: rosbags says what is wrong with it
            return False
        if summary is None:
            return False
        return any(
            channel.message_encoding != "cdr" or (schema is not None and schema.encoding not in _ROS2_SCHEMAS)
            for channel in summary.channels.values()
            for schema in [summary.schemas.get(channel.schema_id)]
        )


class _RosbagsSource:
    """ROS 1 and ROS 2 bags."""

    def __init__(self, path: Path) -> None:
        self._reader = AnyReader([path], default_typestore=typestore())
        self._reader.open()
        self.start, self.end = self._reader.start_time, self._reader.end_time
        counts: dict[tuple[str, str], int] = {}
        for connection in self._reader.connections:
            key = connection.topic, connection.msgtype
            counts[key] = counts.get(key, 0) + connection.msgcount
        self.counts: Mapping[tuple[str, str], int] = counts

    def messages(self, topics: Collection[str], skip: int = 0) -> Iterator[tuple[str, int, Any]]:
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        if not connections:
            return
        for index, (connection, timestamp, data) in enumerate(self._reader.messages(connections)):
            if index < skip:
                continue
            with _naming(connection.topic, connection.msgtype, timestamp):
                message = self._reader.deserialize(data, connection.msgtype)
            yield connection.topic, timestamp, message

    def close(self) -> None:
        self._reader.close()


class _McapSource:
    """MCAP files with protobuf or ROS 1 messages, which rosbags does not read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._reader = make_reader(self._file)
        summary = self._reader.get_summary()
        if summary is None or summary.statistics is None:
            raise ValueError("it has no statistics; `mcap recover` writes them")
        self.start = summary.statistics.message_start_time
        self.end = summary.statistics.message_end_time
        self._protobuf = DecoderFactory()
        counts: dict[tuple[str, str], int] = {}
        for channel in summary.channels.values():
            key = channel.topic, _type_name(summary.schemas.get(channel.schema_id))
            count = summary.statistics.channel_message_counts.get(channel.id, 0)
            counts[key] = counts.get(key, 0) + count
        self.counts: Mapping[tuple[str, str], int] = counts

    def messages(self, topics: Collection[str], skip: int = 0) -> Iterator[tuple[str, int, Any]]:
        if not topics:
            return
        for index, (schema, channel, record) in enumerate(self._reader.iter_messages(topics=list(topics))):
            if index < skip:
                continue
            with _naming(channel.topic, _type_name(schema), record.log_time):
                message = self._deserialize(channel.message_encoding, schema, record.data)
            yield channel.topic, record.log_time, message

    def _deserialize(self, encoding: str, schema: Schema | None, data: bytes) -> Any:
        if encoding == "cdr":
            return typestore().deserialize_cdr(data, _type_name(schema))
        if encoding == "ros1":
            return ros1_typestore().deserialize_ros1(data, _type_name(schema))
        decode = self._protobuf.decoder_for(encoding, schema)
        if decode is None:
            raise ValueError(f"encoded as {encoding!r}, not as protobuf, cdr or ros1")
        return decode(data)

    def close(self) -> None:
        self._file.close()


def _type_name(schema: Schema | None) -> str:
    if schema is None:
        return "unknown"
    package, slash, name = schema.name.partition("/")
    return f"{package}/msg/{name}" if slash and not name.startswith("msg/") else schema.name


@contextmanager
def _naming(topic: str, type_name: str, timestamp: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged bytes make a deserialiser raise almost anything
        raise MessageError(
            f"topic {topic}: a {type_name} at {timestamp} ns cannot be deserialised: {error!r}"
        ) from error
