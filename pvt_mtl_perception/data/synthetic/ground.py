"""Carriageway, pavements, verges, cross streets and everything painted on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from pvt_mtl_perception.data.synthetic.camera import NEAR, Floats
from pvt_mtl_perception.data.synthetic.canvas import SHIFT, Canvas
from pvt_mtl_perception.data.synthetic.dice import Color
from pvt_mtl_perception.data.synthetic.layout import LOT_DEPTH
from pvt_mtl_perception.data.synthetic.scenery import horizon_row
from pvt_mtl_perception.data.synthetic.taxonomy import ROAD, SIDEWALK, TERRAIN
from pvt_mtl_perception.data.synthetic.things import Chunk
from pvt_mtl_perception.data.synthetic.world import CHUNK, World

KERB = 0.12
# At night the ground is painted so many times too bright, to be dimmed without banding where no lamp shines.
NIGHT_BOOST = 4.0
_STEPS = np.geomspace(1.4, 260.0, 26)
_CROSS_STREET = 22.0
Box = tuple[float, float, float, float]


class _Ground:
    """The surface below one frame: colours in full light and lines along the road."""

    def __init__(self, canvas: Canvas, world: World, s: float) -> None:
        self.canvas, self.world, self.s = canvas, world, s
        light = canvas.light
        gain = light.ambient + light.sun * light.sun_direction[2]
        if light.headlights:
            gain = light.ambient * NIGHT_BOOST
        self._gain: Color = tuple(gain.tolist())
        self._wet = 1.0 - 0.38 * light.wetness
        steps = s + _STEPS
        self._base = canvas.camera.project(world.road.place(steps, 0.0))
        self._across, self._up = canvas.camera.matrix[0], canvas.camera.matrix[2]

    def lit(self, color: Sequence[float], snow: float = 0.0) -> Color:
        """A ground colour in full light, wet and snowed under to the given share."""
        cover = min(1.0, snow * self.canvas.light.snow * 1.5)
        keep, (a, b, c) = (1.0 - cover) * self._wet, self._gain
        return (
            min(255.0, (color[0] * keep + 226.0 * cover) * a),
            min(255.0, (color[1] * keep + 230.0 * cover) * b),
            min(255.0, (color[2] * keep + 238.0 * cover) * c),
        )

    def along(self, d: float, z: float = 0.0, count: int = len(_STEPS)) -> Floats:
        """A line parallel to the road, homogeneous pixels."""
        return np.asarray(self._base[:count] + (d * self._across + z * self._up))

    def strip(
        self, d0: float, d1: float, z0: float, z1: float, color: Color, id: int | None, far: float = 260.0
    ) -> None:
        """The surface between two such lines."""
        count = int(np.searchsorted(_STEPS, far)) if far < 260 else len(_STEPS)
        outline = np.concatenate([self.along(d0, z0, count), self.along(d1, z1, count)[::-1]])
        self.canvas.polygon(outline, color, id)

    def boxes(self, boxes: Sequence[Box], color: Color) -> None:
        """Rectangles (s0, s1, d0, d1) of one colour on the road."""
        ahead = [b for b in boxes if b[1] > self.s + 1.6]
        if not ahead:
            return
        array = np.array(ahead)
        np.maximum(array[:, :2], self.s + 1.2, out=array[:, :2])
        points = self.world.road.place(array[:, [0, 1, 1, 0]].ravel(), array[:, [2, 2, 3, 3]].ravel())
        homogeneous = self.canvas.camera.project(points)
        keep = homogeneous[:, 2].reshape(-1, 4).min(1) > NEAR
        if keep.any():
            fixed = self.canvas.to_fixed(homogeneous.reshape(-1, 4, 3)[keep].reshape(-1, 3)).reshape(-1, 4, 2)
            cv2.fillPoly(self.canvas.image, list(fixed), color, cv2.LINE_AA, SHIFT)

    def patch(self, s0: float, s1: float, d0: float, d1: float, color: Color) -> None:
        """One rectangle on the road."""
        s0 = max(s0, self.s + 1.2)
        if s1 > s0 + 0.4:
            at, spot = self.world.road.at, self.canvas.camera.spot
            spots = [spot(*at(s, d)) for s, d in ((s0, d0), (s1, d0), (s1, d1), (s0, d1))]
            if min(p[2] for p in spots) > NEAR:
                self.canvas.flat([p[:2] for p in spots], color)

    def shape(self, s: Floats, d: Floats, color: Color, id: int | None = None) -> None:
        """Any polygon on the road."""
        self.canvas.polygon(self.canvas.camera.project(self.world.road.place(s, d)), color, id)


def paint_ground(canvas: Canvas, world: World, s: float, chunks: Sequence[Chunk]) -> None:
    """Paints everything that lies flat, in full light, from the horizon to the lower edge."""
    ground, layout = _Ground(canvas, world, s), world.layout
    colors = {
        ROAD: ground.lit(world.asphalt_color, world.snow_on_road),
        SIDEWALK: ground.lit(world.paving_color, 0.75),
        TERRAIN: ground.lit(world.grass_color, 0.95),
    }
    row = max(0, min(canvas.height - 1, math.floor(horizon_row(canvas)) + 1))
    outer = layout.bands[-1].id
    cv2.rectangle(canvas.image, (0, row), (canvas.width, canvas.height), colors[outer], -1)
    canvas.ids[row:] = outer
    for band in sorted(layout.bands, key=lambda b: -b.inner):
        far = min(band.outer, band.inner + 24)
        ground.strip(band.side * band.inner, band.side * far, KERB, KERB, colors[band.id], band.id)
    ground.strip(-layout.left, layout.right, 0.0, 0.0, colors[ROAD], ROAD)
    if layout.scene != "highway":
        stone = ground.lit((92.0, 91.0, 88.0), 0.5), ground.lit((143.0, 141.0, 137.0), 0.5)
        for side, edge in ((-1, layout.left), (1, layout.right)):
            ground.strip(side * edge, side * edge, 0.0, KERB, stone[0], SIDEWALK, far=90.0)
            ground.strip(side * edge, side * (edge + 0.14), KERB, KERB, stone[1], SIDEWALK, far=90.0)
    white, yellow = _paints(ground)
    for chunk in reversed(chunks):
        if chunk.junction:
            _junction(ground, chunk, colors[ROAD], white)
    if canvas.light.snow < 0.3:
        _repairs(ground, chunks)
    _lines(ground, white, yellow)
    _arrows(ground, chunks, white)


def _paints(ground: _Ground) -> tuple[Color, Color]:
    """White and yellow paint as worn as this road's is."""
    worn = (0.25 + 0.5 * (ground.world.style % 7) / 7) * (1 - 0.6 * ground.canvas.light.snow)
    road = ground.lit(ground.world.asphalt_color, ground.world.snow_on_road)

    def mixed(color: Color, share: float) -> Color:
        a, b, c = (r + (p - r) * share for r, p in zip(road, ground.lit(color), strict=True))
        return a, b, c

    return mixed((224.0, 224.0, 218.0), 0.45 + 0.55 * worn), mixed((210.0, 172.0, 60.0), 0.5 + 0.5 * worn)


def _junction(ground: _Ground, chunk: Chunk, road: Color, paint: Color) -> None:
    """A cross street: its carriageway, crossings and stop line."""
    layout, s = ground.world.layout, ground.s
    start = chunk.number * CHUNK
    near = max(start + 6.5, s + 1.5)
    if start + 17.5 > near:
        ps = np.array([near, start + 17.5, start + 17.5, near])
        for edge, sign in ((-layout.left, -1), (layout.right, 1)):
            outer = edge + sign * _CROSS_STREET
            ground.shape(ps, np.array([edge, edge, outer, outer]), road, ROAD)
    dice = ground.world.dice(91, chunk.number)
    for first, last in ((start + 2.0, start + 5.0), (start + 19.0, start + 22.0)):
        width = dice.pick((0.5, 0.6))
        if dice.chance(0.7):
            left = np.arange(-layout.left + 0.5, layout.right - 0.5, 2 * width).tolist()
            ground.boxes([(first, last, d, d + width) for d in left], paint)
    ground.boxes([(start + 0.8, start + 1.2, 0.2, layout.right - 0.4)], paint)


def _lines(ground: _Ground, white: Color, yellow: Color) -> None:
    """Lane lines, edge lines, rails and parking stalls."""
    layout, s = ground.world.layout, ground.s
    dash, gap = layout.dash
    starts = np.arange(math.floor(s / (dash + gap)) * (dash + gap), s + 95, dash + gap).tolist()
    boxes: list[Box] = []
    for direction in (-1, 1):
        lanes = [lane.d for lane in layout.lanes if lane.direction == direction]
        for inner, outer in pairwise(lanes):
            middle = (inner + outer) / 2
            boxes.extend((start, start + dash, middle - 0.07, middle + 0.07) for start in starts)
    center = yellow if layout.yellow_center else white
    if any(lane.direction < 0 for lane in layout.lanes):
        if layout.center_line == "dashed":
            ground.boxes([(start, start + dash, -0.07, 0.07) for start in starts], center)
        elif layout.center_line != "none":
            for d in (0.0,) if layout.center_line == "solid" else (-0.13, 0.13):
                ground.strip(d - 0.06, d + 0.06, 0.0, 0.0, center, None, far=140.0)
    if layout.edge_lines:
        highway = layout.scene == "highway"
        offset = 2.5 if highway else 0.4
        edges = [-layout.left + offset, layout.right - offset]
        for d in [*edges, -0.8, 0.8] if highway else edges:
            ground.strip(d - 0.065, d + 0.065, 0.0, 0.0, white, None, far=140.0)
    for lane in layout.lanes:
        if lane.rails:
            steel = ground.lit((70.0, 70.0, 74.0))
            for d in (lane.d - 0.72, lane.d + 0.72):
                ground.strip(d - 0.05, d + 0.05, 0.0, 0.0, steel, None, far=120.0)
    if layout.scene == "parking lot":
        for side, edge in ((-1, layout.left), (1, layout.right)):
            low, high = sorted((side * (edge - LOT_DEPTH), side * (edge - 0.4)))
            first = math.floor(s / CHUNK) * CHUNK
            for chunk_start in (first, first + CHUNK, first + 2 * CHUNK):
                boxes.extend(
                    (chunk_start + 2.66 * i - 0.05, chunk_start + 2.66 * i + 0.05, low, high)
                    for i in range(9)
                )
    ground.boxes(boxes, white)


_STRAIGHT = np.array([(0, -0.08), (2.4, -0.08), (2.4, -0.35), (3.6, 0), (2.4, 0.35), (2.4, 0.08), (0, 0.08)])
_TURNING = np.array(
    [(0, -0.08), (1.6, -0.08), (1.9, 0.25), (2.3, 0.25), (1.8, 0.85), (1.2, 0.25), (1.55, 0.25), (1.4,
    0.08), (0, 0.08)]
)  # fmt: skip


def _arrows(ground: _Ground, chunks: Sequence[Chunk], paint: Color) -> None:
    """Arrows in the lanes that lead to a junction."""
    for chunk in chunks:
        start = chunk.number * CHUNK + 12
        if not ground.world.is_junction(chunk.number + 1) or start < ground.s + 3 or start > ground.s + 80:
            continue
        for lane in ground.world.layout.lanes:
            if lane.direction > 0:
                kind = (chunk.number + int(lane.d)) % 3
                outline = _STRAIGHT if kind == 0 else _TURNING
                turn = -1.0 if kind == 2 else 1.0
                ground.shape(start + outline[:, 0], lane.d + turn * outline[:, 1], paint)


_RING = np.arange(10) * (2 * math.pi / 10)


def _repairs(ground: _Ground, chunks: Sequence[Chunk]) -> None:
    """Patches and manhole covers, darker or lighter than the road."""
    layout, s = ground.world.layout, ground.s
    base = ground.lit(ground.world.asphalt_color)
    for chunk in chunks[:3]:
        dice = ground.world.dice(92, chunk.number)
        start = chunk.number * CHUNK
        for _ in range(dice.integer(0, 4)):
            s0, d0 = start + dice.uniform(0, 22), dice.uniform(-layout.left, layout.right - 1.5)
            s1, d1 = s0 + dice.uniform(0.8, 7.0), min(d0 + dice.uniform(0.5, 1.8), layout.right)
            factor = dice.uniform(0.78, 1.14)
            tone = (min(255.0, base[0] * factor), min(255.0, base[1] * factor), min(255.0, base[2] * factor))
            ground.patch(s0, s1, d0, d1, tone)
        s0, d0 = start + dice.uniform(0, 22), dice.uniform(-layout.left + 1, layout.right - 1)
        if dice.chance(0.6) and s0 > s + 2:
            tone = (0.62 * base[0], 0.62 * base[1], 0.62 * base[2])
            ground.shape(s0 + 0.35 * np.cos(_RING), d0 + 0.35 * np.sin(_RING), tone)
