"""CARLA's images, laid out as both interfaces publish them, become the renderer's own labels again."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from carla_messages import (
    PALETTE,
    ROAD_LINE,
    CarlaFrame,
    bgra,
    bridge_semantic_bytes,
    carla_frame,
    instance_bytes,
    message,
    native_semantic_bytes,
    rgb_bytes,
)

from pvt_mtl_perception.data.derived_boxes import MIN_AREA, MIN_SIDE
from pvt_mtl_perception.data.synthetic import Drive
from pvt_mtl_perception.evaluation.carla import (
    CarlaLabels,
    Instances,
    decode_instances,
    decode_semantic,
    instance_boxes,
    tag_labels,
)
from pvt_mtl_perception.labels import LabelSet, TaskLabels, distinct_colors, load_label_set

SEGMENTATION = load_label_set("driving_segmentation")
DETECTION = load_label_set("driving_detection")
LABELS = TaskLabels({}, DETECTION, SEGMENTATION)
CONFIG = Path(__file__).resolve().parents[2] / "config" / "carla"


@pytest.fixture(scope="module")
def frame() -> CarlaFrame:
    """A street with cars, people and signs."""
    return carla_frame(Drive(3, width=640, height=384), 8)


def tagged(name: str) -> int:
    return tag_labels().index(name)


def test_tags_have_the_colours_of_the_palette_and_no_two_share_one() -> None:
    assert np.array_equal(tag_labels().colors, PALETTE)
    assert len(np.unique(PALETTE, axis=0)) == len(PALETTE) == 30


def test_tags_1_to_19_are_cityscapes_train_ids_and_road_lines_are_road() -> None:
    lookup = SEGMENTATION.lookup_from(tag_labels())
    assert lookup[1:20].tolist() == list(range(19))
    assert lookup[tagged("road line")] == SEGMENTATION.index("road")
    others = ["static", "dynamic", "other", "water", "ground", "bridge", "rail track", "guard rail"]
    assert {int(lookup[tagged(name)]) for name in ["unlabeled", *others]} == {255}
    assert tag_labels().colors[1:20] == SEGMENTATION.colors


def test_every_detection_class_has_its_tag() -> None:
    lookup = DETECTION.lookup_from(tag_labels())
    assert {name: int(lookup[tagged(name)]) for name in DETECTION.names} == {
        name: index for index, name in enumerate(DETECTION.names)
    }
    assert (lookup != 255).sum() == len(DETECTION)


@pytest.mark.parametrize("layout", [bridge_semantic_bytes, native_semantic_bytes])
def test_semantic_images_of_both_interfaces_give_the_tags(frame: CarlaFrame, layout: object) -> None:
    assert np.array_equal(decode_semantic(message(layout(frame.tags))), frame.tags)
    every = np.arange(30, dtype=np.uint8).reshape(1, 30)
    assert np.array_equal(decode_semantic(message(layout(every))), every)


def test_rows_may_be_padded_and_png_is_as_good(frame: CarlaFrame) -> None:
    pixels = bridge_semantic_bytes(frame.tags)
    padded = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, 12)), constant_values=77)
    image = message(pixels)
    image.step, image.data = padded.shape[1], padded.reshape(-1)
    assert np.array_equal(decode_semantic(image), frame.tags)

    class Compressed:
        format = "bgra8; png compressed bgr8"
        data = cv2.imencode(".png", pixels[..., :3])[1].reshape(-1)

    assert np.array_equal(decode_semantic(Compressed), frame.tags)


def test_what_is_no_semantic_image_is_refused_with_what_was_found(frame: CarlaFrame) -> None:
    with pytest.raises(
        ValueError, match=r"no semantic image.*% of its pixels, such as RGB \(\d+, \d+, \d+\)"
    ):
        decode_semantic(message(rgb_bytes(frame.sample.image)))
    # Tags before 0.9.14 in their colours: the fence's was another.
    old = PALETTE[frame.tags]
    old[5, 7] = (100, 40, 40)
    share = 100 / frame.tags.size
    with pytest.raises(
        ValueError, match=rf"{share:.1f} % of its pixels, such as RGB \(100, 40, 40\) at x 7, y 5"
    ):
        decode_semantic(message(rgb_bytes(old)))
    wrong = frame.tags.copy()
    wrong[2, 3] = 30
    with pytest.raises(ValueError, match=r"RGB \(30, 0, 0\) at x 3, y 2"):
        decode_semantic(message(native_semantic_bytes(wrong)))
    with pytest.raises(ValueError, match="as in an instance image"):
        decode_semantic(message(instance_bytes(frame.tags, frame.ids)))

    class Lossy:
        format = "bgra8; jpeg compressed bgr8"
        data = cv2.imencode(".jpg", PALETTE[frame.tags])[1].reshape(-1)

    with pytest.raises(ValueError, match=r"jpeg.*raw or PNG"):
        decode_semantic(Lossy)
    short = message(native_semantic_bytes(frame.tags))
    short.data = short.data[:-4]
    with pytest.raises(ValueError, match=r"the semantic image: 640x384 image .* needs 983040 bytes"):
        decode_semantic(short)


def test_instance_images_give_tags_and_ids(frame: CarlaFrame) -> None:
    instances = decode_instances(message(instance_bytes(frame.tags, frame.ids)))
    assert np.array_equal(instances.tags, frame.tags)
    assert np.array_equal(instances.ids, frame.ids)
    assert instances.ids.max() > 255


def test_what_is_no_instance_image_is_refused(frame: CarlaFrame) -> None:
    with pytest.raises(ValueError, match=r"no instance image.*bridge's colours"):
        decode_instances(message(bridge_semantic_bytes(frame.tags)))
    with pytest.raises(ValueError, match="0 everywhere"):
        decode_instances(message(native_semantic_bytes(frame.tags)))


def test_instance_boxes_are_those_of_each_objects_pixels(frame: CarlaFrame) -> None:
    to_detection = DETECTION.lookup_from(tag_labels())
    instances = Instances(frame.tags, frame.ids)
    found = instance_boxes(instances, to_detection)
    expected, small = set(), set()
    for tag in np.flatnonzero(to_detection != 255):
        for number in np.unique(frame.ids[frame.tags == tag]):
            pixels = ((frame.tags == tag) & (frame.ids == number)).astype(np.uint8)
            left, top, width, height = cv2.boundingRect(pixels)
            box = (left, top, left + width, top + height)
            if pixels.sum() >= MIN_AREA and min(width, height) >= MIN_SIDE:
                expected.add((*box, int(to_detection[tag])))
            else:
                small.add(box)
    assert len(expected) >= 3
    rows = zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
    assert {(*map(int, box), label) for box, label in rows} == expected
    assert {tuple(map(int, box)) for box in found.ignore_boxes.tolist()} == small


def test_touching_cars_are_two_boxes_by_instance_and_one_derived_from_the_tags() -> None:
    tags = np.full((60, 100), tagged("road"), np.uint8)
    ids = np.zeros((60, 100), np.uint16)
    tags[20:40, 10:50] = tagged("car")
    ids[20:40, 10:30], ids[20:40, 30:50] = 0x0102, 0x0201
    # A pole in front cuts the second car in two.
    tags[10:50, 38:40] = tagged("pole")
    labels = CarlaLabels(LABELS)
    derived = labels.sample(None, tags, None, "derived")
    assert derived.boxes.tolist() == [[10, 20, 38, 40], [40, 20, 50, 40]]
    exact = labels.sample(None, tags, decode_instances(message(instance_bytes(tags, ids))), "exact")
    assert sorted(exact.boxes.tolist()) == [[10, 20, 30, 40], [30, 20, 50, 40]]
    assert exact.box_labels.tolist() == [DETECTION.index("car")] * 2


def test_a_rider_and_the_bicycle_of_one_actor_have_a_box_each() -> None:
    tags = np.full((60, 100), tagged("road"), np.uint8)
    tags[10:30, 20:40], tags[30:50, 20:40] = tagged("rider"), tagged("bicycle")
    boxes = instance_boxes(
        Instances(tags, np.full((60, 100), 5, np.uint16)), DETECTION.lookup_from(tag_labels())
    )
    assert boxes.labels.tolist() == [DETECTION.index("rider"), DETECTION.index("bicycle")]
    assert boxes.boxes.tolist() == [[20, 10, 40, 30], [20, 30, 40, 50]]


def test_a_sample_has_the_renderers_mask_with_lines_as_road(frame: CarlaFrame) -> None:
    assert (frame.tags == ROAD_LINE).sum() > 50
    sample = CarlaLabels(LABELS).sample(frame.sample.image, frame.tags, None, "frame")
    assert np.array_equal(sample.mask, frame.sample.mask)
    assert sample.box_classes == tuple(range(10))


def test_images_of_different_size_are_refused(frame: CarlaFrame) -> None:
    with pytest.raises(ValueError, match=r"tick 7: .*semantic 400x70, RGB 640x384.*field of view"):
        CarlaLabels(LABELS).sample(frame.sample.image, np.zeros((70, 400), np.uint8), None, "tick 7")


def test_a_model_of_another_taxonomy_is_refused() -> None:
    letters = LabelSet("letters", ("a", "b"), distinct_colors(2))
    with pytest.raises(KeyError, match="'letters' has no mapping from 'carla'"):
        CarlaLabels(TaskLabels({}, None, letters))


def test_a_black_image_is_unlabelled_either_way() -> None:
    black = np.zeros((4, 4), np.uint8)
    assert not decode_semantic(message(bgra(black, black, black))).any()


@pytest.mark.parametrize("name", ["objects.json", "native.json"])
def test_cameras_of_a_view_match_in_size_pose_and_field_of_view(name: str) -> None:
    content = json.loads((CONFIG / name).read_text())
    (vehicle,) = [item for item in content.get("objects", [content]) if item["type"].startswith("vehicle.")]
    cameras = [
        {**sensor, **sensor.get("attributes", {})}
        for sensor in vehicle.get("objects", vehicle.get("sensors"))
        if sensor["type"].startswith("sensor.camera.")
    ]
    by_view: dict[str, list[dict]] = {}
    for camera in cameras:
        kind = camera["type"].rpartition(".")[2]
        prefix, _, view = camera["id"].rpartition("_")
        assert prefix == kind, "a camera is named by what it shows and where"
        by_view.setdefault(view, []).append(camera)
    assert set(by_view) == {"front", "left", "right"} if name == "objects.json" else {"front"}
    kinds = ["rgb", "semantic_segmentation"] + ["instance_segmentation"] * (name == "native.json")
    for matched in by_view.values():
        assert [camera["type"].rpartition(".")[2] for camera in matched] == kinds
        for key in ("spawn_point", "image_size_x", "image_size_y", "fov", "sensor_tick"):
            assert len({json.dumps(camera[key]) for camera in matched}) == 1, key
