"""Sky, far background, buildings, walls and trees."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pvt_mtl_perception.data.synthetic.camera import NEAR, Floats
from pvt_mtl_perception.data.synthetic.canvas import Canvas
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.taxonomy import BUILDING, SKY, VEGETATION
from pvt_mtl_perception.data.synthetic.textures import (
    BAY,
    BAY_METRES,
    FLOOR,
    FLOOR_METRES,
    FLOORS,
    cloud_tile,
    crown,
    facade,
    plain_tile,
)
from pvt_mtl_perception.data.synthetic.world import Barrier, Building, Road, Tree, World

_UNIT = np.ones(3)
_TOWARDS = np.array([0.0, -1.0, 0.0])


def horizon_row(canvas: Canvas) -> float:
    """The row at the image's middle where the far, level ground would end."""
    camera = canvas.camera
    far = camera.project(camera.position + np.array([[0.0, 1e5, 0.0]]))[0]
    return float(far[1] / far[2])


def paint_sky(canvas: Canvas, world: World, heading: float, t: float) -> None:
    """Gradient, clouds and the sun's halo; the clouds turn with the camera and drift slowly."""
    light, height, width = canvas.light, canvas.height, canvas.width
    rows = int(min(height, max(8, horizon_row(canvas) + 0.06 * height)))
    low_w, low_h = max(2, width // 2), max(2, rows // 2)
    up = np.clip(1.0 - np.arange(low_h) / low_h, 0, 1)[:, None] ** 0.8
    # A higher camera angle shows more of the zenith; the horizon's colour fills the lowest third.
    base = light.sky_horizon + (light.sky_top - light.sky_horizon) * up * min(1.0, 1.6 * rows / height)
    sky = np.repeat(base[:, None, :], low_w, 1).astype(np.float32)
    if light.cloud_cover > 0.02:
        tile = cloud_tile(world.split, world.asphalt % 4)
        shift = int((heading * 260 + 3 * t + world.asphalt * 7) % 512)
        reach = min(160, max(24, int(190 * rows / height)))
        strip = np.roll(tile[:reach], -shift, 1)[:, : min(512, int(90 + 160 * width / canvas.camera.focal))]
        cover = cv2.resize(strip, (low_w, low_h)).astype(np.float32)
        threshold = 255 * (1 - light.cloud_cover)
        alpha = np.clip((cover - threshold + 40) / 70, 0, 1)[..., None] * (
            0.35 + 0.65 * up[..., None]
        ).astype(np.float32)
        thick = np.clip((cover - threshold) / 130, 0, 1)[..., None]
        cloud = light.cloud + (light.cloud_dark - light.cloud) * thick
        sky += (cloud - sky) * alpha
    sun = canvas.camera.project(canvas.camera.position + light.sun_direction[None] * 1e4)[0]
    if light.sun[1] > 0.05 and sun[2] > 0:
        x, y = sun[0] / sun[2] / width * low_w, sun[1] / sun[2] / rows * low_h
        if -low_w < x < 2 * low_w:
            away = np.hypot(np.arange(low_w)[None, :] - x, (np.arange(low_h)[:, None] - y) * 1.0).astype(
                np.float32
            )
            halo = np.exp(-away / (0.1 * low_w))[..., None]
            sky += halo * (light.sun * 210).astype(np.float32)
    picture = cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (width, rows))
    canvas.image[:rows] = picture
    canvas.image[rows:] = picture[-1:]
    canvas.ids[:] = SKY


def paint_background(canvas: Canvas, world: World, s: float, far: float) -> None:
    """The far end of the view: a skyline of roofs or trees before the sky."""
    dice = Dice(world.seed, 77, int(s // 400) % (1 << 31))
    light, camera = canvas.light, canvas.camera
    depth = far
    count = 64
    rng_heights = np.array([dice.uniform(0.2, 1.0) for _ in range(count)])
    angles = np.linspace(-1.2, 1.2, count)
    trees = world.layout.background == VEGETATION
    low, high = (4.0, 13.0) if trees else (5.0, 26.0)
    heights = low + (high - low) * rng_heights ** (1.0 if trees else 2.0)
    center = camera.position
    x = center[0] + depth * np.tan(angles)
    ground = float(world.road.z(s + far)) - 2.0
    if trees:
        x2, h2 = x, heights
    else:
        x2, h2 = np.repeat(x, 2)[1:], np.repeat(heights, 2)[:-1]
    top = np.stack([x2, np.full(len(x2), center[1] + depth), ground + h2], 1)
    bottom = np.array([[x[-1], center[1] + depth, ground - 8], [x[0], center[1] + depth, ground - 8]])
    color = (86.0, 100.0, 66.0) if trees else (142.0, 134.0, 126.0)
    shaded = light.shade(np.array([color]), _TOWARDS[None], depth * 1.3, 0.6)[0]
    points = camera.project(np.concatenate([top, bottom]))
    canvas.polygon(points, shaded.tolist(), world.layout.background)
    row = int(horizon_row(canvas))
    band = canvas.image[max(0, row - 26) : max(0, row + 6)]
    if band.size and trees:
        tile = plain_tile("hedge", world.split, 1)[1]
        texture = np.tile(tile[: min(len(tile), band.shape[0])], (1, band.shape[1] // tile.shape[1] + 1))[
            :, : band.shape[1]
        ]
        rows = texture.shape[0]
        mask = canvas.ids[max(0, row - 26) : max(0, row - 26) + rows] == VEGETATION
        tinted = cv2.multiply(band[:rows], cv2.merge([texture] * 3), scale=1 / 112)
        cv2.copyTo(tinted, mask.astype(np.uint8), band[:rows])


def _level(tile_pixels: float, screen_pixels: float, count: int) -> int:
    return min(
        count - 1, max(0, math.floor(math.log2(max(tile_pixels / max(screen_pixels, 1.0), 1.0)) + 0.35))
    )


def _wall(
    canvas: Canvas, corners: Floats, building: Building, normal: Floats, split: str, length: float, sunlit: float,
    ground_floor: bool,
) -> None:  # fmt: skip
    """One wall, corners as world points: bottom near, bottom far, top far, top near."""
    homogeneous = canvas.camera.project(corners)
    depths = homogeneous[:, 2]
    if depths.min() < 2 * NEAR:
        return
    pixels = homogeneous[:, :2] / depths[:, None]
    if pixels[:, 0].max() < 0 or pixels[:, 0].min() > canvas.width or pixels[:, 1].max() < 0:
        return
    style = facade(split, building.facade)
    depth = float(np.sqrt(depths[0] * depths[1]))
    tall = abs(float(pixels[0, 1] - pixels[3, 1]))
    wide = max(1.0, float(np.ptp(pixels[:, 0])))
    level = _level(
        min(FLOOR * building.floors / tall, BAY * length / BAY_METRES / wide) * 64, 64, len(style.levels)
    )
    day, glow = style.levels[level]
    scale = 0.5**level
    table = canvas.light.table(normal, depth, np.array(building.tint), sunlit)
    lower = min(building.floors, FLOORS)
    start = (FLOORS - lower) * FLOOR * scale
    columns = length / BAY_METRES * BAY * scale
    if max(columns, 1) < day.shape[1] * 0.6:
        # A short wall needs only part of the tile.
        use = slice(0, min(day.shape[1], int(columns) + 2))
        day, glow = day[:, use], glow[:, use]
    tile = cv2.LUT(day, table)
    if canvas.light.lamps:
        clear = math.exp(-canvas.light.fog_density * depth) * min(1.0, 0.75 * canvas.light.exposure)
        tile = cv2.max(tile, cv2.convertScaleAbs(glow, alpha=clear))
    offset = building.offset * BAY * scale if day.shape[1] == style.levels[level][0].shape[1] else 0.0
    split_z = lower / building.floors
    low_top = corners[[0, 1]] + (corners[[3, 2]] - corners[[0, 1]]) * split_z
    bottom_v = FLOORS * FLOOR * scale if ground_floor else (FLOORS - 1) * FLOOR * scale
    if not ground_floor:
        start = max(0.0, start - FLOOR * scale)
    base = np.array(
        [(offset, bottom_v), (offset + columns, bottom_v), (offset + columns, start), (offset, start)]
    )
    base[:, 1] -= 0.5
    quad = canvas.camera.project(np.stack([corners[0], corners[1], low_top[1], low_top[0]]))
    canvas.textured_quad(quad, tile, base, BUILDING)
    if split_z < 1:
        floors = building.floors - lower
        upper = np.array(
            [
                (offset, floors * FLOOR * scale),
                (offset + columns, floors * FLOOR * scale),
                (offset + columns, 0),
                (offset, 0),
            ]
        )
        quad = canvas.camera.project(np.stack([low_top[0], low_top[1], corners[2], corners[3]]))
        canvas.textured_quad(quad, tile, upper, BUILDING)


def paint_building(canvas: Canvas, building: Building, road: Road, split: str, sunlit: float) -> None:
    """Street wall, the end wall towards the camera, and a pitched roof or a parapet."""
    light, side, d = canvas.light, building.side, building.d
    start = max(building.s0, float(canvas.camera.position[1]) + 2.0)
    if building.s1 <= start + 0.1:
        return
    height = building.height
    near0, near1 = road.point(start, d), road.point(building.s1, d)
    top0, top1 = near0 + (0, 0, height), near1 + (0, 0, height)
    depth = float(near0[1] - canvas.camera.position[1])
    roof = np.array(building.roof_color)
    if light.snow:
        roof = roof * (1 - light.snow * 0.9) + 225 * light.snow * 0.9
    back = np.array([side * building.depth, 0.0, 0.0])
    if building.roof:
        ridge = back * 0.5 + (0.0, 0.0, building.roof)
        slope = np.array([-side * building.roof, 0.0, building.depth * 0.5])
        slope /= np.linalg.norm(slope)
        corners = canvas.camera.project(np.stack([top0, top1, top1 + ridge, top0 + ridge]))
        if corners[:, 2].min() > 2 * NEAR:
            levels = plain_tile("roof", split, building.facade % 3)
            pixels = corners[:, :2] / corners[:, 2:]
            level = _level(128, float(np.ptp(pixels[:, 1])), len(levels))
            tile = cv2.applyColorMap(levels[level], light.table(slope, depth, roof / 128.0, sunlit))
            rows, columns = tile.shape[:2]
            canvas.textured_quad(
                corners,
                tile,
                np.array([(0, rows), (columns, rows), (columns, 0), (0, 0)], np.float64),
                BUILDING,
            )
    if building.s0 > start - 1e-6:
        normal = np.array([0.0, -1.0, 0.0])
        if building.roof:
            gable = canvas.camera.project(
                np.stack([top0, top0 + back, top0 + back * 0.5 + (0.0, 0.0, building.roof)])
            )
            wall_color = np.array([150.0, 140.0, 130.0]) * building.tint
            canvas.polygon(
                gable, light.shade(wall_color[None], normal[None], depth, 0.5)[0].tolist(), BUILDING
            )
        end = np.stack([near0, near0 + back, top0 + back, top0])
        _wall(canvas, end, building, normal, split, building.depth, sunlit * 0.8, ground_floor=False)
    normal = np.array([-float(side), 0.0, 0.0])
    _wall(
        canvas,
        np.stack([near0, near1, top1, top0]),
        building,
        normal,
        split,
        building.s1 - start,
        sunlit,
        ground_floor=True,
    )
    if not building.roof:
        lip = np.array([0.0, 0.0, 0.45])
        parapet = canvas.camera.project(
            np.stack([top0 - lip * 0.3, top1 - lip * 0.3, top1 + lip, top0 + lip])
        )
        tone = light.shade(np.array([[168.0, 162.0, 154.0]]) * building.tint, normal[None], depth, sunlit)[0]
        canvas.polygon(parapet, tone.tolist(), BUILDING, convex=True)


def paint_barrier(canvas: Canvas, barrier: Barrier, road: Road, split: str, sunlit: float) -> None:
    """A wall, hedge, fence, guard rail or tunnel wall; guard rails and railings show what is behind."""
    light = canvas.light
    step = 8.0
    normal = np.array([-math.copysign(1.0, barrier.d - 1e-9), 0.0, 0.0])
    if barrier.d == 0.0:
        normal = np.array([1.0, 0.0, 0.0])
    begin = max(barrier.s0, float(canvas.camera.position[1]) + 1.2)
    pieces = max(1, math.ceil((barrier.s1 - begin) / step))
    if barrier.s1 <= begin:
        return
    edges = np.linspace(begin, barrier.s1, pieces + 1)
    for s0, s1 in zip(edges[-2::-1].tolist(), edges[:0:-1].tolist(), strict=True):
        low = canvas.camera.project(road.place(np.array([s0, s1]), barrier.d))
        high = canvas.camera.project(road.place(np.array([s1, s0]), barrier.d, barrier.height))
        corners = np.concatenate([low, high])
        if corners[:, 2].min() < 2 * NEAR:
            continue
        pixels = corners[:, :2] / corners[:, 2:]
        if pixels[:, 0].max() < 0 or pixels[:, 0].min() > canvas.width:
            continue
        depth = max(float(s0 - canvas.camera.position[1]), 1.0)
        if barrier.kind in ("rail", "rails"):
            _paint_rails(canvas, barrier, road, s0, s1, depth, normal, sunlit)
            continue
        kind = {"low wall": "stone", "sound wall": "panel", "planks": "planks", "hedge": "hedge"}.get(
            barrier.kind, barrier.kind
        )
        levels = plain_tile(kind, split, barrier.tile)
        tall = abs(float(pixels[0, 1] - pixels[3, 1]))
        wide = max(1.0, float(np.ptp(pixels[:, 0])))
        metres = 6.0 if barrier.height > 2 else 4.0
        rows, columns = levels[0].shape
        used = (s1 - s0) / metres * columns
        level = _level(min(rows / max(tall, 1), used / wide) * 64, 64, len(levels))
        table = light.table(normal, depth, np.array(barrier.color) / 128.0, sunlit)
        tile = cv2.applyColorMap(levels[level], table)
        scale = 0.5**level
        offset = (s0 % metres) / metres * columns * scale
        source = np.array(
            [
                (offset, rows * scale - 1),
                (offset + used * scale, rows * scale - 1),
                (offset + used * scale, 0),
                (offset, 0),
            ]
        )
        canvas.textured_quad(corners, tile, source, barrier.id)


def _paint_rails(
    canvas: Canvas,
    barrier: Barrier,
    road: Road,
    s0: float,
    s1: float,
    depth: float,
    normal: Floats,
    sunlit: float,
) -> None:
    """Open fences: posts and rails in the picture, the whole area in the label, as annotators draw them."""
    camera, light = canvas.camera, canvas.light
    tone = light.shade(np.array([barrier.color]), normal[None], depth, sunlit)[0].tolist()
    area = camera.project(
        road.place(np.array([s0, s1, s1, s0]), barrier.d, np.array([0.0, 0.0, 1.0, 1.0]) * barrier.height)
    )
    cv2.fillConvexPoly(canvas.ids, canvas.to_fixed(area), barrier.id, cv2.LINE_8, 4)
    bars = ((0.45, 0.78),) if barrier.kind == "rail" else ((0.06, 0.12), (0.92, 1.0))
    for low, high in bars:
        band = np.array([low, low, high, high]) * barrier.height
        canvas.fixed_polygon(
            canvas.to_fixed(camera.project(road.place(np.array([s0, s1, s1, s0]), barrier.d, band))),
            tone,
            None,
            True,
        )
    gap = 2.0 if barrier.kind == "rail" else (0.25 if depth < 16 else 0.5)
    if depth > 60:
        return
    places = np.arange(math.ceil(s0 / gap) * gap, s1, gap)
    if not len(places):
        return
    ends = camera.project(
        np.concatenate([road.place(places, barrier.d), road.place(places, barrier.d, barrier.height * 0.95)])
    )
    fixed = np.ascontiguousarray(canvas.to_fixed(ends).reshape(2, -1, 2).transpose(1, 0, 2))
    thick = max(1, round((0.1 if barrier.kind == "rail" else 0.025) * camera.focal / depth))
    cv2.polylines(canvas.image, list(fixed), False, tone, thick, cv2.LINE_AA, 4)


def paint_tree(canvas: Canvas, tree: Tree, road: Road, split: str, sunlit: float) -> None:
    """A trunk and a crown; a bush is a crown on the ground."""
    camera, light = canvas.camera, canvas.light
    base = road.point(tree.s, tree.d)
    where = camera.project(base[None])[0]
    depth = float(where[2])
    if depth < 1.5:
        return
    unit = camera.focal / depth
    x, y = where[0] / depth, where[1] / depth
    if x + tree.width * unit < 0 or x - tree.width * unit > canvas.width:
        return
    crown_low = tree.trunk * (0.75 if tree.kind != "bare" else 0.95)
    if tree.trunk:
        half = max(0.6, 0.022 * tree.height * unit)
        rise = (
            (tree.trunk + 0.25 * tree.height) * unit if tree.kind == "broadleaf" else tree.trunk * 1.2 * unit
        )
        tone = light.shade(np.array([[84.0, 72.0, 60.0]]), _TOWARDS[None], depth, sunlit * 0.7)[0].tolist()
        trunk = (
            np.array([(x - half, y), (x + half, y), (x + 0.6 * half, y - rise), (x - 0.6 * half, y - rise)])
            * 16
        )
        canvas.fixed_polygon(np.clip(trunk, -3e5, 3e5).astype(np.int32), tone, VEGETATION, convex=True)
    picture = crown(tree.kind, split, tree.index)
    normal = np.array([0.0, -0.6, 0.8])
    tint = np.array(tree.color) / 118.0
    table = light.table(normal, depth, tint, sunlit)
    if light.snow and tree.kind != "bare":
        white = light.table(np.array([0.0, 0.0, 1.0]), depth, np.full(3, 1.25), sunlit)
        share = np.clip((np.arange(256)[:, None, None] - 105) / 60.0, 0, 1) * light.snow
        table = (table * (1 - share) + white * share).astype(np.uint8)
    half_w = 0.5 * tree.width * unit
    canvas.paste(
        picture, table, x - half_w, y - tree.height * unit, x + half_w, y - crown_low * unit, VEGETATION
    )
