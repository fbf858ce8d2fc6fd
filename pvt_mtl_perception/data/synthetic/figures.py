"""People and bicycles: skeletons in three dimensions, drawn as limbs of the right width.

Near ones are drawn into the frame; far ones are stamps drawn once for each pose and direction of view.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import Camera, Floats, make_camera
from pvt_mtl_perception.data.synthetic.canvas import SHIFT, Canvas
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.meshes import STAMP_PIXELS, Mix, make_mix, recolor, turn_matrix
from pvt_mtl_perception.data.synthetic.sprites import WEIGHT, Stamp, make_stamp
from pvt_mtl_perception.data.synthetic.taxonomy import BICYCLE, PEDESTRIAN, RIDER
from pvt_mtl_perception.data.synthetic.textures import Bytes

_TOPS = {
    "train": ((30, 32, 38), (60, 62, 70), (120, 24, 30), (36, 54, 96), (200, 196, 188), (96, 84, 64), (50,
    80, 60),
              (150, 110, 70), (226, 226, 226), (190, 160, 40)),
    "test": ((46, 40, 36), (170, 60, 90), (90, 130, 150), (220, 208, 180), (70, 60, 100), (210, 110, 40)),
}  # fmt: skip
_TROUSERS = {
    "train": ((28, 30, 40), (44, 56, 86), (70, 66, 60), (24, 24, 26), (120, 108, 90)),
    "test": ((38, 44, 60), (90, 84, 84), (30, 26, 30)),
}
_SKIN = ((232, 190, 160), (206, 160, 128), (150, 104, 78), (98, 66, 50))
_HAIR = ((30, 24, 20), (70, 48, 32), (160, 130, 84), (120, 116, 112), (20, 20, 22))
_HELMETS = ((200, 50, 46), (226, 226, 226), (40, 40, 44), (60, 110, 180))

# So many people are drawn for each split; somebody is named by a number.
PEOPLE = 200
TROUSERS, SHOES, TOP, SKIN, HAIR, BAG = range(6)
_AVERAGE = 1.75


@dataclass(frozen=True)
class Person:
    """How somebody looks.

    Attributes:
        height: metres.
        girth: 1 = average.
        colors: float64 (6, 3), reflectance of trousers, shoes, top, skin, hair or helmet, bag.
        mixes: the same for stamps, of the first and the last three.
        coat: wears one that reaches over the hips.
        bag: 0 none, 1 on the back, 2 in the hand.
    """

    height: float
    girth: float
    colors: Floats
    mixes: tuple[Mix, Mix]
    coat: bool
    bag: int


@cache
def person(split: str, number: int, helmet: bool = False) -> Person:
    """Somebody (0 .. PEOPLE - 1) from the split's wardrobe."""
    dice = Dice(41 if split == "train" else 43, number, int(helmet))
    child = dice.chance(0.1) and not helmet
    colors = np.array(
        [
            dice.color(dice.pick(_TROUSERS[split]), 14),
            dice.color((40, 36, 34), 20),
            dice.color(dice.pick(_TOPS[split]), 18),
            dice.pick(_SKIN),
            dice.pick(_HELMETS if helmet else _HAIR),
            dice.color(dice.pick(_TOPS[split]), 24),
        ]
    )
    return Person(
        height=dice.uniform(1.0, 1.4) if child else dice.uniform(1.55, 1.92),
        girth=dice.uniform(0.85, 1.25),
        colors=colors,
        mixes=(make_mix(colors[:3]), make_mix(colors[3:])),
        coat=dice.chance(0.3),
        bag=dice.integer(1, 3) if dice.chance(0.4) else 0,
    )


class _Part(NamedTuple):
    """A piece of the drawing in fixed point: polygon (thickness 0), stroke (two points) or disc (one,
    its thickness the radius).
    """

    points: npt.NDArray[np.int32] | Sequence[Sequence[int]]
    thickness: int
    slot: int
    shade: float


def _draw(
    parts: Iterable[_Part], image: Bytes, colors: Sequence[Sequence[float]] | Sequence[float], line: int
) -> None:
    """Draws parts in order; ``colors`` is one value for all or a colour for each slot."""
    for part in parts:
        color = colors[part.slot]
        tone = color if isinstance(color, float) else [c * part.shade for c in color]
        points = part.points
        if isinstance(points, np.ndarray):
            cv2.fillConvexPoly(image, points, tone, line, SHIFT)
        elif len(points) == 1:
            cv2.circle(image, points[0], part.thickness, tone, -1, line, SHIFT)
        else:
            cv2.line(image, points[0], points[1], tone, part.thickness, line, SHIFT)


def _hull(points: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.asarray(cv2.convexHull(points)[:, 0], np.int32)


def _parts(
    xy: Floats,
    unit: float,
    h: float,
    girth: float,
    coat: bool,
    bag: int,
    facing: tuple[bool, bool],
    bent: bool,
) -> list[_Part]:
    """The drawing of a skeleton.

    Args:
        xy: pixels (16, 2) of feet, knees, hips, shoulders, elbows, hands (left, right each), neck, head,
            chest and back.
        unit: pixels per metre.
        facing: whether the right side, and whether the back, is turned to the viewer.
    """
    fixed = (xy * 16).astype(np.int32)
    joints: list[list[int]] = fixed.tolist()
    right_near, behind = facing
    far, near = (0, 1) if right_near else (1, 0)
    leg, arm = 0.085 * h * girth, 0.056 * h * girth
    parts: list[_Part] = []

    def limb(start: int, end: int, width: float, slot: int, shade: float = 1.0) -> None:
        parts.append(_Part((joints[start], joints[end]), max(1, round(width * unit)), slot, shade))

    def disc(joint: int, radius: float, slot: int, down: float = 0.0) -> None:
        x, y = joints[joint]
        parts.append(_Part(((x, y + int(down)),), max(8, round(radius * unit * 16)), slot, 1.0))

    dark = 0.72
    limb(far, 2 + far, leg * 0.75, TROUSERS, dark)
    limb(2 + far, 4 + far, leg, TROUSERS, dark)
    limb(6 + far, 8 + far, arm, TOP, dark)
    limb(8 + far, 10 + far, arm * 0.8, TOP, dark)
    disc(10 + far, 0.026 * h, SKIN)
    limb(near, 2 + near, leg * 0.75, TROUSERS)
    limb(2 + near, 4 + near, leg, TROUSERS)
    parts.append(_Part(_hull(fixed[[6, 7, 5, 4]]), 0, TOP, 1.0))
    limb(14, 4, 0.12 * h * girth, TOP)
    limb(14, 5, 0.12 * h * girth, TOP)
    limb(6, 7, 0.09 * h * girth, TOP)
    if coat and not bent:
        hem = fixed[[4, 5]] * 0.55 + fixed[[2, 3]] * 0.45
        spread, bottom = 0.05 * h * unit * 16, hem[:, 1].max()
        left, right = hem[:, 0].min() - spread, hem[:, 0].max() + spread
        skirt = np.array([fixed[4], fixed[5], (right, bottom), (left, bottom)], np.int32)
        parts.append(_Part(_hull(skirt), 0, TOP, 0.85))
    if bag == 1:
        limb(15, 14, 0.15 * h, BAG)
    limb(6 + near, 8 + near, arm, TOP, 0.9)
    limb(8 + near, 10 + near, arm * 0.8, TOP, 0.9)
    disc(10 + near, 0.026 * h, SKIN)
    for foot in (0, 1):
        disc(foot, 0.03 * h, SHOES)
    if bag == 2 and not bent:
        disc(10, 0.055 * h, BAG, 0.09 * h * unit * 16)
    limb(12, 13, 0.055 * h, SKIN)
    radius = 0.066 * h
    disc(13, radius, SKIN)
    # Seen from behind, hair covers the head; from the front its upper half.
    rise = radius * unit * (0.15 if behind else 0.45) * 16
    disc(13, radius * (0.98 if behind else 0.85), HAIR, -rise)
    return parts


def _walker(h: float, girth: float, phase: float, stride: float) -> Floats:
    """Joints (16, 3) of somebody standing (stride 0) or walking; phase in radians of the gait."""
    swing = math.sin(phase)
    reach, lift = 0.17 * h * stride * swing, 0.06 * h * stride * max(0.0, math.cos(phase))
    other_lift = 0.06 * h * stride * max(0.0, -math.cos(phase))
    hip, shoulder = 0.075 * h * girth, 0.115 * h * girth
    swing_arm = 0.12 * h * stride * swing
    bend = 0.03 * h * stride
    return np.array(
        [
            (-hip, reach, 0.03 * h + lift), (hip, -reach, 0.03 * h + other_lift),
            (-hip, reach * 0.55 + bend, 0.28 * h + lift), (hip, -reach * 0.55 + bend, 0.28 * h + other_lift),
            (-hip, 0.0, 0.52 * h), (hip, 0.0, 0.52 * h),
            (-shoulder, 0.0, 0.81 * h), (shoulder, 0.0, 0.81 * h),
            (-shoulder * 1.25, -swing_arm * 0.6, 0.64 * h), (shoulder * 1.25, swing_arm * 0.6, 0.64 * h),
            (-shoulder * 1.2, -swing_arm + 0.05 * h, 0.49 * h), (shoulder * 1.2, swing_arm + 0.05 * h,
            0.49 * h),
            (0.0, 0.0, 0.85 * h), (0.0, 0.02 * h, 0.925 * h), (0.0, 0.0, 0.76 * h), (0.0, -0.1 * h, 0.62 * h),
        ]
    )  # fmt: skip


def _seated(h: float, girth: float, phase: float, motorized: bool) -> Floats:
    """Joints (16, 3) of somebody on a bicycle, pedalling, or on a motorcycle."""
    hip, shoulder = 0.075 * h * girth, 0.115 * h * girth
    seat, saddle_y = (0.82, -0.3) if motorized else (0.95, -0.22)
    if motorized:
        feet = [(-0.2, 0.1, 0.34), (0.2, 0.1, 0.34)]
    else:
        turns = ((-1, phase), (1, phase + math.pi))
        feet = [(s * 0.1, 0.05 + 0.17 * math.cos(a), 0.32 + 0.17 * math.sin(a)) for s, a in turns]
    knees = [(s * 0.14, 0.22, (f[2] + seat) / 2 + 0.12) for s, f in zip((-1, 1), feet, strict=True)]
    chest = (0.0, saddle_y + 0.2, seat + 0.42)
    return np.array(
        [
            *feet, *knees, (-hip, saddle_y, seat), (hip, saddle_y, seat),
            (-shoulder, chest[1] + 0.08, seat + 0.5), (shoulder, chest[1] + 0.08, seat + 0.5),
            (-0.28, chest[1] + 0.25, seat + 0.26), (0.28, chest[1] + 0.25, seat + 0.26),
            (-0.26, 0.46, 1.02), (0.26, 0.46, 1.02),
            (0.0, chest[1] + 0.1, seat + 0.56), (0.0, chest[1] + 0.16, seat + 0.68), chest,
            (0.0, chest[1] - 0.15, seat + 0.35),
        ]
    )  # fmt: skip


def _facing(turn: Floats, away_x: float, away_y: float) -> tuple[bool, bool]:
    """Whether the right side, and whether the back, is turned to a viewer who looks along (x, y)."""
    return bool(turn[0, 0] * away_x + turn[0, 1] * away_y < 0), bool(
        turn[1, 0] * away_x + turn[1, 1] * away_y > 0
    )


_YAWS, _PHASES = 16, 8
_STAMP_SCALE = 36.0


@cache
def _stamp(seat: str, phase: int, direction: int, coat: bool, bag: int) -> Stamp:
    """Somebody 1.75 m tall seen from far away; seat is "", "bicycle" or "motorcycle", phase -1 stands."""
    h, distance, scale = _AVERAGE, 16.0, 2 * _STAMP_SCALE
    gait = phase * 2 * math.pi / _PHASES
    if seat:
        joints = _seated(h, 1.0, gait, seat == "motorcycle")
    else:
        joints = _walker(h, 1.0, max(gait, 0.0), 0.15 if phase < 0 else 1.0)
    turn = turn_matrix(direction * 2 * math.pi / _YAWS, 0.0)
    side, tall = int(1.9 * scale), int(2.3 * scale)
    foot = (side / 2, 0.92 * tall)
    view = make_camera(side, tall, scale * distance, (0.0, -distance, 1.5), 0.0, 0.0, 0.0, (0.0, 0.0))
    homogeneous = view.project(joints @ turn)
    xy = homogeneous[:, :2] / homogeneous[:, 2:] + np.array(foot) - (0.0, 1.5 * scale)
    parts = _parts(xy, scale, h, 1.0, coat, bag, _facing(turn, 0.0, 1.0), bool(seat))
    first, second, shine = (np.zeros((tall, side, 3), np.uint8) for _ in range(3))
    cover = np.zeros((tall, side), np.uint8)
    none = (0.0, 0.0, 0.0)
    one = [tuple(WEIGHT * (i == k) for i in range(3)) for k in range(3)]
    _draw(parts, first, (*one, none, none, none), cv2.LINE_AA)
    _draw(parts, second, (none, none, none, *one), cv2.LINE_AA)
    _draw(parts, cover, (255.0,) * 6, cv2.LINE_AA)
    half = (side // 2, tall // 2)
    maps = [cv2.resize(m, half, interpolation=cv2.INTER_AREA) for m in (first, second, shine)]
    small = cv2.resize(cover, half, interpolation=cv2.INTER_AREA)
    return make_stamp(maps, small, (foot[0] / 2, foot[1] / 2), scale / 2)


def _away(camera: Camera, origin: tuple[float, float, float]) -> tuple[float, float]:
    x, y = origin[0] - float(camera.position[0]), origin[1] - float(camera.position[1])
    norm = math.hypot(x, y)
    return x / norm, y / norm


def paint_person(
    canvas: Canvas,
    who: Person,
    seat: str,
    origin: tuple[float, float, float],
    yaw: float,
    slope: float,
    phase: float,
    standing: bool,
    sunlit: float,
) -> None:
    """Paints a pedestrian or, with a seat ("bicycle" or "motorcycle"), a rider, as a new instance.

    Args:
        origin: world point on the ground below.
        phase: radians of the gait or of the pedals.
    """
    camera, light = canvas.camera, canvas.light
    u, v, depth = camera.spot(*origin)
    if depth < 1.2:
        return
    unit = camera.focal / depth
    label = RIDER if seat else PEDESTRIAN
    if unit * who.height < 4:
        return
    away_x, away_y = _away(camera, origin)
    normal = (-away_x, -away_y, 0.0)
    if unit * who.height < STAMP_PIXELS:
        steps = round((yaw - math.atan2(away_x, away_y)) * _YAWS / (2 * math.pi)) % _YAWS
        pose = -1 if standing else round(phase * _PHASES / (2 * math.pi)) % _PHASES
        if seat == "motorcycle":
            pose = 0
        stamp = _stamp(seat, pose, steps, who.coat and not seat, who.bag if not seat else who.bag % 2)
        gain, offset = light.gain(normal, depth, sunlit)
        tall = unit if seat else unit * who.height / _AVERAGE
        first = recolor(who.mixes[0], gain, offset)
        second = recolor(who.mixes[1], gain, (0.0, 0.0, 0.0))
        canvas.stamp(stamp, (u, v), (tall * who.girth**0.5, tall), (first, second), 0.0, label)
        return
    h = who.height
    joints = (
        _seated(h, who.girth, phase, seat == "motorcycle")
        if seat
        else _walker(h, who.girth, phase, 0.15 if standing else 1.0)
    )
    turn = turn_matrix(yaw, slope)
    homogeneous = camera.project(joints @ turn + origin)
    if homogeneous[:, 2].min() < 0.6:
        return
    xy = homogeneous[:, :2] / homogeneous[:, 2:]
    parts = _parts(xy, unit, h, who.girth, who.coat, who.bag, _facing(turn, away_x, away_y), bool(seat))
    lit = light.shade(who.colors, np.broadcast_to(np.array(normal), who.colors.shape), depth, sunlit)
    _draw(parts, canvas.image, lit.tolist(), cv2.LINE_AA)
    _draw(parts, canvas.ids, (float(canvas.next_id),) * 6, cv2.LINE_8)
    margin = (0.16 if who.bag else 0.07) * h * unit
    (x0, y0), (x1, y1) = xy.min(0) - margin, xy.max(0) + margin
    canvas.register(label, float(x0), float(y0), float(x1), float(y1))


_RIM_TURNS = np.arange(14) * (2 * math.pi / 14)
_FRAME = np.array(
    [(0, -0.5, 0.35), (0, -0.1, 0.32), (0, -0.22, 0.88), (0, 0.4, 0.85), (0, 0.52, 0.35), (0, -0.24, 0.96),
     (-0.27, 0.4, 1.02), (0.27, 0.4, 1.02), (0, 0.38, 1.0), (0, -0.34, 0.97), (0, -0.12, 0.97)]
)  # fmt: skip
_BICYCLE = np.concatenate(
    [
        np.stack([np.zeros(14), 0.34 * np.cos(_RIM_TURNS) + hub, 0.35 + 0.34 * np.sin(_RIM_TURNS)], 1)
        for hub in (-0.5, 0.52)
    ]
    + [_FRAME]
)


def paint_bicycle(
    canvas: Canvas,
    origin: tuple[float, float, float],
    yaw: float,
    slope: float,
    color: tuple[float, float, float],
    sunlit: float,
) -> None:
    """Paints a bicycle; its label covers the wheels' insides, as an annotator outlines it."""
    camera, light = canvas.camera, canvas.light
    _, _, middle = camera.spot(*origin)
    if middle < 1.2:
        return
    homogeneous = camera.project(_BICYCLE @ turn_matrix(yaw, slope) + origin)
    if homogeneous[:, 2].min() < 0.6:
        return
    unit = camera.focal / middle
    if unit < 5:
        return
    xy = homogeneous[:, :2] / homogeneous[:, 2:]
    away_x, away_y = _away(camera, origin)
    normal = (-away_x, -away_y, 0.0)
    paint = light.tone(color, normal, middle, sunlit)
    tyre = light.tone((28.0, 28.0, 30.0), normal, middle, sunlit)
    metal = light.tone((150.0, 150.0, 154.0), normal, middle, sunlit)
    number = canvas.next_id
    fixed = (xy * 16).astype(np.int32)
    thick = max(1, round(0.045 * unit))
    for wheel in (fixed[:14], fixed[14:28]):
        cv2.polylines(canvas.ids, [wheel], True, number, thick + 1, cv2.LINE_8, SHIFT)
        cv2.fillConvexPoly(canvas.ids, wheel, number, cv2.LINE_8, SHIFT)
        if unit > 40:
            spokes = np.stack([wheel[:7], wheel[7:]], 1)
            cv2.polylines(canvas.image, list(spokes), False, metal, 1, cv2.LINE_AA, SHIFT)
        cv2.polylines(canvas.image, [wheel], True, tyre, thick, cv2.LINE_AA, SHIFT)
    frame = fixed[28:]
    tubes = [frame[[0, 1, 2, 3, 1]], frame[[0, 2]], frame[[3, 4]]]
    cv2.polylines(canvas.image, tubes, False, paint, thick, cv2.LINE_AA, SHIFT)
    cv2.polylines(canvas.image, [frame[[2, 5]], frame[[3, 8]]], False, metal, thick, cv2.LINE_AA, SHIFT)
    cv2.polylines(canvas.image, [frame[[6, 7]], frame[[9, 10]]], False, tyre, thick, cv2.LINE_AA, SHIFT)
    whole = [*tubes, frame[[2, 5]], frame[[3, 8]], frame[[6, 7]], frame[[9, 10]]]
    cv2.polylines(canvas.ids, whole, False, number, thick + 1, cv2.LINE_8, SHIFT)
    cv2.fillConvexPoly(canvas.ids, frame[[1, 2, 3]], number, cv2.LINE_8, SHIFT)
    (x0, y0), (x1, y1) = xy.min(0) - 1, xy.max(0) + 1
    canvas.register(BICYCLE, float(x0), float(y0), float(x1), float(y1))
