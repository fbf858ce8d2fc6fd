"""What images a bag holds, as a table for people."""

from __future__ import annotations

from pvt_mtl_perception.bags.reader import BagReader, BagTopic

_HEAD = ("topic", "type", "count", "rate", "size")


def image_listing(reader: BagReader) -> str:
    """Name, type, number, mean rate and size of each image topic.

    The size in pixels is the first image's; one that cannot be decoded has a question mark.
    """
    rows = [_HEAD, *(_row(reader, topic) for topic in reader.image_topics)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([f"{reader.path}: {reader.duration:.1f} s", *lines])


def _row(reader: BagReader, topic: BagTopic) -> tuple[str, ...]:
    # n images span n - 1 periods.
    rate = f"{(topic.count - 1) / reader.duration:.1f} Hz" if topic.count > 1 and reader.duration else "-"
    return topic.name, topic.type, str(topic.count), rate, _size(reader, topic)


def _size(reader: BagReader, topic: BagTopic) -> str:
    try:
        for image in reader.images([topic]):
            height, width = image.decode().shape[:2]
            return f"{width}x{height}"
    except ValueError:
        return "?"
    return "-"
