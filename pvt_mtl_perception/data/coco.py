"""COCO's instance annotations: boxes from JSON, crowds as ignore boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.box_table import BoxTable
from pvt_mtl_perception.data.reading import (
    Names,
    SampleError,
    pack_names,
    read_image,
    read_json,
    require_split,
    unpack_name,
)
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import LabelSet, TaskLabels, load_label_set

SPLITS = {"train": "train2017", "val": "val2017"}


@dataclass(frozen=True, eq=False)
class CocoInstances:
    """What a COCO instances file says, in arrays.

    Attributes:
        file_names: of the images, in the file's order.
        sizes: int32 (images, 2), height and width.
        boxes: by image, class ids of the label set, crowds as ignore boxes.
        box_classes: the class ids of the file's categories.
    """

    file_names: Names
    sizes: npt.NDArray[np.int32]
    boxes: BoxTable
    box_classes: tuple[int, ...]


def read_coco_instances(path: Path, labels: LabelSet) -> CocoInstances:
    """Reads an instances file; its categories are found in ``labels`` by their names.

    Boxes are ``[x, y, width, height]``. COCO itself has a few without area; they are kept here and left out
    of the samples, as are parts outside the image.

    Raises:
        FileNotFoundError: when there is no such file.
        SampleError: when it is not an instances file, names a category that ``labels`` does not have, gives
            an id twice, or an annotation's image, category or box does not exist; it names the record.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise SampleError("an instances file has the lists 'images', 'annotations' and 'categories'", path)
    for key in ("images", "annotations", "categories"):
        for number, entry in enumerate(data[key]):
            if not isinstance(entry, dict):
                raise SampleError(f"is {entry!r}, not a mapping", path, f"entry {number} of {key!r}")
    categories = _categories(path, data["categories"], labels)
    position: dict[Any, int] = {}
    names: set[str] = set()
    file_names: list[str] = []
    sizes: list[tuple[int, int]] = []
    for image in data["images"]:
        record = f"image {image.get('id')}"
        _require(path, record, image, {"id": _ID, "file_name": str, "height": _SIZE, "width": _SIZE})
        if not (0 < image["height"] < 2**31 and 0 < image["width"] < 2**31):
            raise SampleError(f"is {image['width']}x{image['height']} pixels", path, record)
        if image["id"] in position or image["file_name"] in names:
            raise SampleError(f"id or file name {image['file_name']!r} is there twice", path, record)
        position[image["id"]] = len(file_names)
        names.add(image["file_name"])
        file_names.append(image["file_name"])
        sizes.append((image["height"], image["width"]))
    if not file_names:
        raise SampleError("lists no image", path)
    annotations = data["annotations"]
    owners = _ids(path, annotations, "image_id", position, "images")
    classes = _ids(path, annotations, "category_id", categories, "categories")
    boxes = _boxes(path, annotations)
    identities = [str(annotation.get("id")) for annotation in annotations]
    if len(set(identities)) < len(identities):
        (identity, _), *_ = Counter(identities).most_common(1)
        raise SampleError("the id is there twice, or is absent", path, f"annotation {identity}")
    classes[np.array([bool(annotation.get("iscrowd")) for annotation in annotations], np.bool_)] = -1
    return CocoInstances(
        file_names=pack_names(file_names),
        sizes=np.array(sizes, np.int32),
        boxes=BoxTable.build(owners, boxes, classes, len(file_names)),
        box_classes=tuple(sorted(categories.values())),
    )


_ID = (int, float, str)
"""Types of an id: what JSON has that a dictionary takes as its key."""
_SIZE = (int, float)


def _require(path: Path, record: str, entry: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for key, kind in kinds.items():
        if key not in entry:
            raise SampleError(f"has no key {key!r}", path, record)
        if not isinstance(entry[key], kind):
            raise SampleError(f"{key} is {entry[key]!r}", path, record)


def _categories(path: Path, entries: Sequence[Mapping[str, Any]], labels: LabelSet) -> dict[Any, int]:
    categories: dict[Any, int] = {}
    for entry in entries:
        record = f"category {entry.get('id')}"
        _require(path, record, entry, {"id": _ID, "name": str})
        if entry["id"] in categories:
            raise SampleError("the id is there twice", path, record)
        try:
            categories[entry["id"]] = labels.index(entry["name"])
        except KeyError as error:
            raise SampleError(str(error.args[0]), path, record) from None
    return categories


def _ids(
    path: Path, annotations: Sequence[Mapping[str, Any]], key: str, known: Mapping[Any, int], among: str
) -> npt.NDArray[np.int64]:
    values = (annotation.get(key) for annotation in annotations)
    ids = np.array([known.get(value, -1) if isinstance(value, _ID) else -1 for value in values], np.int64)
    for wrong in np.flatnonzero(ids < 0)[:1]:
        annotation = annotations[wrong]
        raise SampleError(
            f"{key} {annotation.get(key)} is not among the {among}",
            path,
            f"annotation {annotation.get('id')}",
        )
    return ids


def _boxes(path: Path, annotations: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """float64 (N, 4), ``xyxy``."""

    def array(several: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64] | None:
        try:
            boxes = np.array([annotation.get("bbox") for annotation in several], np.float64)
        except (TypeError, ValueError):
            return None
        boxes = boxes.reshape(0, 4) if not len(several) else boxes
        right = boxes.ndim == 2 and boxes.shape[1] == 4 and bool(np.isfinite(boxes).all())
        return boxes if right and bool((boxes[:, 2:] >= 0).all()) else None

    boxes = array(annotations)
    if boxes is None:
        wrong = next(annotation for annotation in annotations if array([annotation]) is None)
        raise SampleError(
            f"bbox {wrong.get('bbox')!r} is not [x, y, width, height]", path, f"annotation {wrong.get('id')}"
        )
    boxes[:, 2:] += boxes[:, :2]
    return boxes


class CocoDataset:
    """COCO images with boxes; class ids are the 80 classes without the gaps of the category ids.

    An image without annotations has no boxes, which is a label too.

    Args:
        root: the folder that holds ``train2017``, ``val2017`` and ``annotations``.
        split: ``train`` or ``val``.
        images, annotations: other places than ``<split>2017`` and ``annotations/instances_<split>2017.json``,
            relative to ``root``.

    Raises:
        FileNotFoundError: when the images' folder or the JSON file does not exist.
        SampleError: from ``read_coco_instances``.
        ValueError: for another split.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        images: str | None = None,
        annotations: str | None = None,
    ) -> None:
        require_split(split, SPLITS, "coco")
        self.images = Path(root) / (images or SPLITS[split])
        if not self.images.is_dir():
            raise FileNotFoundError(f"no folder {self.images}")
        self.annotations = Path(root) / (annotations or f"annotations/instances_{SPLITS[split]}.json")
        label_set = load_label_set("coco")
        self.instances = read_coco_instances(self.annotations, label_set)
        self.labels = TaskLabels({}, label_set, None)

    def __len__(self) -> int:
        return len(self.instances.file_names)

    def __getitem__(self, index: int) -> Sample:
        """One image.

        Raises:
            SampleError: when the file is missing, damaged, or of another size than the JSON file says.
        """
        path = self.images / unpack_name(self.instances.file_names[index])
        image = read_image(path)
        check_size(path, image, self.instances.sizes[index], self.annotations)
        boxes = self.instances.boxes.of(index, image.shape[:2])
        return Sample(
            image=image,
            boxes=boxes.boxes,
            box_labels=boxes.labels,
            ignore_boxes=boxes.ignore_boxes,
            box_classes=self.instances.box_classes,
            name=str(path),
        )


def check_size(
    path: Path, image: npt.NDArray[np.uint8], size: npt.NDArray[np.int32], annotations: Path
) -> None:
    """Refuses an image of another size than its annotations are made for.

    Raises:
        SampleError: naming the image.
    """
    height, width = image.shape[:2]
    if (height, width) != tuple(size.tolist()):
        raise SampleError(f"is {width}x{height} pixels; {annotations} says {size[1]}x{size[0]}", path)
