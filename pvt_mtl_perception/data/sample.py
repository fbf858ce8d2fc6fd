"""One labelled training image: pixels and whichever of boxes, mask and classes its source labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


def _no_boxes() -> npt.NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its labels; a task that the source does not label is None.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        boxes: float32 (N, 4), ``xyxy`` in pixels with x1 < x2 and y1 < y2, or None.
        box_labels: int64 (N,), detection class ids; None exactly where ``boxes`` is None.
        ignore_boxes: float32 (M, 4), ``xyxy``; a prediction there counts neither as right nor as wrong.
        box_classes: the detection class ids that this source labels, or None where ``boxes`` is None.
        mask: uint8 (H, W), segmentation ids (255 = unlabelled), or None.
        classes: for each label group its class id, -1 = unlabelled; a missing group is unlabelled.
        name: where the image comes from, for messages.

    Raises:
        TypeError: when an array has another dtype than above.
        ValueError: when a shape, the order of a box's corners or a label does not fit.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32] | None = None
    box_labels: npt.NDArray[np.int64] | None = None
    ignore_boxes: npt.NDArray[np.float32] = field(default_factory=_no_boxes)
    box_classes: tuple[int, ...] | None = None
    mask: npt.NDArray[np.uint8] | None = None
    classes: Mapping[str, int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self._check_dtype("image", self.image, np.uint8)
        if self.image.ndim != 3 or self.image.shape[2] != 3 or 0 in self.image.shape:
            raise ValueError(f"{self._where}image has shape {self.image.shape}, expected (H, W, 3)")
        if (self.boxes is None) != (self.box_labels is None):
            raise ValueError(f"{self._where}boxes and box_labels come together or not at all")
        if (self.boxes is None) != (self.box_classes is None):
            raise ValueError(
                f"{self._where}box_classes names the labelled classes exactly where there are boxes"
            )
        if self.boxes is not None and self.box_labels is not None and self.box_classes is not None:
            self._check_boxes("boxes", self.boxes)
            self._check_dtype("box_labels", self.box_labels, np.int64)
            if self.box_labels.shape != (len(self.boxes),):
                raise ValueError(
                    f"{self._where}box_labels has shape {self.box_labels.shape}, "
                    f"expected ({len(self.boxes)},)"
                )
            strangers = sorted(set(self.box_labels.tolist()) - set(self.box_classes))
            if strangers:
                raise ValueError(
                    f"{self._where}box_labels holds {strangers[0]}, "
                    f"which is not in box_classes {self.box_classes}"
                )
        self._check_boxes("ignore_boxes", self.ignore_boxes)
        if self.mask is not None:
            self._check_dtype("mask", self.mask, np.uint8)
            if self.mask.shape != self.image.shape[:2]:
                raise ValueError(
                    f"{self._where}mask has shape {self.mask.shape}, expected {self.image.shape[:2]}"
                )
        for group, label in (self.classes or {}).items():
            if label < -1:
                raise ValueError(f"{self._where}classes[{group!r}] is {label}, expected an id or -1")

    @property
    def _where(self) -> str:
        return f"sample {self.name!r}: " if self.name else "sample: "

    def _check_dtype(self, name: str, array: npt.NDArray[np.generic], dtype: type[np.generic]) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{self._where}{name} is {found}, expected a {np.dtype(dtype)} array")

    def _check_boxes(self, name: str, boxes: npt.NDArray[np.float32]) -> None:
        self._check_dtype(name, boxes, np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{self._where}{name} has shape {boxes.shape}, expected (N, 4)")
        # A comparison with NaN is false, so this refuses NaN too.
        wrong = np.flatnonzero(~((boxes[:, 2:] > boxes[:, :2]).all(1) & np.isfinite(boxes).all(1)))
        if len(wrong):
            raise ValueError(
                f"{self._where}{name}[{wrong[0]}] = {boxes[wrong[0]].tolist()} "
                "is not xyxy with x1 < x2, y1 < y2"
            )
