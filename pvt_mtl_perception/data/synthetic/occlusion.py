"""What solid things near the camera hide for certain, so that it need not be painted.

Everything stands on the ground, so a thing is hidden where its top lies below the top of something nearer:
one row for each group of columns says it all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import Floats
from pvt_mtl_perception.data.synthetic.canvas import Canvas
from pvt_mtl_perception.data.synthetic.layout import Road
from pvt_mtl_perception.data.synthetic.things import Chunk, Thing, Vehicle
from pvt_mtl_perception.data.synthetic.world import CHUNK

# Columns of pixels that share a row.
_GROUP = 8
# Two places (s, d) on the ground and the height above it of a solid, upright face between them, and the s
# from which on it lies in front of everything.
Screen = tuple[float, float, float, float, float, float]


class Skyline:
    """The upper edge of what solid faces cover, as seen beyond each of them."""

    def __init__(self, canvas: Canvas, road: Road, screens: Sequence[Screen]) -> None:
        groups = -(-canvas.width // _GROUP)
        # Rows below the image: nothing is hidden.
        self._rows = np.full((len(screens) + 1, groups), np.inf)
        self._groups = np.arange(groups)
        if not screens:
            self._from: Floats = np.zeros(0)
            return
        s0, d0, s1, d1, height, beyond = np.array(sorted(screens, key=lambda x: x[5])).T
        self._from = beyond
        tops = road.place(np.concatenate([s0, s1]), np.concatenate([d0, d1]), np.tile(height, 2))
        spots = canvas.camera.project(tops)
        depth = spots[:, 2].reshape(2, -1)
        inner = np.maximum(spots[:, 2:], 0.5)
        x, y = (spots[:, :2] / inner).T.reshape(2, 2, -1, 1)
        edges = np.arange(groups + 1) * float(_GROUP)
        slope = (y[1] - y[0]) / np.where(np.abs(x[1] - x[0]) < 1e-3, np.inf, x[1] - x[0])
        line = y[0] + slope * (edges - x[0])
        covered = (np.minimum(x[0], x[1]) <= edges[:-1] + 2) & (edges[1:] - 2 <= np.maximum(x[0], x[1]))
        covered &= (depth.min(0) > 0.5)[:, None]
        self._rows[1:] = np.where(covered, 0.5 * (line[:, 1:] + line[:, :-1]), np.inf)
        np.minimum.accumulate(self._rows, 0, out=self._rows)

    def hides(self, s: Floats, left: Floats, right: Floats, top: Floats) -> npt.NDArray[np.bool_]:
        """Whether things are wholly hidden.

        Args:
            s: their nearest places along the road (N,), metres.
            left, right, top: the pixels that they reach at most, (N,).
        """
        rows = self._rows[np.searchsorted(self._from, s, "right")]
        inside = (self._groups >= (left // _GROUP)[:, None]) & (self._groups <= (right // _GROUP)[:, None])
        return np.asarray(np.where(inside, rows, -np.inf).max(1) <= top)


def screens(chunks: Sequence[Chunk], movers: Sequence[Thing], eye: float) -> list[Screen]:
    """The solid faces of walls, buildings, cars, trucks and buses ahead.

    Args:
        eye: the camera's place along the road.
    """
    found: list[Screen] = []
    for chunk in chunks:
        # Inside a chunk, things are painted over buildings and barriers.
        end = (chunk.number + 1) * CHUNK
        for b in chunk.buildings:
            start = max(b.s0, eye + 2.0)
            if b.s1 > start:
                found.append((start, b.d, b.s1, b.d, b.height, end))
                if b.end != "hidden" and start == b.s0:
                    found.append((start, b.d, start, b.d + b.side * b.depth, b.height, end))
        for wall in chunk.barriers:
            start = max(wall.s0, eye + 1.5)
            if wall.s1 > start and wall.kind not in ("rail", "rails"):
                found.append((start, wall.d, wall.s1, wall.d, 0.95 * wall.height, end))
    for thing in chain(*(chunk.things for chunk in chunks), movers):
        if (
            isinstance(thing, Vehicle)
            and thing.kind not in ("motorcycle", "train")
            and eye + 3.0 < thing.s < eye + 60.0
        ):
            s, d, height = thing.s, thing.d, thing.height
            sine, cosine = abs(math.sin(thing.yaw)) + 1e-3, abs(math.cos(thing.yaw)) + 1e-3
            # Slices through the middle: across, where the roof is narrower, and along, as high as the bonnet.
            wide = 0.46 * min(thing.length / sine, thing.width / cosine)
            long = 0.48 * min(thing.length / cosine, thing.width / sine)
            found.append((s, d - wide, s, d + wide, 0.9 * height, s))
            found.append((s - long, d, s + long, d, (0.58 if thing.kind == "car" else 0.8) * height, s))
    return found
