from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pvt_mtl_perception.data.collate import Collator
from pvt_mtl_perception.data.mixture import Mixture, build_loader
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import training_transform


def test_train_and_test_seeds_never_meet_and_test_frames_are_fixed() -> None:
    train = [SyntheticDataset("train", base) for base in (0, 1, 2147, 123456)]
    test = SyntheticDataset("test", size=1000)
    ends = [0, 999, len(train[0]) - 1]
    assert max(dataset.seed(i) for dataset in train for i in ends) < min(test.seed(i) for i in ends[:2])
    assert SyntheticDataset("test", 5, 10).seed(3) == test.seed(3)
    assert train[0].seed(0) != train[1].seed(0)


def test_frame_is_the_same_each_time_and_fits_the_label_sets() -> None:
    dataset = SyntheticDataset("train", 3, frame_size=(320, 192))
    first, again, other = dataset[7], dataset[7], dataset[8]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.image.shape == (192, 320, 3) and not np.array_equal(first.image, other.image)


def test_frames_of_a_cache_are_those_that_were_rendered(tmp_path: Path) -> None:
    rendered = SyntheticDataset("train", 3, 10, (320, 192))[7]
    for _ in range(2):
        kept = SyntheticDataset("train", 3, 10, (320, 192), cache=tmp_path)[7]
        for key in ("image", "mask", "boxes", "box_labels", "ignore_boxes"):
            np.testing.assert_array_equal(getattr(kept, key), getattr(rendered, key))
        assert (kept.name, kept.classes, kept.box_classes) == (
            rendered.name,
            rendered.classes,
            rendered.box_classes,
        )
    (file,) = tmp_path.glob("*/*")
    SyntheticDataset("train", 3, 10, (320, 160), cache=tmp_path)[7]
    assert len(list(tmp_path.glob("*/*"))) == 2, "another size is another frame"
    written = file.stat().st_mtime_ns
    assert SyntheticDataset("train", 3, 10, (320, 192), cache=tmp_path)[7].name == rendered.name
    assert file.stat().st_mtime_ns == written


def test_every_frame_contains_a_wanted_class_and_is_the_first_that_does() -> None:
    wanted = SyntheticDataset("train", 3, 4, (160, 96), keep=True, containing=["motorcycle", "train"])
    every = SyntheticDataset("train", 3, frame_size=(160, 96))
    assert wanted.labels.detection is not None
    ids = [wanted.labels.detection.index(name) for name in wanted.containing]
    starts = {wanted.seed(index) for index in range(4)}
    assert len(starts) == 4
    passed = 0
    for index in range(4):
        frame = wanted[index]
        assert wanted[index] is frame
        assert np.isin(frame.box_labels, ids).any()
        offset = wanted.seed(index) - every.seed(0)
        while not np.isin((other := every[offset]).box_labels, ids).any():
            offset, passed = offset + 1, passed + 1
        np.testing.assert_array_equal(other.image, frame.image)
    assert passed, "some scenes on the way show none"


def test_a_class_that_frames_cannot_contain_is_named() -> None:
    with pytest.raises(ValueError, match=r"containing: .*no class 'motorcycl'; did you mean 'motorcycle'"):
        SyntheticDataset(containing=["motorcycl"])
    with pytest.raises(ValueError, match=r"size is 1\.\.524288 frames"):
        SyntheticDataset(size=1 << 20, containing=["car"])


def test_endless_frames_make_batches() -> None:
    dataset = SyntheticDataset("train", frame_size=(320, 192))
    mixture = Mixture((len(dataset),), (1,), batch_size=3, seed=0)
    collator = Collator(10, {"weather": 6, "scene": 6, "timeofday": 3})
    loader = build_loader([dataset], training_transform((96, 160)), mixture, collator, stop_step=2, workers=0)
    batches = list(loader)
    assert len({name for batch in batches for name in batch.names}) == 6
    for batch in batches:
        assert batch.detection_labelled.all() and (batch.masks != 255).float().mean() > 0.5
        assert all((ids >= 0).all() for ids in batch.classes.values())


def test_size_out_of_range_and_frame_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"size is 1\.\."):
        SyntheticDataset(size=0)
    with pytest.raises(IndexError, match="frame 4 of a data set of 4"):
        SyntheticDataset(size=4)[4]
