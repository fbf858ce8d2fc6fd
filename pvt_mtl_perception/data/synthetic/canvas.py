"""Image, id image and instance records that all painters draw on, back to front."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import NEAR, Camera, Floats, clip_near
from pvt_mtl_perception.data.synthetic.lighting import Light
from pvt_mtl_perception.data.synthetic.sprites import Stamp, color_stamp
from pvt_mtl_perception.data.synthetic.taxonomy import SEGMENTATION_OF_DETECTION, VOID
from pvt_mtl_perception.data.synthetic.textures import Bytes, Sprite

# Sixteenths of a pixel, the fixed point that OpenCV's polygon painters take.
SHIFT = 4
_ONE = 1 << SHIFT
FIRST_INSTANCE = 32
LAST_INSTANCE = 254

Fixed = npt.NDArray[np.int32]
Color = Sequence[float]
Corner = tuple[float, float]


# Writing numbers into an array that exists takes a third of the time of making a small array.
_pack_corners = struct.Struct("8i").pack_into
_pack_pixels = struct.Struct("8f").pack_into


def _above(cover: Bytes, limit: int, value: int) -> Bytes:
    """A value > 0 where a cover (h, w) exceeds a limit, else 0."""
    return cv2.threshold(cover, limit, value, cv2.THRESH_BINARY)[1]


class Instance(NamedTuple):
    """One painted object.

    Attributes:
        label: detection class id.
        area: pixels it covered when it was painted, scaled up by its part outside the frame.
        extent: x0, y0, x1, y1 of its part in the frame when it was painted, exclusive ends.
    """

    label: int
    area: float
    extent: tuple[int, int, int, int]


class Glow(NamedTuple):
    """A lamp that shines into the lens: pixel, radius in pixels, RGB and the id the pixel must still have."""

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
        self._corners: Fixed = np.empty((4, 2), np.int32)
        self._quad = np.empty((4, 2), np.float32)
        self._tile_quad = np.full((4, 2), -0.5, np.float32)

    def _fixed(self, points: Sequence[Corner]) -> Fixed:
        """Pixels to fixed point (N, 2), valid until the next call."""
        if len(points) != 4:
            return np.array([(int(x * _ONE), int(y * _ONE)) for x, y in points], np.int32)
        (a, b), (c, d), (e, f), (g, h) = points
        _pack_corners(
            self._corners.data, 0,
            int(a * _ONE), int(b * _ONE), int(c * _ONE), int(d * _ONE),
            int(e * _ONE), int(f * _ONE), int(g * _ONE), int(h * _ONE),
        )  # fmt: skip
        return self._corners

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
        # Even 100 m to the side at the near plane is far from the limit of 32 bits.
        return (points[:, :2] * (_ONE / points[:, 2:])).astype(np.int32)

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
        return max(0, int(x0)), max(0, int(y0)), min(self.width, int(x1) + 1), min(self.height, int(y1) + 1)

    def register(self, label: int, x0: float, y0: float, x1: float, y1: float) -> None:
        """Records the object just painted with ``next_id``, whose outline spans the given box.

        The part outside the frame counts by its share of the box.
        """
        # Painted pixels reach over the outline by half a stroke and rounding.
        extent = self.clip_box(x0 - 4, y0 - 4, x1 + 4, y1 + 4)
        left, top, right, bottom = extent
        drawn, number = 0, self.next_id
        if right > left and bottom > top:
            drawn = cv2.countNonZero(cv2.inRange(self.ids[top:bottom, left:right], number, number))
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

    def flat(
        self, points: Sequence[Corner], color: Color, id: int | None = None, convex: bool = True
    ) -> None:
        """Paints a polygon given in pixels."""
        self.fixed_polygon(self._fixed(points), color, id, convex)

    def paste(
        self,
        sprite: Sprite,
        ramp: npt.NDArray[np.float32],
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        id: int,
    ) -> None:
        """Paints a sprite into a pixel box; ``ramp`` (3, 4) turns brightness, its first channel, into RGB."""
        place = self.place(x0, y0, x1, y1)
        if place is None:
            return
        level = 0
        levels = sprite.levels
        while level + 1 < len(levels) and levels[level + 1].shape[1] >= x1 - x0:
            level += 1
        picture = place.cut(levels[level])
        image, ids = self._views(place)
        cv2.copyTo(cv2.transform(picture, ramp), _above(cv2.extractChannel(picture, 1), 110, 1), image)
        outline = _above(cv2.extractChannel(picture, 2), 110, id)
        cv2.copyTo(outline, outline, ids)

    def stamp(
        self,
        stamp: Stamp,
        foot: tuple[float, float],
        scale: tuple[float, float],
        mixes: Sequence[npt.NDArray[np.float32]],
        shine: float,
        label: int,
    ) -> None:
        """Paints a stamp as a new instance.

        Args:
            foot: pixel of the object's foot.
            scale: pixels per metre, across and up.
            mixes, shine: see ``color_stamp``.
        """
        across, up = scale[0] / stamp.scale, scale[1] / stamp.scale
        columns, rows = stamp.size
        x0, y0 = foot[0] - stamp.origin[0] * across, foot[1] - stamp.origin[1] * up
        x1, y1 = x0 + columns * across, y0 + rows * up
        place = self.place(x0, y0, x1, y1)
        if place is None:
            return
        level = 0
        levels = stamp.levels
        while level + 1 < len(levels) and levels[level + 1][1].shape[0] >= y1 - y0:
            level += 1
        maps, cover = levels[level]
        picture = place.cut(color_stamp(maps, mixes, shine))
        self.paste_instance(place, picture, place.cut(cover), 127, label, (x1 - x0) * (y1 - y0))

    def paste_instance(
        self, place: Place, picture: Bytes, cover: Bytes, limit: int, label: int, whole: float
    ) -> None:
        """Paints a picture where its cover exceeds a limit as a new instance.

        Args:
            whole: pixels of the billboard's box, in the frame and outside of it.
        """
        image, ids = self._views(place)
        # Both a mask and what is written through it.
        solid = _above(cover, limit, self.next_id)
        cv2.copyTo(picture, solid, image)
        cv2.copyTo(solid, solid, ids)
        left, top, right, bottom = place.box
        share = min(max((right - left) * (bottom - top) / whole, 1e-3), 1.0) if place.part else 1.0
        self.instances.append(Instance(label, cv2.countNonZero(solid) / share, place.box))

    def _views(self, place: Place) -> tuple[Bytes, Bytes]:
        left, top, right, bottom = place.box
        return self.image[top:bottom, left:right], self.ids[top:bottom, left:right]

    def place(self, x0: float, y0: float, x1: float, y1: float) -> Place | None:
        """Where a billboard spanning the box meets the frame; None where it does not or is a speck."""
        if x1 - x0 < 1.5 or y1 - y0 < 1.5:
            return None
        left, top, right, bottom = round(x0), round(y0), round(x1), round(y1)
        if left >= 0 and top >= 0 and right <= self.width and bottom <= self.height:
            return Place((left, top, right, bottom), None)
        left, top, right, bottom = max(0, left), max(0, top), min(self.width, right), min(self.height, bottom)
        if right <= left or bottom <= top:
            return None
        across, down = 1 / (x1 - x0), 1 / (y1 - y0)
        part = ((left - x0) * across, (top - y0) * down, (right - x0) * across, (bottom - y0) * down)
        return Place((left, top, right, bottom), part)

    def textured_quad(self, corners: Sequence[Corner], tile: Bytes, id: int) -> None:
        """Paints a tile on a quadrilateral.

        Args:
            corners: pixels of the tile's bottom left, bottom right, top right and top left corner.
            tile: RGB (h, w, 3); the nearest pixel is taken, so it should be about as fine as the image.
        """
        (a, b), (c, d), (e, f), (g, h) = corners
        left, top, right, bottom = self.clip_box(
            min(a, c, e, g), min(b, d, f, h), max(a, c, e, g), max(b, d, f, h)
        )
        if right - left < 1 or bottom - top < 1:
            return
        rows, columns = tile.shape[0] - 0.5, tile.shape[1] - 0.5
        _pack_pixels(
            self._quad.data, 0, a - left, b - top, c - left, d - top, e - left, f - top, g - left, h - top
        )
        self._tile_quad[:2, 1] = rows
        self._tile_quad[1:3, 0] = columns
        homography = cv2.getPerspectiveTransform(self._quad, self._tile_quad)
        # A transparent border leaves what lies beside the tile as it is: no mask is needed.
        cv2.warpPerspective(
            tile,
            homography,
            (right - left, bottom - top),
            dst=self.image[top:bottom, left:right],
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
        cv2.fillConvexPoly(self.ids, self._fixed(corners), id, cv2.LINE_8, SHIFT)


class Place(NamedTuple):
    """Part of a billboard that lies in the frame.

    Attributes:
        box: left, top, right and bottom in the frame.
        part: left, top, right and bottom as shares of the billboard; None for the whole.
    """

    box: tuple[int, int, int, int]
    part: tuple[float, float, float, float] | None

    def cut(self, picture: Bytes, interpolation: int = cv2.INTER_LINEAR) -> Bytes:
        """The part of a picture of the whole billboard, at the frame's scale."""
        if self.part is not None:
            left, top, right, bottom = self.part
            height, width = picture.shape[:2]
            u0, v0 = min(width - 1, max(0, int(left * width))), min(height - 1, max(0, int(top * height)))
            u1, v1 = max(u0 + 1, round(right * width)), max(v0 + 1, round(bottom * height))
            picture = picture[v0:v1, u0:u1]
        x0, y0, x1, y1 = self.box
        return cv2.resize(picture, (x1 - x0, y1 - y0), interpolation=interpolation)
