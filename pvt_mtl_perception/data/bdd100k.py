"""BDD100K: boxes and image attributes from JSON, semantic masks, joined by image name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.box_table import BoxTable
from pvt_mtl_perception.data.reading import (
    SampleError,
    by_stem,
    identity_table,
    list_images,
    map_mask,
    pack_names,
    read_ids,
    read_image,
    read_json,
    require_split,
    unpack_name,
)
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import LabelSet, TaskLabels, load_label_set

SPLITS = ("train", "val")
GROUPS = ("weather", "scene", "timeofday")

# Relative to the root; the second and third place are those of the first release.
_IMAGES = ("images/100k", "images/10k", "seg/images")
_MASKS = ("labels/sem_seg/masks", "seg/labels")
_JSON = ("labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json")
# The first release's names, and the classes that the detection benchmark counts neither way.
_RENAMED = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle", "caravan": "car", "van": "car"}
_IGNORED = frozenset({"other person", "other vehicle", "trailer"})


class Bdd100kDataset:
    """BDD100K images with whichever of boxes, attributes and mask they have.

    The images are those of ``images/100k/<split>`` and ``images/10k/<split>``, one sample a name. Boxes and
    attributes come from ``labels/det_20/det_<split>.json`` or the first release's
    ``labels/bdd100k_labels_images_<split>.json``, masks of train ids from ``labels/sem_seg/masks/<split>``
    (or ``seg/`` of the first release). What is missing, folders included, is unlabelled.

    The two image sets overlap, and not along their splits: an image of a training folder that is in any
    validation or test folder too is left out of ``train``.

    Args:
        root: the folder that holds ``images`` and ``labels``.
        split: ``train`` or ``val``.

    Raises:
        FileNotFoundError: when there is no image folder of the split.
        SampleError: when a folder is empty, nothing is labelled, or a record is not as its format says.
        ValueError: for another split.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        require_split(split, SPLITS, "bdd100k")
        self.root = Path(root)
        paths = self._image_paths(split)
        others = self._image_paths("val") | self._image_paths("test") if split == "train" else {}
        self.notes: tuple[str, ...] = ()
        if not paths:
            raise FileNotFoundError(f"no folder {self.root / _IMAGES[0] / split}")
        shared = paths.keys() & others.keys()
        if shared:
            self.notes += (f"{len(shared)} images left out: they are in a validation or test folder too",)
        stems = sorted(paths.keys() - shared)
        self._paths = pack_names(paths[stem] for stem in stems)
        position = {stem: i for i, stem in enumerate(stems)}
        self._table, self._known = identity_table(len(load_label_set("driving_segmentation")))
        self._detection = load_label_set("driving_detection")
        self._groups = {group: load_label_set(f"driving_{group}") for group in GROUPS}
        self._masks = self._mask_paths(split, position)
        self._has_boxes = np.zeros(len(stems), np.bool_)
        self._classes = np.full((len(stems), len(GROUPS)), -1, np.int8)
        self._boxes: BoxTable | None = None
        annotations = next(
            (path for name in _JSON if (path := self.root / name.format(split)).is_file()), None
        )
        if annotations is not None:
            self._boxes = self._read_json(annotations, position)
        elif self._masks is None:
            raise SampleError(
                f"no labels: none of {_JSON[0].format(split)}, {_JSON[1].format(split)} "
                f"and {_MASKS[0]}/{split}",
                self.root,
            )
        self.labels = TaskLabels(
            classification=self._groups if annotations else {},
            detection=self._detection if annotations else None,
            segmentation=load_label_set("driving_segmentation") if self._masks is not None else None,
        )

    def _image_paths(self, split: str) -> dict[str, str]:
        """By stem the paths relative to the root."""
        paths: dict[str, str] = {}
        for name in _IMAGES:
            folder = self.root / name / split
            if folder.is_dir():
                stems = by_stem(list_images(folder), folder)
                # One image in both sets is the same picture; the first set's file serves.
                paths = {stem: f"{name}/{split}/{file}" for stem, file in stems.items()} | paths
        return paths

    def _mask_paths(self, split: str, position: Mapping[str, int]) -> npt.NDArray[np.bytes_] | None:
        for name in _MASKS:
            folder = self.root / name / split
            if not folder.is_dir():
                continue
            masks = [""] * len(position)
            for stem, file in by_stem(list_images(folder), folder).items():
                image = stem.removesuffix("_train_id")
                if image in position:
                    masks[position[image]] = f"{name}/{split}/{file}"
            if found := sum(map(bool, masks)):
                self.notes += (f"{found} images with a mask",)
                return pack_names(masks)
            raise SampleError("no mask belongs to an image of the split", folder)
        return None

    def _read_json(self, path: Path, position: Mapping[str, int]) -> BoxTable:
        frames = read_json(path)
        if isinstance(frames, dict):
            frames = frames.get("frames")
        if not isinstance(frames, list):
            raise SampleError("expected a list of frames", path)
        seen: set[str] = set()
        owners: list[int] = []
        boxes: list[tuple[float, float, float, float]] = []
        labels: list[int] = []
        for number, frame in enumerate(frames):
            name = frame.get("name") if isinstance(frame, dict) else None
            if not isinstance(name, str):
                raise SampleError("has no key 'name'", path, f"frame {number}")
            if name in seen:
                raise SampleError("the name is there twice", path, name)
            seen.add(name)
            image = position.get(Path(name).stem)
            if image is None:
                continue
            attributes = _mapping(path, name, frame, "attributes")
            for column, group in enumerate(GROUPS):
                value = attributes.get(group, "undefined")
                if value != "undefined":
                    self._classes[image, column] = _class_id(path, name, self._groups[group], value)
            if frame.get("labels") is None:
                continue
            if not isinstance(frame["labels"], list):
                raise SampleError(f"labels is {frame['labels']!r}, not a list", path, name)
            self._has_boxes[image] = True
            for label in frame["labels"]:
                if not isinstance(label, dict):
                    raise SampleError(f"a label is {label!r}, not a mapping", path, name)
                if label.get("box2d") is not None:
                    owners.append(image)
                    boxes.append(_corners(path, name, label))
                    labels.append(self._box_class(path, name, label))
        joined = int(self._has_boxes.sum())
        if not joined:
            raise SampleError(f"none of its {len(frames)} frames is labelled and among the images", path)
        self.notes += (f"{joined} images with boxes, of {len(frames)} frames in {path.name}",)
        return BoxTable.build(
            np.array(owners, np.int64),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            len(position),
        )

    def _box_class(self, path: Path, name: str, label: Mapping[str, Any]) -> int:
        category = label.get("category")
        attributes = _mapping(path, name, label, "attributes")
        if attributes.get("crowd") or attributes.get("ignore") or str(category) in _IGNORED:
            return -1
        return _class_id(path, name, self._detection, _RENAMED.get(str(category), category))

    def labelled(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """By task, bool (images,): which images have a label of it."""
        masks = np.zeros(len(self), np.bool_) if self._masks is None else self._masks != b""
        return {
            "classification": np.asarray((self._classes >= 0).any(1), np.bool_),
            "detection": self._has_boxes,
            "segmentation": masks,
        }

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """One image.

        Raises:
            SampleError: when a file is missing or damaged, image and mask differ in size, or the mask holds
                an id that is neither a train id nor 255.
        """
        path = self.root / unpack_name(self._paths[index])
        image = read_image(path)
        mask = None
        if self._masks is not None and self._masks[index]:
            mask_path = self.root / unpack_name(self._masks[index])
            mask = map_mask(read_ids(mask_path, image.shape[:2]), self._table, self._known, mask_path)
        boxes = None
        if self._boxes is not None and self._has_boxes[index]:
            boxes = self._boxes.of(index, image.shape[:2])
        return Sample(
            image=image,
            boxes=boxes.boxes if boxes else None,
            box_labels=boxes.labels if boxes else None,
            box_classes=tuple(range(len(self._detection))) if boxes else None,
            mask=mask,
            classes={g: c for g, c in zip(GROUPS, self._classes[index].tolist(), strict=True) if c >= 0},
            name=str(path),
            **({"ignore_boxes": boxes.ignore_boxes} if boxes else {}),
        )


def _mapping(path: Path, record: str, entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What stands there, empty where nothing does."""
    value = entry.get(key) or {}
    if not isinstance(value, dict):
        raise SampleError(f"{key} is {value!r}, not a mapping", path, record)
    return value


def _class_id(path: Path, record: str, labels: LabelSet, name: Any) -> int:
    try:
        return labels.index(str(name))
    except KeyError as error:
        raise SampleError(str(error.args[0]), path, record) from None


def _corners(path: Path, name: str, label: Mapping[str, Any]) -> tuple[float, float, float, float]:
    record = f"{name}, label {label.get('id')}"
    try:
        x1, y1, x2, y2 = (float(label["box2d"][key]) for key in ("x1", "y1", "x2", "y2"))
    except (KeyError, TypeError, ValueError):
        raise SampleError(f"box2d {label['box2d']} has not x1, y1, x2 and y2", path, record) from None
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 < x1 or y2 < y1:
        raise SampleError(f"box2d {label['box2d']} is not x1 <= x2, y1 <= y2", path, record)
    # BDD100K's own conversion to COCO counts x2 and y2 as the last pixel of the box.
    return x1, y1, x2 + 1, y2 + 1
