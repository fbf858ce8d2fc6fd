"""Sky, far background, buildings, walls and trees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import Spot
from pvt_mtl_perception.data.synthetic.canvas import SHIFT, Canvas
from pvt_mtl_perception.data.synthetic.dice import Color, Dice
from pvt_mtl_perception.data.synthetic.layout import Road
from pvt_mtl_perception.data.synthetic.lighting import Triple
from pvt_mtl_perception.data.synthetic.taxonomy import BUILDING, SKY, VEGETATION
from pvt_mtl_perception.data.synthetic.textures import (
    BAY,
    BAY_METRES,
    FLOOR,
    FLOORS,
    Bytes,
    cloud_tile,
    crown,
    facade,
    plain_tile,
)
from pvt_mtl_perception.data.synthetic.things import Barrier, Building, Tree
from pvt_mtl_perception.data.synthetic.world import World

_TOWARDS = (0.0, -1.0, 0.0)
_LEAVES = (0.0, -0.6, 0.8)
# Surfaces narrower than this in pixels get one colour instead of a texture.
_TEXTURED = 8.0


def horizon_row(canvas: Canvas) -> float:
    """The row at the image's middle where the far, level ground would end."""
    camera = canvas.camera
    far = camera.project(camera.position + np.array([[0.0, 1e5, 0.0]]))[0]
    return float(far[1] / far[2])


def paint_sky(canvas: Canvas, world: World, heading: float, t: float) -> None:
    """Gradient, clouds and the sun's halo; the clouds turn with the camera and drift slowly."""
    light, height, width = canvas.light, canvas.height, canvas.width
    rows = int(min(height, max(8, horizon_row(canvas) + 0.06 * height)))
    low_w, low_h = max(2, width // 4), max(2, rows // 4)
    up = np.clip(1.0 - np.arange(low_h) / low_h, 0, 1)[:, None] ** 0.8
    # A higher camera angle shows more of the zenith; the horizon's colour fills the lowest third.
    base = light.sky_horizon + (light.sky_top - light.sky_horizon) * up * min(1.0, 1.6 * rows / height)
    sky = np.repeat(base[:, None, :], low_w, 1).astype(np.float32)
    if light.cloud_cover > 0.02:
        tile = cloud_tile(world.split, world.style % 4)
        shift = int((heading * 260 + 3 * t + world.style * 7) % 512)
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
    # The ground, painted next, covers what lies below.
    cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (width, rows), dst=canvas.image[:rows])
    canvas.ids[:rows] = SKY


def paint_background(canvas: Canvas, world: World, s: float, far: float) -> None:
    """The far end of the view: a skyline of roofs or trees before the sky."""
    dice = Dice(world.seed, 77, int(s // 400) % (1 << 31))
    light, camera = canvas.light, canvas.camera
    count = 64
    roughness = np.array([dice.uniform(0.2, 1.0) for _ in range(count)])
    trees = world.layout.background == VEGETATION
    low, high = (4.0, 13.0) if trees else (5.0, 26.0)
    heights = low + (high - low) * roughness ** (1.0 if trees else 2.0)
    x, y = camera.position[0] + far * np.tan(np.linspace(-1.2, 1.2, count)), camera.position[1] + far
    ground = world.road.at(s + far, 0.0)[2] - 2.0
    if not trees:
        # Roofs are steps.
        x, heights = np.repeat(x, 2)[1:], np.repeat(heights, 2)[:-1]
    outline = np.empty((len(x) + 2, 3))
    outline[:-2, 0], outline[-2:, 0] = x, (x[-1], x[0])
    outline[:, 1] = y
    outline[:-2, 2], outline[-2:, 2] = ground + heights, ground - 8
    color = (86.0, 100.0, 66.0) if trees else (142.0, 134.0, 126.0)
    tone = light.tone(color, _TOWARDS, far * 1.3, 0.6)
    canvas.polygon(camera.project(outline), tone, world.layout.background)
    row = int(horizon_row(canvas))
    first, last = max(0, row - 26), max(0, row + 6)
    if trees and last > first:
        tile = plain_tile("hedge", world.split, 1)[1]
        height = min(last - first, len(tile), canvas.height - first)
        # The air between takes the contrast away.
        clear = math.exp(-light.fog_density * 1.3 * far)
        tile = cv2.convertScaleAbs(tile, alpha=clear, beta=112 * (1 - clear))
        texture = _cyclic(tile[:height], 0, canvas.width)
        band = canvas.image[first : first + height]
        mask = cv2.inRange(canvas.ids[first : first + height], VEGETATION, VEGETATION)
        cv2.copyTo(cv2.multiply(band, texture, scale=1 / 112), mask, band)


def _level(ratio: float, count: int) -> int:
    """The level of a tile that fits, where level 0 is ``ratio`` times finer than the image and each following
    one half as fine.
    """
    return min(count - 1, max(0, round(math.log2(max(ratio, 1.0)) + 0.1)))


def _cyclic(tile: Bytes, first: int, count: int) -> Bytes:
    """``count`` columns from ``first`` on of a tile that repeats without end."""
    width = tile.shape[1]
    first %= width
    if first + count <= width:
        return tile[:, first : first + count]
    whole, rest = divmod(first + count, width)
    pieces = [tile[:, first:], *[tile] * (whole - 1)]
    return np.concatenate([*pieces, tile[:, :rest]], 1)


def _colored(
    tile: Bytes,
    first: int,
    count: int,
    matrix: npt.NDArray[np.float32],
    glow: Bytes | None = None,
    strength: float = 0.0,
) -> Bytes:
    """The same of an RGB tile, its colours transformed by a ``cv2.transform`` matrix.

    Args:
        glow: tile of the same size whose colours, times ``strength``, replace darker ones.
    """
    rows, width = tile.shape[:2]
    colored = np.empty((rows, count, 3), np.uint8)
    # Each piece goes where it belongs without being put together first.
    start, column = 0, first % width
    while start < count:
        last = min(width, column + count - start)
        target = colored[:, start : start + last - column]
        cv2.transform(tile[:, column:last], matrix, dst=target)
        if glow is not None:
            cv2.max(target, cv2.convertScaleAbs(glow[:, column:last], alpha=strength), dst=target)
        start, column = start + last - column, 0
    return colored


def _wall(
    canvas: Canvas, building: Building, near: Triple, far: Triple, normal: Triple, split: str, length: float,
    sunlit: float, ground_floor: bool,
) -> None:  # fmt: skip
    """One wall between two world points on the ground."""
    camera, height = canvas.camera, building.height
    a, b = camera.spot(*near), camera.spot(*far)
    c = camera.spot(far[0], far[1], far[2] + height)
    d = camera.spot(near[0], near[1], near[2] + height)
    if min(a[2], b[2], c[2], d[2]) < 0.5:
        return
    left, right = min(a[0], b[0]), max(a[0], b[0])
    if right < 0 or left > canvas.width or max(a[1], b[1]) < 0:
        return
    depth = math.sqrt(a[2] * b[2])
    style = facade(split, building.facade)
    wide, tall = max(right - left, 1.0), max(a[1] - d[1], b[1] - c[1])
    if wide < _TEXTURED:
        red, green, blue = style.mean
        tint = building.tint
        tone = canvas.light.tone((red * tint[0], green * tint[1], blue * tint[2]), normal, depth, sunlit)
        canvas.flat((a[:2], b[:2], c[:2], d[:2]), tone, BUILDING)
        return
    level = _level(
        min(2 * FLOOR * building.floors / tall, 2 * BAY * length / BAY_METRES / wide), len(style.levels)
    )
    day, glow = style.levels[level]
    scale = 2 * 0.5**level
    floor = int(FLOOR * scale)
    lower = min(building.floors, FLOORS)
    # A gable wall has no shop, so it takes the floors above.
    bottom = (FLOORS if ground_floor else FLOORS - 1) * floor
    top = max(0, bottom - lower * floor)
    first = int(building.offset * BAY * scale)
    columns = max(1, round(length / BAY_METRES * BAY * scale))
    above = building.floors - lower
    if above:
        rise = height * lower / building.floors
        e, f = camera.spot(far[0], far[1], far[2] + rise), camera.spot(near[0], near[1], near[2] + rise)
        parts = [((a, b, e, f), top, bottom), ((f, e, c, d), 0, above * floor)]
    else:
        parts = [((a, b, c, d), top, bottom)]
    matrix = canvas.light.matrix(normal, depth, building.tint, sunlit)
    clear = math.exp(-canvas.light.fog_density * depth) * min(1.0, 0.75 * canvas.light.exposure)
    for corners, low, high in parts:
        windows = glow[low:high] if canvas.light.lamps else None
        tile = _colored(day[low:high], first, columns, matrix, windows, clear)
        canvas.textured_quad([p[:2] for p in corners], tile, BUILDING)


def _roof(
    canvas: Canvas,
    building: Building,
    near: Triple,
    far: Triple,
    depth: float,
    split: str,
    sunlit: float,
    end: bool,
) -> None:
    """The street side of a pitched roof, and the gable."""
    light, camera = canvas.light, canvas.camera
    rise, half = building.roof, 0.5 * building.side * building.depth
    top = building.height
    a, b = (near[0], near[1], near[2] + top), (far[0], far[1], far[2] + top)
    ridge_a = (a[0] + half, a[1], a[2] + rise)
    spots = [camera.spot(*p) for p in (a, b, (b[0] + half, b[1], b[2] + rise), ridge_a)]
    if min(s[2] for s in spots) < 0.5:
        return
    left, right = min(p[0] for p in spots), max(p[0] for p in spots)
    if right < 0 or left > canvas.width:
        return
    color: Sequence[float] = building.roof_color
    if light.snow:
        lying = 0.9 * light.snow
        color = [c * (1 - lying) + 225 * lying for c in color]
    norm = math.hypot(rise, half)
    slope = (-building.side * rise / norm, 0.0, abs(half) / norm)
    if right - left < 3 * _TEXTURED:
        canvas.flat([s[:2] for s in spots], light.tone(color, slope, depth, sunlit), BUILDING)
    else:
        levels = plain_tile("roof", split, building.facade % 3)
        tall = max(p[1] for p in spots) - min(p[1] for p in spots)
        level = _level(128 / max(1.0, tall), len(levels))
        tile = cv2.transform(levels[level], light.ramp(slope, depth, color, sunlit))
        canvas.textured_quad([p[:2] for p in spots], tile, BUILDING)
    if end:
        tint = building.tint
        tone = light.tone((150 * tint[0], 140 * tint[1], 130 * tint[2]), _TOWARDS, depth, 0.5 * sunlit)
        back = camera.spot(a[0] + 2 * half, a[1], a[2])
        canvas.flat((spots[0][:2], back[:2], spots[3][:2]), tone, BUILDING)


def paint_building(canvas: Canvas, building: Building, road: Road, split: str, sunlit: float) -> None:
    """Street wall, the end wall towards the camera, and a pitched roof or a parapet."""
    side, d = building.side, building.d
    start = max(building.s0, float(canvas.camera.position[1]) + 2.0)
    if building.s1 <= start + 0.1:
        return
    near, far = road.at(start, d), road.at(building.s1, d)
    depth = start - float(canvas.camera.position[1])
    end = building.s0 >= start and building.end != "hidden"
    if building.roof:
        _roof(canvas, building, near, far, depth, split, sunlit, end)
    if end:
        back = (near[0] + side * building.depth, near[1], near[2])
        if building.end == "blank":
            _blank_wall(canvas, building, near, back, depth, 0.8 * sunlit)
        else:
            _wall(
                canvas,
                building,
                near,
                back,
                _TOWARDS,
                split,
                building.depth,
                0.8 * sunlit,
                ground_floor=False,
            )
    normal = (-float(side), 0.0, 0.0)
    _wall(canvas, building, near, far, normal, split, building.s1 - start, sunlit, ground_floor=True)
    if not building.roof and depth < 80:
        _parapet(canvas, building, near, far, normal, depth, sunlit)


def _blank_wall(
    canvas: Canvas, building: Building, near: Triple, far: Triple, depth: float, sunlit: float
) -> None:
    """A wall without windows: a neighbour leans on it or once did."""
    camera, top = canvas.camera, building.height
    spots = [camera.spot(p[0], p[1], p[2] + z) for p, z in ((near, 0.0), (far, 0.0), (far, top), (near, top))]
    if (
        min(p[2] for p in spots) < 0.5
        or max(p[0] for p in spots) < 0
        or min(p[0] for p in spots) > canvas.width
    ):
        return
    red, green, blue = building.tint
    color = (146 * red, 132 * green, 120 * blue)
    tone = canvas.light.tone(color, _TOWARDS, depth, sunlit)
    canvas.flat([p[:2] for p in spots], tone, BUILDING)


def _parapet(
    canvas: Canvas, building: Building, near: Triple, far: Triple, normal: Triple, depth: float, sunlit: float
) -> None:
    camera, top, tint = canvas.camera, building.height, building.tint
    corners = (
        (near, top - 0.15), (far, top - 0.15), (far, top + 0.45), (near, top + 0.45),
    )  # fmt: skip
    spots = [camera.spot(p[0], p[1], p[2] + z) for p, z in corners]
    if min(s[2] for s in spots) > 0.5:
        tone = canvas.light.tone((168 * tint[0], 162 * tint[1], 154 * tint[2]), normal, depth, sunlit)
        canvas.flat([s[:2] for s in spots], tone, BUILDING)


_BARRIER_TILES = {"low wall": "stone", "sound wall": "panel"}


def paint_barrier(canvas: Canvas, barrier: Barrier, road: Road, split: str) -> None:
    """A wall, hedge, fence, guard rail or tunnel wall; guard rails and railings show what is behind."""
    light, camera = canvas.light, canvas.camera
    eye = float(camera.position[1])
    begin = max(barrier.s0, eye + 1.2)
    if barrier.s1 <= begin:
        return
    normal = (1.0 if barrier.d <= 0 else -1.0, 0.0, 0.0)
    pieces = 3 if begin - eye < 30 else 1
    step = (barrier.s1 - begin) / pieces
    for piece in reversed(range(pieces)):
        s0, s1 = begin + piece * step, begin + (piece + 1) * step
        ends = road.at(s0, barrier.d), road.at(s1, barrier.d)
        spots = [camera.spot(*p) for p in ends]
        spots += [camera.spot(p[0], p[1], p[2] + barrier.height) for p in reversed(ends)]
        if min(p[2] for p in spots) < 0.5:
            continue
        left, right = min(p[0] for p in spots), max(p[0] for p in spots)
        if right < 0 or left > canvas.width:
            continue
        depth = max(s0 - eye, 1.0)
        if barrier.kind in ("rail", "rails"):
            _paint_rails(canvas, barrier, road, s0, s1, spots, light.tone(barrier.color, normal, depth))
            continue
        if right - left < _TEXTURED:
            canvas.flat([p[:2] for p in spots], light.tone(barrier.color, normal, depth), barrier.id)
            continue
        levels = plain_tile(_BARRIER_TILES.get(barrier.kind, barrier.kind), split, barrier.tile)
        metres = 6.0 if barrier.height > 2 else 4.0
        rows, columns = levels[0].shape[:2]
        used = (s1 - s0) / metres * columns
        tall = max(spots[0][1] - spots[3][1], spots[1][1] - spots[2][1], 1.0)
        level = _level(min(rows / tall, used / (right - left)), len(levels))
        scale = 0.5**level
        first = int((s0 % metres) / metres * columns * scale)
        ramp = light.ramp(normal, depth, barrier.color)
        tile = _colored(levels[level], first, max(1, round(used * scale)), ramp)
        canvas.textured_quad([p[:2] for p in spots], tile, barrier.id)


def _paint_rails(
    canvas: Canvas, barrier: Barrier, road: Road, s0: float, s1: float, spots: Sequence[Spot], tone: Color
) -> None:
    """Open fences: posts and rails in the picture, the whole area in the label, as annotators draw them."""
    pixels = np.array([p[:2] for p in spots])
    cv2.fillConvexPoly(canvas.ids, (pixels * 16).astype(np.int32), barrier.id, cv2.LINE_8, SHIFT)
    foot, head = pixels[:2], pixels[[3, 2]]
    rail = barrier.kind == "rail"
    for low, high in ((0.45, 0.78),) if rail else ((0.06, 0.12), (0.92, 1.0)):
        bar = np.concatenate([foot + (head - foot) * low, (foot + (head - foot) * high)[::-1]])
        canvas.fixed_polygon((bar * 16).astype(np.int32), tone, None, convex=True)
    depth = spots[0][2]
    if depth > 45:
        return
    gap = 2.0 if rail else (0.25 if depth < 14 else 0.5)
    places = np.arange(math.ceil(s0 / gap) * gap, s1, gap)
    if not len(places):
        return
    world = np.concatenate(
        [road.place(places, barrier.d), road.place(places, barrier.d, 0.95 * barrier.height)]
    )
    fixed = canvas.to_fixed(canvas.camera.project(world)).reshape(2, -1, 2).transpose(1, 0, 2)
    thick = max(1, round((0.1 if rail else 0.025) * canvas.camera.focal / depth))
    cv2.polylines(canvas.image, list(np.ascontiguousarray(fixed)), False, tone, thick, cv2.LINE_AA, SHIFT)


def paint_tree(canvas: Canvas, tree: Tree, road: Road, split: str, sunlit: float) -> None:
    """A trunk and a crown; a bush is a crown on the ground."""
    light = canvas.light
    x, y, depth = canvas.camera.spot(*road.at(tree.s, tree.d))
    if depth < 1.5:
        return
    unit = canvas.camera.focal / depth
    half = 0.5 * tree.width * unit
    if x + half < 0 or x - half > canvas.width or tree.height * unit < 3:
        return
    if tree.trunk:
        thick = max(0.6, 0.022 * tree.height * unit)
        rise = tree.trunk + 0.25 * tree.height if tree.kind == "broadleaf" else 1.2 * tree.trunk
        top = y - rise * unit
        tone = light.tone((84.0, 72.0, 60.0), _TOWARDS, depth, 0.7 * sunlit)
        trunk = ((x - thick, y), (x + thick, y), (x + 0.6 * thick, top), (x - 0.6 * thick, top))
        canvas.flat(trunk, tone, VEGETATION)
    ramp = light.ramp(_LEAVES, depth, tree.color, sunlit)
    if light.snow and tree.kind != "bare":
        # Snow lies on what is bright in a crown, its upper side: a steeper ramp towards white.
        white = light.ramp((0.0, 0.0, 1.0), depth, (330.0, 335.0, 345.0), sunlit)
        white[:, 3] -= white[:, 0] * 70
        ramp += (white - ramp) * np.float32(0.8 * light.snow)
    lowest = tree.trunk * (0.95 if tree.kind == "bare" else 0.75) * unit
    canvas.paste(
        crown(tree.kind, split, tree.variant),
        ramp,
        x - half,
        y - tree.height * unit,
        x + half,
        y - lowest,
        VEGETATION,
    )
