"""One frame: camera, world and light put together, painted back to front, and its labels read off."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.derived_boxes import extent
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic.camera import Camera, make_camera
from pvt_mtl_perception.data.synthetic.canvas import FIRST_INSTANCE, Canvas, Instance
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.effects import (
    add_glow,
    add_weather,
    expose,
    reflect_object,
    reflect_wet_ground,
)
from pvt_mtl_perception.data.synthetic.figures import paint_bicycle, paint_person
from pvt_mtl_perception.data.synthetic.furniture import (
    paint_block,
    paint_gantry,
    paint_lamp,
    paint_sign,
    paint_signal,
)
from pvt_mtl_perception.data.synthetic.ground import paint_ground
from pvt_mtl_perception.data.synthetic.ground_light import light_ground
from pvt_mtl_perception.data.synthetic.layout import Road
from pvt_mtl_perception.data.synthetic.lighting import Conditions, Light, Triple, make_light
from pvt_mtl_perception.data.synthetic.meshes import paint_vehicle
from pvt_mtl_perception.data.synthetic.occlusion import Skyline, screens
from pvt_mtl_perception.data.synthetic.scenery import (
    paint_background,
    paint_barrier,
    paint_building,
    paint_sky,
    paint_tree,
)
from pvt_mtl_perception.data.synthetic.taxonomy import DETECTION, SCENE, TIME_OF_DAY, VOID, WALL, WEATHER
from pvt_mtl_perception.data.synthetic.things import (
    Block,
    Building,
    Chunk,
    Cycle,
    Lamp,
    Sign,
    Signal,
    Thing,
    Tree,
    Vehicle,
    Walker,
)
from pvt_mtl_perception.data.synthetic.world import CHUNK, Split, World

MIN_VISIBLE = 0.25
MIN_AREA = 24
MIN_SIDE = 3
_REFERENCE_AREA = 640 * 384
# Chunks that are painted, and those of them with small things.
_VIEW, _NEAR_VIEW = 9, 5


@dataclass(frozen=True)
class Viewpoint:
    """The camera as mounted: lengths in shares of the image's width, metres and radians."""

    focal: float
    height: float
    pitch: float
    roll: float
    yaw: float
    horizon: float
    mirrored: bool
    hood: float


@dataclass(frozen=True)
class Rendered:
    """A sample with what its labels were read from.

    Attributes:
        ids: uint8 (H, W); ``FIRST_INSTANCE`` + i is instance i, below it segmentation ids, 255 = unlabelled.
        instances: what was painted, in painting order.
    """

    sample: Sample
    ids: npt.NDArray[np.uint8]
    instances: tuple[Instance, ...]


def draw_conditions(dice: Dice) -> Conditions:
    """Scene, weather and time of day, every combination possible."""
    scene = dice.weighted(
        SCENE.names, [{"city street": 5, "residential": 2.4, "highway": 2}.get(n, 0.9) for n in SCENE.names]
    )
    weather = dice.pick(WEATHER.names)
    time = dice.weighted(TIME_OF_DAY.names, [{"daytime": 2.2}.get(n, 1.0) for n in TIME_OF_DAY.names])
    return Conditions(weather, scene, time)


def draw_viewpoint(dice: Dice) -> Viewpoint:
    """A camera behind a windscreen or on a roof."""
    return Viewpoint(
        focal=math.exp(dice.uniform(math.log(0.62), math.log(1.35))),
        height=dice.uniform(1.15, 2.0),
        pitch=dice.uniform(-0.03, 0.05),
        roll=dice.uniform(-0.02, 0.02),
        yaw=dice.uniform(-0.06, 0.06) if dice.chance(0.8) else dice.uniform(-0.3, 0.3),
        horizon=dice.uniform(0.40, 0.52),
        mirrored=dice.chance(0.5),
        hood=dice.uniform(0.04, 0.12) if dice.chance(0.15) else 0.0,
    )


def _camera(world: World, view: Viewpoint, t: float, width: int, height: int) -> tuple[Camera, float]:
    s, road = world.ego_s(t), world.road
    d = world.layout.ego_d + 0.25 * math.sin(0.31 * t + world.junction_phase)
    bump = 0.004 * math.sin(5.1 * t) + 0.003 * math.sin(8.3 * t + 1)
    pitch = view.pitch * 0.3 + bump - math.atan(road.slope(s + 6))
    yaw = road.heading(s + 4) + view.yaw
    center = (width / 2, view.horizon * height)
    position = road.at(s, d, view.height)
    return make_camera(width, height, view.focal * width, position, yaw, pitch, view.roll, center), s


def _paint_vehicle(canvas: Canvas, vehicle: Vehicle, world: World, sunlit: float) -> None:
    origin, slope = world.road.at(vehicle.s, vehicle.d), world.road.slope(vehicle.s)
    number = canvas.next_id
    paint_vehicle(
        canvas,
        vehicle.kind,
        world.split,
        vehicle.model,
        vehicle.look,
        origin,
        vehicle.yaw,
        slope,
        sunlit,
        vehicle.state,
    )
    if canvas.next_id > number and canvas.light.wetness:
        reflect_object(canvas, number)
    if vehicle.rider is not None and not canvas.full:
        paint_person(canvas, vehicle.rider, "motorcycle", origin, vehicle.yaw, slope, 0.0, False, sunlit)


def _paint_cycle(canvas: Canvas, cycle: Cycle, world: World, sunlit: float) -> None:
    origin, slope = world.road.at(cycle.s, cycle.d, cycle.z), world.road.slope(cycle.s)
    paint_bicycle(canvas, origin, cycle.yaw, slope, cycle.color, sunlit)
    if cycle.rider is not None and not canvas.full:
        paint_person(canvas, cycle.rider, "bicycle", origin, cycle.yaw, slope, cycle.phase, False, sunlit)


def _paint_thing(canvas: Canvas, thing: Thing, world: World, t: float, sunlit: float) -> None:
    if isinstance(thing, Tree):
        paint_tree(canvas, thing, world.road, world.split, max(sunlit, 0.3))
    elif isinstance(thing, Lamp):
        paint_lamp(canvas, thing, world.road)
    elif isinstance(thing, Block):
        paint_block(canvas, thing, world.road)
    elif canvas.full:
        return
    elif isinstance(thing, Vehicle):
        _paint_vehicle(canvas, thing, world, sunlit)
    elif isinstance(thing, Walker):
        origin, slope = world.road.at(thing.s, thing.d, thing.z), world.road.slope(thing.s)
        paint_person(canvas, thing.person, "", origin, thing.yaw, slope, thing.phase, thing.standing, sunlit)
    elif isinstance(thing, Sign):
        paint_sign(canvas, thing, world.road, world.split, sunlit)
    elif isinstance(thing, Cycle):
        _paint_cycle(canvas, thing, world, sunlit)
    elif isinstance(thing, Signal):
        paint_signal(canvas, thing, world.road, world.split, t)
    else:
        paint_gantry(canvas, thing, world.road, world.split)


def _tunnel_shell(canvas: Canvas, world: World, s: float) -> None:
    """Ceiling and lamps of a tunnel."""
    layout, light, road = world.layout, canvas.light, world.road
    steps = s + np.geomspace(1.2, 220, 24)
    left, right = -layout.property_line[0], layout.property_line[1]
    outline = [road.place(steps, left, 5.2), road.place(steps, right, 5.2)[::-1]]
    dim = light.tone((96.0, 94.0, 90.0), (0.0, 0.0, -1.0), 15.0)
    canvas.polygon(canvas.camera.project(np.concatenate(outline)), dim, WALL)
    white = np.array([255.0, 244.0, 214.0])
    for place in range(math.floor(s / 6) + 20, math.floor(s / 6), -1):
        s0 = place * 6.0
        if s0 < s + 1.5:
            continue
        tone = light.through_air(white, s0 - s).tolist()
        for d in (left * 0.5, right * 0.5):
            corners = ((s0, d - 0.15), (s0 + 2.2, d - 0.15), (s0 + 2.2, d + 0.15), (s0, d + 0.15))
            spots = [canvas.camera.spot(*road.at(a, b, 5.15)) for a, b in corners]
            if min(p[2] for p in spots) > 0.5:
                canvas.flat([p[:2] for p in spots], tone, WALL)


def _in_view(
    canvas: Canvas, road: Road, s: float, things: Sequence[Thing], skyline: Skyline
) -> dict[int, list[tuple[float, float, Thing]]]:
    """Things that may show, with their s and d, by chunk and the farthest first."""
    ordered: dict[int, list[tuple[float, float, Thing]]] = defaultdict(list)
    if not things:
        return ordered
    footings = [x.footing for x in things]
    place_s, place_d, along, across, rise, far = np.array(footings).T
    ends = road.place(
        np.concatenate([place_s - along, place_s + along]), np.tile(place_d, 2), np.tile(rise, 2)
    )
    x, y, depth = canvas.camera.project(ends).T.reshape(3, 2, -1)
    inner = np.maximum(depth, 1.0)
    u, margin = x / inner, across * (canvas.camera.focal / inner)
    left, right, top = (u - margin).min(0), (u + margin).max(0), (y / inner).min(0) - 1.0
    long = np.maximum(along, across) > 6.0
    ahead = (place_s > s + 2.0) | (long & (place_s > s - 20.0))
    seen = ahead & (depth[0] < far) & (right > 0) & (left < canvas.width)
    # Beside the camera a long thing may reach into view farther on.
    seen |= ahead & (depth[0] < 1.0) & (depth[1] > -20.0) & long
    chosen = np.flatnonzero(seen)
    hidden = skyline.hides(place_s[chosen], left[chosen], right[chosen], top[chosen])
    chosen = chosen[~hidden | (depth[0, chosen] < 2.0)]
    for i in chosen[np.argsort(-place_s[chosen], kind="stable")].tolist():
        ordered[math.floor(footings[i][0] / CHUNK)].append((footings[i][0], footings[i][1], things[i]))
    return ordered


def _buildings_in_view(
    canvas: Canvas, road: Road, chunks: Sequence[Chunk], skyline: Skyline
) -> dict[int, list[Building]]:
    """Buildings that may show, by chunk and the farthest first."""
    ordered: dict[int, list[Building]] = defaultdict(list)
    eye = float(canvas.camera.position[1])
    ahead = [b for chunk in chunks for b in chunk.buildings if b.s1 > eye + 2.1]
    if not ahead:
        return ordered
    ahead.sort(key=lambda b: -b.s0)
    values = np.array([(b.s0, b.s1, b.d, b.d + b.side * b.depth, b.height + b.roof + 0.5) for b in ahead]).T
    s0, s1, front, back, height = values
    s0 = np.maximum(s0, eye + 2.0)
    places = np.concatenate([s0, s1, s0, s1]), np.concatenate([front, front, back, back])
    spots = canvas.camera.project(road.place(*places, np.tile(height, 4))).T.reshape(3, 4, -1)
    depth = spots[2].min(0)
    x, y = spots[:2] / np.maximum(spots[2], 0.5)
    hidden = skyline.hides(s0, x.min(0), x.max(0), y.min(0) - 2.0) & (depth > 1.0)
    for building, gone in zip(ahead, hidden.tolist(), strict=True):
        if not gone:
            ordered[math.floor(building.s0 / CHUNK)].append(building)
    return ordered


def paint(
    world: World,
    light: Light,
    view: Viewpoint,
    t: float,
    width: int,
    height: int,
    noise_key: tuple[int, ...],
) -> Canvas:
    """Paints the world at a time in seconds; the canvas is not yet mirrored."""
    camera, s = _camera(world, view, t, width, height)
    canvas = Canvas(camera, light)
    first = math.floor(s / CHUNK)
    chunks = [world.chunk(i, i < first + _NEAR_VIEW) for i in range(first, first + _VIEW)]
    dynamic = list(world.moving(t, s + 2.0, s + (180.0 if world.scene == "highway" else 100.0)))
    things = [x for chunk in chunks for x in chunk.things]
    skyline = Skyline(canvas, world.road, screens(chunks, dynamic, float(camera.position[1])))
    by_chunk = _in_view(canvas, world.road, s, [*things, *dynamic], skyline)
    buildings = _buildings_in_view(canvas, world.road, chunks, skyline)
    near: list[Thing] = [x for chunk in chunks[:4] for x in chunk.things]
    near += [x for x in dynamic if x.s < s + 80]
    shown = [x for chunk in chunks[:3] for _, _, x in by_chunk[chunk.number]]
    tunnel = world.scene == "tunnel"
    if tunnel:
        dark = light.through_air(np.zeros(3), 200.0).tolist()
        cv2.rectangle(canvas.image, (0, 0), (width, height), dark, -1)
        canvas.ids[:] = WALL
    else:
        paint_sky(canvas, world, world.road.heading(s + 4) + view.yaw, t)
        paint_background(canvas, world, s, _VIEW * CHUNK)
    paint_ground(canvas, world, s, chunks)
    light_ground(canvas, world, s, chunks, near, shown)
    if light.wetness:
        reflect_wet_ground(canvas)
    if tunnel:
        _tunnel_shell(canvas, world, s)
    _paint_uprights(canvas, world, t, chunks, buildings, by_chunk)
    add_glow(canvas)
    if not tunnel:
        add_weather(canvas, Dice(*noise_key), world.split)
    if view.hood:
        _hood(canvas, view.hood)
    return canvas


def _paint_uprights(
    canvas: Canvas,
    world: World,
    t: float,
    chunks: Sequence[Chunk],
    buildings: Mapping[int, Sequence[Building]],
    by_chunk: Mapping[int, Sequence[tuple[float, float, Thing]]],
) -> None:
    """Buildings, barriers and things, chunk by chunk from far to near."""
    light = canvas.light
    direction: Triple = tuple(light.sun_direction.tolist())
    for position in reversed(range(len(chunks))):
        chunk = chunks[position]
        for building in buildings[chunk.number]:
            sunlit = 1.0 if building.side * direction[0] < 0 else 0.0
            paint_building(canvas, building, world.road, world.split, sunlit)
        medians = [b for b in chunk.barriers if b.d == 0.0]
        for barrier in chunk.barriers:
            if barrier.d != 0.0:
                paint_barrier(canvas, barrier, world.road, world.split)
        ordered = by_chunk[chunk.number]
        shading: list[Building] = []
        if light.casts_shadows:
            # Those on the sun's side.
            nearby = chunks[max(0, position - 1) : position + 2]
            shading = [b for c in nearby for b in c.buildings if b.side * direction[0] > 0]
        # The central reservation stands between the carriageways.
        for beyond in (True, False) if medians else (False,):
            for place, lateral, thing in ordered:
                if not medians or (lateral < 0) == beyond:
                    sunlit = world.sunlit(place, lateral, direction, shading) if shading else 1.0
                    _paint_thing(canvas, thing, world, t, sunlit)
            if beyond:
                for barrier in medians:
                    paint_barrier(canvas, barrier, world.road, world.split)


def _hood(canvas: Canvas, share: float) -> None:
    """The ego vehicle's bonnet at the lower edge, unlabelled."""
    width, height = canvas.width, canvas.height
    axes = (int(width * 0.62), int(height * share * 2))
    center = (width // 2, height + int(height * share))
    tone = np.minimum(canvas.light.ambient * 70 + canvas.light.sky_horizon * 0.12, 255).tolist()
    cv2.ellipse(canvas.image, center, axes, 0, 180, 360, tone, -1, cv2.LINE_AA)
    shine = np.minimum(np.array(tone) * 1.5, 255).tolist()
    cv2.ellipse(canvas.image, center, (axes[0], axes[1] - 3), 0, 200, 340, shine, 2, cv2.LINE_AA)
    cv2.ellipse(canvas.ids, center, axes, 0, 180, 360, VOID, -1)


def read_boxes(
    ids: npt.NDArray[np.uint8], instances: tuple[Instance, ...], mirrored: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Boxes of the visible parts, their classes, and the boxes too small or too hidden to count.

    Args:
        ids: the id image as delivered (already mirrored where ``mirrored``).
        instances: their records, whose extents are those before mirroring.
    """
    height, width = ids.shape
    min_area = MIN_AREA * width * height / _REFERENCE_AREA
    min_side = MIN_SIDE * math.sqrt(width * height / _REFERENCE_AREA)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    ignored: list[tuple[int, int, int, int]] = []
    for position, (label, area, (x0, y0, x1, y1)) in enumerate(instances):
        if mirrored:
            x0, x1 = width - x1, width - x0
        if x1 <= x0 or y1 <= y0:
            continue
        number = FIRST_INSTANCE + position
        mask = ids[y0:y1, x0:x1] == number
        seen = np.count_nonzero(mask)
        if not seen:
            continue
        left, top, right, bottom = extent(mask)
        box = (x0 + left, y0 + top, x0 + right, y0 + bottom)
        side = min(right - left, bottom - top)
        if seen >= MIN_VISIBLE * area and seen >= min_area and side >= min_side:
            boxes.append(box)
            labels.append(label)
        else:
            ignored.append(box)
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(ignored, np.float32).reshape(-1, 4),
    )


def render(
    world: World,
    conditions: Conditions,
    light: Light,
    view: Viewpoint,
    t: float,
    width: int,
    height: int,
    camera_key: tuple[int, ...],
    noise_key: tuple[int, ...],
    name: str,
) -> Rendered:
    """Paints a frame and reads its labels.

    Args:
        camera_key: entropy of the camera's contrast, blur and vignette.
        noise_key: entropy of what changes from frame to frame: noise, rain, snow.
    """
    canvas = paint(world, light, view, t, width, height, noise_key)
    image, ids = canvas.image, canvas.ids
    if view.mirrored:
        image, ids = cv2.flip(image, 1), cv2.flip(ids, 1)
        canvas.ids = ids
    image = expose(image, Dice(*camera_key), light.noise)
    instances = tuple(canvas.instances)
    boxes, labels, ignored = read_boxes(ids, instances, view.mirrored)
    hidden = conditions.scene == "tunnel"
    sample = Sample(
        image=image,
        boxes=boxes,
        box_labels=labels,
        ignore_boxes=ignored,
        box_classes=tuple(range(len(DETECTION))),
        mask=canvas.segmentation(),
        classes={
            "weather": -1 if hidden else WEATHER.index(conditions.weather),
            "scene": SCENE.index(conditions.scene),
            "timeofday": -1 if hidden else TIME_OF_DAY.index(conditions.time_of_day),
        },
        name=name,
    )
    return Rendered(sample, ids, instances)


def check_size(width: int, height: int) -> None:
    """Refuses frames too small to show anything.

    Raises:
        ValueError: below 64 x 48.
    """
    if width < 64 or height < 48:
        raise ValueError(f"a synthetic frame is at least 64 x 48 pixels, not {width} x {height}")


def split_key(split: str) -> int:
    """The split's part of every seed.

    Raises:
        ValueError: for another name than "train" or "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it is 'train' or 'test'")
    return 1 if split == "train" else 2


def render_with_ids(seed: int, width: int = 640, height: int = 384, split: Split = "train") -> Rendered:
    """Like ``render_frame``, with the id image and instance records."""
    check_size(width, height)
    if seed < 0:
        raise ValueError(f"seed is {seed}; it is an integer >= 0")
    key = (split_key(split), seed)
    dice = Dice(*key, 0)
    conditions = draw_conditions(dice)
    view = draw_viewpoint(dice)
    t = dice.uniform(0, 200)
    light = make_light(conditions, dice)
    world = World(seed, split, conditions.scene)
    return render(
        world, conditions, light, view, t, width, height, (*key, 8), (*key, 9), f"synthetic/{split}/{seed}"
    )


def render_frame(seed: int, width: int = 640, height: int = 384, split: Split = "train") -> Sample:
    """One street scene from its seed alone; the same seed gives the same bytes in every process.

    Args:
        seed: any integer >= 0.
        width, height: pixels, at least 64 x 48.
        split: "train" or "test"; they share no random stream and no façade, crown, vehicle body, paint,
            clothes, sign face or ground texture.

    Returns:
        All three tasks labelled: boxes of the visible parts (pieces less than a quarter visible or smaller
        than 24 pixels at 640 x 384 are ``ignore_boxes``), the mask in driving_segmentation ids with 255 on
        the own bonnet and on street furniture outside the label set, and classes for weather, scene and
        timeofday (weather and timeofday are -1 inside a tunnel).

    Raises:
        ValueError: for a negative seed, an unknown split or a size below 64 x 48.
    """
    return render_with_ids(seed, width, height, split).sample
