"""Image, id image and instance records that all painters draw on, back to front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import NEAR, Camera, Floats, clip_near
from pvt_mtl_perception.data.synthetic.lighting import Light
from pvt_mtl_perception.data.synthetic.taxonomy import SEGMENTATION_OF_DETECTION, VOID
from pvt_mtl_perception.data.synthetic.textures import Bytes, Sprite

# Sixteenths of a pixel, the fixed point that OpenCV's polygon painters take.
SHIFT = 4
_ONE = 1 << SHIFT
_FAR_AWAY = 20000.0 * _ONE
FIRST_INSTANCE = 32
LAST_INSTANCE = 254

Fixed = npt.NDArray[np.int32]
Color = Sequence[float]


@dataclass(frozen=True)
class Instance:
    """One painted object.

    Attributes:
        label: detection class id.
        area: pixels it covered when it was painted, scaled up by its part outside the frame.
        extent: x0, y0, x1, y1 of its part in the frame when it was painted, exclusive ends.
    """

    label: int
    area: float
    extent: tuple[int, int, int, int]


@dataclass(frozen=True)
class Glow:
    """A lamp that shines into the lens: pixel position, radius in pixels, RGB and the id it must still have."""

    x: float
    y: float
    radius: float
    color: tuple[float, float, float]
    id: int


class Canvas:
    """What one frame is painted on.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        ids: uint8 (H, W), segmentation ids below ``FIRST_INSTANCE``, instance numbers from there on,
            255 where nothing is labelled.
        instances: the record of id ``FIRST_INSTANCE + i`` at position i.
        glows: lamps for the lens effects.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        self.width, self.height = camera.width, camera.height
        self.image: Bytes = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.ids: Bytes = np.full((camera.height, camera.width), VOID, np.uint8)
        self.instances: list[Instance] = []
        self.glows: list[Glow] = []

    @property
    def next_id(self) -> int:
        """The id that the next instance is painted with."""
        return FIRST_INSTANCE + len(self.instances)

    @property
    def full(self) -> bool:
        """No id is left for another instance."""
        return self.next_id > LAST_INSTANCE

    @staticmethod
    def to_fixed(points: Floats) -> Fixed:
        """Homogeneous pixels (N, 3) before the near plane to fixed point (N, 2)."""
        pixels = points[:, :2] * (_ONE / points[:, 2:])
        return np.clip(pixels, -_FAR_AWAY, _FAR_AWAY).astype(np.int32)

    def polygon(self, points: Floats, color: Color, id: int | None = None, convex: bool = False) -> None:
        """Paints a polygon given in homogeneous pixels (N, 3), clipped at the near plane."""
        depth = points[:, 2]
        if depth.min() < NEAR:
            if depth.max() < NEAR:
                return
            points = clip_near(points)
        self.fixed_polygon(self.to_fixed(points), color, id, convex)

    def fixed_polygon(self, points: Fixed, color: Color, id: int | None = None, convex: bool = False) -> None:
        """Paints a polygon given in fixed point (N, 2)."""
        if convex:
            cv2.fillConvexPoly(self.image, points, color, cv2.LINE_AA, SHIFT)
            if id is not None:
                cv2.fillConvexPoly(self.ids, points, id, cv2.LINE_8, SHIFT)
        else:
            cv2.fillPoly(self.image, [points], color, cv2.LINE_AA, SHIFT)
            if id is not None:
                cv2.fillPoly(self.ids, [points], id, cv2.LINE_8, SHIFT)

    def clip_box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        """A box grown to whole pixels and cut to the frame."""
        return (
            max(0, int(min(max(x0, -1e6), 1e6))),
            max(0, int(min(max(y0, -1e6), 1e6))),
            min(self.width, int(min(max(x1, -1e6), 1e6)) + 1),
            min(self.height, int(min(max(y1, -1e6), 1e6)) + 1),
        )

    def register(self, label: int, x0: float, y0: float, x1: float, y1: float) -> None:
        """Records the object just painted with ``next_id``, whose outline spans the given box.

        The part outside the frame counts by its share of the box.
        """
        extent = self.clip_box(x0 - 2, y0 - 2, x1 + 2, y1 + 2)
        left, top, right, bottom = extent
        drawn = 0
        if right > left and bottom > top:
            drawn = cv2.countNonZero(
                cv2.inRange(self.ids[top:bottom, left:right], self.next_id, self.next_id)
            )
        inside_w = min(x1, self.width) - max(x0, 0)
        inside_h = min(y1, self.height) - max(y0, 0)
        if inside_w > 0 and inside_h > 0:
            share = inside_w * inside_h / max((x1 - x0) * (y1 - y0), 1e-6)
        else:
            share = 1.0
        self.instances.append(Instance(label, drawn / max(min(share, 1.0), 1e-3), extent))

    def segmentation(self) -> npt.NDArray[np.uint8]:
        """The id image with instances replaced by their segmentation classes, uint8 (H, W)."""
        table = np.full(256, VOID, np.uint8)
        table[:FIRST_INSTANCE] = np.arange(FIRST_INSTANCE)
        for position, instance in enumerate(self.instances):
            table[FIRST_INSTANCE + position] = SEGMENTATION_OF_DETECTION[instance.label]
        return np.asarray(cv2.LUT(self.ids, table), np.uint8)

    def paste(
        self,
        sprite: Sprite,
        table: npt.NDArray[np.uint8],
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        id: int,
    ) -> None:
        """Paints a one-channel sprite into a pixel box, coloured by a table (256, 1, 3)."""
        left, top, right, bottom = self.clip_box(x0, y0, x1 - 1, y1 - 1)
        if right - left < 2 or bottom - top < 2:
            return
        level = 0
        while level + 1 < len(sprite.levels) and sprite.levels[level + 1][0].shape[1] >= x1 - x0:
            level += 1
        brightness, cover, outline = sprite.levels[level]
        rows, columns = brightness.shape
        scale_x, scale_y = columns / (x1 - x0), rows / (y1 - y0)
        u0, u1 = int((left - x0) * scale_x), max(int((right - x0) * scale_x), int((left - x0) * scale_x) + 1)
        v0, v1 = int((top - y0) * scale_y), max(int((bottom - y0) * scale_y), int((top - y0) * scale_y) + 1)
        u0, v0 = min(max(u0, 0), columns - 1), min(max(v0, 0), rows - 1)
        size = (right - left, bottom - top)
        window = (slice(v0, v1), slice(u0, u1))
        color = cv2.resize(cv2.applyColorMap(np.ascontiguousarray(brightness[window]), table), size)
        alpha = cv2.resize(cover[window], size)
        cv2.copyTo(color, cv2.compare(alpha, 110, cv2.CMP_GT), self.image[top:bottom, left:right])
        label = cv2.resize(outline[window], size)
        self.ids[top:bottom, left:right][label > 110] = id

    def textured_quad(self, corners: Floats, tile: Bytes, source: Fixed | Floats, id: int) -> None:
        """Paints a tile on a quadrilateral.

        Args:
            corners: homogeneous pixels (4, 3), all before the near plane.
            tile: RGB (h, w, 3), repeated to the right.
            source: the corners' places in the tile, (4, 2), pixels.
        """
        pixels = corners[:, :2] / corners[:, 2:]
        x_min, y_min = pixels.min(0)
        x_max, y_max = pixels.max(0)
        left, top, right, bottom = self.clip_box(x_min, y_min, x_max, y_max)
        if right - left < 1 or bottom - top < 1:
            return
        fixed = np.clip(pixels * _ONE, -_FAR_AWAY, _FAR_AWAY).astype(np.int32)
        moved = (pixels - (left, top)).astype(np.float32)
        homography = cv2.getPerspectiveTransform(moved, np.asarray(source, np.float32))
        warped = cv2.warpPerspective(
            tile,
            homography,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(mask, fixed - np.int32([left * _ONE, top * _ONE]), 255, cv2.LINE_8, SHIFT)
        cv2.copyTo(warped, mask, self.image[top:bottom, left:right])
        cv2.fillConvexPoly(self.ids, fixed, id, cv2.LINE_8, SHIFT)
