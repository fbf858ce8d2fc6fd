"""Carriageway, pavements, verges, markings, and the shadows, wetness and lamplight that lie on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import NEAR, Floats
from pvt_mtl_perception.data.synthetic.canvas import SHIFT, Canvas
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.scenery import horizon_row
from pvt_mtl_perception.data.synthetic.taxonomy import ROAD, SIDEWALK, TERRAIN
from pvt_mtl_perception.data.synthetic.textures import GROUND_METRES, GROUND_TILE, GROUNDS, Bytes, ground_tile
from pvt_mtl_perception.data.synthetic.world import (
    CHUNK,
    Block,
    Building,
    Chunk,
    Cycle,
    Lamp,
    Thing,
    Tree,
    Vehicle,
    Walker,
    World,
)

KERB = 0.12
_UP = np.array([0.0, 0.0, 1.0])
_STEPS = np.geomspace(1.4, 260.0, 26)


def _polyline(canvas: Canvas, world: World, s: Floats, d: float, z: float) -> Floats:
    return canvas.camera.project(world.road.place(s, d, z))


def _flat(canvas: Canvas, color: Floats, depth: float = 12.0) -> list[float]:
    """A ground colour in full light; shadow and distance are multiplied in later."""
    light = canvas.light
    gain = light.ambient + light.sun * light.sun_direction[2]
    return np.minimum(color * gain, 255.0).tolist()


def paint_ground(
    canvas: Canvas, world: World, s: float, chunks: Sequence[Chunk], dynamic: Sequence[Thing], t: float
) -> None:
    """Paints everything that lies flat, from the horizon to the lower edge."""
    light, layout = canvas.light, world.layout
    snow = light.snow

    def snowy(color: Sequence[float], share: float) -> Floats:
        cover = min(1.0, share * snow * 1.5)
        return np.asarray(np.array(color) * (1 - cover) + np.array([226.0, 230.0, 238.0]) * cover)

    wet = 1.0 - 0.38 * light.wetness
    road_color = _flat(canvas, snowy(world.asphalt_color, 0.35) * wet)
    colors = {
        ROAD: road_color,
        SIDEWALK: _flat(canvas, snowy(world.paving_color, 0.75) * wet),
        TERRAIN: _flat(canvas, snowy(world.grass_color, 0.95) * wet),
    }
    row = max(0, min(canvas.height - 1, math.floor(horizon_row(canvas)) + 1))
    ground = canvas.image[row:]
    outer = layout.bands[-1].id
    ground[:] = colors[outer]
    canvas.ids[row:] = outer
    steps = s + _STEPS
    for band in sorted(layout.bands, key=lambda b: -b.inner):
        inner = _polyline(canvas, world, steps, band.side * band.inner, KERB)
        far = _polyline(canvas, world, steps, band.side * min(band.outer, band.inner + 24), KERB)
        canvas.polygon(np.concatenate([inner, far[::-1]]), colors[band.id], band.id)
    left = _polyline(canvas, world, steps, -layout.left, 0.0)
    right = _polyline(canvas, world, steps, layout.right, 0.0)
    canvas.polygon(np.concatenate([left, right[::-1]]), road_color, ROAD)
    if layout.scene != "highway":
        for side, edge in ((-1, layout.left), (1, layout.right)):
            low = _polyline(canvas, world, steps, side * edge, 0.0)
            high = _polyline(canvas, world, steps, side * edge, KERB)
            lip = _polyline(canvas, world, steps, side * (edge + 0.14), KERB)
            stone = snowy((128.0, 126.0, 122.0), 0.5) * wet
            canvas.polygon(np.concatenate([low, high[::-1]]), _flat(canvas, stone * 0.72), SIDEWALK)
            canvas.polygon(np.concatenate([high, lip[::-1]]), _flat(canvas, stone * 1.12), SIDEWALK)
    for chunk in reversed(chunks):
        if chunk.junction:
            _junction(canvas, world, chunk, road_color, s)
    _markings(canvas, world, s, chunks)
    _litter(canvas, world, s, chunks)
    _light_and_texture(canvas, world, s, row, chunks, dynamic)


def _quad(
    canvas: Canvas,
    world: World,
    s0: float,
    s1: float,
    d0: float,
    d1: float,
    color: Sequence[float],
    id: int | None,
    z: float = 0.0,
) -> None:
    points = world.road.place(np.array([s0, s1, s1, s0]), np.array([d0, d0, d1, d1]), z)
    canvas.polygon(canvas.camera.project(points), color, id, convex=False)


def _junction(canvas: Canvas, world: World, chunk: Chunk, color: Sequence[float], s: float) -> None:
    """A cross street: its carriageway, crossings and stop line."""
    layout = world.layout
    start = chunk.index * CHUNK
    near = max(start + 6.5, s + 1.5)
    if start + 17.5 > near:
        for edge, far in ((-layout.left, -layout.left - 22), (layout.right, layout.right + 22)):
            _quad(canvas, world, near, start + 17.5, edge, far, color, ROAD)
    paint = _paint(canvas, (218.0, 218.0, 214.0))
    dice = Dice(world.seed, 91, chunk.index + (1 << 20))
    for first, last in ((start + 2.0, start + 5.0), (start + 19.0, start + 22.0)):
        if last < s + 2 or not dice.chance(0.7):
            continue
        width = dice.pick((0.5, 0.6))
        stripes = []
        for d in np.arange(-layout.left + 0.5, layout.right - 0.5, 2 * width):
            stripes.append(((max(first, s + 1.5), last), (float(d), float(d) + width)))
        _many(canvas, world, stripes, paint)
    stop = start + 0.8
    if stop > s + 2:
        _quad(canvas, world, stop, stop + 0.4, 0.2, layout.right - 0.4, paint, None)


def _paint(canvas: Canvas, color: Sequence[float]) -> list[float]:
    cover = 0.7 * canvas.light.snow
    return _flat(canvas, np.array(color) * (1 - 0.12 * cover))


def _many(
    canvas: Canvas,
    world: World,
    boxes: Sequence[tuple[tuple[float, float], tuple[float, float]]],
    color: Sequence[float],
) -> None:
    """Many rectangles on the road in one call: ((s0, s1), (d0, d1))."""
    if not boxes:
        return
    array = np.array(boxes)
    s = array[:, 0][:, [0, 1, 1, 0]].ravel()
    d = array[:, 1][:, [0, 0, 1, 1]].ravel()
    points = canvas.camera.project(world.road.place(s, d))
    keep = points[:, 2].reshape(-1, 4).min(1) > NEAR
    if keep.any():
        fixed = canvas.to_fixed(points.reshape(-1, 4, 3)[keep].reshape(-1, 3)).reshape(-1, 4, 2)
        cv2.fillPoly(canvas.image, list(fixed), color, cv2.LINE_AA, SHIFT)


def _line(
    canvas: Canvas, world: World, s: float, d: float, width: float, color: Sequence[float], far: float = 140.0
) -> None:
    steps = s + _STEPS[_STEPS < far]
    left = _polyline(canvas, world, steps, d - width / 2, 0.0)
    right = _polyline(canvas, world, steps, d + width / 2, 0.0)
    canvas.polygon(np.concatenate([left, right[::-1]]), color)


def _markings(canvas: Canvas, world: World, s: float, chunks: Sequence[Chunk]) -> None:
    """Lane lines, edge lines, arrows and parking stalls."""
    layout = world.layout
    white = _paint(canvas, (214.0, 214.0, 208.0))
    yellow = _paint(canvas, (206.0, 168.0, 60.0))
    faded = (0.25 + 0.5 * (world.asphalt % 7) / 7) * (1 - 0.6 * canvas.light.snow)
    road = np.array(_flat(canvas, np.array(world.asphalt_color)))
    white = (road + (np.array(white) - road) * (0.45 + 0.55 * faded)).tolist()
    yellow = (road + (np.array(yellow) - road) * (0.5 + 0.5 * faded)).tolist()
    period = sum(layout.dash)
    starts = np.arange(math.floor(s / period) * period, s + 95, period)
    boxes = []
    borders = sorted({round(abs(lane.d), 3) for lane in layout.lanes if lane.direction > 0})
    left = sorted({round(abs(lane.d), 3) for lane in layout.lanes if lane.direction < 0})
    separators = [(a + b) / 2 for a, b in zip(borders[:-1], borders[1:], strict=True)]
    separators += [-(a + b) / 2 for a, b in zip(left[:-1], left[1:], strict=True)]
    for d in separators:
        for start in starts.tolist():
            boxes.append(((max(start, s + 1.2), max(start, s + 1.2) + layout.dash[0]), (d - 0.07, d + 0.07)))
    center = yellow if layout.yellow_center else white
    if layout.center_line == "dashed" and left:
        middle = [
            ((max(a, s + 1.2), max(a, s + 1.2) + layout.dash[0]), (-0.07, 0.07)) for a in starts.tolist()
        ]
        _many(canvas, world, middle, center)
    elif layout.center_line in ("solid", "double") and left:
        for d in (0.0,) if layout.center_line == "solid" else (-0.13, 0.13):
            _line(canvas, world, s, d, 0.12, center)
    _many(canvas, world, boxes, white)
    if layout.edge_lines:
        offset = 2.5 if layout.scene == "highway" else 0.4
        for d in (-layout.left + offset, layout.right - offset):
            _line(canvas, world, s, d, 0.13, white)
        if layout.scene == "highway":
            for d in (-0.8, 0.8):
                _line(canvas, world, s, d, 0.13, white)
    if layout.scene == "parking lot":
        stalls = []
        for side, edge in ((-1, layout.left), (1, layout.right)):
            inner = edge - 10.4
            for place in np.arange(math.floor(s / CHUNK) * CHUNK, s + 60, 2.66).tolist():
                if place > s + 2:
                    low, high = sorted((side * inner, side * (inner + 10.0)))
                    stalls.append(((place, place + 0.1), (low, high)))
        _many(canvas, world, stalls, white)
    for chunk in chunks:
        following = chunk.index + 1
        if world.is_junction(following) and chunk.index * CHUNK + 10 > s + 2:
            for lane in layout.lanes:
                if lane.direction > 0:
                    _arrow(
                        canvas,
                        world,
                        chunk.index * CHUNK + 12,
                        lane.d,
                        white,
                        (chunk.index + int(lane.d)) % 3,
                    )


def _arrow(canvas: Canvas, world: World, s: float, d: float, color: Sequence[float], kind: int) -> None:
    shaft = [(0.0, -0.08), (2.4, -0.08), (2.4, -0.35), (3.6, 0.0), (2.4, 0.35), (2.4, 0.08), (0.0, 0.08)]
    shape = np.array(shaft)
    if kind:
        turn = 1 if kind == 1 else -1
        shape = np.array(
            [
                (0, -0.08),
                (1.6, -0.08),
                (1.9, 0.25),
                (2.3, 0.25),
                (1.8, 0.85),
                (1.2, 0.25),
                (1.55, 0.25),
                (1.4, 0.08),
                (0, 0.08),
            ]
        )
        shape[:, 1] *= turn
    points = canvas.camera.project(world.road.place(s + shape[:, 0], d + shape[:, 1]))
    if points[:, 2].min() > NEAR:
        canvas.polygon(points, color)


def _litter(canvas: Canvas, world: World, s: float, chunks: Sequence[Chunk]) -> None:
    """Repair patches, manhole covers and tar joints, darker or lighter than the road."""
    layout = world.layout
    base = np.array(_flat(canvas, np.array(world.asphalt_color) * (1 - 0.38 * canvas.light.wetness)))
    if canvas.light.snow > 0.3:
        return
    for chunk in chunks[:4]:
        dice = Dice(world.seed, 92, chunk.index + (1 << 20))
        start = chunk.index * CHUNK
        for _ in range(dice.integer(0, 4)):
            s0, d0 = start + dice.uniform(0, 22), dice.uniform(-layout.left, layout.right - 1.5)
            length, width = dice.uniform(0.8, 7.0), dice.uniform(0.5, 1.8)
            tone = (base * dice.uniform(0.78, 1.14)).tolist()
            if s0 > s + 2:
                _quad(canvas, world, s0, s0 + length, d0, min(d0 + width, layout.right), tone, None)
        if dice.chance(0.6):
            s0, d0 = start + dice.uniform(0, 22), dice.uniform(-layout.left + 1, layout.right - 1)
            if s0 > s + 2:
                turns = np.arange(10) * (2 * math.pi / 10)
                ring = world.road.place(s0 + 0.35 * np.cos(turns), d0 + 0.35 * np.sin(turns))
                canvas.polygon(canvas.camera.project(ring), (base * 0.62).tolist(), convex=True)


def _plane_homography(
    canvas: Canvas, world: World, s: float, metres: float, row: int
) -> npt.NDArray[np.float64]:
    """From pixels of the image part below ``row`` to a ground tile's pixels."""
    camera = canvas.camera
    scale = GROUND_TILE / metres
    origin_s = math.floor(s / metres) * metres
    slope = world.road.slope(s)
    origin = np.array([0.0, origin_s, float(world.road.z(s)) + slope * (origin_s - s)])
    across = np.array([1.0, 0.0, 0.0]) @ camera.matrix / scale
    along = np.array([0.0, 1.0, slope]) @ camera.matrix / scale
    start = (origin - camera.position) @ camera.matrix
    to_image = np.stack([across, along, start], 1)
    to_image[1] -= row * to_image[2]
    return np.asarray(np.linalg.inv(to_image))


def _warp(tile: Bytes, homography: npt.NDArray[np.float64], width: int, height: int) -> Bytes:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpPerspective(tile, homography, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP),
        np.uint8,
    )


def _shadow_shapes(
    canvas: Canvas, world: World, chunks: Sequence[Chunk], dynamic: Sequence[Thing], s: float
) -> list[Floats]:
    """Outlines (N, 3), homogeneous pixels, of the shadows that the sun throws on the ground."""
    direction = canvas.light.sun_direction
    length = min(1.0 / max(math.tan(math.asin(direction[2])), 0.05), 9.0)
    flat = math.hypot(direction[0], direction[1])
    dx, dy = -direction[0] / flat * length, -direction[1] / flat * length
    road = world.road
    begin = s + 1.4
    shapes: list[Floats] = []

    def quad(points: Sequence[tuple[float, float]]) -> None:
        ps = np.array([p[0] for p in points])
        pd = np.array([p[1] for p in points])
        if ps.max() < begin:
            return
        shapes.append(canvas.camera.project(road.place(ps, pd)))

    things = [thing for chunk in chunks[:4] for thing in chunk.things] + list(dynamic)
    for chunk in chunks[:5]:
        for b in chunk.buildings:
            if dx * b.side < 0:
                h = b.height + 0.5 * b.roof
                quad([(b.s0, b.d), (b.s1, b.d), (b.s1 + dy * h, b.d + dx * h), (b.s0 + dy * h, b.d + dx * h)])
    for thing in things:
        if isinstance(thing, Building | Block):
            continue
        if isinstance(thing, Tree):
            if thing.kind == "bare" or thing.s > s + 60:
                continue
            middle = thing.trunk + 0.5 * (thing.height - thing.trunk)
            turns = np.arange(14) * (2 * math.pi / 14)
            rough = (
                0.5
                * thing.width
                * (0.85 + 0.3 * np.sin(turns * 5 + thing.s * 7) * np.sin(turns * 3 + thing.d))
            )
            stretch = 0.5 * (thing.height - thing.trunk)
            ps = thing.s + dy * middle + rough * np.cos(turns) + dy * stretch * np.cos(turns) * 0.6
            pd = thing.d + dx * middle + rough * np.sin(turns) + dx * stretch * np.sin(turns) * 0.6
            if ps.max() > begin:
                shapes.append(canvas.camera.project(road.place(ps, pd)))
            quad(
                [
                    (thing.s, thing.d - 0.12),
                    (thing.s, thing.d + 0.12),
                    (thing.s + dy * middle, thing.d + dx * middle),
                ]
            )
        elif isinstance(thing, Vehicle) and thing.s < s + 60:
            c, n = math.cos(thing.yaw), math.sin(thing.yaw)
            l, w, h = thing.model.length / 2, thing.model.width / 2, thing.model.mesh.height * 0.9
            base = [
                (thing.s + a * c - b * n, thing.d + a * n + b * c)
                for a, b in ((l, w), (l, -w), (-l, -w), (-l, w))
            ]
            both = np.array(base + [(ps + dy * h, pd + dx * h) for ps, pd in base], np.float32)
            hull = cv2.convexHull(both)[:, 0].astype(np.float64)
            quad([(float(a), float(b)) for a, b in hull])
        elif isinstance(thing, Walker | Cycle) and thing.s < s + 40:
            h = 1.7
            quad(
                [
                    (thing.s, thing.d - 0.2),
                    (thing.s, thing.d + 0.2),
                    (thing.s + dy * h, thing.d + dx * h + 0.15),
                    (thing.s + dy * h, thing.d + dx * h - 0.15),
                ]
            )
        elif isinstance(thing, Lamp):
            h = thing.height
            quad([(thing.s, thing.d - 0.07), (thing.s, thing.d + 0.07), (thing.s + dy * h, thing.d + dx * h)])
    return shapes


def _light_and_texture(
    canvas: Canvas, world: World, s: float, row: int, chunks: Sequence[Chunk], dynamic: Sequence[Thing]
) -> None:
    """Multiplies texture, shadows and lamplight into the ground and lays the air over it."""
    light, camera, width = canvas.light, canvas.camera, canvas.width
    height = canvas.height - row
    if height < 4:
        return
    split, style = world.split, world.asphalt % GROUNDS[world.split]
    plane = camera.position[2] - float(world.road.z(s))
    near_rows = int(min(height - 1, max(2, plane * camera.focal / 11.0 - (row - horizon_row(canvas)))))
    shade = np.empty((height, width), np.uint8)
    near, far = GROUND_METRES["near"], GROUND_METRES["far"]
    shade[:near_rows] = _warp(
        ground_tile("asphalt far", split, style),
        _plane_homography(canvas, world, s, far, row),
        width,
        near_rows,
    )
    shade[near_rows:] = _warp(
        ground_tile("asphalt", split, style),
        _plane_homography(canvas, world, s, near, row + near_rows),
        width,
        height - near_rows,
    )
    ids = canvas.ids[row:]
    for id, kind in ((SIDEWALK, "paving"), (TERRAIN, "grass")):
        mask = cv2.inRange(ids, id, id)
        x, y, w, h = cv2.boundingRect(mask)
        if w * h < 60:
            continue
        if y + h > near_rows:
            top = max(near_rows, y)
            tile = ground_tile(kind, split, style)
            part = _warp(tile, _plane_homography(canvas, world, s, near, row + top), width, y + h - top)
            cv2.copyTo(part, mask[top : y + h], shade[top : y + h])
        if y < near_rows:
            bottom = min(near_rows, y + h)
            part = _warp(
                ground_tile("far", split, style),
                _plane_homography(canvas, world, s, far, row + y),
                width,
                bottom - y,
            )
            cv2.copyTo(part, mask[y:bottom], shade[y:bottom])
    lit = np.full((height, width), 255, np.uint8)
    darkness = 255
    if light.casts_shadows:
        total = light.ambient + light.sun * light.sun_direction[2]
        darkness = int(255 * float(light.ambient[1] / total[1]))
        shapes = []
        for shape in _shadow_shapes(canvas, world, chunks, dynamic, s):
            if shape[:, 2].max() < NEAR:
                continue
            whole = shape if shape[:, 2].min() > NEAR else _clipped(shape)
            if len(whole) > 2:
                shapes.append(canvas.to_fixed(whole) - np.int32([0, row << SHIFT]))
        for shape_fixed in shapes:
            cv2.fillPoly(lit, [shape_fixed], darkness, cv2.LINE_AA, SHIFT)
    _contact_shadows(canvas, world, lit, row, chunks, dynamic, s)
    if height > 20:
        lit = cv2.blur(lit, (3, 3))
    if light.headlights:
        lit = _night(canvas, world, lit, row, chunks)
    shade = cv2.multiply(shade, lit, scale=1 / 255)
    region = canvas.image[row:]
    cv2.multiply(region, cv2.merge([shade, shade, shade]), region, scale=1 / 128)
    # Air between the camera and each row of the level ground.
    depths = plane * camera.focal / np.maximum(np.arange(height) + row - horizon_row(canvas), 0.5)
    clear = np.exp(-light.fog_density * np.minimum(depths, 400.0))
    rows = np.flatnonzero(clear < 0.985)
    if len(rows):
        last = int(rows[-1]) + 1
        part = region[:last].astype(np.float32)
        share = clear[:last, None, None].astype(np.float32)
        part *= share
        part += (1 - share) * light.fog_color.astype(np.float32)
        region[:last] = part


def _clipped(shape: Floats) -> Floats:
    from pvt_mtl_perception.data.synthetic.camera import clip_near

    return clip_near(shape)


def _contact_shadows(
    canvas: Canvas,
    world: World,
    lit: Bytes,
    row: int,
    chunks: Sequence[Chunk],
    dynamic: Sequence[Thing],
    s: float,
) -> None:
    """The dark below vehicles, which is there in any weather."""
    vehicles = [v for v in dynamic if isinstance(v, Vehicle)]
    vehicles += [v for chunk in chunks[:5] for v in chunk.things if isinstance(v, Vehicle)]
    for vehicle in vehicles:
        if not s + 2.5 < vehicle.s < s + 90:
            continue
        c, n = math.cos(vehicle.yaw), math.sin(vehicle.yaw)
        for grow, level in ((0.12, 120), (-0.12, 60)):
            l, w = vehicle.model.length / 2 + grow, vehicle.model.width / 2 + grow
            ps = vehicle.s + np.array([l * c - w * n, l * c + w * n, -l * c + w * n, -l * c - w * n])
            pd = vehicle.d + np.array([l * n + w * c, l * n - w * c, -l * n - w * c, -l * n + w * c])
            points = canvas.camera.project(world.road.place(ps, pd))
            if points[:, 2].min() > NEAR:
                cv2.fillConvexPoly(
                    lit, canvas.to_fixed(points) - np.int32([0, row << SHIFT]), level, cv2.LINE_8, SHIFT
                )


def _night(canvas: Canvas, world: World, lit: Bytes, row: int, chunks: Sequence[Chunk]) -> Bytes:
    """Own headlights and street lamps; the result scales the ground by up to four."""
    light, camera, width = canvas.light, canvas.camera, canvas.width
    height = lit.shape[0]
    low_h, low_w = max(2, height // 4), max(2, width // 4)
    rows = row + (np.arange(low_h) + 0.5) * height / low_h
    depth = camera.position[2] * camera.focal / np.maximum(rows - horizon_row(canvas), 0.5)
    lateral = (np.arange(low_w) + 0.5) / low_w * width - width / 2
    side = lateral[None, :] / camera.focal * depth[:, None]
    beam = (
        light.headlights
        * np.exp(-((side / (1.5 + 0.16 * depth[:, None])) ** 2))
        * np.minimum(1.5, (11 / np.maximum(depth, 4))[:, None] ** 1.2)
    )
    pools = np.zeros((low_h, low_w), np.float32)
    turns = np.arange(16) * (2 * math.pi / 16)
    for chunk in chunks[:5]:
        for thing in chunk.things:
            if isinstance(thing, Lamp):
                for reach, strength in ((8.0, 0.1), (5.0, 0.12), (2.8, 0.12)):
                    ring = world.road.place(
                        thing.s + reach * np.cos(turns), thing.d + thing.arm + reach * np.sin(turns)
                    )
                    points = camera.project(ring)
                    if points[:, 2].min() > NEAR:
                        xy = points[:, :2] / points[:, 2:]
                        small = np.stack([xy[:, 0] * low_w / width, (xy[:, 1] - row) * low_h / height], 1)
                        layer = np.zeros_like(pools)
                        cv2.fillConvexPoly(
                            layer, np.clip(small, -4000, 4000).astype(np.int32), strength * light.exposure
                        )
                        pools += layer
    ambient = float(light.ambient[1])
    total = ambient + beam + cv2.GaussianBlur(pools, (0, 0), 2.0)
    factor = cv2.resize(np.minimum(total / ambient, 8.0).astype(np.float32), (width, height))
    region = canvas.image[row:]
    region[:] = np.minimum(region * (factor * lit.astype(np.float32) / 255.0)[..., None], 255).astype(
        np.uint8
    )
    return np.full_like(lit, 255)
