"""The boxes of a whole data set in a few arrays, sorted by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class ImageBoxes(NamedTuple):
    """One image's part of a ``BoxTable``: the fields of ``Sample``."""

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore_boxes: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BoxTable:
    """Boxes by image.

    Attributes:
        boxes: float32 (N, 4), ``xyxy`` in pixels, as annotated.
        labels: int64 (N,), class ids, -1 where the box is an ignore box.
        offsets: int64 (images + 1,): image i has the rows ``offsets[i]`` .. ``offsets[i + 1] - 1``.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def build(
        cls, images: list[int], boxes: list[tuple[float, float, float, float]], labels: list[int], count: int
    ) -> BoxTable:
        """Sorts boxes by image.

        Args:
            images: each box's image, 0..count-1.
            boxes: ``xyxy`` in pixels.
            labels: class ids, -1 for an ignore box.
            count: how many images there are.
        """
        owner = np.array(images, np.int64)
        order = np.argsort(owner, kind="stable")
        return cls(
            boxes=np.array(boxes, np.float32).reshape(-1, 4)[order],
            labels=np.array(labels, np.int64)[order],
            offsets=np.searchsorted(owner[order], np.arange(count + 1)),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, image: int, size: tuple[int, int]) -> ImageBoxes:
        """The boxes of one image, cut at its edges; those of which nothing is left are left out.

        Args:
            image: 0..len-1.
            size: (height, width) of the image.
        """
        rows = slice(self.offsets[image], self.offsets[image + 1])
        height, width = size
        boxes = self.boxes[rows].clip(0, np.array([width, height, width, height], np.float32))
        labels = self.labels[rows]
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        real = inside & (labels >= 0)
        return ImageBoxes(boxes[real], labels[real], boxes[inside & (labels < 0)])
