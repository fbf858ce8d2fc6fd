"""What happens between the street and the file: rain, snow, glow, reflections, lens and sensor."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pvt_mtl_perception.data.synthetic.canvas import Canvas
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.scenery import horizon_row
from pvt_mtl_perception.data.synthetic.taxonomy import ROAD, SIDEWALK
from pvt_mtl_perception.data.synthetic.textures import Bytes, flake_tile, sensor_noise, streak_tile


def reflect_wet_ground(canvas: Canvas) -> None:
    """Mirrors what stands above the horizon into the wet ground, smeared along the columns."""
    row = int(np.clip(horizon_row(canvas) + 2, 8, canvas.height - 8))
    depth = min(row, canvas.height - row)
    width, quarter = max(2, canvas.width // 4), max(2, depth // 6)
    mirror = cv2.resize(canvas.image[row - depth : row][::-1], (width, quarter), interpolation=cv2.INTER_AREA)
    below, ids = canvas.image[row:], canvas.ids[row:]
    mirror = cv2.resize(cv2.blur(mirror, (2, 3)), (canvas.width, canvas.height - row))
    share = 0.33 * canvas.light.wetness
    mixed = cv2.addWeighted(below, 1 - 0.5 * share, mirror, share, 0)
    mask = cv2.bitwise_or(cv2.inRange(ids, ROAD, ROAD), cv2.inRange(ids, SIDEWALK, SIDEWALK))
    cv2.copyTo(mixed, mask, below)


def reflect_object(canvas: Canvas, number: int) -> None:
    """Mirrors the object just painted below its foot, onto wet road only."""
    x0, y0, x1, y1 = canvas.instances[-1].extent
    tall = min(y1 - y0, canvas.height - y1)
    if tall < 3 or x1 - x0 < 3:
        return
    above = canvas.image[y1 - tall : y1, x0:x1][::-1]
    owner = canvas.ids[y1 - tall : y1, x0:x1][::-1]
    below = canvas.image[y1 : y1 + tall, x0:x1]
    mask = (owner == number) & (canvas.ids[y1 : y1 + tall, x0:x1] == ROAD)
    mixed = cv2.addWeighted(below, 0.55, cv2.blur(above, (1, 5)), 0.45 * canvas.light.wetness, 0)
    cv2.copyTo(mixed, mask.astype(np.uint8), below)


def add_glow(canvas: Canvas) -> None:
    """The halo of lamps that are in view, and in the wet their streaks on the road."""
    if not canvas.glows:
        return
    scale = 4
    width, height = max(2, canvas.width // scale), max(2, canvas.height // scale)
    layer = np.zeros((height, width, 3), np.uint8)
    light = canvas.light
    strength = 0.8 if light.lamps else 0.22
    limit = canvas.width / 30
    lit = False
    for glow in canvas.glows:
        x, y = round(glow.x), round(glow.y)
        if not (0 <= x < canvas.width and 0 <= y < canvas.height) or canvas.ids[y, x] != glow.id:
            continue
        radius = min(max(glow.radius, 1.0), limit)
        color = [c * strength * min(1.0, 0.45 + radius / 10) for c in glow.color]
        cv2.circle(layer, (x // scale, y // scale), max(1, round(radius * 1.5 / scale)), color, -1)
        if light.wetness:
            reach = int(min(canvas.height - y, 60 * canvas.height / 384) * light.wetness)
            streak = [0.3 * c for c in color]
            cv2.line(
                layer,
                (x // scale, y // scale),
                (x // scale, (y + reach) // scale),
                streak,
                max(1, round(radius / scale)),
            )
        lit = True
    if not lit:
        return
    small = (max(2, width // 3), max(2, height // 3))
    wide = cv2.blur(cv2.resize(layer, small, interpolation=cv2.INTER_AREA), (3, 3))
    misty = bool(light.wetness) or light.fog_density > 0.01
    if misty:
        wide = cv2.blur(wide, (5, 5))
    halo = cv2.add(
        cv2.GaussianBlur(layer, (0, 0), 2.4 if misty else 1.4),
        cv2.convertScaleAbs(cv2.resize(wide, (width, height)), alpha=0.8),
    )
    cv2.add(canvas.image, cv2.resize(halo, (canvas.width, canvas.height)), canvas.image)


def _window(tile: Bytes, width: int, height: int, x: int, y: int) -> Bytes:
    """A piece of a tile, enlarged where the frame is larger than the tile."""
    rows, columns = tile.shape[:2]
    if width > columns or height > rows:
        factor = max(width / columns, height / rows)
        tile = cv2.resize(tile, (math.ceil(columns * factor), math.ceil(rows * factor)))
        rows, columns = tile.shape[:2]
    left, top = x % (columns - width + 1), y % (rows - height + 1)
    return tile[top : top + height, left : left + width]


def add_weather(canvas: Canvas, dice: Dice, split: str) -> None:
    """Falling rain or snow and, in rain, drops on the windscreen."""
    light, width, height = canvas.light, canvas.width, canvas.height
    image = canvas.image
    if light.wetness:
        tile = _window(
            streak_tile(split, dice.integer(0, 3)), width, height, dice.integer(0, 800), dice.integer(0, 480)
        )
        level = float(np.clip(light.sky_horizon.mean() / 140, 0.25, 1.2))
        streaks = cv2.convertScaleAbs(tile, alpha=level * dice.uniform(0.5, 1.1))
        cv2.add(image, cv2.merge([streaks, streaks, streaks]), image)
        if dice.chance(0.6):
            for _ in range(dice.integer(6, 30)):
                radius = int(dice.uniform(2, 7) * width / 640) + 1
                x, y = (
                    dice.integer(3 * radius, max(3 * radius + 1, width - 3 * radius)),
                    dice.integer(3 * radius, max(3 * radius + 1, height - 3 * radius)),
                )
                # A drop is a small lens: it shows its surroundings upside down.
                around = image[y - 3 * radius : y + 3 * radius, x - 3 * radius : x + 3 * radius]
                lens = cv2.resize(around[::-1, ::-1], (2 * radius, 2 * radius), interpolation=cv2.INTER_AREA)
                mask = np.zeros((2 * radius, 2 * radius), np.uint8)
                cv2.ellipse(mask, (radius, radius), (max(1, radius - 1), radius), 0, 0, 360, 255, -1)
                cv2.copyTo(lens, mask, image[y - radius : y + radius, x - radius : x + radius])
    if light.snow:
        tile = _window(
            flake_tile(split, dice.integer(0, 3)), width, height, dice.integer(0, 800), dice.integer(0, 480)
        )
        level = float(np.clip((light.ambient.mean() + light.headlights) * 0.75, 0.2, 0.9))
        flakes = cv2.convertScaleAbs(tile, alpha=level)
        cv2.add(image, cv2.merge([flakes, flakes, flakes]), image)


def expose(image: Bytes, dice: Dice, noise: int) -> Bytes:
    """Blur, vignette, contrast, haze, sensor noise and now and then compression."""
    height, width = image.shape[:2]
    contrast, lift = dice.uniform(0.85, 1.2), dice.uniform(-12, 12)
    kind = dice.throw()
    if kind < 0.2:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    elif kind < 0.28:
        image = cv2.GaussianBlur(image, (5, 5), 0.9)
    if dice.chance(0.35):
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
        fall = (255 * (1 - dice.uniform(0.1, 0.22) * (x + y))).astype(np.uint8)
        image = cv2.multiply(image, cv2.merge([fall, fall, fall]), scale=1 / 255)
    grain = _window(sensor_noise(noise), width, height, dice.integer(0, 1000), dice.integer(0, 1000))
    image = cv2.addWeighted(image, contrast, grain, 1.0, lift - 128.0)
    if dice.chance(0.06):
        _, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, dice.integer(35, 85)])
        image = np.asarray(cv2.imdecode(buffer, cv2.IMREAD_COLOR))
    return np.asarray(image, np.uint8)
