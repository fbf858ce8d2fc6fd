"""A user's own data without code: images, and any of COCO JSON, mask folder and CSV of classes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.coco import CocoInstances, check_size, read_coco_instances
from pvt_mtl_perception.data.reading import (
    SampleError,
    by_stem,
    identity_table,
    list_images,
    map_mask,
    pack_names,
    read_ids,
    read_image,
    unpack_name,
)
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import IGNORE_INDEX, LabelSet, TaskLabels


class GenericDataset:
    """A folder of images and whichever labels there are of them, joined by the images' names.

    A name is an image's path relative to ``images``, with its suffix in the JSON and CSV files and without
    it among the masks. An image that a JSON or CSV file does not list, or that has no mask, is unlabelled
    there.

    Args:
        root: what the other paths are relative to.
        images: folder of images, searched with its subfolders.
        annotations: COCO instances JSON; needs ``detection``, whose names its categories have.
        masks: folder of masks of class ids, one channel or a palette; 255 and the label set's
            ``ignore_index`` are unlabelled. Needs ``segmentation``.
        table: CSV file with the column ``image`` and one a group; a cell holds a class name, an empty one
            is unlabelled. Needs ``classification``.
        detection, segmentation, classification: label sets, the last by group.

    Raises:
        FileNotFoundError: when a file or folder does not exist.
        SampleError: when a folder is empty, a record names no image or no class, or is there twice.
        ValueError: when there are no labels at all, or labels without a label set.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        annotations: str | None = None,
        masks: str | None = None,
        table: str | None = None,
        detection: LabelSet | None = None,
        segmentation: LabelSet | None = None,
        classification: Mapping[str, LabelSet] | None = None,
    ) -> None:
        self.images = Path(root) / images
        names = list_images(self.images, recursive=True)
        self._names = pack_names(names)
        position = {name: i for i, name in enumerate(names)}
        groups = dict(classification or {})
        for key, given, labels in (
            ("annotations", annotations, detection),
            ("masks", masks, segmentation),
            ("table", table, groups),
        ):
            if given is not None and not labels:
                raise ValueError(f"data source 'generic': {key!r} needs the label set of its classes")
        if annotations is None and masks is None and table is None:
            raise ValueError("data source 'generic' needs at least one of 'annotations', 'masks' and 'table'")
        self._instances: CocoInstances | None = None
        if annotations is not None and detection is not None:
            self._annotations = Path(root) / annotations
            self._instances = read_coco_instances(self._annotations, detection)
            self._row = self._rows(self._instances, position)
        self._masks = None
        if masks is not None and segmentation is not None:
            self._mask_folder = Path(root) / masks
            self._masks = self._mask_names(names)
            self._table, self._known = identity_table(len(segmentation))
            self._table[segmentation.ignore_index] = IGNORE_INDEX
            self._known[segmentation.ignore_index] = True
        self._groups = tuple(groups)
        self._classes: npt.NDArray[np.int32] | None = None
        if table is not None:
            try:
                self._classes = self._read_table(Path(root) / table, groups, position)
            except (UnicodeDecodeError, csv.Error) as error:
                raise SampleError(f"is no CSV in UTF-8: {error}", Path(root) / table) from None
        self.labels = TaskLabels(
            classification=groups if table is not None else {},
            detection=detection if annotations is not None else None,
            segmentation=segmentation if masks is not None else None,
        )

    def _rows(self, instances: CocoInstances, position: Mapping[str, int]) -> npt.NDArray[np.int64]:
        """For each image its row in the JSON file, -1 where it has none."""
        rows = np.full(len(position), -1, np.int64)
        for row, packed in enumerate(instances.file_names):
            name = unpack_name(packed)
            if name not in position:
                raise SampleError(f"no such image in {self.images}", self._annotations, f"image {name}")
            rows[position[name]] = row
        return rows

    def _mask_names(self, names: list[str]) -> npt.NDArray[np.bytes_]:
        masks = by_stem(list_images(self._mask_folder, recursive=True), self._mask_folder)
        found = [masks.get(stem, "") for stem in by_stem(names, self.images)]
        if not any(found):
            first = next(iter(masks.values()))
            raise SampleError(
                f"no mask has the name of an image; the first mask is {first}, the first image {names[0]}",
                self._mask_folder,
            )
        return pack_names(found)

    def _read_table(
        self, path: Path, groups: Mapping[str, LabelSet], position: Mapping[str, int]
    ) -> npt.NDArray[np.int32]:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        classes = np.full((len(position), len(groups)), -1, np.int32)
        seen: set[str] = set()
        # The mark that spreadsheets put first would become part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            expected = ["image", *groups]
            missing = [name for name in expected if name not in (reader.fieldnames or ())]
            if missing:
                raise SampleError(
                    f"has no column {missing[0]!r}; expected {', '.join(expected)}", path, "line 1"
                )
            for row in reader:
                record = f"line {reader.line_num}"
                name = row["image"]
                if name not in position:
                    raise SampleError(f"no image {name!r} in {self.images}", path, record)
                if name in seen:
                    raise SampleError(f"image {name!r} is there twice", path, record)
                seen.add(name)
                for column, (group, labels) in enumerate(groups.items()):
                    if row[group]:
                        try:
                            classes[position[name], column] = labels.index(row[group])
                        except KeyError as error:
                            raise SampleError(str(error.args[0]), path, record) from None
        return classes

    def labelled(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """By task, bool (images,): which images have a label of it."""
        nothing = np.zeros(len(self), np.bool_)
        classes = nothing if self._classes is None else (self._classes >= 0).any(1)
        return {
            "classification": np.asarray(classes, np.bool_),
            "detection": nothing if self._instances is None else self._row >= 0,
            "segmentation": nothing if self._masks is None else self._masks != b"",
        }

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """One image.

        Raises:
            SampleError: when a file is missing or damaged, sizes differ, or the mask holds an id that is no
                class.
        """
        path = self.images / unpack_name(self._names[index])
        image = read_image(path)
        boxes, box_classes = None, None
        if self._instances is not None and self._row[index] >= 0:
            row = int(self._row[index])
            check_size(path, image, self._instances.sizes[row], self._annotations)
            boxes, box_classes = self._instances.boxes.of(row, image.shape[:2]), self._instances.box_classes
        mask = None
        if self._masks is not None and self._masks[index]:
            mask_path = self._mask_folder / unpack_name(self._masks[index])
            mask = map_mask(read_ids(mask_path, image.shape[:2]), self._table, self._known, mask_path)
        classes = None
        if self._classes is not None:
            classes = dict(zip(self._groups, self._classes[index].tolist(), strict=True))
        return Sample(
            image=image,
            boxes=boxes.boxes if boxes else None,
            box_labels=boxes.labels if boxes else None,
            box_classes=box_classes,
            mask=mask,
            classes=classes,
            name=str(path),
            **({"ignore_boxes": boxes.ignore_boxes} if boxes else {}),
        )
