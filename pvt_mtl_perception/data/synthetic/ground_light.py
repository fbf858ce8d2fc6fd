"""Texture, shadows, lamplight and air over the ground that ``ground`` has painted in full light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import NEAR, Floats, clip_near
from pvt_mtl_perception.data.synthetic.canvas import SHIFT, Canvas
from pvt_mtl_perception.data.synthetic.ground import NIGHT_BOOST
from pvt_mtl_perception.data.synthetic.scenery import horizon_row
from pvt_mtl_perception.data.synthetic.taxonomy import ROAD, SIDEWALK, TERRAIN
from pvt_mtl_perception.data.synthetic.textures import GROUND_METRES, GROUND_TILE, GROUNDS, Bytes, ground_tile
from pvt_mtl_perception.data.synthetic.things import Chunk, Cycle, Lamp, Thing, Tree, Vehicle, Walker
from pvt_mtl_perception.data.synthetic.world import World

# A shade of so much leaves the ground as it was painted.
_NEUTRAL = 128
# Below it the shade is scaled down to keep lamplight of up to 8 times the ambient light in a byte.
_NIGHT_NEUTRAL = 32
_NEAR_METRES = 14.0
_HORIZON = np.float32(1e-4)


def light_ground(
    canvas: Canvas,
    world: World,
    s: float,
    chunks: Sequence[Chunk],
    near: Sequence[Thing],
    shown: Sequence[Thing],
) -> None:
    """Multiplies texture, shadows and lamplight into the ground and lays the air over it.

    Args:
        near: things within some eighty metres that throw shadows.
        shown: those of them that are in view.
    """
    light = canvas.light
    horizon = horizon_row(canvas)
    row = max(0, min(canvas.height - 1, math.floor(horizon) + 1))
    height = canvas.height - row
    if height < 4:
        return
    plane = float(canvas.camera.position[2]) - world.road.at(s, 0.0)[2]
    shade = _texture(canvas, world, s, row, plane, horizon)
    lit = np.full((height, canvas.width), 255, np.uint8)
    if light.casts_shadows:
        total = light.ambient + light.sun * light.sun_direction[2]
        _shadows(canvas, world, s, row, lit, int(255 * float(light.ambient[1] / total[1])), chunks, near)
    _contact_shadows(canvas, world, s, row, lit, shown)
    shade = cv2.multiply(shade, cv2.blur(lit, (3, 3)), scale=1 / 255)
    neutral = float(_NEUTRAL)
    if light.headlights:
        shade = cv2.multiply(shade, _lamplight(canvas, world, row, horizon, near), scale=1 / _NEUTRAL)
        neutral = _NIGHT_NEUTRAL * NIGHT_BOOST
    # Air between the camera and each row of the level ground.
    depths = plane * canvas.camera.focal / np.maximum(np.arange(height) + row - horizon, 0.5)
    clear = np.exp(-light.fog_density * np.minimum(depths, 400.0))
    hazy = int(np.count_nonzero(clear < 0.985))
    if hazy:
        column = np.rint(255 * clear[:hazy, None]).astype(np.uint8)
        shade[:hazy] = cv2.multiply(shade[:hazy], _widen(column, canvas.width), scale=1 / 255)
    region = canvas.image[row:]
    cv2.multiply(region, cv2.merge([shade, shade, shade]), region, scale=1 / neutral)
    if hazy:
        air = np.rint((1 - clear[:hazy, None, None]) * light.fog_color).astype(np.uint8)
        cv2.add(region[:hazy], _widen(air, canvas.width), region[:hazy])


def _widen(column: Bytes, width: int) -> Bytes:
    """A column of pixels repeated to the width of the image."""
    return cv2.resize(column, (width, column.shape[0]), interpolation=cv2.INTER_NEAREST)


def _plane_homography(
    canvas: Canvas, world: World, s: float, metres: float, row: int
) -> npt.NDArray[np.float64]:
    """From pixels of the image part below ``row`` to a ground tile's pixels, for ground of one slope."""
    camera = canvas.camera
    scale = GROUND_TILE / metres
    origin_s = math.floor(s / metres) * metres
    slope = world.road.slope(s)
    origin = np.array([0.0, origin_s, world.road.at(s, 0.0)[2] + slope * (origin_s - s)])
    across = camera.matrix[0] / scale
    along = (camera.matrix[1] + slope * camera.matrix[2]) / scale
    to_image = np.stack([across, along, (origin - camera.position) @ camera.matrix], 1)
    to_image[1] -= row * to_image[2]
    return np.asarray(np.linalg.inv(to_image))


@cache
def _atlas(kinds: tuple[str, ...], split: str, style: int) -> Bytes:
    """Ground tiles one after the other, flat."""
    return np.concatenate([ground_tile(kind, split, style).ravel() for kind in kinds])


def _sample(atlas: Bytes, starts: npt.NDArray[Any], homography: npt.NDArray[np.float64]) -> Bytes:
    """Looks tiles up for each pixel, repeated without end.

    ``cv2.warpPerspective`` takes as long for a single tile, and there are up to three.

    Args:
        starts: int32 (h, w), where each pixel's tile begins in the atlas.
        homography: from pixels to a tile's pixels.
    """
    rows, columns = starts.shape
    (a, b, c), (d, e, f), (g, h, i) = homography.astype(np.float32)
    x, y = np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)[:, None]
    # The last row gives the inverse depth; beyond ten kilometres all is one.
    depth = g * x + (h * y + i)
    if depth[:: max(1, rows - 1), :: max(1, columns - 1)].min() < _HORIZON:
        # Only there; the least of a plane is at a corner.
        np.maximum(depth, _HORIZON, out=depth)
    np.reciprocal(depth, out=depth)
    column, line = a * x + (b * y + c), d * x + (e * y + f)
    column *= depth
    line *= depth
    index = line.astype(np.int32)
    index &= GROUND_TILE - 1
    index *= GROUND_TILE
    across = column.astype(np.int32)
    across &= GROUND_TILE - 1
    index += across
    index += starts
    return np.asarray(atlas.take(index))


def _texture(canvas: Canvas, world: World, s: float, row: int, plane: float, horizon: float) -> Bytes:
    """Brightness of the ground's material, fine near the camera and coarse far away."""
    height = canvas.height - row
    style = world.style % GROUNDS[world.split]
    far_rows = int(min(height - 1, max(2, plane * canvas.camera.focal / _NEAR_METRES - (row - horizon))))
    ids = canvas.ids[row:]
    shade = np.empty(ids.shape, np.uint8)
    for kinds, materials, metres, part, first in (
        (("asphalt far", "far"), (0, 1, 1), GROUND_METRES["far"], slice(0, far_rows), row),
        (
            ("asphalt", "paving", "grass"),
            (0, 1, 2),
            GROUND_METRES["near"],
            slice(far_rows, None),
            row + far_rows,
        ),
    ):
        table = np.zeros(256, np.int32)
        table[[ROAD, SIDEWALK, TERRAIN]] = np.array(materials) * GROUND_TILE**2
        homography = _plane_homography(canvas, world, s, metres, first)
        shade[part] = _sample(_atlas(kinds, world.split, style), cv2.LUT(ids[part], table), homography)
    return shade


def _fill(
    canvas: Canvas, world: World, row: int, lit: Bytes, s: Floats, d: Floats, levels: Sequence[int]
) -> None:
    """Sets polygons (N, K) on the road to their levels."""
    count, corners = s.shape
    homogeneous = canvas.camera.project(world.road.place(s.ravel(), d.ravel())).reshape(count, corners, 3)
    depths = homogeneous[:, :, 2]
    nearest, farthest = depths.min(1), depths.max(1)
    shift = np.array((0, row << SHIFT), np.int32)
    safe = homogeneous.copy()
    np.maximum(safe[:, :, 2], NEAR, out=safe[:, :, 2])
    fixed = canvas.to_fixed(safe.reshape(-1, 3)).reshape(count, corners, 2) - shift
    for polygon, points, near, far, level in zip(
        fixed, homogeneous, nearest.tolist(), farthest.tolist(), levels, strict=True
    ):
        if near > NEAR:
            cv2.fillConvexPoly(lit, polygon, level, cv2.LINE_8, SHIFT)
        elif far > NEAR:
            cv2.fillConvexPoly(lit, canvas.to_fixed(clip_near(points)) - shift, level, cv2.LINE_8, SHIFT)


_TURNS = np.arange(12) * (2 * math.pi / 12)
_COS, _SIN = np.cos(_TURNS), np.sin(_TURNS)


def _shadows(
    canvas: Canvas, world: World, s: float, row: int, lit: Bytes, level: int, chunks: Sequence[Chunk],
    near: Sequence[Thing],
) -> None:  # fmt: skip
    """What the sun throws on the ground: each upright thing's outline swept along the sun's direction."""
    across, along, up = canvas.light.sun_direction.tolist()
    length = min(1.0 / max(math.tan(math.asin(up)), 0.05), 9.0) / math.hypot(across, along)
    # Shift of a shadow's point per metre of height.
    dx, dy = -across * length, -along * length
    quads: list[tuple[float, ...]] = []
    crowns: list[tuple[Floats, Floats]] = []

    def upright(s0: float, d0: float, s1: float, d1: float, height: float) -> None:
        rise_s, rise_d = dy * height, dx * height
        if max(s0, s1, s0 + rise_s, s1 + rise_s) > s + 1.4:
            quads.append((s0, s1, s1 + rise_s, s0 + rise_s, d0, d1, d1 + rise_d, d0 + rise_d))

    for chunk in chunks[:5]:
        for b in chunk.buildings:
            if dx * b.side < 0:
                upright(b.s0, b.d, b.s1, b.d, b.height + 0.5 * b.roof)
    for thing in near:
        if isinstance(thing, Tree):
            if thing.kind == "bare":
                upright(thing.s, thing.d - 0.15, thing.s, thing.d + 0.15, 0.7 * thing.height)
                continue
            middle = thing.trunk + 0.5 * (thing.height - thing.trunk)
            rough = (
                0.5
                * thing.width
                * (0.85 + 0.25 * np.sin(_TURNS * 5 + thing.s * 7) * np.sin(_TURNS * 3 + thing.d))
            )
            stretch = 0.3 * (thing.height - thing.trunk)
            ps = thing.s + dy * middle + (rough + dy * stretch) * _COS
            if ps.max() > s + 1.4:
                crowns.append((ps, thing.d + dx * middle + (rough + dx * stretch) * _SIN))
            upright(thing.s, thing.d - 0.12, thing.s, thing.d + 0.12, middle)
        elif isinstance(thing, Vehicle):
            corners = _footprint(thing, 0.0)
            height = 0.88 * thing.height
            for (s0, d0), (s1, d1) in zip(corners, corners[1:] + corners[:1], strict=True):
                upright(s0, d0, s1, d1, height)
            upright(*corners[0], *corners[2], height)
        elif isinstance(thing, Walker | Cycle):
            upright(thing.s, thing.d - 0.2, thing.s, thing.d + 0.2, 1.7)
        elif isinstance(thing, Lamp):
            upright(thing.s, thing.d - 0.07, thing.s, thing.d + 0.07, thing.height)
    if quads:
        array = np.array(quads)
        _fill(canvas, world, row, lit, array[:, :4], array[:, 4:], [level] * len(quads))
    if crowns:
        places = np.array([c[0] for c in crowns]), np.array([c[1] for c in crowns])
        _fill(canvas, world, row, lit, *places, [level] * len(crowns))


def _footprint(vehicle: Vehicle, grow: float) -> list[tuple[float, float]]:
    """Corners (s, d) of a vehicle's outline on the ground, grown by some metres."""
    c, n = math.cos(vehicle.yaw), math.sin(vehicle.yaw)
    half, wide = vehicle.length / 2 + grow, vehicle.width / 2 + grow
    ends = ((half, wide), (half, -wide), (-half, -wide), (-half, wide))
    return [(vehicle.s + a * c - b * n, vehicle.d + a * n + b * c) for a, b in ends]


def _contact_shadows(
    canvas: Canvas, world: World, s: float, row: int, lit: Bytes, near: Sequence[Thing]
) -> None:
    """The dark below vehicles and at people's feet, which is there in any weather."""
    outlines, levels = [], []
    for thing in near:
        if isinstance(thing, Vehicle):
            if thing.s > s + 3.5:
                outlines += [_footprint(thing, 0.12), _footprint(thing, -0.12)]
                levels += [120, 60]
        elif isinstance(thing, Walker | Cycle):
            half = 0.18 if isinstance(thing, Walker) else 0.12
            long = 0.2 if isinstance(thing, Walker) else 0.7
            ends = ((-long, -half), (-long, half), (long, half), (long, -half))
            outlines.append([(thing.s + a, thing.d + b) for a, b in ends])
            levels.append(140)
    if outlines:
        array = np.array(outlines)
        _fill(canvas, world, row, lit, array[:, :, 0], array[:, :, 1], levels)


def _lamplight(canvas: Canvas, world: World, row: int, horizon: float, near: Sequence[Thing]) -> Bytes:
    """Light of the own headlights and of street lamps over the ambient light, 32 = none, as bytes."""
    light, camera = canvas.light, canvas.camera
    width, height = canvas.width, canvas.height - row
    low_h, low_w = max(2, height // 4), max(2, width // 4)
    rows = row + (np.arange(low_h) + 0.5) * height / low_h
    depth = camera.position[2] * camera.focal / np.maximum(rows - horizon, 0.5)
    lateral = (np.arange(low_w) + 0.5) / low_w * width - width / 2
    side = lateral[None, :] / camera.focal * depth[:, None]
    reach = np.minimum(1.5, (11 / np.maximum(depth, 4)) ** 1.2)[:, None]
    total = light.headlights * reach * np.exp(-((side / (1.5 + 0.16 * depth[:, None])) ** 2))
    total += float(light.ambient[1])
    if light.lamps:
        pools = np.zeros((low_h, low_w), np.float32)
        for thing in near:
            if not isinstance(thing, Lamp):
                continue
            for size, strength in ((8.0, 0.1), (5.0, 0.22), (2.8, 0.34)):
                points = camera.project(
                    world.road.place(thing.s + size * _COS, thing.d + thing.arm + size * _SIN)
                )
                if points[:, 2].min() > NEAR:
                    xy = points[:, :2] / points[:, 2:]
                    small = np.stack([xy[:, 0] * low_w / width, (xy[:, 1] - row) * low_h / height], 1)
                    corners = np.clip(small, -4000, 4000).astype(np.int32)
                    cv2.fillConvexPoly(pools, corners, strength * light.exposure)
        total += cv2.GaussianBlur(pools, (0, 0), 2.0)
    share = np.minimum(total * (_NIGHT_NEUTRAL / float(light.ambient[1])), 255).astype(np.uint8)
    return np.asarray(cv2.resize(share, (width, height)))
