"""Billboards: textured outlines in several sizes that are recoloured and pasted at a pixel box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.derived_boxes import extent
from pvt_mtl_perception.data.synthetic.textures import Bytes

# The weight that stands for 1 in a stamp's maps.
WEIGHT = 128.0


@dataclass(frozen=True)
class Stamp:
    """A small object seen from one side, made of materials whose colours are chosen when it is painted.

    Attributes:
        levels: largest first, each with its maps and its cover (h, w; 255 = opaque). A map (h, w, 3) holds
            in each channel the weight (128 = 1) of one material; the last map is plain RGB of what shines.
        origin: pixel of the object's foot in the largest level.
        scale: pixels per metre in the largest level.
    """

    levels: tuple[tuple[tuple[Bytes, ...], Bytes], ...]
    origin: tuple[float, float]
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the largest level in pixels."""
        rows, columns = self.levels[0][1].shape
        return columns, rows


def make_stamp(maps: Sequence[Bytes], cover: Bytes, origin: tuple[float, float], scale: float) -> Stamp:
    """Cuts the maps to what is covered and halves them until they are a few pixels high.

    Raises:
        ValueError: when nothing is covered.
    """
    x0, y0, x1, y1 = extent(cover)
    if x0 == x1:
        raise ValueError("a stamp covers at least one pixel")
    window = (slice(y0, y1), slice(x0, x1))
    level = (tuple(np.ascontiguousarray(m[window]) for m in maps), np.ascontiguousarray(cover[window]))
    levels = [level]
    while min(levels[-1][1].shape) > 7:
        above = levels[-1]
        rows, columns = above[1].shape
        size = ((columns + 1) // 2, (rows + 1) // 2)
        smaller = tuple(cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in above[0])
        levels.append((smaller, cv2.resize(above[1], size, interpolation=cv2.INTER_AREA)))
    return Stamp(tuple(levels), (origin[0] - x0, origin[1] - y0), scale)


def color_stamp(maps: Sequence[Bytes], mixes: Sequence[npt.NDArray[np.float32]], shine: float) -> Bytes:
    """The picture of a stamp's level: every map times its mix, and the last map as far as it shines.

    Args:
        mixes: for each map but the last float32 (3, 4): columns 0..2 the colours of the map's materials per
            unit of weight, column 3 what is added everywhere.
        shine: 0 (lamps off) .. 1.
    """
    picture = cv2.transform(maps[0], mixes[0])
    for weights, mix in zip(maps[1:-1], mixes[1:], strict=True):
        picture = cv2.add(picture, cv2.transform(weights, mix))
    if shine:
        picture = cv2.add(picture, cv2.convertScaleAbs(maps[-1], alpha=shine))
    return picture
