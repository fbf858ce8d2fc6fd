"""Texture tiles, made once a process from fixed seeds: ground, foliage, façades, clouds, noise, rain, snow.

Every tile belongs to a split: the families of "train" and "test" have different seeds and, where shape
matters (windows, crowns), different shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.dice import Dice

# uint8; OpenCV's type hints promise no more than an array.
Bytes = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]

# Small enough to stay in a core's cache while it is sampled.
GROUND_TILE = 512
GROUND_METRES = {"near": 8.0, "far": 64.0}
BAY, FLOOR = 48, 48
BAYS, FLOORS = 5, 6
BAY_METRES, FLOOR_METRES = 2.8, 3.0
_SPLIT_SEED = {"train": 1, "test": 2}
FACADES = {"train": 28, "test": 12}
CROWNS = {"train": 10, "test": 6}
GROUNDS = {"train": 4, "test": 3}


@cache
def _noise(split: str, exponent: float, aspect: float) -> Floats:
    """The noise that ``fractal_noise`` cuts its pieces from, float32 (512, 512)."""
    rng = np.random.default_rng([_SPLIT_SEED[split], round(100 * exponent), round(aspect)])
    size = 512
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), np.float32))
    rows = np.fft.fftfreq(size)[:, None] * aspect
    columns = np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    spectrum *= frequency**-exponent
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(noise / noise.std(), np.float32)


def fractal_noise(dice: Dice, split: str, size: int, exponent: float, aspect: float = 1.0) -> Floats:
    """Noise with spectrum 1 / f**exponent, mean 0, standard deviation 1, float32 (size, size), size <= 512.

    Pieces of one periodic noise a split and exponent, moved and flipped at random; periodic where ``size``
    is 512.

    Args:
        aspect: > 1 stretches the structure along the rows' direction (axis 0).
    """
    noise = np.roll(_noise(split, exponent, aspect), (dice.integer(0, 512), dice.integer(0, 512)), (0, 1))
    noise = noise[:: dice.pick((-1, 1)), :: dice.pick((-1, 1))]
    return noise[:size, :size]


def _grain(rng: np.random.Generator, *shape: int) -> Floats:
    """White noise, standard deviation 1, float32."""
    return rng.standard_normal(shape, np.float32)


def _to_bytes(values: Floats) -> Bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@cache
def ground_tile(kind: str, split: str, index: int) -> Bytes:
    """Brightness (512, 512) of ground around 128, periodic.

    Kinds: asphalt, paving and grass for ``GROUND_METRES["near"]``, asphalt far and far for the other.
    """
    dice = Dice(_SPLIT_SEED[split], 10, index, sum(map(ord, kind)))
    size = GROUND_TILE
    rng = np.random.default_rng(dice.integer(0, 2**31))
    if kind == "asphalt":
        tile = 128 + 9 * fractal_noise(dice, split, size, 1.0) + dice.uniform(6, 15) * _grain(rng, size, size)
        canvas = _to_bytes(tile)
        for _ in range(dice.integer(1, 4)):
            points = np.cumsum(rng.normal(0, 14, (14, 2)) + rng.normal(0, 8, 2), 0) + rng.uniform(0, size, 2)
            cv2.polylines(canvas, [points.astype(np.int32)], False, dice.integer(80, 108), 1, cv2.LINE_AA)
        return canvas
    if kind == "asphalt far":
        tile = 128 + 10 * fractal_noise(dice, split, size, 1.1, aspect=6.0) + 5 * _grain(rng, size, size)
        return _to_bytes(tile)
    if kind == "paving":
        tile = 128 + 8 * fractal_noise(dice, split, size, 1.0) + 6 * _grain(rng, size, size)
        step_x, step_y = dice.pick((32, 64)), dice.pick((32, 64))
        slabs = rng.normal(0, 7, (size // step_y, size // step_x))
        tile += np.kron(slabs, np.ones((step_y, step_x)))
        for joint in (0, 1):
            tile[joint::step_y] -= dice.uniform(10, 35)
            tile[:, joint::step_x] -= dice.uniform(10, 35)
        return _to_bytes(tile)
    if kind == "grass":
        return _to_bytes(128 + 24 * fractal_noise(dice, split, size, 0.7) + 16 * _grain(rng, size, size))
    if kind == "far":
        return _to_bytes(128 + 16 * fractal_noise(dice, split, size, 0.9, aspect=3.0))
    raise ValueError(f"no ground texture is called {kind!r}")


@dataclass(frozen=True)
class Sprite:
    """Brightness and cover of a billboard, largest level first.

    Attributes:
        levels: for each level uint8 (h, w, 3): brightness, cover (255 = opaque) and outline (255 = inside the
            object's outline as an annotator would draw it).
    """

    levels: tuple[Bytes, ...]


def _sprite(brightness: Bytes, cover: Bytes, outline: Bytes) -> Sprite:
    levels: list[Bytes] = [cv2.merge([brightness, cover, outline])]
    while min(levels[-1].shape[:2]) > 8:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return Sprite(tuple(levels))


@cache
def crown(kind: str, split: str, index: int) -> Sprite:
    """A tree's crown or a bush seen from the side; kinds: broadleaf, conifer, bare, bush."""
    dice = Dice(_SPLIT_SEED[split], 20, index, sum(map(ord, kind)))
    rng = np.random.default_rng(dice.integer(0, 2**31))
    size = 192
    cover = np.zeros((size, size), np.uint8)
    light = np.full((size, size), 90, np.uint8)
    held_out = split == "test"
    if kind == "bare":
        light[:] = 60

        def branch(x: float, y: float, angle: float, length: float, width: float) -> None:
            end_x, end_y = x + length * math.cos(angle), y - length * math.sin(angle)
            thickness = max(1, round(width))
            ends = ((round(x), round(y)), (round(end_x), round(end_y)))
            cv2.line(cover, *ends, 255, thickness, cv2.LINE_AA)
            cv2.line(light, *ends, int(rng.integers(50, 120)), thickness)
            if length > 9:
                for _ in range(int(rng.integers(2, 4))):
                    spread = 0.35 if held_out else 0.5
                    share = rng.uniform(0.4, 1.0)
                    branch(
                        x + share * (end_x - x),
                        y + share * (end_y - y),
                        angle + rng.normal(0, spread),
                        length * rng.uniform(0.55, 0.85),
                        width * 0.62,
                    )

        for _ in range(3):
            branch(size / 2, size - 1, math.pi / 2 + rng.normal(0, 0.3), size * 0.26, 5)
        outline = cv2.morphologyEx(cover, cv2.MORPH_CLOSE, np.ones((17, 17), np.uint8))
        return _sprite(light, cover, outline)
    if kind == "conifer":
        top = rng.uniform(0.04, 0.12)
        for row in range(36):
            share = row / 35
            y = size * (top + share * (0.97 - top))
            half = size * 0.42 * share ** (0.7 if held_out else 1.0) * rng.uniform(0.8, 1.1) + 3
            for _ in range(9):
                x = size / 2 + rng.uniform(-half, half)
                axes = (int(rng.uniform(6, 14)), int(rng.uniform(4, 9)))
                where = (int(x), int(y + abs(x - size / 2) * 0.2))
                cv2.ellipse(cover, where, axes, 0, 0, 360, 255, -1)
                cv2.ellipse(light, where, axes, 0, 0, 360, int(rng.integers(45, 140)), -1)
    else:
        squash = (0.3, 0.42) if kind == "bush" else (0.36, 0.44)
        center_y = size * (0.6 if kind == "bush" else 0.5)
        lobes = rng.uniform(-1, 1, (dice.integer(7, 16), 2))
        lobes *= (0.62 if not held_out else 0.45) / np.maximum(1, np.hypot(lobes[:, 0], lobes[:, 1]))[:, None]
        centers = np.stack(
            [size / 2 + lobes[:, 0] * size * 0.44, center_y + lobes[:, 1] * size * squash[1]], 1
        )
        order = np.argsort(-centers[:, 1])
        for x, y in centers[order]:
            radius = size * rng.uniform(0.11, 0.2)
            shade = 75 + 75 * (1 - y / size) + rng.normal(0, 12)
            for _ in range(64):
                angle, reach = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.uniform(0, 1.15))
                where = (int(x + reach * math.cos(angle)), int(y - reach * math.sin(angle)))
                dot = int(rng.uniform(2, 7.5))
                cv2.circle(cover, where, dot, 255, -1)
                value = shade + 45 * math.sin(angle) * reach / radius + rng.normal(0, 20)
                cv2.circle(light, where, dot, int(np.clip(value, 20, 250)), -1)
    noise = fractal_noise(dice, split, size, 0.8)
    shaded = light.astype(np.float64) * (1 + 0.22 * noise) + 18 * _grain(rng, size, size)
    gaps = (noise < -1.75) & (kind != "bush")
    outline = cover.copy()
    cover[gaps] = 0
    return _sprite(np.clip(shaded, 5, 255).astype(np.uint8), cover, outline)


@dataclass(frozen=True)
class Facade:
    """A wall with windows: five bays wide (periodic), six floors high with the ground floor at the bottom.

    Attributes:
        levels: (day, glow) RGB tiles (h, w, 3), each level half the size of the one before; ``glow`` is
            what shines from within at night.
        mean: RGB by day.
    """

    levels: tuple[tuple[Bytes, Bytes], ...]
    mean: tuple[float, float, float]


_WALLS = {
    "train": (
        (150, 82, 62), (172, 110, 84), (196, 176, 136), (214, 206, 190), (164, 160, 152), (120, 116, 112),
        (222, 216, 204), (186, 150, 110), (140, 96, 80), (108, 88, 78), (200, 190, 168), (228, 228, 226),
    ),
    "test": ((182, 120, 102), (206, 186, 154), (132, 128, 130), (236, 230, 214), (158, 140, 112), (96, 82,
    76)),
}  # fmt: skip
_WINDOW_SHAPES = {
    "train": ("single", "tall", "double", "wide", "curtain wall"),
    "test": ("arch", "band", "cross"),
}


def _shop_floor(day: Bytes, glow: Bytes, dice: Dice, wall: tuple[float, float, float], y0: int) -> None:
    """Paints the ground floor: shop windows, signboards, awnings and doors, or house doors and windows."""
    height, width = day.shape[:2]
    shops = dice.chance(0.6)
    x = 0
    while x < width:
        bays = dice.pick((1, 1, 2))
        x1 = min(width, x + bays * BAY)
        if shops:
            front = dice.color(
                dice.pick(((40, 40, 44), (60, 30, 26), (28, 52, 44), (190, 186, 178), (34, 44, 84))), 18
            )
            day[y0:, x:x1] = front
            board = dice.color(
                dice.pick(
                    (
                        (180, 30, 34),
                        (24, 60, 130),
                        (230, 226, 214),
                        (30, 92, 60),
                        (28, 28, 30),
                        (226, 172, 40),
                    )
                ),
                20,
            )
            cv2.rectangle(day, (x + 1, y0 + 2), (x1 - 2, y0 + 11), board, -1)
            ink = (240, 240, 236) if sum(board) < 380 else (40, 40, 50)
            letter = x + 6
            while letter < x1 - 8:
                step = dice.integer(2, 6)
                cv2.rectangle(day, (letter, y0 + 5), (letter + step - 1, y0 + 8), ink, -1)
                letter += step + dice.integer(1, 4)
            pane = dice.color((70, 78, 84), 28)
            cv2.rectangle(day, (x + 4, y0 + 15), (x1 - 5, height - 7), pane, -1)
            warm = dice.color((250, 214, 150), 20)
            if dice.chance(0.7):
                cv2.rectangle(glow, (x + 4, y0 + 15), (x1 - 5, height - 7), warm, -1)
                cv2.rectangle(glow, (x + 1, y0 + 2), (x1 - 2, y0 + 11), tuple(0.6 * c for c in board), -1)
            for _ in range(dice.integer(3, 9)):
                left, top = dice.integer(x + 5, x1 - 9), dice.integer(y0 + 18, height - 14)
                box = (left, top), (left + dice.integer(2, 9), top + dice.integer(3, 11))
                cv2.rectangle(day, *box, dice.color((130, 120, 110), 90), -1)
                cv2.rectangle(glow, *box, dice.color((190, 160, 120), 50), -1)
            if dice.chance(0.3):
                awning = dice.color(dice.pick(((170, 40, 40), (40, 80, 60), (220, 214, 200))), 20)
                cv2.rectangle(day, (x + 2, y0 + 11), (x1 - 3, y0 + 18), awning, -1)
                for stripe in range(x + 2, x1 - 6, 6):
                    cv2.rectangle(day, (stripe, y0 + 11), (stripe + 2, y0 + 18), (228, 226, 220), -1)
            door = x1 - 16
            cv2.rectangle(day, (door, y0 + 17), (door + 9, height - 2), dice.color((50, 46, 44), 24), -1)
        elif dice.chance(0.35):
            door = x + dice.integer(10, BAY - 24)
            paint = dice.color(
                dice.pick(((90, 30, 28), (30, 50, 80), (40, 66, 44), (200, 198, 190), (60, 50, 44))), 16
            )
            cv2.rectangle(
                day, (door - 2, y0 + 9), (door + 17, height - 1), dice.color((205, 200, 190), 20), -1
            )
            cv2.rectangle(day, (door, y0 + 11), (door + 15, height - 1), paint, -1)
            cv2.rectangle(day, (door + 3, y0 + 13), (door + 12, y0 + 18), (80, 88, 94), -1)
        else:
            _window(day, glow, dice, "single", x + 8, y0 + 14, BAY - 16, FLOOR - 28, wall)
        x = x1


def _window(
    day: Bytes,
    glow: Bytes,
    dice: Dice,
    shape: str,
    x: int,
    y: int,
    w: int,
    h: int,
    wall: tuple[float, float, float],
) -> None:
    """Paints one window with frame, reveal, sill, curtain and a reflection of the sky."""
    frame = dice.color((226, 224, 218), 14) if sum(wall) < 600 else dice.color((110, 106, 100), 40)
    glass = dice.color((56, 64, 74), 22)
    x1, y1 = x + w - 1, y + h - 1
    lit = dice.chance(0.38)
    warm = dice.color(dice.pick(((252, 210, 140), (255, 232, 190), (220, 228, 240))), 18)
    dimmed = dice.uniform(0.35, 1.0)
    if shape == "arch":
        cv2.ellipse(day, ((x + x1) // 2, y + w // 2), (w // 2 + 2, w // 2 + 2), 0, 180, 360, frame, -1)
        cv2.rectangle(day, (x - 1, y + w // 2), (x1 + 1, y1 + 1), frame, -1)
        cv2.ellipse(day, ((x + x1) // 2, y + w // 2), (w // 2, w // 2), 0, 180, 360, glass, -1)
        cv2.rectangle(day, (x + 1, y + w // 2), (x1 - 1, y1 - 1), glass, -1)
    else:
        cv2.rectangle(day, (x - 1, y - 1), (x1 + 1, y1 + 1), frame, -1)
        cv2.rectangle(day, (x + 1, y + 1), (x1 - 1, y1 - 1), glass, -1)
    # A window mirrors the sky in its upper part and the street in its lower part.
    pane = day[y + 2 : max(y + 3, y + h // 2), x + 2 : x1 - 1]
    pane[:] = np.minimum(pane.astype(np.int16) + dice.integer(0, 80), 235).astype(np.uint8)
    if dice.chance(0.45):
        curtain = dice.integer(3, max(4, w // 3))
        tone = dice.color((186, 180, 168), 30)
        cv2.rectangle(day, (x + 1, y + 2), (x + curtain, y1 - 1), tone, -1)
        cv2.rectangle(day, (x1 - curtain, y + 2), (x1 - 1, y1 - 1), tone, -1)
    if shape in ("single", "tall", "cross", "arch"):
        cv2.line(day, ((x + x1) // 2, y), ((x + x1) // 2, y1), frame, 1)
    if shape in ("single", "cross", "double"):
        cv2.line(day, (x, y + h // 2), (x1, y + h // 2), frame, 1)
    cv2.line(day, (x - 2, y1 + 2), (x1 + 2, y1 + 2), tuple(min(255, 1.12 * c) for c in wall), 2)
    cv2.line(day, (x - 2, y1 + 4), (x1 + 2, y1 + 4), tuple(0.68 * c for c in wall), 1)
    if lit:
        cv2.rectangle(glow, (x + 1, y + 2), (x1 - 1, y1 - 1), tuple(dimmed * c for c in warm), -1)


@cache
def facade(split: str, index: int) -> Facade:
    """A wall of the split's family: material, window shape and ground floor follow from the index."""
    dice = Dice(_SPLIT_SEED[split], 30, index)
    rng = np.random.default_rng(dice.integer(0, 2**31))
    width, height = BAYS * BAY, FLOORS * FLOOR
    wall = dice.color(dice.pick(_WALLS[split]), 16)
    shapes = _WINDOW_SHAPES[split]
    shape = shapes[index % len(shapes)]
    grain = 0.05 * fractal_noise(dice, split, 512, 1.1)[:height, :width] + 0.035 * _grain(rng, height, width)
    if dice.chance(0.5) and shape != "curtain wall":
        courses = np.zeros((height, width))
        courses[::4] -= 0.13
        courses += np.kron(rng.normal(0, 0.05, (height // 4, width // 8)), np.ones((4, 8)))
        grain += courses
    stains = np.cumsum(rng.standard_normal(width)) * 0.006
    grain += (stains - stains.mean())[None, :]
    day = np.clip(np.array(wall) * (1 + grain[..., None]), 0, 255).astype(np.uint8)
    glow = np.zeros_like(day)
    if shape == "curtain wall":
        tint = dice.pick(((70, 96, 110), (80, 90, 96), (60, 84, 80)))
        for floor in range(FLOORS - 1):
            for pane in range(2 * BAYS):
                x, y = pane * BAY // 2, floor * FLOOR
                box = day[y + 2 : y + FLOOR - 9, x + 1 : x + BAY // 2 - 1]
                ramp = np.linspace(dice.uniform(0.9, 1.7), dice.uniform(0.6, 1.0), box.shape[0])[
                    :, None, None
                ]
                box[:] = np.clip(np.array(dice.color(tint, 14)) * ramp, 0, 255)
                if dice.chance(0.4):
                    glow[y + 4 : y + FLOOR - 12, x + 2 : x + BAY // 2 - 2] = dice.color((226, 226, 206), 20)
    else:
        window_w = {"single": 18, "tall": 14, "double": 28, "wide": 36, "arch": 18, "band": BAY, "cross": 24}[
            shape
        ]
        window_h = {"single": 26, "tall": 32, "double": 24, "wide": 22, "arch": 30, "band": 20, "cross": 26}[
            shape
        ]
        window_w = min(BAY, window_w + dice.integer(-2, 4))
        band = dice.chance(0.4)
        balconies = dice.chance(0.2)
        for floor in range(FLOORS - 1):
            y = floor * FLOOR + (FLOOR - window_h) // 2
            for bay in range(BAYS):
                _window(
                    day, glow, dice, shape, bay * BAY + (BAY - window_w) // 2, y, window_w, window_h, wall
                )
                if balconies:
                    left, top = bay * BAY + 6, y + window_h - 8
                    for rail in range(left, left + BAY - 12, 3):
                        cv2.line(day, (rail, top), (rail, top + 11), (58, 58, 60), 1)
                    cv2.line(day, (left, top + 11), (left + BAY - 12, top + 11), (150, 146, 140), 2)
            if band:
                cv2.rectangle(
                    day, (0, floor * FLOOR), (width, floor * FLOOR + 3), tuple(0.8 * c for c in wall), -1
                )
    _shop_floor(day, glow, dice, wall, (FLOORS - 1) * FLOOR)
    fine = 1 + 0.03 * _grain(rng, height, width, 1)
    day = np.clip(day * fine, 0, 255).astype(np.uint8)
    # Twice as fine as drawn, with the grain that a near wall shows.
    fine_day = cv2.resize(day, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    fine_day *= 1 + 0.045 * _grain(rng, *fine_day.shape[:2], 1)
    fine_glow = cv2.resize(glow, None, fx=2, fy=2)
    levels: list[tuple[Bytes, Bytes]] = [(np.clip(fine_day, 0, 255).astype(np.uint8), fine_glow), (day, glow)]
    for _ in range(3):
        above = levels[-1]
        levels.append(
            (
                cv2.resize(above[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
                cv2.resize(above[1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
            )
        )
    red, green, blue = day.mean((0, 1)).tolist()
    return Facade(tuple(levels), (red, green, blue))


@cache
def plain_tile(kind: str, split: str, index: int) -> tuple[Bytes, ...]:
    """Brightness around 128, levels from (128, 256, 3) down, three times the same channel.

    Kinds: stone, panel, hedge, planks, rails, roof, plain.
    """
    dice = Dice(_SPLIT_SEED[split], 40, index, sum(map(ord, kind)))
    rng = np.random.default_rng(dice.integer(0, 2**31))
    tile = 128 + 12 * fractal_noise(dice, split, 256, 1.0)[:128] + 8 * _grain(rng, 128, 256)
    if kind == "stone":
        for row in range(0, 128, 16):
            shift = 12 * (row // 16 % 2)
            for column in range(0, 256, 32):
                tile[row : row + 16, (np.arange(column, column + 32) + shift) % 256] += rng.normal(0, 14)
            tile[row : row + 2] -= 35
    elif kind == "panel":
        tile[:, ::64] -= 40
        tile[:10] += 18
    elif kind == "hedge":
        tile = 105 + 34 * fractal_noise(dice, split, 256, 0.75)[:128] + 20 * _grain(rng, 128, 256)
        tile += np.linspace(28, -32, 128)[:, None]
    elif kind == "planks":
        tile += np.kron(rng.normal(0, 14, 32), np.ones(8))[None, :]
        tile[:, ::8] -= 50
    elif kind == "roof":
        tile[::8] -= 34
        tile += np.kron(rng.normal(0, 8, (16, 32)), np.ones((8, 8)))
    elif kind != "plain":
        raise ValueError(f"no wall texture is called {kind!r}")
    levels: list[Bytes] = [cv2.merge([_to_bytes(tile)] * 3)]
    for _ in range(4):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(levels)


@cache
def cloud_tile(split: str, index: int) -> Bytes:
    """Cloud cover (256, 512), periodic along both axes, full range."""
    dice = Dice(_SPLIT_SEED[split], 50, index)
    noise = fractal_noise(dice, split, 512, 1.5 if split == "train" else 1.35)
    return _to_bytes(128 + 58 * noise[:256])


@cache
def _standard_noise() -> Floats:
    """Gaussian noise (800, 1400, 3), float32, standard deviation 1.

    Half of the variance is shared between the channels, as after demosaicing.
    """
    rng = np.random.default_rng(80)
    color = cv2.GaussianBlur(_grain(rng, 800, 1400, 3), (3, 3), 0.7) * np.float32(1.6)
    return np.float32(0.75) * _grain(rng, 800, 1400, 1) + np.float32(0.66) * np.asarray(color)


@cache
def sensor_noise(sigma: int) -> Bytes:
    """Gaussian noise (800, 1400, 3) of that sigma around 128."""
    return _to_bytes(128 + sigma * _standard_noise())


@cache
def streak_tile(split: str, index: int) -> Bytes:
    """Falling rain (480, 800): brightness to add, in streaks of one slant."""
    dice = Dice(_SPLIT_SEED[split], 60, index)
    tile = np.zeros((480, 800), np.uint8)
    slant = dice.uniform(-0.25, 0.25)
    for _ in range(dice.integer(220, 420)):
        x, y, length = dice.integer(0, 800), dice.integer(0, 480), dice.uniform(8, 34)
        end = (int(x + slant * length), int(y + length))
        cv2.line(tile, (x, y), end, dice.integer(12, 60), 1, cv2.LINE_AA)
    return cv2.GaussianBlur(tile, (3, 3), 0)


@cache
def flake_tile(split: str, index: int) -> Bytes:
    """Falling snow (480, 800): cover of flakes, 0..255."""
    dice = Dice(_SPLIT_SEED[split], 70, index)
    tile = np.zeros((480, 800), np.uint8)
    stretch = dice.uniform(1.0, 2.2)
    for _ in range(dice.integer(350, 800)):
        radius = dice.pick((1, 1, 1, 1, 2, 2, 3))
        where = (dice.integer(0, 800), dice.integer(0, 480))
        cv2.ellipse(
            tile, where, (radius, int(radius * stretch)), 10, 0, 360, dice.integer(90, 240), -1, cv2.LINE_AA
        )
    return cv2.GaussianBlur(tile, (3, 3), 0)
