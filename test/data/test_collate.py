from __future__ import annotations

import numpy as np
import pytest
import torch

from pvt_mtl_perception.data.collate import Collator
from pvt_mtl_perception.data.sample import Sample

COLLATOR = Collator(detection_classes=3, groups={"weather": 4, "scene": 2})


def image(value: int = 0, height: int = 8, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def labelled() -> Sample:
    return Sample(
        image=image(7),
        boxes=np.array([[0, 0, 2, 3], [1, 1, 4, 5]], np.float32),
        box_labels=np.array([2, 0]),
        box_classes=(0, 2),
        ignore_boxes=np.array([[3, 3, 5, 6]], np.float32),
        mask=np.full((8, 6), 4, np.uint8),
        classes={"weather": 3, "other": 9},
        name="labelled",
    )


def test_batch_says_what_each_image_labels() -> None:
    batch = COLLATOR([Sample(image=image(1), name="bare"), labelled()])
    assert batch.images.shape == (2, 3, 8, 6) and batch.images.dtype == torch.uint8
    assert batch.images[0].unique().tolist() == [1] and batch.images[1].unique().tolist() == [7]
    assert [len(boxes) for boxes in batch.boxes] == [0, 2]
    assert batch.boxes[1].tolist() == [[0, 0, 2, 3], [1, 1, 4, 5]] and batch.boxes[0].shape == (0, 4)
    assert [labels.tolist() for labels in batch.box_labels] == [[], [2, 0]]
    assert [boxes.tolist() for boxes in batch.ignore_boxes] == [[], [[3, 3, 5, 6]]]
    assert batch.detection_labelled.tolist() == [[False, False, False], [True, False, True]]
    assert batch.masks[0].unique().tolist() == [255] and batch.masks[1].unique().tolist() == [4]
    assert {group: ids.tolist() for group, ids in batch.classes.items()} == {
        "weather": [-1, 3],
        "scene": [-1, -1],
    }
    assert batch.names == ("bare", "labelled") and len(batch) == 2


def test_channels_keep_their_order() -> None:
    picture = image()
    picture[2, 3] = (10, 20, 30)
    assert COLLATOR([Sample(image=picture)]).images[0, :, 2, 3].tolist() == [10, 20, 30]


def test_boxes_without_objects_are_labelled_and_not_missing() -> None:
    empty = Sample(
        image=image(), boxes=np.zeros((0, 4), np.float32), box_labels=np.zeros(0, np.int64), box_classes=(1,)
    )
    batch = COLLATOR([empty])
    assert batch.detection_labelled.tolist() == [[False, True, False]] and len(batch.boxes[0]) == 0


def test_to_moves_every_tensor() -> None:
    moved = COLLATOR([labelled()]).to("meta")
    tensors = [moved.images, moved.all_boxes, moved.all_box_labels, moved.all_ignore_boxes, moved.masks]
    tensors += [moved.detection_labelled, *moved.classes.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.names == ("labelled",) and moved.box_counts == (2,)


def test_a_model_without_detection_gets_no_boxes() -> None:
    batch = Collator(detection_classes=0)([labelled()])
    assert (
        batch.all_boxes.shape == (0, 4) and batch.detection_labelled.shape == (1, 0) and batch.classes == {}
    )


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(image=image(height=9), name="tall"), r"tall: image is \(9, 6, 3\), labelled"),
        (Sample(image=image(), classes={"scene": 2}, name="odd"), "odd: class 2 of group 'scene'"),
        (
            Sample(
                image=image(),
                boxes=np.array([[0, 0, 1, 1]], np.float32),
                box_labels=np.array([3]),
                box_classes=(3,),
                name="alien",
            ),
            "alien: detection class 3",
        ),
    ],
)
def test_errors_name_the_sample(sample: Sample, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        COLLATOR([labelled(), sample])
