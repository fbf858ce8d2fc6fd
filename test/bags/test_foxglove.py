"""MCAP files with Foxglove's protobuf images are bags like others."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from bag_files import LAG, TOPIC, stamp, street, write_bag
from checkpoints import make_checkpoint
from foxglove_files import NUSCENES_BACK, NUSCENES_FRONT, foxglove, write_foxglove_mcap
from rosbags.typesys import Stores, get_typestore

from pvt_mtl_perception.bags.listing import image_listing
from pvt_mtl_perception.bags.presets import load_preset, preset_names
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.cli import main

FRAMES = [street(index) for index in range(4)]


@pytest.mark.parametrize("compressed", ["", "png"])
def test_images_come_out_in_order_with_stamp_and_frame(tmp_path: Path, compressed: str) -> None:
    path = write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES, compressed=compressed)
    with BagReader(path) as reader:
        (topic,) = reader.select()
        images = list(reader.images([topic]))
    kind = "foxglove.CompressedImage" if compressed else "foxglove.RawImage"
    assert (topic.name, topic.type, topic.count) == (NUSCENES_FRONT, kind, 4)
    assert [image.stamp for image in images] == [stamp(index) for index in range(4)]
    assert [image.timestamp for image in images] == [stamp(index) + LAG for index in range(4)]
    assert {image.frame_id for image in images} == {"CAM_FRONT"}
    for image, frame in zip(images, FRAMES, strict=True):
        np.testing.assert_array_equal(image.decode(), frame)


def test_skipping_starts_later_and_the_span_is_the_files(tmp_path: Path) -> None:
    with BagReader(write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES)) as reader:
        assert [image.stamp for image in reader.images(reader.select(), skip=3)] == [stamp(3)]
        assert reader.start == stamp(0) + LAG
        assert reader.duration == pytest.approx(0.3)


def test_an_undecodable_image_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES[:2], compressed="", damaged=[0])
    with BagReader(path) as reader:
        broken, good = reader.images(reader.select())
    with pytest.raises(ValueError, match=rf"scene\.mcap, topic {NUSCENES_FRONT}, stamp 1700000000\.1234567"):
        broken.decode()
    np.testing.assert_array_equal(good.decode(), FRAMES[1])


def test_topics_that_are_no_images_are_named(tmp_path: Path) -> None:
    with BagReader(write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES[:1])) as reader:
        assert {topic.name for topic in reader.topics} == {NUSCENES_FRONT, "/odom", "/cam_front/camera_info"}
        with pytest.raises(ValueError, match=r"topic /odom is a Pose, not an image"):
            reader.select(["/odom"])


def test_ros1_and_ros2_messages_beside_others_in_an_mcap_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.mcap"
    context = foxglove.Context()
    with foxglove.open_mcap(path, context=context):
        foxglove.Channel("/odom", message_encoding="json", context=context).log(b"{}", log_time=1)
        for index, (store, encoding, schema) in enumerate(
            [(Stores.ROS1_NOETIC, "ros1", "ros1msg"), (Stores.ROS2_JAZZY, "cdr", "ros2msg")]
        ):
            types = get_typestore(store)
            name = "sensor_msgs/msg/Image"
            time = types.types["builtin_interfaces/msg/Time"](sec=9, nanosec=index)
            sequence = {"seq": 0} if encoding == "ros1" else {}
            message = types.types[name](
                header=types.types["std_msgs/msg/Header"](stamp=time, frame_id=encoding, **sequence),
                height=60,
                width=90,
                encoding="rgb8",
                is_bigendian=0,
                step=270,
                data=street(index).reshape(-1),
            )
            serialize = types.serialize_ros1 if encoding == "ros1" else types.serialize_cdr
            short = name.replace("/msg", "") if encoding == "ros1" else name
            foxglove.Channel(
                f"/{encoding}/image",
                message_encoding=encoding,
                schema=foxglove.Schema(name=short, encoding=schema, data=b""),
                context=context,
            ).log(bytes(serialize(message, name)), log_time=index + 2)
    with BagReader(path) as reader:
        assert {topic.type for topic in reader.image_topics} == {"sensor_msgs/msg/Image"}
        images = list(reader.images(reader.image_topics))
    assert [(image.frame_id, image.stamp) for image in images] == [
        ("ros1", 9 * 10**9),
        ("cdr", 9 * 10**9 + 1),
    ]
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image.decode(), street(index))


def test_an_image_in_an_encoding_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "json.mcap"
    context = foxglove.Context()
    with foxglove.open_mcap(path, context=context):
        schema = foxglove.Schema(name="foxglove.CompressedImage", encoding="jsonschema", data=b"{}")
        channel = foxglove.Channel("/cam", message_encoding="json", schema=schema, context=context)
        channel.log(b"{}", log_time=1)
    with (
        BagReader(path) as reader,
        pytest.raises(ValueError, match=r"json\.mcap, topic /cam: .*encoded as 'json', not as protobuf"),
    ):
        next(reader.images(reader.select()))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"scene\.mcap cannot be read as a bag"):
        BagReader(path)


def test_a_file_with_damaged_bytes_is_named(tmp_path: Path) -> None:
    path = write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES)
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 4 + 200] = bytes(200)
    path.write_bytes(data)
    with BagReader(path) as reader, pytest.raises(ValueError, match=r"scene\.mcap is damaged"):
        list(reader.images(reader.select()))


def test_the_listing_has_name_type_count_rate_and_size(tmp_path: Path) -> None:
    path = write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES, [NUSCENES_FRONT, NUSCENES_BACK])
    with BagReader(path) as reader:
        lines = [line.split() for line in image_listing(reader).splitlines()]
    assert lines[1] == ["topic", "type", "count", "rate", "size"]
    assert lines[2:] == [
        [topic, "foxglove.CompressedImage", "4", "10.0", "Hz", "90x60"]
        for topic in (NUSCENES_BACK, NUSCENES_FRONT)
    ]


def test_a_bag_is_listed_where_there_is_no_output_or_no_topic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_bag(tmp_path / "drive", "sqlite3", FRAMES, other_topics=["/rear/image"], damaged=[0])
    assert main(["bag", str(path)]) == 0
    listed = capsys.readouterr().out
    assert f"{TOPIC}  sensor_msgs/msg/Image  4      9.8 Hz  ?" in listed
    assert main(["bag", str(path), str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.out == listed
    assert "drive has 2 image topics, name one of them" in shown.err


def test_presets_find_the_cameras_that_a_bag_has(tmp_path: Path) -> None:
    assert preset_names() == ("kitti", "nuscenes")
    preset = load_preset("nuscenes")
    with BagReader(
        write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES[:1], [NUSCENES_BACK, NUSCENES_FRONT])
    ) as reader:
        found = preset.topics(reader)
    assert [(camera, topic.name) for camera, topic in found.items()] == [
        ("front", NUSCENES_FRONT),
        ("back", NUSCENES_BACK),
    ]
    kitti = write_bag(tmp_path / "kitti", "ros1", FRAMES[:1], "/kitti/camera_color_left/image_raw")
    with BagReader(kitti) as reader:
        assert list(load_preset("kitti").topics(reader)) == ["left"]
        with pytest.raises(ValueError, match=r"no camera of the preset nuscenes .*/kitti/camera_color_left"):
            preset.topics(reader)
    with pytest.raises(ValueError, match=r"no preset 'waymo'.*there are: kitti, nuscenes"):
        load_preset("waymo")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("front: [/cam]", "mine.yaml has no `cameras:`"),
        ("cameras: {front: /cam/front}", "mine.yaml: cameras.front is '/cam/front'; a list"),
        ("cameras: {front: }", "mine.yaml: cameras.front is None; a list"),
        ("cameras: {front: [", "mine.yaml is no YAML"),
    ],
)
def test_a_preset_that_lists_no_topics_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    (tmp_path / "config" / "presets").mkdir(parents=True)
    (tmp_path / "config" / "presets" / "mine.yaml").write_text(text)
    monkeypatch.setattr("pvt_mtl_perception.bags.presets.share_directory", lambda: tmp_path)
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_preset("mine")


def test_a_foxglove_file_is_predicted_as_the_same_images_in_a_ros_bag(tmp_path: Path) -> None:
    model = ["--model", str(make_checkpoint(tmp_path / "tiny.safetensors")), "--device", "cpu"]
    scene = write_foxglove_mcap(tmp_path / "scene.mcap", FRAMES[:2])
    drive = write_bag(tmp_path / "drive", "mcap", FRAMES[:2], topic="/cam_front/image_raw")
    for source, target, extra in (
        (scene, tmp_path / "a", ["--preset", "nuscenes", "--images"]),
        (drive, tmp_path / "b", []),
    ):
        assert main(["bag", str(source), str(target), *extra, *model]) == 0
    with BagReader(tmp_path / "a") as a, BagReader(tmp_path / "b") as b:
        copied = list(a.images(a.select([NUSCENES_FRONT])))
        np.testing.assert_array_equal(copied[1].decode(), FRAMES[1])
        masks = [
            [message.data for *_, message in bag.messages(["/cam_front/segmentation/mask"])] for bag in (a, b)
        ]
        boxes = [list(bag.messages(["/cam_front/detections"])) for bag in (a, b)]
    np.testing.assert_array_equal(*masks)
    for (_, _, found), (_, _, expected) in zip(*boxes, strict=True):
        assert (found.header.frame_id, expected.header.frame_id) == ("CAM_FRONT", "front_optical")
        assert len(expected.detections) > 0
        assert asdict(found.header.stamp) == asdict(expected.header.stamp)
        assert [asdict(detection.bbox) for detection in found.detections] == [
            asdict(detection.bbox) for detection in expected.detections
        ]
