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
        cls,
        images: npt.NDArray[np.int64],
        boxes: npt.NDArray[np.floating],
        labels: npt.NDArray[np.int64],
        count: int,
    ) -> BoxTable:
        """Sorts boxes by image.

        Args:
            images: (N,), each box's image, 0..count-1.
            boxes: (N, 4), ``xyxy`` in pixels.
            labels: (N,), class ids, -1 for an ignore box.
            count: how many images there are.
        """
        order = np.argsort(images, kind="stable")
        return cls(
            boxes=boxes[order].astype(np.float32),
            labels=labels[order],
            offsets=np.searchsorted(images[order], np.arange(count + 1)),
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
