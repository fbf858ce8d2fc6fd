"""Samples of one size → a batch that says which tasks each image labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import IGNORE_INDEX


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read.

    Attributes:
        dataset: which of the loader's data sets.
        sample: its index there.
        error: what is wrong, with file and record.
    """

    dataset: int
    sample: int
    error: str


@dataclass(frozen=True, eq=False)
class Batch:
    """B images of one size and whichever labels each of them has.

    Boxes of all images lie in one tensor, so that a batch crosses from a worker or to a device in few
    pieces; ``boxes``, ``box_labels`` and ``ignore_boxes`` give them by image.

    Attributes:
        images: uint8 (B, 3, H, W), RGB, not normalised.
        all_boxes: float32 (N, 4), ``xyxy`` in pixels, the images' boxes one after the other.
        all_box_labels: int64 (N,), detection class ids.
        all_ignore_boxes: float32 (M, 4), ``xyxy``.
        box_counts, ignore_counts: how many rows of the above belong to each image.
        detection_labelled: bool (B, number of detection classes), which classes' boxes an image labels.
        masks: uint8 (B, H, W), segmentation ids, 255 where unlabelled.
        classes: for each group int64 (B,), class ids, -1 where unlabelled.
        names: where the images come from.
        bad_samples: what could not be read and was replaced, where the loader is told to go on.
    """

    images: Tensor
    all_boxes: Tensor
    all_box_labels: Tensor
    all_ignore_boxes: Tensor
    box_counts: tuple[int, ...]
    ignore_counts: tuple[int, ...]
    detection_labelled: Tensor
    masks: Tensor
    classes: Mapping[str, Tensor]
    names: tuple[str, ...]
    bad_samples: tuple[BadSample, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def boxes(self) -> tuple[Tensor, ...]:
        """For each image its boxes, float32 (n, 4), views."""
        return torch.split(self.all_boxes, list(self.box_counts))

    @property
    def box_labels(self) -> tuple[Tensor, ...]:
        """For each image its boxes' class ids, int64 (n,), views."""
        return torch.split(self.all_box_labels, list(self.box_counts))

    @property
    def ignore_boxes(self) -> tuple[Tensor, ...]:
        """For each image its ignore boxes, float32 (m, 4), views."""
        return torch.split(self.all_ignore_boxes, list(self.ignore_counts))

    def split(self, parts: int) -> list[Batch]:
        """The batch in ``parts`` batches of equal size, views, in order.

        Raises:
            ValueError: when ``parts`` does not divide the number of images.
        """
        if len(self) % parts:
            raise ValueError(f"a batch of {len(self)} images has no {parts} parts of equal size")
        if parts == 1:
            return [self]
        size = len(self) // parts
        boxes, labels, ignored = self.boxes, self.box_labels, self.ignore_boxes
        rows = [slice(start, start + size) for start in range(0, len(self), size)]
        return [
            Batch(
                images=self.images[part],
                all_boxes=torch.cat(boxes[part]),
                all_box_labels=torch.cat(labels[part]),
                all_ignore_boxes=torch.cat(ignored[part]),
                box_counts=self.box_counts[part],
                ignore_counts=self.ignore_counts[part],
                detection_labelled=self.detection_labelled[part],
                masks=self.masks[part],
                classes={group: ids[part] for group, ids in self.classes.items()},
                names=self.names[part],
                bad_samples=self.bad_samples if not part.start else (),
            )
            for part in rows
        ]

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; a ``DataLoader`` with ``pin_memory=True`` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on ``device``; tensors that are there already are shared, not copied."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        changed["classes"] = {group: change(ids) for group, ids in self.classes.items()}
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True)
class Collator:
    """Makes a ``Batch`` of samples that a transform has brought to one size.

    Attributes:
        detection_classes: number of classes of the detection label set; 0 without detection.
        groups: number of classes of each classification group of the batch; others are left out.
    """

    detection_classes: int
    groups: Mapping[str, int] = field(default_factory=dict)

    def check(self, sample: Sample) -> None:
        """Refuses a sample with a class id outside its label set.

        Raises:
            ValueError: naming the sample and the id.
        """
        if sample.boxes is not None and self.detection_classes:
            self._box_labels(sample)
        for group in self.groups.keys() & (sample.classes or {}).keys():
            self._class_id(sample, group)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The samples' batch.

        Raises:
            ValueError: when the images differ in size or a class id is outside its label set; it names
                the sample.
        """
        size = samples[0].image.shape
        images = np.empty((len(samples), 3, *size[:2]), np.uint8)
        masks = np.full((len(samples), *size[:2]), IGNORE_INDEX, np.uint8)
        labelled = np.zeros((len(samples), self.detection_classes), np.bool_)
        classes = {group: np.full(len(samples), -1, np.int64) for group in self.groups}
        boxes: list[npt.NDArray[np.float32]] = []
        box_labels: list[npt.NDArray[np.int64]] = []
        ignore_boxes: list[npt.NDArray[np.float32]] = []
        for row, sample in enumerate(samples):
            if sample.image.shape != size:
                raise ValueError(
                    f"{sample.name}: image is {sample.image.shape}, "
                    f"{samples[0].name} of the same batch is {size}"
                )
            images[row] = sample.image.transpose(2, 0, 1)
            if sample.mask is not None:
                masks[row] = sample.mask
            for group in self.groups.keys() & (sample.classes or {}).keys():
                classes[group][row] = self._class_id(sample, group)
            if self.detection_classes and sample.boxes is not None:
                boxes.append(sample.boxes)
                box_labels.append(self._box_labels(sample))
                ignore_boxes.append(sample.ignore_boxes)
                labelled[row, list(sample.box_classes or ())] = True
            else:
                boxes.append(_NO_BOXES)
                box_labels.append(_NO_LABELS)
                ignore_boxes.append(_NO_BOXES)
        return Batch(
            images=torch.from_numpy(images),
            all_boxes=torch.from_numpy(np.concatenate(boxes)),
            all_box_labels=torch.from_numpy(np.concatenate(box_labels)),
            all_ignore_boxes=torch.from_numpy(np.concatenate(ignore_boxes)),
            box_counts=tuple(len(b) for b in boxes),
            ignore_counts=tuple(len(b) for b in ignore_boxes),
            detection_labelled=torch.from_numpy(labelled),
            masks=torch.from_numpy(masks),
            classes={group: torch.from_numpy(ids) for group, ids in classes.items()},
            names=tuple(sample.name for sample in samples),
        )

    def _class_id(self, sample: Sample, group: str) -> int:
        class_id = (sample.classes or {})[group]
        if class_id >= self.groups[group]:
            raise ValueError(
                f"{sample.name}: class {class_id} of group {group!r} is outside 0..{self.groups[group] - 1}"
            )
        return class_id

    def _box_labels(self, sample: Sample) -> npt.NDArray[np.int64]:
        # Labels are a subset of box_classes, which Sample checks.
        for class_id in sample.box_classes or ():
            if not 0 <= class_id < self.detection_classes:
                raise ValueError(
                    f"{sample.name}: detection class {class_id} is outside 0..{self.detection_classes - 1}"
                )
        assert sample.box_labels is not None
        return sample.box_labels


_NO_BOXES = np.zeros((0, 4), np.float32)
_NO_LABELS = np.zeros(0, np.int64)
