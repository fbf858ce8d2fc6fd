"""Cityscapes' fine annotations: label ids as the 19 train ids, boxes from instance ids."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pvt_mtl_perception.data.box_table import ImageBoxes
from pvt_mtl_perception.data.reading import (
    SampleError,
    list_images,
    map_mask,
    pack_names,
    read_ids,
    read_image,
    require_split,
    unpack_name,
)
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import IGNORE_INDEX, TaskLabels, load_label_set

SPLITS = ("train", "val")

# Label ids of the 19 evaluated classes, in the order of their train ids.
_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LAST_LABEL = 33
# Label ids of the things that have instances, by their name among the detection classes. Caravans and
# trailers have instances too and are not evaluated: their boxes are ignore boxes.
_THINGS = {
    24: "pedestrian", 25: "rider", 26: "car", 27: "truck", 28: "bus", 29: None, 30: None, 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_INSTANCES = 1000


class CityscapesDataset:
    """``leftImg8bit/<split>/<city>`` with ``gtFine/<split>/<city>``.

    Masks are in train ids. Boxes are the extents of the instances; a region that is a group of things
    (instance id below 1000) is an ignore box.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``train`` or ``val``.

    Raises:
        FileNotFoundError: when a folder does not exist.
        SampleError: when a folder is empty, or an image has no annotation.
        ValueError: for another split.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        require_split(split, SPLITS, "cityscapes")
        self.images = Path(root) / "leftImg8bit" / split
        self.annotations = Path(root) / "gtFine" / split
        images = [name for name in list_images(self.images, recursive=True) if name.endswith(_IMAGE)]
        annotations = set(list_images(self.annotations, recursive=True))
        stems = [name.removesuffix(_IMAGE) for name in images]
        for stem in stems:
            for suffix in (_LABELS, _IDS):
                if stem + suffix not in annotations:
                    raise SampleError("the file is missing", self.annotations / (stem + suffix))
        if not stems:
            raise SampleError(f"the folder holds no image with a name that ends in {_IMAGE}", self.images)
        self._stems = pack_names(stems)
        self._table = np.full(256, IGNORE_INDEX, np.uint8)
        self._table[list(_EVALUATED)] = np.arange(len(_EVALUATED))
        # License plates have the id -1, which is never drawn but by some tools as 255.
        self._known = (np.arange(256) <= _LAST_LABEL) | (np.arange(256) == IGNORE_INDEX)
        detection = load_label_set("driving_detection")
        self._class_of_thing = np.full(_LAST_LABEL + 1, -1, np.int64)
        for label, name in _THINGS.items():
            self._class_of_thing[label] = -1 if name is None else detection.index(name)
        self.box_classes = tuple(sorted(int(c) for c in self._class_of_thing if c >= 0))
        self.labels = TaskLabels({}, detection, load_label_set("driving_segmentation"))
        # Finding instances costs as much as decoding a frame, and their boxes are small.
        self._found: dict[int, ImageBoxes] = {}

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, index: int) -> Sample:
        """One image.

        Raises:
            SampleError: when a file is missing or damaged, the files differ in size, or an id does not exist.
        """
        stem = unpack_name(self._stems[index])
        path = self.images / (stem + _IMAGE)
        image = read_image(path)
        size = image.shape[:2]
        labels_path, ids_path = self.annotations / (stem + _LABELS), self.annotations / (stem + _IDS)
        mask = map_mask(read_ids(labels_path, size), self._table, self._known, labels_path)
        if index not in self._found:
            self._found[index] = self._boxes(read_ids(ids_path, size, np.uint16), ids_path)
        boxes = self._found[index]
        return Sample(
            image=image,
            boxes=boxes.boxes,
            box_labels=boxes.labels,
            ignore_boxes=boxes.ignore_boxes,
            box_classes=self.box_classes,
            mask=mask,
            name=str(path),
        )

    def _boxes(self, ids: npt.NDArray[np.uint16], path: Path) -> ImageBoxes:
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=1))
        instances = present[present >= _INSTANCES]
        things = instances // _INSTANCES
        strange = np.flatnonzero(~np.isin(things, list(_THINGS)))
        if len(strange):
            raise SampleError(f"holds instance id {instances[strange[0]]}, of no class with instances", path)
        number = np.zeros(int(present.max()) + 1, np.int32)
        number[instances] = np.arange(1, len(instances) + 1)
        # Every number occurs, so no slice is None.
        slices = ndimage.find_objects(number[ids])
        extents = [(x.start, y.start, x.stop, y.stop) for y, x in slices]
        boxes = np.array(extents, np.float32).reshape(-1, 4)
        labels = self._class_of_thing[things]
        groups = [
            _components(ids == thing) for thing in present[present < _INSTANCES].tolist() if thing in _THINGS
        ]
        ignored = np.concatenate([boxes[labels < 0], *groups])
        return ImageBoxes(boxes[labels >= 0], labels[labels >= 0], ignored)


_IMAGE = "_leftImg8bit.png"
_LABELS = "_gtFine_labelIds.png"
_IDS = "_gtFine_instanceIds.png"


def _components(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """float32 (N, 4) ``xyxy``, the extents of the 8-connected components."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(region.view(np.uint8), connectivity=8)
    boxes = stats[1:, :4].astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
