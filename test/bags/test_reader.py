"""Images of ROS 1, sqlite3 and MCAP bags come out with their pixels, stamps and frames."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from bag_files import FRAME_ID, LAG, TOPIC, stamp, street, write_bag, write_foxglove_ros2_bag
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from pvt_mtl_perception.bags.reader import BagReader

KINDS = ("ros1", "sqlite3", "mcap")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compressed", ["", "png"])
def test_images_come_out_in_order_with_stamp_and_frame(tmp_path: Path, kind: str, compressed: str) -> None:
    frames = [street(index) for index in range(4)]
    path = write_bag(tmp_path / "drive", kind, frames, compressed=compressed)
    with BagReader(path) as reader:
        images = list(reader.images(reader.select()))
    assert [image.stamp for image in images] == [stamp(index) for index in range(4)]
    assert [image.timestamp for image in images] == [stamp(index) + LAG for index in range(4)]
    assert {image.frame_id for image in images} == {FRAME_ID}
    assert {image.topic for image in images} == {TOPIC}
    for image, frame in zip(images, frames, strict=True):
        np.testing.assert_array_equal(image.decode(), frame)


@pytest.mark.parametrize("kind", KINDS)
def test_skipping_starts_later(tmp_path: Path, kind: str) -> None:
    path = write_bag(tmp_path / "drive", kind, [street(index) for index in range(4)])
    with BagReader(path) as reader:
        images = list(reader.images(reader.select(), skip=3))
    assert [image.stamp for image in images] == [stamp(3)]
    np.testing.assert_array_equal(images[0].decode(), street(3))


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_a_single_storage_file_is_a_bag(tmp_path: Path, suffix: str) -> None:
    kind = {".mcap": "mcap", ".db3": "sqlite3"}[suffix]
    write_bag(tmp_path / "drive", kind, [street(0)])
    with BagReader(tmp_path / "drive" / f"drive{suffix}") as reader:
        assert [image.stamp for image in reader.images(reader.select())] == [stamp(0)]


@pytest.mark.parametrize("name", ["", "drive.db3"])
def test_messages_in_a_write_ahead_log_are_not_passed_over(tmp_path: Path, name: str) -> None:
    path = write_bag(tmp_path / "drive", "sqlite3", [street(0)]) / name
    file = tmp_path / "drive" / "drive.db3"
    recorder = sqlite3.connect(file)
    recorder.execute("PRAGMA journal_mode=WAL")
    recorder.execute(
        "INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, 1, data FROM messages"
    )
    recorder.commit()
    with pytest.raises(ValueError, match=r"drive\.db3 has messages in drive\.db3-wal still"):
        BagReader(path)
    recorder.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with BagReader(file) as reader:
        assert reader.select()[0].count == 2
    recorder.close()


def test_one_topic_among_others_is_found_without_a_name(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", "mcap", [street(0)])
    with BagReader(path) as reader:
        assert [topic.name for topic in reader.topics] == ["/note", TOPIC]
        assert [(topic.name, topic.type, topic.count) for topic in reader.select()] == [
            (TOPIC, "sensor_msgs/msg/Image", 1)
        ]


def test_several_topics_need_a_name_and_are_listed(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", "mcap", [street(0), street(1)], other_topics=["/rear/image"])
    with BagReader(path) as reader:
        with pytest.raises(
            ValueError,
            match=r"drive has 2 image topics, name one of them: /rear/image \(sensor_msgs/msg/Image, 2 "
            r"messages\), /rig/front/image_raw \(sensor_msgs/msg/Image, 2 messages\)",
        ):
            reader.select()
        assert [topic.name for topic in reader.select(["/rear/image"])] == ["/rear/image"]
        both = list(reader.images(reader.select(["/rear/image", TOPIC])))
    assert sorted(image.topic for image in both) == ["/rear/image"] * 2 + [TOPIC] * 2


def test_a_topic_with_other_messages_than_images_is_none_to_read_images_from(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    path = tmp_path / "mixed.bag"
    with Writer1(path) as writer:
        for kind in ("std_msgs/msg/String", "sensor_msgs/msg/CompressedImage"):
            writer.add_connection(TOPIC, kind, typestore=store)
        writer.add_connection("/rear/image", "sensor_msgs/msg/Image", typestore=store)
    with BagReader(path) as reader:
        assert [topic.name for topic in reader.image_topics] == ["/rear/image"]
        both = "sensor_msgs/msg/CompressedImage and a std_msgs/msg/String"
        with pytest.raises(ValueError, match=rf"topic {TOPIC} is a {both}, not an image; .* /rear/image"):
            reader.select([TOPIC])


def test_wrong_topics_are_named_with_the_right_ones(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", "mcap", [street(0)])
    with BagReader(path) as reader:
        with pytest.raises(ValueError, match=r"drive: no topic /nope; image topics: /rig/front/image_raw"):
            reader.select(["/nope"])
        with pytest.raises(ValueError, match=r"topic /note is a std_msgs/msg/String, not an image"):
            reader.select(["/note"])


def test_a_bag_without_images_lists_what_it_has(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "text", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/note", "std_msgs/msg/String", typestore=store)
        message = store.types["std_msgs/msg/String"](data="x")
        writer.write(connection, 1, store.serialize_cdr(message, "std_msgs/msg/String"))
    with (
        BagReader(tmp_path / "text") as reader,
        pytest.raises(
            ValueError,
            match=r"text has no image topic .*its topics: /note \(std_msgs/msg/String, 1 messages\)",
        ),
    ):
        reader.select()


def test_foxglove_images_are_read(tmp_path: Path) -> None:
    png = write_bag(tmp_path / "drive", "mcap", [street(5)], compressed="png")
    with BagReader(png) as reader:
        data = next(reader.images(reader.select())).message.data
    write_foxglove_ros2_bag(tmp_path / "fox", "/cam", data)
    with BagReader(tmp_path / "fox") as reader:
        (image,) = reader.images(reader.select())
    assert (image.stamp, image.frame_id) == (3_000_000_005, "front")
    np.testing.assert_array_equal(image.decode(), street(5))


def test_an_undecodable_image_names_bag_topic_and_stamp(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", "mcap", [street(0)], damaged=[0])
    with BagReader(path) as reader:
        (image,) = reader.images(reader.select())
    with pytest.raises(
        ValueError, match=r"drive, topic /rig/front/image_raw, stamp 1700000000\.123456789: .*has 100"
    ):
        image.decode()


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no bag at .*nothing"):
        BagReader(tmp_path / "nothing")
    (tmp_path / "text.mcap").write_text("not a bag")
    with pytest.raises(ValueError, match=r"text\.mcap cannot be read as a bag: .*magic"):
        BagReader(tmp_path / "text.mcap")
    (tmp_path / "text.bag").write_text("not a bag")
    with pytest.raises(ValueError, match=r"text\.bag cannot be read as a bag"):
        BagReader(tmp_path / "text.bag")
    (tmp_path / "picture.png").write_text("not a bag")
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as a bag"):
        BagReader(tmp_path / "picture.png")


def test_a_folder_without_metadata_says_which_files_it_holds(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", "mcap", [street(0)])
    (path / "metadata.yaml").unlink()
    with pytest.raises(ValueError, match=r"without metadata\.yaml.*it holds drive\.mcap"):
        BagReader(path)


def test_a_truncated_bag_is_named(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", "mcap", [street(index, 400, 600) for index in range(4)])
    copy = tmp_path / "cut.mcap"
    shutil.copy(path / "drive.mcap", copy)
    with copy.open("r+b") as file:
        file.truncate(copy.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"cut\.mcap cannot be read.*`mcap recover` makes cut\.mcap"):
        BagReader(copy)
    copy.replace(path / "drive.mcap")
    with pytest.raises(ValueError, match=r"drive cannot be read.*`mcap recover` makes drive\.mcap"):
        BagReader(path)
