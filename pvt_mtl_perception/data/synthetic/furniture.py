"""Signs, traffic lights, lamp posts, poles and plain boxes along the road."""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import NEAR, Floats
from pvt_mtl_perception.data.synthetic.canvas import Canvas, Glow
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.taxonomy import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN
from pvt_mtl_perception.data.synthetic.textures import Bytes
from pvt_mtl_perception.data.synthetic.world import Block, Gantry, Lamp, Road, Sign, Signal

_TOWARDS = np.array([0.0, -1.0, 0.0])
_UNIT = np.ones(3)
SIGNAL_COLORS = ((255.0, 44.0, 36.0), (255.0, 180.0, 40.0), (60.0, 255.0, 150.0))


def _regular(count: int, radius: float, turn: float) -> npt.NDArray[np.int32]:
    angles = turn + np.arange(count) * (2 * math.pi / count)
    return np.stack([128 + radius * np.cos(angles), 128 + radius * np.sin(angles)], 1).astype(np.int32)


def _symbol(face: Bytes, dice: Dice, ink: tuple[int, int, int]) -> None:
    """A pictogram in the middle of a 256-pixel face."""
    style = dice.integer(0, 5)
    if style == 0:
        text = dice.pick(("30", "50", "70", "40", "60", "P", "H", "A1", "20", "80"))
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 3.4 if len(text) > 1 else 4.4, 12)
        where = (128 - w // 2, 128 + h // 2)
        cv2.putText(
            face, text, where, cv2.FONT_HERSHEY_DUPLEX, 3.4 if len(text) > 1 else 4.4, ink, 14, cv2.LINE_AA
        )
    elif style == 1:
        turn = dice.pick((0, 90, 180, -45))
        shaft = cv2.transform(
            np.array([[[0, 60], [0, -60], [-40, -15], [40, -15]]], np.float32),
            np.array(cv2.getRotationMatrix2D((0, 0), turn, 1.0)[:, :2], np.float32),
        )[0]
        p = (shaft + 128).astype(np.int32).tolist()
        cv2.line(face, p[0], p[1], ink, 20)
        cv2.line(face, p[1], p[2], ink, 20)
        cv2.line(face, p[1], p[3], ink, 20)
    elif style == 2:
        cv2.circle(face, (128, 88), 16, ink, -1)
        cv2.line(face, (128, 104), (128, 142), ink, 22)
        cv2.line(face, (128, 142), (106, 186), ink, 14)
        cv2.line(face, (128, 142), (150, 186), ink, 14)
    elif style == 3:
        cv2.rectangle(face, (84, 112), (172, 150), ink, -1)
        cv2.rectangle(face, (100, 90), (156, 116), ink, -1)
    else:
        cv2.line(face, (90, 128), (166, 128), ink, 26)


@cache
def sign_face(split: str, kind: int) -> tuple[Bytes, Bytes]:
    """A sign's picture, RGB (64, 64, 3), and cover (64, 64); kinds 0..11 on posts, 12..15 wide boards."""
    dice = Dice(17 if split == "train" else 19, kind)
    face = np.zeros((256, 256, 3), np.uint8)
    cover = np.zeros((256, 256), np.uint8)
    white, black = (238, 238, 234), (24, 24, 26)
    red, blue = ((196, 24, 30), (24, 76, 168)) if split == "train" else ((168, 30, 44), (16, 60, 130))
    yellow, green = ((240, 196, 40), (10, 104, 72)) if split == "train" else ((250, 170, 30), (30, 84, 60))
    shape = (
        "ring",
        "stop",
        "yield",
        "warning",
        "blue disc",
        "blue square",
        "diamond",
        "no entry",
        "plate",
        "ring",
        "warning",
        "blue plate",
    )
    if kind >= 12:
        ground = (green, blue, white, blue)[kind - 12]
        ink = black if ground == white else white
        cover[28:228] = 255
        cv2.rectangle(face, (0, 28), (255, 227), ground, -1)
        cv2.rectangle(face, (6, 34), (249, 221), ink, 4)
        for row in range(3):
            x = 24
            while x < 200:
                step = dice.integer(10, 34)
                cv2.rectangle(face, (x, 58 + 54 * row), (x + step, 82 + 54 * row), ink, -1)
                x += step + dice.integer(8, 16)
        cv2.arrowedLine(face, (226, 190), (226, 80), ink, 14, tipLength=0.4)
    else:
        name = shape[kind] if split == "train" else shape[(kind + 5) % 12]
        if name == "ring":
            cv2.circle(face, (128, 128), 122, red, -1)
            cv2.circle(face, (128, 128), 92, white, -1)
            cv2.circle(cover, (128, 128), 122, 255, -1)
            _symbol(face, dice, black)
        elif name == "stop":
            cv2.fillPoly(face, [_regular(8, 128, math.pi / 8)], white)
            cv2.fillPoly(face, [_regular(8, 118, math.pi / 8)], red)
            cv2.fillPoly(cover, [_regular(8, 128, math.pi / 8)], 255)
            cv2.putText(face, "STOP", (28, 152), cv2.FONT_HERSHEY_DUPLEX, 2.4, white, 12, cv2.LINE_AA)
        elif name in ("yield", "warning"):
            turn = math.pi / 2 if name == "yield" else -math.pi / 2
            cv2.fillPoly(face, [_regular(3, 150, turn)], red)
            cv2.fillPoly(face, [_regular(3, 92, turn)], white if dice.chance(0.7) else yellow)
            cv2.fillPoly(cover, [_regular(3, 150, turn)], 255)
            if name == "warning":
                cv2.line(face, (128, 96), (128, 150), black, 18)
        elif name == "blue disc":
            cv2.circle(face, (128, 128), 124, white, -1)
            cv2.circle(face, (128, 128), 114, blue, -1)
            cv2.circle(cover, (128, 128), 124, 255, -1)
            _symbol(face, dice, white)
        elif name == "diamond":
            cv2.fillPoly(face, [_regular(4, 128, 0)], yellow)
            cv2.fillPoly(cover, [_regular(4, 128, 0)], 255)
            cv2.polylines(face, [_regular(4, 112, 0)], True, black, 8)
            _symbol(face, dice, black)
        elif name == "no entry":
            cv2.circle(face, (128, 128), 122, red, -1)
            cv2.circle(cover, (128, 128), 122, 255, -1)
            cv2.rectangle(face, (48, 104), (208, 152), white, -1)
        else:
            ground = {"blue square": blue, "plate": white, "blue plate": blue}[name]
            narrow = 50 if name != "blue square" else 12
            cover[12:244, narrow : 256 - narrow] = 255
            face[12:244, narrow : 256 - narrow] = ground
            _symbol(face, dice, black if ground == white else white)
    area = cv2.INTER_AREA
    return cv2.resize(face, (64, 64), interpolation=area), cv2.resize(cover, (64, 64), interpolation=area)


@cache
def signal_face(split: str, variant: int, state: int) -> tuple[Bytes, Bytes]:
    """A traffic light's housing, RGB (72, 28, 3), with one lamp lit (0 red, 1 amber, 2 green), and cover."""
    dice = Dice(23 if split == "train" else 29, variant)
    housing = dice.pick(
        ((22, 24, 24), (34, 52, 40), (200, 160, 30)) if split == "train" else ((30, 30, 34), (60, 60, 64))
    )
    face = np.full((288, 112, 3), housing, np.uint8)
    cover = np.zeros((288, 112), np.uint8)
    cv2.rectangle(cover, (6, 6), (105, 281), 255, -1)
    if dice.chance(0.4):
        cv2.rectangle(cover, (0, 0), (111, 287), 255, -1)
        face[:] = (14, 14, 16)
        cv2.rectangle(face, (0, 0), (111, 287), (226, 226, 220), 6)
    for lamp in range(3):
        where = (56, 56 + 88 * lamp)
        dim = tuple(0.22 * c for c in SIGNAL_COLORS[lamp])
        cv2.circle(face, where, 36, (10, 10, 10), -1)
        cv2.circle(face, where, 32, SIGNAL_COLORS[lamp] if lamp == state else dim, -1)
    area = cv2.INTER_AREA
    return cv2.resize(face, (28, 72), interpolation=area), cv2.resize(cover, (28, 72), interpolation=area)


def _paste_face(
    canvas: Canvas, face: Bytes, cover: Bytes, table: npt.NDArray[np.uint8], x0: float, y0: float, x1: float, y1: float,
    label: int,
) -> bool:  # fmt: skip
    """Paints a small picture as a new instance; returns whether any of it lies in the frame."""
    if canvas.full:
        return False
    left, top, right, bottom = round(x0), round(y0), round(x1), round(y1)
    if right - left < 2 or bottom - top < 2 or right - left > 2 * canvas.width:
        return False
    cut = (max(left, 0), max(top, 0), min(right, canvas.width), min(bottom, canvas.height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        return False
    size = (right - left, bottom - top)
    how = cv2.INTER_AREA if size[0] < face.shape[1] else cv2.INTER_LINEAR
    picture = cv2.LUT(cv2.resize(face, size, interpolation=how), table)
    alpha = cv2.resize(cover, size, interpolation=how)
    rows, columns = slice(cut[1] - top, cut[3] - top), slice(cut[0] - left, cut[2] - left)
    alpha = alpha[rows, columns]
    solid = alpha > 110
    target = canvas.image[cut[1] : cut[3], cut[0] : cut[2]]
    cv2.copyTo(np.ascontiguousarray(picture[rows, columns]), solid.astype(np.uint8), target)
    canvas.ids[cut[1] : cut[3], cut[0] : cut[2]][solid] = canvas.next_id
    canvas.register(label, x0, y0, x1, y1)
    return True


def post(
    canvas: Canvas, low: Floats, high: Floats, width: float, color: Floats, id: int, sunlit: float = 1.0
) -> None:
    """Paints a straight pole between two world points, `width` metres thick."""
    ends = canvas.camera.project(np.stack([low, high]))
    if ends[:, 2].min() < NEAR * 2:
        return
    xy = ends[:, :2] / ends[:, 2:]
    half = np.maximum(0.5 * width * canvas.camera.focal / ends[:, 2], 0.45)
    along = xy[1] - xy[0]
    norm = np.hypot(*along)
    if norm < 1:
        return
    across = np.array([-along[1], along[0]]) / norm
    corners = np.stack(
        [
            xy[0] + across * half[0],
            xy[0] - across * half[0],
            xy[1] - across * half[1],
            xy[1] + across * half[1],
        ]
    )
    tone = canvas.light.shade(color[None], _TOWARDS[None], float(ends[0, 2]), sunlit)[0].tolist()
    fixed = np.clip(corners * 16, -3e5, 3e5).astype(np.int32)
    canvas.fixed_polygon(fixed, tone, id, convex=True)
    if half[0] > 2:
        middle = (corners[[0, 3]] * 0.65 + corners[[1, 2]] * 0.35, corners[[3, 0]])
        strip = np.clip(np.concatenate([corners[[0]], middle[0], corners[[3]]]) * 16, -3e5, 3e5).astype(
            np.int32
        )
        canvas.fixed_polygon(strip, [0.7 * c for c in tone], None, convex=True)


def paint_lamp(canvas: Canvas, lamp: Lamp, road: Road) -> None:
    """A lamp post with an arm over the road."""
    base, top = road.point(lamp.s, lamp.d), road.point(lamp.s, lamp.d, lamp.height)
    head = road.point(lamp.s, lamp.d + lamp.arm, lamp.height + 0.35)
    color = np.array(lamp.color)
    post(canvas, base, top, 0.15, color, POLE)
    post(canvas, top, head, 0.09, color, POLE)
    end = road.point(lamp.s, lamp.d + lamp.arm * 1.25, lamp.height + 0.35)
    lit = canvas.light.lamps
    post(canvas, head, end, 0.22, np.array((250.0, 244.0, 220.0)) if lit else color, POLE)
    if lit:
        where = canvas.camera.project(end[None])[0]
        if where[2] > 1:
            radius = canvas.camera.focal * 0.3 / where[2]
            canvas.glows.append(
                Glow(where[0] / where[2], where[1] / where[2], radius, (255.0, 222.0, 160.0), POLE)
            )


def paint_sign(canvas: Canvas, sign: Sign, road: Road, split: str, sunlit: float) -> None:
    """A sign facing the ego vehicle (or its blank back, unlabelled) and its post."""
    center = road.point(sign.s, sign.d, sign.z)
    where = canvas.camera.project(center[None])[0]
    depth = where[2]
    if depth < 1.0:
        return
    if sign.post:
        post(
            canvas,
            road.point(sign.s, sign.d),
            road.point(sign.s, sign.d, sign.z + 0.3 * sign.size),
            0.07,
            np.full(3, 128.0),
            POLE,
            sunlit,
        )
    half = 0.5 * sign.size * canvas.camera.focal / depth
    x, y = where[0] / depth, where[1] / depth
    if sign.backplate:
        tone = canvas.light.shade(np.full((1, 3), 110.0), _TOWARDS[None], depth, 0.3)[0].tolist()
        box = (
            np.array([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])
            * 16
        )
        canvas.fixed_polygon(np.clip(box, -3e5, 3e5).astype(np.int32), tone, 255, convex=True)
        return
    face, cover = sign_face(split, sign.kind)
    # Retroreflective sheeting returns the car's own light.
    boost = 1.0 + (2.0 if canvas.light.headlights else 0.0)
    table = canvas.light.table(_TOWARDS, depth, _UNIT * boost, sunlit)
    _paste_face(canvas, face, cover, table, x - half, y - half, x + half, y + half, TRAFFIC_SIGN)


def paint_gantry(canvas: Canvas, gantry: Gantry, road: Road, split: str) -> None:
    """Wide boards over a motorway on a beam with two posts."""
    steel = np.full(3, 120.0)
    for d in (gantry.d0, gantry.d1):
        post(canvas, road.point(gantry.s, d), road.point(gantry.s, d, gantry.height + 0.6), 0.32, steel, POLE)
    post(
        canvas,
        road.point(gantry.s, gantry.d0, gantry.height),
        road.point(gantry.s, gantry.d1, gantry.height),
        0.4,
        steel,
        POLE,
    )
    for d, width, kind in gantry.panels:
        where = canvas.camera.project(road.point(gantry.s, d, gantry.height + 0.2)[None])[0]
        depth = where[2]
        if depth < 2:
            continue
        half = 0.5 * width * canvas.camera.focal / depth
        x, y = where[0] / depth, where[1] / depth
        face, cover = sign_face(split, kind)
        boost = 2.5 if canvas.light.headlights else 1.0
        table = canvas.light.table(_TOWARDS, depth, _UNIT * boost)
        _paste_face(
            canvas,
            face[7:57],
            cover[7:57],
            table,
            x - half,
            y - 0.7 * half,
            x + half,
            y + 0.7 * half,
            TRAFFIC_SIGN,
        )


def paint_signal(canvas: Canvas, signal: Signal, road: Road, split: str, t: float) -> None:
    """A traffic light on its post; its state runs through a cycle of twenty seconds."""
    clock = (t + signal.phase) % 20
    state = 2 if clock < 8 else 1 if clock < 10 else 0
    grey = np.full(3, 64.0)
    top = signal.height + (2.4 if signal.arm else 0.5)
    post(canvas, road.point(signal.s, signal.d), road.point(signal.s, signal.d, top), 0.13, grey, POLE)
    heads = [(signal.d - math.copysign(0.22, signal.d), signal.height)]
    if signal.arm:
        post(
            canvas,
            road.point(signal.s, signal.d, top),
            road.point(signal.s, signal.d + signal.arm, top),
            0.1,
            grey,
            POLE,
        )
        heads.append((signal.d + signal.arm, top - 0.35))
    for d, z in heads:
        where = canvas.camera.project(road.point(signal.s, d, z)[None])[0]
        depth = where[2]
        if depth < 1.5:
            continue
        half_w = 0.19 * canvas.camera.focal / depth
        half_h = 0.48 * canvas.camera.focal / depth
        x, y = where[0] / depth, where[1] / depth
        face, cover = signal_face(split, signal.variant, state)
        table = canvas.light.table(_TOWARDS, depth, _UNIT, 0.5)
        number = canvas.next_id
        if _paste_face(
            canvas, face, cover, table, x - half_w, y - half_h, x + half_w, y + half_h, TRAFFIC_LIGHT
        ):
            lamp_y = y + half_h * (-0.61 + 0.61 * state)
            color = canvas.light.through_air(np.array(SIGNAL_COLORS[state]), depth).tolist()
            radius = max(0.8, 0.5 * half_w)
            cv2.circle(
                canvas.image,
                (round(x * 16), round(lamp_y * 16)),
                round(radius * 16),
                color,
                -1,
                cv2.LINE_AA,
                4,
            )
            canvas.glows.append(Glow(x, lamp_y, 1.6 * half_w, SIGNAL_COLORS[state], number))


_BLOCK = np.array(
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)], np.float64
)
_FACES = (
    ((2, 3, 7, 6), (0.0, 1.0, 0.0)), ((0, 1, 5, 4), (0.0, -1.0, 0.0)), ((0, 3, 7, 4), (-1.0, 0.0, 0.0)),
    ((1, 2, 6, 5), (1.0, 0.0, 0.0)), ((4, 5, 6, 7), (0.0, 0.0, 1.0)), ((0, 1, 2, 3), (0.0, 0.0, -1.0)),
)  # fmt: skip


def paint_block(canvas: Canvas, block: Block, road: Road, sunlit: float) -> None:
    """A box along the road."""
    d0, d1 = min(block.d0, block.d1), max(block.d0, block.d1)
    nearest = float(canvas.camera.position[1]) + 0.5
    s0 = max(block.s0, nearest)
    if block.s1 <= s0:
        return
    d, s, z = (
        d0 + _BLOCK[:, 0] * (d1 - d0),
        s0 + _BLOCK[:, 1] * (block.s1 - s0),
        block.z0 + _BLOCK[:, 2] * (block.z1 - block.z0),
    )
    points = road.place(s, d, z)
    homogeneous = canvas.camera.project(points)
    eye = canvas.camera.position
    depth = max(float(homogeneous[:, 2].min()), 1.0)
    for corners, normal in _FACES:
        towards = eye - points[corners[0]]
        n = np.array(normal)
        if towards @ n <= 0:
            continue
        base = np.array(block.color)
        if canvas.light.snow and normal[2] > 0:
            base = base * 0.2 + 190
        color = canvas.light.shade(base[None], n[None], depth, sunlit)[0].tolist()
        canvas.polygon(homogeneous[list(corners)], color, block.id)
