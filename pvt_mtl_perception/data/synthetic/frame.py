"""One frame: camera, world and light put together, painted back to front, and its labels read off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

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
from pvt_mtl_perception.data.synthetic.figures import paint_bicycle, paint_pedestrian, paint_rider
from pvt_mtl_perception.data.synthetic.furniture import (
    paint_block,
    paint_gantry,
    paint_lamp,
    paint_sign,
    paint_signal,
)
from pvt_mtl_perception.data.synthetic.ground import paint_ground
from pvt_mtl_perception.data.synthetic.lighting import Conditions, Light, make_light
from pvt_mtl_perception.data.synthetic.meshes import paint_mesh
from pvt_mtl_perception.data.synthetic.scenery import (
    paint_background,
    paint_barrier,
    paint_building,
    paint_sky,
    paint_tree,
)
from pvt_mtl_perception.data.synthetic.taxonomy import DETECTION, SCENE, TIME_OF_DAY, VOID, WALL, WEATHER
from pvt_mtl_perception.data.synthetic.world import (
    CHUNK,
    Barrier,
    Block,
    Chunk,
    Cycle,
    Gantry,
    Lamp,
    Sign,
    Signal,
    Split,
    Thing,
    Tree,
    Vehicle,
    Walker,
    World,
)

MIN_VISIBLE = 0.25
MIN_AREA = 24
MIN_SIDE = 3
_REFERENCE_AREA = 640 * 384
_VIEW = 9
_FURNITURE_VIEW = 120.0
_LAMP = np.array([0.0, 0.0, -1.0])


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
    s = world.ego_s(t)
    layout = world.layout
    d = layout.ego_d + 0.25 * math.sin(0.31 * t + world.junction_phase)
    bump = 0.004 * math.sin(5.1 * t) + 0.003 * math.sin(8.3 * t + 1)
    x, y, z = world.road.point(s, d, view.height)
    pitch = view.pitch * 0.3 + bump - math.atan(world.road.slope(s + 6))
    yaw = world.road.heading(s + 4) + view.yaw
    focal = view.focal * width
    horizon = view.horizon * height
    return make_camera(width, height, focal, (x, y, z), yaw, pitch, view.roll, (width / 2, horizon)), s


def _paint_thing(canvas: Canvas, thing: Thing, world: World, t: float, chunks: list[Chunk]) -> None:
    road, split, light = world.road, world.split, canvas.light
    if isinstance(thing, Barrier):
        paint_barrier(canvas, thing, road, split, 1.0)
        return
    if isinstance(thing, Lamp):
        paint_lamp(canvas, thing, road)
        return
    if isinstance(thing, Gantry):
        paint_gantry(canvas, thing, road, split)
        return
    if isinstance(thing, Signal):
        paint_signal(canvas, thing, road, split, t)
        return
    if isinstance(thing, Block):
        paint_block(canvas, thing, road, 1.0)
        return
    if canvas.full:
        return
    near = [c for c in chunks if abs(c.index * CHUNK - thing.s) < 2 * CHUNK] if light.casts_shadows else []
    sunlit = world.sunlit(thing.s, thing.d, light.sun_direction, near) if near else 1.0
    if isinstance(thing, Tree):
        paint_tree(canvas, thing, road, split, max(sunlit, 0.3))
    elif isinstance(thing, Sign):
        paint_sign(canvas, thing, road, split, sunlit)
    elif isinstance(thing, Vehicle):
        origin = road.point(thing.s, thing.d)
        number = canvas.next_id
        slope = road.slope(thing.s)
        paint_mesh(
            canvas,
            thing.model.mesh,
            origin,
            thing.yaw,
            slope,
            thing.colors,
            thing.model.label,
            sunlit,
            thing.braking,
        )
        if canvas.next_id > number and light.wetness:
            reflect_object(canvas, number)
        if thing.rider is not None and not canvas.full:
            paint_rider(canvas, thing.rider, origin, thing.yaw, slope, 0.0, True, sunlit)
    elif isinstance(thing, Cycle):
        origin = road.point(thing.s, thing.d, thing.z)
        paint_bicycle(canvas, origin, thing.yaw, road.slope(thing.s), thing.color, sunlit)
        if thing.rider is not None and not canvas.full:
            paint_rider(
                canvas, thing.rider, origin, thing.yaw, road.slope(thing.s), thing.phase, False, sunlit
            )
    elif isinstance(thing, Walker):
        origin = road.point(thing.s, thing.d, thing.z)
        paint_pedestrian(
            canvas, thing.person, origin, thing.yaw, road.slope(thing.s), thing.phase, thing.stride, sunlit
        )


def _tunnel_shell(canvas: Canvas, world: World, s: float) -> None:
    """Ceiling and lamps of a tunnel, and its far end."""
    layout, light = world.layout, canvas.light
    steps = s + np.geomspace(1.2, 220, 24)
    left, right = -layout.property_line[0], layout.property_line[1]
    low = canvas.camera.project(world.road.place(steps, left, 5.2))
    high = canvas.camera.project(world.road.place(steps, right, 5.2))
    dim = light.shade(np.array([[96.0, 94.0, 90.0]]), _LAMP[None], 15.0)[0]
    canvas.polygon(np.concatenate([low, high[::-1]]), dim.tolist(), WALL)
    for d in (left * 0.5, right * 0.5):
        start = math.floor(s / 6) * 6
        for place in range(20, -1, -1):
            s0 = start + place * 6
            if s0 < s + 1.5:
                continue
            points = canvas.camera.project(
                world.road.place(
                    np.array([s0, s0 + 2.2, s0 + 2.2, s0]),
                    np.array([d - 0.15, d - 0.15, d + 0.15, d + 0.15]),
                    5.15,
                )
            )
            canvas.polygon(
                points, light.through_air(np.array([255.0, 244.0, 214.0]), s0 - s).tolist(), WALL, convex=True
            )


def paint(
    world: World, light: Light, view: Viewpoint, t: float, width: int, height: int, noise_key: tuple[int, ...]
) -> Canvas:
    """Paints the world at a time; the canvas is not yet mirrored."""
    camera, s = _camera(world, view, t, width, height)
    canvas = Canvas(camera, light)
    first = math.floor(s / CHUNK)
    chunks = [world.chunk(i) for i in range(first, first + _VIEW)]
    last = s + (95.0 if world.scene != "highway" else 180.0)
    dynamic = list(world.moving(t, s + 2.0, last))
    if world.scene == "tunnel":
        canvas.image[:] = light.through_air(np.zeros(3), 200.0)
        canvas.ids[:] = WALL
    else:
        paint_sky(canvas, world, world.road.heading(s + 4) + view.yaw, t)
        paint_background(canvas, world, s, _VIEW * CHUNK)
    paint_ground(canvas, world, s, chunks, dynamic, t)
    if light.wetness:
        reflect_wet_ground(canvas)
    if world.scene == "tunnel":
        _tunnel_shell(canvas, world, s)
    by_chunk: dict[int, list[Thing]] = {}
    for mover in dynamic:
        by_chunk.setdefault(math.floor(mover.s / CHUNK), []).append(mover)
    for chunk in reversed(chunks):
        for building in sorted(chunk.buildings, key=lambda b: -b.s0):
            sunlit = 1.0 if building.side * light.sun_direction[0] < 0 else 0.0
            paint_building(canvas, building, world.road, world.split, sunlit)
        for barrier in chunk.barriers:
            if barrier.d != 0.0:
                _paint_thing(canvas, barrier, world, t, chunks)
        far = chunk.index * CHUNK - s > _FURNITURE_VIEW
        things = [x for x in chunk.things if not far or isinstance(x, Tree)] + by_chunk.get(chunk.index, [])
        ordered = sorted((x for x in things if s + 2.0 < _place(x) < s + 220), key=lambda x: -_place(x))
        medians = [b for b in chunk.barriers if b.d == 0.0]
        if medians:
            for thing in ordered:
                if _lateral(thing) < 0:
                    _paint_thing(canvas, thing, world, t, chunks)
            for barrier in medians:
                _paint_thing(canvas, barrier, world, t, chunks)
            ordered = [x for x in ordered if _lateral(x) >= 0]
        for thing in ordered:
            _paint_thing(canvas, thing, world, t, chunks)
    dice = Dice(*noise_key)
    add_glow(canvas)
    if world.scene != "tunnel":
        add_weather(canvas, dice, world.split)
    if view.hood:
        _hood(canvas, view.hood)
    return canvas


def _place(thing: Thing) -> float:
    if isinstance(thing, Block):
        return thing.s0
    assert not hasattr(thing, "s0")
    return thing.s  # type: ignore[union-attr]


def _lateral(thing: Thing) -> float:
    if isinstance(thing, Gantry):
        return thing.d1
    return thing.d0 if isinstance(thing, Block) else thing.d


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
    for position, instance in enumerate(instances):
        x0, y0, x1, y1 = instance.extent
        if mirrored:
            x0, x1 = width - x1, width - x0
        if x1 <= x0 or y1 <= y0:
            continue
        mask = ids[y0:y1, x0:x1] == FIRST_INSTANCE + position
        columns = mask.any(0)
        if not columns.any():
            continue
        rows = mask.any(1)
        left, right = int(columns.argmax()), len(columns) - int(columns[::-1].argmax())
        top, bottom = int(rows.argmax()), len(rows) - int(rows[::-1].argmax())
        area = np.count_nonzero(mask)
        box = (x0 + left, y0 + top, x0 + right, y0 + bottom)
        shown = area >= MIN_VISIBLE * instance.area
        if shown and area >= min_area and min(right - left, bottom - top) >= min_side:
            boxes.append(box)
            labels.append(instance.label)
        else:
            ignored.append(box)
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(ignored, np.float32).reshape(-1, 4),
    )


def render(
    world: World, conditions: Conditions, light: Light, view: Viewpoint, t: float, width: int, height: int,
    camera_key: tuple[int, ...], noise_key: tuple[int, ...], name: str,
) -> Rendered:  # fmt: skip
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
