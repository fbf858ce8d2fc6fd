from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pvt_mtl_perception.data.camvid import FOLDS, CamVidDataset, time_blocks
from pvt_mtl_perception.data.derived_boxes import derive_boxes, extent
from pvt_mtl_perception.data.reading import SampleError
from pvt_mtl_perception.data.sources import SourceConfig, open_source
from pvt_mtl_perception.labels import TaskLabels, load_label_set

SEGMENTATION = load_label_set("driving_segmentation")
DETECTION = load_label_set("driving_detection")
TIME_OF_DAY = load_label_set("driving_timeofday")
SKY, SIGN, CAR, PEDESTRIAN, UNLABELLED = 0, 6, 8, 9, 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = []
    for sequence, count in (("0001TP", 6), ("0006R0", 10)):
        for frame in range(count):
            name = f"{sequence}_f{frame * 30:05d}"
            label = np.full((60, 80), SKY, np.uint8)
            label[50:] = UNLABELLED
            label[10:20, 10:30] = CAR
            label[20:30, 30:36] = CAR  # touches the other by a corner: one component
            label[40:45, 50:52] = PEDESTRIAN  # too small
            label[40:48, 60:70] = SIGN
            image = np.full((60, 80, 3), (200, 100, 50), np.uint8)  # BGR
            cv2.imwrite(str(tmp_path / f"{name}.png"), image)
            cv2.imwrite(str(tmp_path / f"{name}_label.png"), label)
            lines.append(f"{name}.png {name}_label.png")
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_frame_is_mapped_into_the_driving_taxonomy(folder: Path) -> None:
    dataset = CamVidDataset(folder)
    sample = dataset[0]
    assert sample.image[0, 0].tolist() == [50, 100, 200]
    assert SEGMENTATION.names[sample.mask[0, 0]] == "sky" and sample.mask[55, 0] == 255
    assert SEGMENTATION.names[sample.mask[12, 12]] == "car"
    assert SEGMENTATION.names[sample.mask[42, 51]] == "person"
    found = {DETECTION.names[k]: box.tolist() for k, box in zip(sample.box_labels, sample.boxes, strict=True)}
    assert found == {"car": [10, 10, 36, 30], "traffic sign": [60, 40, 70, 48]}
    assert sample.ignore_boxes.tolist() == [[50, 40, 52, 45]]
    labelled = [DETECTION.names[k] for k in sample.box_classes]
    assert labelled == ["pedestrian", "rider", "car", "traffic sign"]
    assert [TIME_OF_DAY.names[dataset[i].classes["timeofday"]] for i in (0, 6)] == ["dawn/dusk", "daytime"]
    assert set(sample.classes) == {"timeofday"}


def test_the_extent_of_a_mask_is_that_of_its_pixels_however_narrow() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        mask = np.zeros(rng.integers(1, 12, 2), np.uint8)
        ys, xs = rng.integers(0, mask.shape[0], 2), rng.integers(0, mask.shape[1], 2)
        mask[ys, xs] = 255
        assert extent(mask) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert extent(np.zeros((4, 5), np.bool_)) == (0, 0, 0, 0)


def test_held_out_and_fit_share_nothing_and_every_sequence_gives_to_both(folder: Path) -> None:
    fit, held_out = (
        {image for image, _ in CamVidDataset(folder, split).pairs} for split in ("fit", "held_out")
    )
    assert not fit & held_out and len(fit | held_out) == 16
    assert {name[:6] for name in held_out} == {name[:6] for name in fit} == {"0001TP", "0006R0"}


def test_every_frame_is_held_out_in_one_fold(folder: Path) -> None:
    labels = TaskLabels({}, None, SEGMENTATION)
    parts = []
    for fold in range(FOLDS):
        found = {}
        for split in ("fit", "held_out"):
            data = open_source(SourceConfig("camvid", root=str(folder), split=split, fold=fold), labels)
            assert data is not None
            found[split] = {data[i].name for i in range(len(data))}
        assert not found["fit"] & found["held_out"] and len(found["fit"] | found["held_out"]) == 16
        parts.append(found["held_out"])
    assert sum(map(len, parts)) == len(set.union(*parts)) == 16
    default = open_source(SourceConfig("camvid", root=str(folder), split="held_out"), labels)
    assert default is not None and {default[i].name for i in range(len(default))} == parts[2]
    with pytest.raises(ValueError, match="folds 0 to 4, found 5"):
        open_source(SourceConfig("camvid", root=str(folder), split="fit", fold=5))


def test_time_blocks_are_contiguous_and_do_not_depend_on_order() -> None:
    names = [f"A_{i * 30:05d}.jpg" for i in range(200)] + [f"B_f{i:05d}" for i in range(7)]
    folds = time_blocks(names)
    # 200 frames in ten blocks of twenty: nine changes of fold.
    assert (np.diff(folds[:200]) != 0).sum() == 9
    np.testing.assert_array_equal(np.bincount(folds[:200]), [40] * 5)
    assert sorted(set(folds[200:])) == [0, 1, 2, 3, 4]
    order = np.random.default_rng(0).permutation(len(names))
    np.testing.assert_array_equal(time_blocks([names[i] for i in order]), folds[order])


def test_time_blocks_refuse_other_names_and_short_sequences() -> None:
    with pytest.raises(ValueError, match=r"'frame\.png' is not <sequence>_<frame number>"):
        time_blocks(["frame.png"])
    with pytest.raises(ValueError, match="sequence 'A' has 4 frames, too few for 5 folds"):
        time_blocks([f"A_{i}" for i in range(4)])


def test_components_agree_with_a_flood_fill() -> None:
    rng = np.random.default_rng(2)
    mask = (rng.random((60, 70)) < 0.42).astype(np.uint8) * 3
    table = np.full(256, 255, np.uint8)
    table[3] = 5
    derived = derive_boxes(mask, table, min_area=8, min_side=3)
    expected, small = [], []
    left = {(int(y), int(x)) for y, x in np.argwhere(mask == 3)}
    while left:
        stack, component = [left.pop()], []
        while stack:
            y, x = stack.pop()
            component.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        ys, xs = zip(*component, strict=True)
        box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        big = len(component) >= 8 and min(box[2] - box[0], box[3] - box[1]) >= 3
        (expected if big else small).append(box)
    assert len(expected) > 3 and len(small) > 3
    assert sorted(map(tuple, derived.boxes.tolist())) == sorted(expected)
    assert sorted(map(tuple, derived.ignore_boxes.tolist())) == sorted(small)
    assert set(derived.labels.tolist()) == {5}


def test_errors_name_the_file(folder: Path) -> None:
    dataset = CamVidDataset(folder)
    name = str(folder / dataset.pairs[0][1])
    cv2.imwrite(name, np.full((60, 80), 12, np.uint8))
    with pytest.raises(ValueError, match=r"0001TP_f00000_label\.png: holds class id 12; the ids go up to 11"):
        dataset[0]
    cv2.imwrite(name, np.zeros((59, 80), np.uint8))
    with pytest.raises(ValueError, match=r"0001TP_f00000_label\.png: is 80x59 pixels, its image 80x60"):
        dataset[0]
    Path(name).unlink()
    with pytest.raises(SampleError, match=r"0001TP_f00000_label\.png: the file is missing"):
        dataset[0]
    (folder / dataset.pairs[0][0]).write_bytes(b"no image")
    with pytest.raises(SampleError, match=r"0001TP_f00000\.png: damaged, or not an image"):
        dataset[0]
    (folder / "train.txt").write_text("one two three\n")
    with pytest.raises(ValueError, match=r"train\.txt: line 1: expected 'image label'"):
        CamVidDataset(folder)
    (folder / "train.txt").write_text("a.png b.png\na.png c.png\n")
    with pytest.raises(SampleError, match=r"train\.txt: a\.png: the frame is there twice"):
        CamVidDataset(folder)
    with pytest.raises(FileNotFoundError, match=r"val.txt does not exist"):
        CamVidDataset(folder, "val")


def test_real_train_set_has_the_known_numbers_of_derived_boxes(camvid_root: Path) -> None:
    dataset = CamVidDataset(camvid_root)
    counts = np.zeros(len(DETECTION), int)
    for index in range(len(dataset)):
        counts += np.bincount(dataset[index].box_labels, minlength=len(DETECTION))
    assert len(dataset) == 367
    assert {name: int(n) for name, n in zip(DETECTION.names, counts, strict=True) if n} == {
        "car": 1270,
        "pedestrian": 1025,
        "rider": 218,
        "traffic sign": 1808,
    }


def test_every_real_validation_frame_is_read(camvid_root: Path) -> None:
    dataset = CamVidDataset(camvid_root, split="val")
    samples = [dataset[index] for index in range(len(dataset))]
    assert len(samples) == 101
    for sample in samples:
        assert sample.image.shape == (360, 480, 3) and (sample.mask != 255).any()
        assert sample.classes == {"timeofday": TIME_OF_DAY.index("daytime")}
    assert sum(len(sample.boxes) for sample in samples) > 500


def test_real_held_out_blocks_show_every_class(camvid_root: Path) -> None:
    dataset = CamVidDataset(camvid_root, split="held_out")
    seen = set()
    for index in range(len(dataset)):
        seen |= set(np.unique(dataset[index].mask).tolist())
    assert len(dataset) == 73 and len(seen - {255}) == 11
