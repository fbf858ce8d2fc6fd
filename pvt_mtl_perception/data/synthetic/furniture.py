"""Signs, traffic lights, lamp posts, poles and plain boxes along the road."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import Spot
from pvt_mtl_perception.data.synthetic.canvas import Canvas, Glow
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.layout import Road
from pvt_mtl_perception.data.synthetic.lighting import Triple
from pvt_mtl_perception.data.synthetic.taxonomy import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VOID
from pvt_mtl_perception.data.synthetic.textures import Bytes
from pvt_mtl_perception.data.synthetic.things import Block, Gantry, Lamp, Sign, Signal

_TOWARDS = (0.0, -1.0, 0.0)
_STEEL = (120.0, 120.0, 120.0)
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
    canvas: Canvas,
    face: Bytes,
    cover: Bytes,
    matrix: npt.NDArray[np.float32],
    center: tuple[float, float],
    half: tuple[float, float],
    label: int,
) -> bool:
    """Paints a small picture as a new instance; returns whether any of it lies in the frame."""
    x0, y0, x1, y1 = center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1]
    place = canvas.place(x0, y0, x1, y1)
    if place is None or canvas.full or x1 - x0 > 2 * canvas.width:
        return False
    how = cv2.INTER_AREA if x1 - x0 < face.shape[1] else cv2.INTER_LINEAR
    picture = cv2.transform(place.cut(face, how), matrix)
    canvas.paste_instance(place, picture, place.cut(cover, how), 110, label, (x1 - x0) * (y1 - y0))
    return True


def post(
    canvas: Canvas, low: Spot, high: Spot, width: float, color: Sequence[float], id: int, sunlit: float = 1.0
) -> None:
    """Paints a straight pole between two world points, `width` metres thick."""
    x0, y0, near = canvas.camera.spot(*low)
    x1, y1, far = canvas.camera.spot(*high)
    if near < 0.5 or far < 0.5:
        return
    half0 = max(0.5 * width * canvas.camera.focal / near, 0.45)
    half1 = max(0.5 * width * canvas.camera.focal / far, 0.45)
    if max(x0, x1) < -half0 or min(x0, x1) > canvas.width + half0:
        return
    along_x, along_y = x1 - x0, y1 - y0
    norm = math.hypot(along_x, along_y)
    if norm < 1:
        return
    px, py = -along_y / norm, along_x / norm
    if px > 0:
        px, py = -px, -py
    tone = canvas.light.tone(color, _TOWARDS, near, sunlit)
    a, b = (x0 + px * half0, y0 + py * half0), (x0 - px * half0, y0 - py * half0)
    c, d = (x1 - px * half1, y1 - py * half1), (x1 + px * half1, y1 + py * half1)
    canvas.flat((a, b, c, d), tone, id)
    if half0 > 2:
        # A round pole is darker on one side.
        share = 0.4
        inner0 = (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]))
        inner1 = (d[0] + share * (c[0] - d[0]), d[1] + share * (c[1] - d[1]))
        canvas.flat((a, inner0, inner1, d), (0.72 * tone[0], 0.72 * tone[1], 0.72 * tone[2]))


def paint_lamp(canvas: Canvas, lamp: Lamp, road: Road) -> None:
    """A lamp post with an arm over the road."""
    base, top = road.at(lamp.s, lamp.d), road.at(lamp.s, lamp.d, lamp.height)
    head = road.at(lamp.s, lamp.d + lamp.arm, lamp.height + 0.35)
    post(canvas, base, top, 0.15, lamp.color, POLE)
    post(canvas, top, head, 0.09, lamp.color, POLE)
    end = road.at(lamp.s, lamp.d + lamp.arm * 1.25, lamp.height + 0.35)
    lit = canvas.light.lamps
    post(canvas, head, end, 0.22, (250.0, 244.0, 220.0) if lit else lamp.color, POLE)
    if lit:
        x, y, depth = canvas.camera.spot(*end)
        if depth > 1:
            canvas.glows.append(Glow(x, y, canvas.camera.focal * 0.3 / depth, (255.0, 222.0, 160.0), POLE))


def paint_sign(canvas: Canvas, sign: Sign, road: Road, split: str, sunlit: float) -> None:
    """A sign facing the ego vehicle (or its blank back, unlabelled) and its post."""
    x, y, depth = canvas.camera.spot(*road.at(sign.s, sign.d, sign.z))
    if depth < 1.0:
        return
    if sign.post:
        top = road.at(sign.s, sign.d, sign.z + 0.3 * sign.size)
        post(canvas, road.at(sign.s, sign.d), top, 0.07, _STEEL, POLE, sunlit)
    half = 0.5 * sign.size * canvas.camera.focal / depth
    if sign.back:
        tone = canvas.light.tone((110.0, 110.0, 110.0), _TOWARDS, depth, 0.3)
        corners = ((x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half))
        canvas.flat(corners, tone, VOID)
        return
    face, cover = sign_face(split, sign.kind)
    # Retroreflective sheeting returns the car's own light.
    boost = 3.0 if canvas.light.headlights else 1.0
    matrix = canvas.light.matrix(_TOWARDS, depth, (boost, boost, boost), sunlit)
    _paste_face(canvas, face, cover, matrix, (x, y), (half, half), TRAFFIC_SIGN)


def paint_gantry(canvas: Canvas, gantry: Gantry, road: Road, split: str) -> None:
    """Wide boards over a motorway on a beam with two posts."""
    s, height = gantry.s, gantry.height
    for d in (gantry.d0, gantry.d1):
        post(canvas, road.at(s, d), road.at(s, d, height + 0.6), 0.32, _STEEL, POLE)
    post(canvas, road.at(s, gantry.d0, height), road.at(s, gantry.d1, height), 0.4, _STEEL, POLE)
    for d, width, kind in gantry.panels:
        x, y, depth = canvas.camera.spot(*road.at(s, d, height + 0.2))
        if depth < 2:
            continue
        half = 0.5 * width * canvas.camera.focal / depth
        face, cover = sign_face(split, kind)
        boost = 2.5 if canvas.light.headlights else 1.0
        matrix = canvas.light.matrix(_TOWARDS, depth, (boost, boost, boost))
        _paste_face(canvas, face[7:57], cover[7:57], matrix, (x, y), (half, 0.7 * half), TRAFFIC_SIGN)


def paint_signal(canvas: Canvas, signal: Signal, road: Road, split: str, t: float) -> None:
    """A traffic light on its post; its state runs through a cycle of twenty seconds."""
    clock = (t + signal.phase) % 20
    state = 2 if clock < 8 else 1 if clock < 10 else 0
    grey = (64.0, 64.0, 64.0)
    s, d = signal.s, signal.d
    top = signal.height + (2.4 if signal.arm else 0.5)
    post(canvas, road.at(s, d), road.at(s, d, top), 0.13, grey, POLE)
    heads = [(d - math.copysign(0.22, d), signal.height)]
    if signal.arm:
        post(canvas, road.at(s, d, top), road.at(s, d + signal.arm, top), 0.1, grey, POLE)
        heads.append((d + signal.arm, top - 0.35))
    for where, z in heads:
        x, y, depth = canvas.camera.spot(*road.at(s, where, z))
        if depth < 1.5:
            continue
        half_w, half_h = 0.19 * canvas.camera.focal / depth, 0.48 * canvas.camera.focal / depth
        face, cover = signal_face(split, signal.variant, state)
        matrix = canvas.light.matrix(_TOWARDS, depth, (1.0, 1.0, 1.0), 0.5)
        number = canvas.next_id
        if _paste_face(canvas, face, cover, matrix, (x, y), (half_w, half_h), TRAFFIC_LIGHT):
            lamp_y = y + half_h * (-0.61 + 0.61 * state)
            color = canvas.light.through_air(np.array(SIGNAL_COLORS[state]), depth).tolist()
            radius = max(0.8, 0.5 * half_w)
            where_fixed = (round(x * 16), round(lamp_y * 16))
            cv2.circle(canvas.image, where_fixed, round(radius * 16), color, -1, cv2.LINE_AA, 4)
            canvas.glows.append(Glow(x, lamp_y, 1.6 * half_w, SIGNAL_COLORS[state], number))


_CORNERS = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))


def paint_block(canvas: Canvas, block: Block, road: Road) -> None:
    """A box along the road."""
    camera = canvas.camera
    x, y, z = camera.position.tolist()
    s0 = max(block.s0, y + 0.5)
    if block.s1 <= s0:
        return
    d0, d1 = min(block.d0, block.d1), max(block.d0, block.d1)
    points = [road.at((s0, block.s1)[b], (d0, d1)[a], (block.z0, block.z1)[c]) for a, b, c in _CORNERS]
    spots = [camera.spot(*p) for p in points]
    depth = min(p[2] for p in spots)
    if depth < 0.5 or max(p[0] for p in spots) < 0 or min(p[0] for p in spots) > canvas.width:
        return
    base = points[0]
    faces: list[tuple[tuple[int, int, int, int], Triple]] = []
    if x < base[0]:
        faces.append(((0, 3, 7, 4), (-1.0, 0.0, 0.0)))
    if x > points[1][0]:
        faces.append(((1, 2, 6, 5), (1.0, 0.0, 0.0)))
    if z > points[4][2]:
        faces.append(((4, 5, 6, 7), (0.0, 0.0, 1.0)))
    if z < base[2]:
        faces.append(((0, 1, 2, 3), (0.0, 0.0, -1.0)))
    faces.append(((0, 1, 5, 4), (0.0, -1.0, 0.0)))
    for corners, normal in faces:
        color: Sequence[float] = block.color
        if canvas.light.snow and normal[2] > 0:
            color = [0.2 * c + 190 for c in color]
        tone = canvas.light.tone(color, normal, depth)
        canvas.flat([spots[i][:2] for i in corners], tone, block.id)
