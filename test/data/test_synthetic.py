"""Synthetic scenes: reproducible, labels that agree with the pixels, and the variety that they promise."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic import Drive, render_frame
from pvt_mtl_perception.data.synthetic.canvas import FIRST_INSTANCE, Instance
from pvt_mtl_perception.data.synthetic.figures import person
from pvt_mtl_perception.data.synthetic.frame import (
    MIN_AREA,
    MIN_SIDE,
    MIN_VISIBLE,
    Rendered,
    read_boxes,
    render_with_ids,
)
from pvt_mtl_perception.data.synthetic.furniture import sign_face, signal_face
from pvt_mtl_perception.data.synthetic.meshes import vehicle_look, vehicle_models
from pvt_mtl_perception.data.synthetic.taxonomy import (
    DETECTION,
    SCENE,
    SEGMENTATION,
    SEGMENTATION_OF_DETECTION,
    TIME_OF_DAY,
    WEATHER,
)
from pvt_mtl_perception.data.synthetic.textures import CROWNS, FACADES, crown, facade, ground_tile

SMALL = (320, 192)


@pytest.fixture(scope="module")
def frames() -> list[Rendered]:
    return [render_with_ids(seed, *SMALL) for seed in range(80)]


def digest(sample: Sample) -> str:
    parts = [sample.image, sample.mask, sample.boxes, sample.box_labels, sample.ignore_boxes]
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


def test_a_seed_gives_the_same_bytes_in_another_process_with_another_thread_count() -> None:
    script = (
        "import cv2, sys; cv2.setNumThreads(int(sys.argv[1]))\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_synthetic import digest, render_frame\n"
        # Another order and other frames in between: no state is carried from frame to frame.
        "render_frame(9, 320, 192)\n"
        "print(*[digest(render_frame(s, 320, 192)) for s in (14, 5)])"
    )
    folder = str(__file__).rsplit("/", 1)[0]
    command = [sys.executable, "-c", script, "2", folder]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert out == [digest(render_frame(s, *SMALL)) for s in (14, 5)]


def test_seeds_and_splits_differ() -> None:
    digests = {digest(render_frame(s, *SMALL, split)) for s in range(3) for split in ("train", "test")}
    assert len(digests) == 6


def test_boxes_are_tight_around_the_visible_pixels(frames: list[Rendered]) -> None:
    """Against scipy's labelled objects of the id image."""
    height, width = SMALL[1], SMALL[0]
    share = width * height / (640 * 384)
    checked = 0
    for frame in frames[:60]:
        objects = ndimage.find_objects(frame.ids.astype(np.int32), max_label=254)
        boxes, ignored = [], []
        for position, instance in enumerate(frame.instances):
            where = objects[FIRST_INSTANCE + position - 1]
            if where is None:
                continue
            rows, columns = where
            box = [columns.start, rows.start, columns.stop, rows.stop]
            area = np.count_nonzero(frame.ids == FIRST_INSTANCE + position)
            side = min(box[2] - box[0], box[3] - box[1])
            big = area >= MIN_AREA * share and side >= MIN_SIDE * share**0.5
            if big and area >= MIN_VISIBLE * instance.area:
                boxes.append([*box, instance.label])
            else:
                ignored.append(box)
        sample = frame.sample
        found = np.concatenate([sample.boxes, sample.box_labels[:, None]], 1)
        np.testing.assert_array_equal(found, np.array(boxes, np.float64).reshape(-1, 5))
        np.testing.assert_array_equal(sample.ignore_boxes, np.array(ignored, np.float32).reshape(-1, 4))
        checked += len(boxes)
    assert checked > 300


def test_a_box_covers_pixels_of_its_class_in_the_mask(frames: list[Rendered]) -> None:
    for frame in frames[:60]:
        sample = frame.sample
        for (x0, y0, x1, y1), label in zip(sample.boxes.astype(int), sample.box_labels, strict=True):
            inside = sample.mask[y0:y1, x0:x1]
            assert (inside == SEGMENTATION_OF_DETECTION[label]).any()


def test_hidden_and_cut_off_objects_are_ignored_not_labelled() -> None:
    ids = np.full((60, 80), 2, np.uint8)
    ids[10:30, 10:30] = FIRST_INSTANCE
    # Drawn 20 x 20, then hidden but for four of its columns: 80 of 400 pixels.
    ids[10:30, 44:48] = FIRST_INSTANCE + 1
    ids[40:60, 0:6] = FIRST_INSTANCE + 2
    whole = Instance(label=2, area=400.0, extent=(8, 8, 32, 32))
    hidden = Instance(label=2, area=400.0, extent=(38, 8, 62, 32))
    outside = Instance(label=2, area=400.0, extent=(0, 38, 10, 60))
    gone = Instance(label=2, area=400.0, extent=(60, 40, 80, 60))
    boxes, labels, ignored = read_boxes(ids, (whole, hidden, outside, gone), mirrored=False)
    np.testing.assert_array_equal(boxes, [[10, 10, 30, 30], [0, 40, 6, 60]])
    np.testing.assert_array_equal(labels, [2, 2])
    np.testing.assert_array_equal(ignored, [[44, 10, 48, 30]])


def test_occlusion_shrinks_visible_areas_in_real_frames(frames: list[Rendered]) -> None:
    partly = 0
    for frame in frames:
        areas = np.bincount(frame.ids.ravel(), minlength=256)
        for position, instance in enumerate(frame.instances):
            seen = areas[FIRST_INSTANCE + position]
            # What is visible was painted; the estimate of the part outside the frame only adds to it.
            assert seen <= instance.area * 1.001 + 1
            partly += 0 < seen < 0.7 * instance.area
    assert partly > 100


def test_ids_are_in_range(frames: list[Rendered]) -> None:
    for frame in frames:
        sample = frame.sample
        height, width = sample.mask.shape
        assert (sample.image.shape, sample.mask.shape) == ((192, 320, 3), (192, 320))
        labelled = sample.mask[sample.mask != SEGMENTATION.ignore_index]
        assert labelled.max() < len(SEGMENTATION)
        assert len(labelled) > 0.8 * sample.mask.size
        assert sample.box_classes == tuple(range(len(DETECTION)))
        boxes = np.concatenate([sample.boxes, sample.ignore_boxes])
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()


def test_every_class_of_every_label_set_appears(frames: list[Rendered]) -> None:
    groups = {"weather": WEATHER, "scene": SCENE, "timeofday": TIME_OF_DAY}
    for group, label_set in groups.items():
        found = {frame.sample.classes[group] for frame in frames}
        assert found >= set(range(len(label_set))), group
    pixels = sum(np.bincount(frame.sample.mask.ravel(), minlength=256) for frame in frames)
    assert [n for i, n in enumerate(SEGMENTATION.names) if pixels[i] < 500] == []
    boxes = sum(np.bincount(frame.sample.box_labels, minlength=len(DETECTION)) for frame in frames)
    assert [n for i, n in enumerate(DETECTION.names) if boxes[i] == 0] == []


def test_a_tunnel_hides_weather_and_time_of_day(frames: list[Rendered]) -> None:
    tunnel = SCENE.index("tunnel")
    for frame in frames:
        classes = frame.sample.classes
        inside = classes["scene"] == tunnel
        assert (classes["weather"] == -1) == inside == (classes["timeofday"] == -1)


def best_threshold_accuracy(values: np.ndarray, labels: np.ndarray) -> float:
    """Of the best single threshold on a value, averaged over the two classes."""
    cuts = np.sort(values)[:, None]
    above = values[None] > cuts
    score = 0.5 * (above[:, labels].mean(1) + (~above[:, ~labels]).mean(1))
    return float(max(score.max(), (1 - score).max()))


def test_mean_brightness_alone_does_not_tell_weather_scene_or_time_of_day(frames: list[Rendered]) -> None:
    brightness = np.array([frame.sample.image.mean() for frame in frames])
    for group, names in (("weather", WEATHER), ("scene", SCENE), ("timeofday", TIME_OF_DAY)):
        labels = np.array([frame.sample.classes[group] for frame in frames])
        shown = labels >= 0
        for number, name in enumerate(names.names):
            accuracy = best_threshold_accuracy(brightness[shown], labels[shown] == number)
            assert accuracy < (0.9 if group == "timeofday" else 0.85), name


def test_train_and_test_share_no_texture_body_or_colour() -> None:
    def pictures(split: str) -> dict[str, set[bytes]]:
        return {
            "facade": {facade(split, i).levels[1][0].tobytes() for i in range(FACADES[split])},
            "crown": {crown("broadleaf", split, i).levels[0].tobytes() for i in range(CROWNS[split])},
            "ground": {ground_tile("asphalt", split, i).tobytes() for i in range(3)},
            "sign": {sign_face(split, i)[0].tobytes() for i in range(16)},
            "signal": {signal_face(split, i, 0)[0].tobytes() for i in range(3)},
            "body": {
                m.mesh.points.tobytes() for k in ("car", "truck", "bus") for m in vehicle_models(k, split)
            },
            "paint": {vehicle_look("car", split, i).colors.tobytes() for i in range(50)},
            "clothes": {person(split, i).colors.tobytes() for i in range(50)},
        }

    train, test = pictures("train"), pictures("test")
    for kind, seen in train.items():
        assert seen and test[kind] and not seen & test[kind], kind


@pytest.mark.parametrize("size", [(1280, 720), (320, 192), (480, 360), (65, 49)])
def test_other_sizes_show_the_same_scene(size: tuple[int, int]) -> None:
    sample = render_frame(3, *size)
    assert sample.image.shape == (size[1], size[0], 3)
    reference = render_frame(3, 640, 384)
    assert sample.classes == reference.classes
    shares = [np.bincount(s.mask.ravel(), minlength=256) / s.mask.size for s in (sample, reference)]
    # Another aspect shows more or less of the sides, so the shares agree only roughly.
    assert np.abs(shares[0] - shares[1]).max() < 0.15


def street_drive() -> Drive:
    for seed in range(100):
        drive = Drive(seed, 320, 192, fps=10.0)
        conditions = drive.conditions
        if (conditions.scene, conditions.time_of_day) == ("city street", "daytime"):
            return drive
    raise AssertionError("no city street by day among a hundred drives")


def test_a_drive_frame_does_not_depend_on_the_frames_before() -> None:
    drive = street_drive()
    first = digest(drive.frame(40))
    for index in (0, 41, 7):
        drive.frame(index)
    assert digest(drive.frame(40)) == first
    assert digest(Drive(drive.seed, 320, 192, fps=10.0).frame(40)) == first


def test_the_ego_vehicle_moves_forward_all_the_time() -> None:
    for seed in range(20):
        world = Drive(seed, 320, 192).world
        way = np.array([world.ego_s(t) for t in np.arange(0, 20, 0.1)])
        assert (np.diff(way) > 0).all()
        assert way[-1] - way[0] > 30


def test_traffic_moves_smoothly_and_not_with_the_ego_vehicle() -> None:
    world = street_drive().world
    times = np.arange(0, 3, 0.1)
    tracks: dict[tuple[float, ...], list[tuple[float, float]]] = {}
    for t in times:
        for mover in world.moving(t, world.ego_s(t) + 2, world.ego_s(t) + 100):
            if hasattr(mover, "look"):
                tracks.setdefault((mover.kind, mover.look, round(mover.d, 6)), []).append((t, mover.s))
    long = [np.array(track) for track in tracks.values() if len(track) > 10]
    assert long
    for track in long:
        speed = np.diff(track[:, 1]) / np.diff(track[:, 0])
        assert np.ptp(speed) < 1e-6
        assert abs(speed[0]) > 1


def test_consecutive_frames_show_the_same_world_from_a_little_farther_on() -> None:
    drive = street_drive()
    masks = [drive.frame(i).mask for i in (20, 21, 60)]
    near, far = ((masks[0] == m).mean() for m in masks[1:])
    assert near > 0.8
    assert far < near
    assert digest(drive.frame(20)) != digest(drive.frame(21))


def test_the_world_is_built_of_the_same_things_from_wherever_one_looks() -> None:
    drive = street_drive()
    ahead = drive.world.chunk(6)
    for index in range(80):
        drive.world.chunk(index)
    assert drive.world.chunk(6) == ahead == Drive(drive.seed).world.chunk(6)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        render_frame(-1)
    with pytest.raises(ValueError, match="'val'; it is 'train' or 'test'"):
        render_frame(0, split="val")
    with pytest.raises(ValueError, match="at least 64 x 48"):
        render_frame(0, 32, 32)
    with pytest.raises(ValueError, match="fps is 0"):
        Drive(0, fps=0)
    with pytest.raises(ValueError, match="frame index is -3"):
        Drive(0, 320, 192).frame(-3)


def test_a_sample_refuses_labels_that_do_not_fit() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    box = np.array([[1, 2, 9, 8]], np.float32)
    label = np.array([2], np.int64)
    Sample(image, box, label, box_classes=(2,), mask=image[..., 0].copy(), classes={"scene": -1}, name="ok")
    with pytest.raises(ValueError, match=r"sample 'a': image has shape \(20, 30\)"):
        Sample(image[..., 0], name="a")
    with pytest.raises(TypeError, match="image is float64, expected a uint8"):
        Sample(image.astype(float))
    with pytest.raises(ValueError, match="boxes and box_labels come together"):
        Sample(image, boxes=box)
    with pytest.raises(ValueError, match="box_classes names"):
        Sample(image, box, label)
    with pytest.raises(ValueError, match=r"boxes\[0\] = \[9.0, 2.0, 1.0, 8.0\] is not xyxy"):
        Sample(image, box[:, [2, 1, 0, 3]], label, box_classes=(2,))
    with pytest.raises(ValueError, match="not xyxy"):
        Sample(image, box * np.nan, label, box_classes=(2,))
    with pytest.raises(ValueError, match="box_labels holds 2"):
        Sample(image, box, label, box_classes=(0, 1))
    with pytest.raises(TypeError, match="box_labels is int32"):
        Sample(image, box, label.astype(np.int32), box_classes=(2,))
    with pytest.raises(ValueError, match=r"mask has shape \(5, 5\)"):
        Sample(image, mask=np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match="classes\\['scene'\\] is -2"):
        Sample(image, classes={"scene": -2})
