"""Messages of several topics of a bag that have the same header stamp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import StampedMessages


def matched_by_stamp(
    reader: BagReader, lead: str, others: Sequence[str]
) -> Iterator[tuple[int, Any, tuple[Any | None, ...]]]:
    """For every message of a topic those of other topics with its stamp.

    Memory holds one message a topic, however long the bag is. The stamps of a topic must not go back; the
    order in which topics were recorded does not matter.

    Args:
        reader: the open bag.
        lead: topic whose messages have a header.
        others: topics likewise.

    Yields:
        Stamp in ns, the message, and for each other topic its message, or None where there is none.

    Raises:
        ValueError: when the file is damaged on the way.
    """
    streams = [StampedMessages(reader, topic) for topic in others]
    for _, _, message in reader.messages([lead]):
        time = message.header.stamp
        stamp = time.sec * 10**9 + time.nanosec
        found = [stream.take(stamp) for stream in streams]
        yield stamp, message, tuple(None if item is None else item[1] for item in found)
