"""People and bicycles: skeletons in three dimensions, painted as limbs of the right width in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pvt_mtl_perception.data.synthetic.camera import Floats
from pvt_mtl_perception.data.synthetic.canvas import SHIFT, Canvas
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.taxonomy import BICYCLE, PEDESTRIAN, RIDER

_TOPS = {
    "train": ((30, 32, 38), (60, 62, 70), (120, 24, 30), (36, 54, 96), (200, 196, 188), (96, 84, 64), (50, 80, 60),
              (150, 110, 70), (226, 226, 226), (190, 160, 40)),
    "test": ((46, 40, 36), (170, 60, 90), (90, 130, 150), (220, 208, 180), (70, 60, 100), (210, 110, 40)),
}  # fmt: skip
_TROUSERS = {
    "train": ((28, 30, 40), (44, 56, 86), (70, 66, 60), (24, 24, 26), (120, 108, 90)),
    "test": ((38, 44, 60), (90, 84, 84), (30, 26, 30)),
}
_SKIN = ((232, 190, 160), (206, 160, 128), (150, 104, 78), (98, 66, 50))
_HAIR = ((30, 24, 20), (70, 48, 32), (160, 130, 84), (120, 116, 112), (20, 20, 22))


@dataclass(frozen=True)
class Person:
    """How somebody looks.

    Attributes:
        height: metres.
        girth: 1 = average.
        colors: float64 (6, 3), reflectance of trousers, shoes, top, skin, hair or helmet, bag.
        skirt, bag: clothes and things carried.
    """

    height: float
    girth: float
    colors: Floats
    coat: bool
    bag: int


TROUSERS, SHOES, TOP, SKIN, HAIR, BAG = range(6)


def make_person(split: str, dice: Dice, helmet: bool = False) -> Person:
    """Draws somebody from the split's wardrobe."""
    child = dice.chance(0.1) and not helmet
    hair = (
        dice.pick(((220, 40, 40), (230, 230, 230), (40, 40, 44), (60, 110, 180)))
        if helmet
        else dice.pick(_HAIR)
    )
    colors = np.array(
        [
            dice.color(dice.pick(_TROUSERS[split]), 14),
            dice.color((40, 36, 34), 20),
            dice.color(dice.pick(_TOPS[split]), 18),
            dice.pick(_SKIN),
            hair,
            dice.color(dice.pick(_TOPS[split]), 24),
        ]
    )
    return Person(
        height=dice.uniform(1.0, 1.4) if child else dice.uniform(1.55, 1.92),
        girth=dice.uniform(0.85, 1.25),
        colors=colors,
        coat=dice.chance(0.3),
        bag=dice.integer(0, 4) if dice.chance(0.45) else 0,
    )


def _limbs(
    canvas: Canvas, pixels: list[tuple[int, int]], strokes: list[tuple[int, int, float, int]],
    colors: list[list[float]], unit: float, number: int,
) -> None:  # fmt: skip
    for start, end, width, color in strokes:
        thickness = max(1, round(width * unit))
        cv2.line(canvas.image, pixels[start], pixels[end], colors[color], thickness, cv2.LINE_AA, SHIFT)
        cv2.line(canvas.ids, pixels[start], pixels[end], number, thickness, cv2.LINE_8, SHIFT)


def _disc(canvas: Canvas, where: tuple[int, int], radius: float, color: list[float], number: int) -> None:
    fixed = max(8, round(radius * 16))
    cv2.circle(canvas.image, where, fixed, color, -1, cv2.LINE_AA, SHIFT)
    cv2.circle(canvas.ids, where, fixed, number, -1, cv2.LINE_8, SHIFT)


def _body(
    canvas: Canvas, person: Person, joints: Floats, origin: Floats, yaw: float, slope: float, label: int, sunlit: float,
    bent: bool,
) -> None:  # fmt: skip
    """Paints a skeleton; joints (16, 3): feet, knees, hips, shoulders, elbows, hands (left, right), neck, head,
    crown and chest back."""
    camera, light = canvas.camera, canvas.light
    sin_yaw, cos_yaw = math.sin(yaw), math.cos(yaw)
    turn = np.array(
        [[cos_yaw, -sin_yaw, -sin_yaw * slope], [sin_yaw, cos_yaw, cos_yaw * slope], [0.0, 0.0, 1.0]]
    )
    world = joints @ turn + origin
    homogeneous = camera.project(world)
    depth = float(homogeneous[:, 2].mean())
    if homogeneous[:, 2].min() < 0.6:
        return
    xy = homogeneous[:, :2] / homogeneous[:, 2:]
    unit = camera.focal / depth
    h = person.height
    if unit * h < 3:
        return
    towards = camera.position - origin
    towards = towards / np.linalg.norm(towards)
    base = person.colors
    lit = light.shade(base, np.broadcast_to(towards, base.shape), depth, sunlit)
    colors = lit.tolist()
    dark = (lit * 0.72).tolist()
    number = canvas.next_id
    fixed = (xy * 16).astype(np.int32)
    p = [(int(a), int(b)) for a, b in fixed.tolist()]
    g = person.girth
    side = 1 if turn[0] @ towards > 0 else 0
    small = unit * h < 16
    # The limbs on the far side first.
    order = (0, 1) if side else (1, 0)
    far, near = order
    leg = 0.085 * h * g
    arm = 0.056 * h * g
    _limbs(
        canvas, p,
        [(0 + far, 2 + far, leg * 0.75, TROUSERS), (2 + far, 4 + far, leg, TROUSERS)]
        + ([] if small else [(6 + far, 8 + far, arm, TOP), (8 + far, 10 + far, arm * 0.8, TOP)]),
        dark, unit, number,
    )  # fmt: skip
    if not small:
        _disc(canvas, p[10 + far], 0.026 * h * unit, colors[SKIN], number)
    _limbs(
        canvas,
        p,
        [(0 + near, 2 + near, leg * 0.75, TROUSERS), (2 + near, 4 + near, leg, TROUSERS)],
        colors,
        unit,
        number,
    )
    # Shoulders and hips as a quadrilateral, with the chest's depth as stroke width when seen from the side.
    torso = fixed[[6, 7, 5, 4]]
    canvas.fixed_polygon(torso, colors[TOP], number)
    _limbs(
        canvas, p,
        [(14, 4, 0.12 * h * g, TOP), (14, 5, 0.12 * h * g, TOP), (6, 7, 0.09 * h * g, TOP)],
        colors, unit, number,
    )  # fmt: skip
    if person.coat and not bent:
        hem = (fixed[[4, 5]] * 0.55 + fixed[[2, 3]] * 0.45).astype(np.int32)
        spread = int(0.05 * h * unit * 16)
        left, right = sorted(hem[:, 0].tolist())
        skirt = np.array(
            [
                fixed[4],
                fixed[5],
                (right + spread, int(hem[:, 1].max())),
                (left - spread, int(hem[:, 1].max())),
            ],
            np.int32,
        )
        canvas.fixed_polygon(cv2.convexHull(skirt)[:, 0], dark[TOP], number)
    if person.bag == 1 and not small:
        _limbs(canvas, p, [(15, 14, 0.15 * h, BAG)], colors, unit, number)
    if not small:
        _limbs(
            canvas,
            p,
            [(6 + near, 8 + near, arm, TOP), (8 + near, 10 + near, arm * 0.8, TOP)],
            colors,
            unit,
            number,
        )
        _disc(canvas, p[10 + near], 0.026 * h * unit, colors[SKIN], number)
        for foot in (0, 1):
            _disc(canvas, p[foot], 0.03 * h * unit, colors[SHOES], number)
        if person.bag >= 2 and not bent:
            _disc(
                canvas,
                (p[10][0], p[10][1] + int(0.09 * h * unit * 16)),
                0.075 * h * unit,
                colors[BAG],
                number,
            )
        _limbs(canvas, p, [(12, 13, 0.055 * h, SKIN)], colors, unit, number)
    radius = 0.066 * h * unit
    _disc(canvas, p[13], radius, colors[SKIN], number)
    # Seen from behind, hair covers the head; from the front its upper half.
    behind = float(turn[1] @ towards) < 0.0
    rise = int(radius * (0.15 if behind else 0.45) * 16)
    _disc(canvas, (p[13][0], p[13][1] - rise), radius * (0.98 if behind else 0.85), colors[HAIR], number)
    margin = 0.07 * h * unit
    (x0, y0), (x1, y1) = xy.min(0) - margin, xy.max(0) + margin * 0.6
    canvas.register(label, float(x0), float(y0), float(x1), float(y1))


def paint_pedestrian(
    canvas: Canvas,
    person: Person,
    origin: Floats,
    yaw: float,
    slope: float,
    phase: float,
    stride: float,
    sunlit: float,
) -> None:
    """Paints somebody standing (stride 0) or walking; phase in radians of the gait."""
    h, g = person.height, person.girth
    swing = math.sin(phase)
    reach, lift = 0.17 * h * stride * swing, 0.06 * h * stride * max(0.0, math.cos(phase))
    other_lift = 0.06 * h * stride * max(0.0, -math.cos(phase))
    hip, shoulder = 0.075 * h * g, 0.115 * h * g
    swing_arm = 0.12 * h * stride * swing
    joints = np.array(
        [
            (-hip, reach, 0.03 * h + lift), (hip, -reach, 0.03 * h + other_lift),
            (-hip, reach * 0.55 + 0.03 * h * stride, 0.28 * h + lift), (hip, -reach * 0.55 + 0.03 * h * stride, 0.28 * h + other_lift),
            (-hip, 0.0, 0.52 * h), (hip, 0.0, 0.52 * h),
            (-shoulder, 0.0, 0.81 * h), (shoulder, 0.0, 0.81 * h),
            (-shoulder * 1.25, -swing_arm * 0.6, 0.64 * h), (shoulder * 1.25, swing_arm * 0.6, 0.64 * h),
            (-shoulder * 1.2, -swing_arm + 0.05 * h, 0.49 * h), (shoulder * 1.2, swing_arm + 0.05 * h, 0.49 * h),
            (0.0, 0.0, 0.85 * h), (0.0, 0.02 * h, 0.925 * h), (0.0, 0.0, 0.76 * h), (0.0, -0.1 * h, 0.62 * h),
        ]
    )  # fmt: skip
    _body(canvas, person, joints, origin, yaw, slope, PEDESTRIAN, sunlit, bent=False)


def paint_rider(
    canvas: Canvas,
    person: Person,
    origin: Floats,
    yaw: float,
    slope: float,
    phase: float,
    motorized: bool,
    sunlit: float,
) -> None:
    """Paints somebody sitting on a bicycle or, motorized, on a motorcycle."""
    h, g = person.height, person.girth
    hip, shoulder = 0.075 * h * g, 0.115 * h * g
    seat, saddle_y = (0.82, -0.3) if motorized else (0.95, -0.22)
    if motorized:
        feet = [(-0.2, 0.1, 0.34), (0.2, 0.1, 0.34)]
    else:
        feet = [
            (s * 0.1, 0.05 + 0.17 * math.cos(phase + a), 0.32 + 0.17 * math.sin(phase + a))
            for s, a in ((-1, 0.0), (1, math.pi))
        ]
    knees = [(s * 0.14, 0.22, (f[2] + seat) / 2 + 0.12) for s, f in zip((-1, 1), feet, strict=True)]
    chest = (0.0, saddle_y + 0.2, seat + 0.42)
    joints = np.array(
        [
            *feet, *knees, (-hip, saddle_y, seat), (hip, saddle_y, seat),
            (-shoulder, chest[1] + 0.08, seat + 0.5), (shoulder, chest[1] + 0.08, seat + 0.5),
            (-0.28, chest[1] + 0.25, seat + 0.26), (0.28, chest[1] + 0.25, seat + 0.26),
            (-0.26, 0.46, 1.02), (0.26, 0.46, 1.02),
            (0.0, chest[1] + 0.1, seat + 0.56), (0.0, chest[1] + 0.16, seat + 0.68), chest, (0.0, chest[1] - 0.15, seat + 0.35),
        ]
    )  # fmt: skip
    _body(canvas, person, joints, origin, yaw, slope, RIDER, sunlit, bent=True)


def paint_bicycle(
    canvas: Canvas, origin: Floats, yaw: float, slope: float, color: tuple[float, float, float], sunlit: float
) -> None:
    """Paints a bicycle; its label covers the wheels' insides, as an annotator outlines it."""
    camera, light = canvas.camera, canvas.light
    sin_yaw, cos_yaw = math.sin(yaw), math.cos(yaw)
    turn = np.array(
        [[cos_yaw, -sin_yaw, -sin_yaw * slope], [sin_yaw, cos_yaw, cos_yaw * slope], [0.0, 0.0, 1.0]]
    )
    turns = np.arange(14) * (2 * math.pi / 14)
    rim_y, rim_z = 0.34 * np.cos(turns), 0.35 + 0.34 * np.sin(turns)
    zero = np.zeros(14)
    frame = np.array(
        [(0, -0.5, 0.35), (0, -0.1, 0.32), (0, -0.22, 0.88), (0, 0.4, 0.85), (0, 0.52, 0.35), (0, -0.24, 0.96),
         (-0.27, 0.4, 1.02), (0.27, 0.4, 1.02), (0, 0.38, 1.0), (0, -0.34, 0.97), (0, -0.12, 0.97)]
    )  # fmt: skip
    joints = np.concatenate(
        [np.stack([zero, rim_y - 0.5, rim_z], 1), np.stack([zero, rim_y + 0.52, rim_z], 1), frame]
    )
    homogeneous = camera.project(joints @ turn + origin)
    if homogeneous[:, 2].min() < 0.6:
        return
    depth = float(homogeneous[:, 2].mean())
    unit = camera.focal / depth
    xy = homogeneous[:, :2] / homogeneous[:, 2:]
    towards = camera.position - origin
    towards = towards / np.linalg.norm(towards)
    base = np.array([color, (28.0, 28.0, 30.0), (150.0, 150.0, 154.0)])
    paint, tyre, metal = light.shade(base, np.broadcast_to(towards, (3, 3)), depth, sunlit).tolist()
    number = canvas.next_id
    fixed = (xy * 16).astype(np.int32)
    thick = max(1, round(0.045 * unit))
    for wheel in (fixed[:14], fixed[14:28]):
        cv2.polylines(canvas.ids, [wheel], True, number, thick + 1, cv2.LINE_8, SHIFT)
        cv2.fillConvexPoly(canvas.ids, wheel, number, cv2.LINE_8, SHIFT)
        if unit > 40:
            for spoke in range(7):
                cv2.line(
                    canvas.image,
                    tuple(wheel[spoke].tolist()),
                    tuple(wheel[spoke + 7].tolist()),
                    metal,
                    1,
                    cv2.LINE_AA,
                    SHIFT,
                )
        cv2.polylines(canvas.image, [wheel], True, tyre, thick, cv2.LINE_AA, SHIFT)
    p = [tuple(point) for point in fixed[28:].tolist()]
    bars = ((0, 1, paint), (1, 2, paint), (2, 3, paint), (1, 3, paint), (0, 2, paint), (3, 4, paint), (2, 5, metal),
            (3, 8, metal), (6, 7, tyre), (9, 10, tyre))  # fmt: skip
    for start, end, tone in bars:
        cv2.line(canvas.image, p[start], p[end], tone, thick, cv2.LINE_AA, SHIFT)
        cv2.line(canvas.ids, p[start], p[end], number, thick + 1, cv2.LINE_8, SHIFT)
    cv2.fillConvexPoly(canvas.ids, fixed[[29, 30, 31]], number, cv2.LINE_8, SHIFT)
    (x0, y0), (x1, y1) = xy.min(0) - 1, xy.max(0) + 1
    canvas.register(BICYCLE, float(x0), float(y0), float(x1), float(y1))
