"""Vehicles as polygon meshes: bodies extruded from side profiles, with glass, wheels, lights and plates.

Local axes: x right, y forward, z up, origin on the ground below the centre, metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.camera import NEAR, Floats, make_camera
from pvt_mtl_perception.data.synthetic.canvas import Canvas, Glow
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.lighting import Triple, color_matrix
from pvt_mtl_perception.data.synthetic.sprites import WEIGHT, Stamp, make_stamp
from pvt_mtl_perception.data.synthetic.taxonomy import BUS, CAR, MOTORCYCLE, TRAIN, TRUCK

PAINT, PAINT_LIGHT, PAINT_DARK, GLASS, TYRE, RIM, DARK, HEADLIGHT, TAILLIGHT, PLATE, TRIM, ACCENT, CARGO = (
    range(13)
)
MATERIALS = 13
# Pixels of height from which a level of detail is painted.
_DETAIL_HEIGHT = (0.0, 13.0, 34.0)


@dataclass(frozen=True)
class Mesh:
    """Faces of a body; a detail follows its parent face.

    Attributes:
        points: float64 (N, 3).
        spans: for each face its first and last + 1 point.
        materials: int64 (F,).
        normals: float64 (F, 3), outward.
        centers: float64 (F, 3).
        parents: int64 (F,), the face itself where it is no detail.
        levels: int64 (F,), 0 = silhouette, 1 = from a middle distance, 2 = near only.
        height: metres.
        lamps: face and material of each light.
    """

    points: Floats
    spans: tuple[tuple[int, int], ...]
    materials: npt.NDArray[np.intp]
    normals: Floats
    centers: Floats
    parents: npt.NDArray[np.intp]
    levels: npt.NDArray[np.intp]
    height: float
    lamps: tuple[tuple[int, int], ...]


@dataclass
class _Builder:
    middle: tuple[float, float, float]
    points: list[Sequence[float]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    materials: list[int] = field(default_factory=list)
    normals: list[Floats] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    def face(
        self, corners: Sequence[Sequence[float]] | Floats, material: int, parent: int = -1, level: int = 0
    ) -> int:
        """Adds a face and returns its number; its normal points away from the body's middle."""
        array = np.asarray(corners, np.float64)
        following = np.roll(array, -1, 0)
        normal = np.cross(array, following).sum(0)
        normal /= max(float(np.linalg.norm(normal)), 1e-9)
        if parent >= 0:
            normal = self.normals[parent]
        elif normal @ (array.mean(0) - self.middle) < 0:
            normal = -normal
        number = len(self.spans)
        self.spans.append((len(self.points), len(self.points) + len(array)))
        self.points.extend(array.tolist())
        self.materials.append(material)
        self.normals.append(normal)
        self.parents.append(number if parent < 0 else parent)
        self.levels.append(level)
        return number

    def panel(
        self, parent: int, u0: float, v0: float, u1: float, v1: float, material: int, level: int = 1
    ) -> None:
        """A rectangle on a four-cornered face (bottom left, bottom right, top right, top left)."""
        first, last = self.spans[parent]
        a, b, c, d = np.asarray(self.points[first:last])

        def at(u: float, v: float) -> Floats:
            return np.asarray((a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + c * u) * v)

        self.face(np.stack([at(u0, v0), at(u1, v0), at(u1, v1), at(u0, v1)]), material, parent, level)

    def wheel(self, side_face: int, x: float, y: float, radius: float) -> None:
        """A wheel seen from the side, on the outside of a side face."""
        for share, material, level in ((1.22, DARK, 1), (1.0, TYRE, 0), (0.62, RIM, 1), (0.2, DARK, 2)):
            count = 12 if share > 0.5 else 6
            turns = np.arange(count) * (2 * math.pi / count)
            reach = radius * share
            z = np.maximum(radius + reach * np.sin(turns), 0.0 if share <= 1 else 0.22)
            ring = np.stack([np.full(count, x), y + reach * np.cos(turns), z], 1)
            self.face(ring, material, side_face, level)

    def box(
        self, x: float, y0: float, y1: float, z0: float, z1: float, material: int, taper: float = 1.0
    ) -> tuple[int, int, int, int, int]:
        """A box; returns rear, front, left, right and top faces, each starting at its bottom left corner."""
        t = x * taper
        rear = self.face([(-x, y0, z0), (x, y0, z0), (t, y0, z1), (-t, y0, z1)], material)
        front = self.face([(x, y1, z0), (-x, y1, z0), (-t, y1, z1), (t, y1, z1)], material)
        left = self.face([(-x, y1, z0), (-x, y0, z0), (-t, y0, z1), (-t, y1, z1)], material)
        right = self.face([(x, y0, z0), (x, y1, z0), (t, y1, z1), (t, y0, z1)], material)
        top = self.face([(-t, y0, z1), (t, y0, z1), (t, y1, z1), (-t, y1, z1)], material)
        return rear, front, left, right, top

    def build(self, height: float) -> Mesh:
        points = np.asarray(self.points, np.float64)
        materials = np.asarray(self.materials)
        lamps = [i for i, m in enumerate(self.materials) if m in (HEADLIGHT, TAILLIGHT)]
        return Mesh(
            points=points,
            spans=tuple(self.spans),
            materials=materials,
            normals=np.asarray(self.normals),
            centers=np.stack([points[a:b].mean(0) for a, b in self.spans]),
            parents=np.asarray(self.parents),
            levels=np.asarray(self.levels),
            height=height,
            lamps=tuple((i, self.materials[i]) for i in lamps),
        )


@dataclass(frozen=True)
class _CarShape:
    """Side profile of a car in metres; y positions as shares of the length from the rear."""

    length: float
    width: float
    height: float
    deck: float
    hood: float
    rear_glass: tuple[float, float]
    windshield: tuple[float, float]
    pillars: tuple[float, ...]
    sill: float = 0.24
    wheel: float = 0.31
    glazed: bool = True


_CARS = {
    "train": (
        _CarShape(4.0, 1.72, 1.46, 0.95, 0.86, (0.03, 0.12), (0.74, 0.57), (0.36,)),
        _CarShape(4.6, 1.80, 1.43, 0.98, 0.84, (0.17, 0.30), (0.72, 0.55), (0.43,)),
        _CarShape(4.7, 1.80, 1.47, 0.96, 0.86, (0.02, 0.09), (0.73, 0.57), (0.28, 0.47)),
        _CarShape(4.5, 1.86, 1.70, 1.10, 1.02, (0.03, 0.09), (0.74, 0.60), (0.27, 0.46), 0.32, 0.36),
        _CarShape(3.6, 1.62, 1.50, 0.94, 0.90, (0.02, 0.08), (0.80, 0.63), (0.40,)),
        _CarShape(4.9, 1.94, 1.95, 1.15, 1.08, (0.01, 0.03), (0.86, 0.71), (0.36, 0.55), 0.28, 0.33, False),
        _CarShape(4.4, 1.80, 1.62, 1.00, 0.98, (0.02, 0.06), (0.82, 0.62), (0.30, 0.49)),
    ),
    "test": (
        _CarShape(4.25, 1.78, 1.50, 1.00, 0.90, (0.05, 0.20), (0.75, 0.58), (0.41,)),
        _CarShape(5.1, 1.90, 1.78, 1.14, 1.06, (0.32, 0.37), (0.74, 0.60), (0.48,), 0.36, 0.38),
        _CarShape(4.35, 1.76, 1.30, 0.92, 0.80, (0.12, 0.34), (0.70, 0.54), ()),
    ),
}


def _car(shape: _CarShape) -> Mesh:
    length, width, height = shape.length, shape.width, shape.height
    b = _Builder((0.0, 0.0, 0.45 * height))

    def y(share: float) -> float:
        return (share - 0.5) * length

    half = width / 2
    roof = half * 0.8 if shape.height < 1.8 else half * 0.9
    deck, hood, sill = shape.deck, shape.hood, shape.sill
    rear_base, rear_top = y(shape.rear_glass[0]), y(shape.rear_glass[1])
    front_base, front_top = y(shape.windshield[0]), y(shape.windshield[1])
    tail, nose = -length / 2, length / 2
    lower = [
        (tail + 0.04, sill), (tail, 0.45), (tail + 0.03, deck - 0.06), (rear_base, deck), (front_base,
        deck - 0.02),
        (nose - 0.45, hood), (nose - 0.06, hood - 0.16), (nose, 0.44), (nose - 0.06, sill),
    ]  # fmt: skip
    for side in (-1, 1):
        body = b.face([(side * half, py, pz) for py, pz in lower], PAINT)
        b.face(
            [(side * half, tail + 0.1, sill), (side * half, nose - 0.12, sill), (side * half, nose - 0.05,
            sill + 0.2),
             (side * half, tail + 0.02, sill + 0.2)], PAINT_DARK, body, 1,
        )  # fmt: skip
        b.face(
            [(side * half, rear_base, deck - 0.02), (side * half, tail + 0.05, deck - 0.13),
             (side * half, nose - 0.4, hood - 0.11), (side * half, front_base, deck - 0.05)], PAINT_LIGHT,
             body, 1,
        )  # fmt: skip
        for share in (0.18, 0.815):
            b.wheel(body, side * half * 1.005, y(share), shape.wheel)
        for share in (*shape.pillars, 0.66):
            b.face(
                [(side * half, y(share), sill + 0.1), (side * half, y(share) + 0.02, sill + 0.1),
                 (side * half, y(share) + 0.02, deck - 0.05), (side * half, y(share), deck - 0.05)], DARK,
                 body, 2,
            )  # fmt: skip
            b.face(
                [(side * half, y(share) + 0.08, deck - 0.18), (side * half, y(share) + 0.26, deck - 0.18),
                 (side * half, y(share) + 0.26, deck - 0.14), (side * half, y(share) + 0.08, deck - 0.14)],
                TRIM, body, 2,
            )  # fmt: skip
        cabin = b.face(
            [(side * half * 0.97, rear_base, deck), (side * half * 0.97, front_base, deck - 0.02),
             (side * roof, front_top, height), (side * roof, rear_top, height)], PAINT,
        )  # fmt: skip
        if shape.glazed:
            edges = [shape.rear_glass[0] + 0.015, *shape.pillars, shape.windshield[0] - 0.02]
        else:
            edges = [shape.pillars[-1], shape.windshield[0] - 0.02]
        low, high = deck + 0.03, height - 0.09

        def slant(share: float, z: float) -> float:
            # Follows the slopes of rear glass and windshield from belt to roof.
            t = (z - deck) / (height - deck)
            left = rear_base + t * (rear_top - rear_base) + 0.05
            right = front_base + t * (front_top - front_base) - 0.06
            return min(max(y(share), left), right)

        for start, end in pairwise(edges):

            def at(share: float, z: float, side: int = side) -> tuple[float, float, float]:
                t = (z - deck) / (height - deck)
                return (side * (half * 0.97 * (1 - t) + roof * t) * 1.003, slant(share, z), z)

            b.face(
                [at(start + 0.008, low), at(end - 0.008, low), at(end - 0.008, high), at(start + 0.008,
                high)],
                GLASS, cabin, 1,
            )  # fmt: skip
    rear = b.face(
        [(-half, tail, sill), (half, tail, sill), (half * 0.98, tail + 0.03, deck - 0.04), (-half * 0.98,
        tail + 0.03, deck - 0.04)],
        PAINT,
    )  # fmt: skip
    b.panel(rear, 0.02, 0.0, 0.98, 0.3, PAINT_DARK)
    b.panel(rear, 0.02, 0.55, 0.2, 0.9, TAILLIGHT, 0)
    b.panel(rear, 0.8, 0.55, 0.98, 0.9, TAILLIGHT, 0)
    b.panel(rear, 0.34, 0.36, 0.66, 0.55, PLATE)
    b.panel(rear, 0.1, -0.02, 0.9, 0.08, DARK)
    front = b.face(
        [(half, nose, sill), (-half, nose, sill), (-half * 0.97, nose - 0.06, hood - 0.14), (half * 0.97,
        nose - 0.06, hood - 0.14)],
        PAINT,
    )  # fmt: skip
    b.panel(front, 0.26, 0.5, 0.74, 0.9, DARK)
    b.panel(front, 0.28, 0.66, 0.72, 0.72, TRIM, 2)
    b.panel(front, 0.2, 0.05, 0.8, 0.3, DARK)
    b.panel(front, 0.03, 0.6, 0.24, 0.92, HEADLIGHT, 0)
    b.panel(front, 0.76, 0.6, 0.97, 0.92, HEADLIGHT, 0)
    b.panel(front, 0.36, 0.3, 0.64, 0.46, PLATE)
    for end in (y(0.18) - 0.9 * shape.wheel, y(0.815) + 0.9 * shape.wheel):
        for side in (-1, 1):
            inner, outer = side * half * 0.72, side * half * 0.98
            b.face(
                [(inner, end, 0.0), (outer, end, 0.0), (outer, end, sill + 0.1), (inner, end, sill + 0.1)],
                TYRE,
            )
    b.face(
        [
            (-half, tail + 0.15, sill),
            (half, tail + 0.15, sill),
            (half, tail + 0.15, 0.12),
            (-half, tail + 0.15, 0.12),
        ],
        DARK,
    )
    b.face(
        [
            (-half, nose - 0.2, sill),
            (half, nose - 0.2, sill),
            (half, nose - 0.2, 0.12),
            (-half, nose - 0.2, 0.12),
        ],
        DARK,
    )
    b.face(
        [(-half * 0.98, tail + 0.03, deck - 0.05), (half * 0.98, tail + 0.03, deck - 0.05),
         (half * 0.97, rear_base, deck), (-half * 0.97, rear_base, deck)], PAINT_LIGHT,
    )  # fmt: skip
    rear_window = b.face(
        [(-half * 0.96, rear_base, deck), (half * 0.96, rear_base, deck), (roof, rear_top, height), (-roof,
        rear_top, height)],
        PAINT,
    )  # fmt: skip
    if shape.glazed:
        b.panel(rear_window, 0.09, 0.12, 0.91, 0.9, GLASS, 0)
    else:
        b.panel(rear_window, 0.08, 0.3, 0.47, 0.85, GLASS, 0)
        b.panel(rear_window, 0.53, 0.3, 0.92, 0.85, GLASS, 0)
    b.face(
        [
            (-roof, rear_top, height),
            (roof, rear_top, height),
            (roof, front_top, height),
            (-roof, front_top, height),
        ],
        PAINT_LIGHT,
    )
    screen = b.face(
        [(half * 0.96, front_base, deck - 0.02), (-half * 0.96, front_base, deck - 0.02), (-roof,
        front_top, height), (roof, front_top, height)],
        PAINT,
    )  # fmt: skip
    b.panel(screen, 0.07, 0.06, 0.93, 0.92, GLASS, 0)
    b.panel(screen, 0.22, 0.06, 0.34, 0.3, DARK, 2)
    b.panel(screen, 0.66, 0.06, 0.78, 0.3, DARK, 2)
    b.face(
        [(-half * 0.97, front_base, deck - 0.02), (half * 0.97, front_base, deck - 0.02),
         (half * 0.95, nose - 0.45, hood), (-half * 0.95, nose - 0.45, hood)], PAINT_LIGHT,
    )  # fmt: skip
    b.face(
        [(-half * 0.95, nose - 0.45, hood), (half * 0.95, nose - 0.45, hood),
         (half * 0.97, nose - 0.06, hood - 0.15), (-half * 0.97, nose - 0.06, hood - 0.15)], PAINT_LIGHT,
    )  # fmt: skip
    if shape.rear_glass[0] > 0.3:
        for side in (-1, 1):
            b.face([(side * half, tail + 0.05, deck - 0.06), (side * half, rear_base, deck), (side * half,
            rear_base, deck + 0.1),
                    (side * half, tail + 0.05, deck + 0.1)], PAINT)  # fmt: skip
    for side in (-1, 1):
        b.face(
            [(side * half, front_base - 0.3, deck), (side * (half + 0.16), front_base - 0.3, deck),
             (side * (half + 0.16), front_base - 0.3, deck + 0.15), (side * half, front_base - 0.3,
             deck + 0.15)],
            PAINT_DARK, -1, 1,
        )  # fmt: skip
    return b.build(height)


def _bus(length: float, height: float, decks: int, accent_band: bool) -> Mesh:
    half, z0 = 1.25, 0.32
    b = _Builder((0.0, 0.0, height / 2))
    rear, front, left, right, _ = b.box(half, -length / 2, length / 2, z0, height, PAINT, 0.97)
    for face in (left, right):
        for deck in range(decks):
            v0, v1 = (0.42, 0.82) if decks == 1 else ((0.2, 0.42), (0.62, 0.86))[deck]
            b.panel(face, 0.02, v0, 0.98, v1, GLASS, 0)
            for u in np.arange(0.1, 0.95, 0.11):
                b.panel(face, float(u), v0, float(u) + 0.012, v1, PAINT_DARK, 2)
        b.panel(face, 0.0, 0.0, 1.0, 0.09, PAINT_DARK)
        if accent_band:
            b.panel(face, 0.0, 0.12, 1.0, 0.3 if decks == 1 else 0.17, ACCENT)
        if decks == 2:
            b.panel(face, 0.15, 0.46, 0.8, 0.58, ACCENT)
        x = -half if face == left else half
        for y in (-length * 0.26, length * 0.3):
            b.wheel(face, x * 1.003, y, 0.48)
    for u in (0.1, 0.5):
        b.panel(right, 1 - u - 0.09, 0.05, 1 - u, 0.8 if decks == 1 else 0.42, DARK, 1)
    top = 0.9 if decks == 1 else 0.44
    b.panel(rear, 0.12, 0.55 if decks == 1 else 0.6, 0.88, 0.86, GLASS, 0)
    b.panel(rear, 0.2, 0.1, 0.8, 0.35, PAINT_DARK)
    b.panel(rear, 0.2, 0.42, 0.8, 0.52, ACCENT)
    for u in (0.03, 0.87):
        b.panel(rear, u, 0.14, u + 0.1, 0.3, TAILLIGHT, 0)
        b.panel(front, u, 0.1, u + 0.1, 0.17, HEADLIGHT, 0)
    b.panel(front, 0.04, 0.32 if decks == 1 else 0.18, 0.96, top - 0.08, GLASS, 0)
    b.panel(front, 0.2, top - 0.06, 0.8, top + 0.04, DARK)
    b.panel(front, 0.26, top - 0.04, 0.7, top + 0.02, ACCENT, 2)
    if decks == 2:
        b.panel(front, 0.05, 0.62, 0.95, 0.88, GLASS, 0)
    b.panel(front, 0.38, 0.03, 0.62, 0.07, PLATE, 2)
    for y in (-length / 2 + 1, length / 2 - 1):
        for side in (-1, 1):
            b.face(
                [
                    (side * 0.8, y, 0),
                    (side * 1.2, y, 0),
                    (side * 1.2, y, z0 + 0.2),
                    (side * 0.8, y, z0 + 0.2),
                ],
                TYRE,
            )
    return b.build(height)


def _truck(length: float, height: float, cab: float, cab_height: float, tank: bool) -> Mesh:
    half = 1.22
    b = _Builder((0.0, 0.0, height / 2))
    body_front = length / 2 - cab - 0.25
    z0 = 1.0 if length > 8 else 0.75
    # The chassis first: it lies behind wheels and body from every side.
    b.box(half * 0.9, -length / 2 + 0.1, length / 2 - 0.3, 0.5, z0, DARK)
    rear, _, left, right, _ = b.box(
        half * (0.92 if tank else 1.0), -length / 2, body_front, z0, height, CARGO, 0.8 if tank else 1.0
    )
    b.panel(rear, 0.48, 0.02, 0.52, 0.98, DARK, 1)
    b.panel(rear, 0.03, 0.03, 0.06, 0.97, PAINT_DARK, 2)
    for u in (0.03, 0.85):
        b.panel(rear, u, -0.1, u + 0.12, -0.02, TAILLIGHT, 0)
    b.panel(rear, 0.3, -0.14, 0.7, -0.02, PLATE, 2)
    for face in (left, right):
        b.panel(face, 0.12, 0.35, 0.8, 0.66, ACCENT, 1)
        b.panel(face, 0.2, 0.44, 0.7, 0.52, CARGO, 2)
        b.panel(face, 0.0, 0.0, 1.0, 0.05, PAINT_DARK, 1)
    _, front, cab_left, cab_right, _ = b.box(
        half * 0.97, length / 2 - cab, length / 2, 0.5, cab_height, PAINT, 0.95
    )
    b.panel(front, 0.06, 0.55, 0.94, 0.88, GLASS, 0)
    b.panel(front, 0.15, 0.18, 0.85, 0.44, DARK)
    b.panel(front, 0.04, 0.1, 0.2, 0.22, HEADLIGHT, 0)
    b.panel(front, 0.8, 0.1, 0.96, 0.22, HEADLIGHT, 0)
    b.panel(front, 0.36, 0.03, 0.64, 0.1, PLATE, 2)
    for face, near in ((cab_left, 0.12), (cab_right, 0.4)):
        b.panel(face, near, 0.55, near + 0.48, 0.86, GLASS, 0)
    for side, face in ((-1, left), (1, right)):
        x = side * half * 1.003
        rows = (-length * 0.36, -length * 0.26) if length > 8 else (-length * 0.28,)
        for y in (*rows, length / 2 - cab * 0.5):
            b.wheel(face, x, y, 0.48 if length > 8 else 0.4)
    for y in (-length / 2 + 0.8, length / 2 - 0.8):
        for side in (-1, 1):
            b.face([(side * 0.7, y, 0), (side * 1.15, y, 0), (side * 1.15, y, z0), (side * 0.7, y, z0)], TYRE)
    return b.build(height)


def _train(length: float, height: float) -> Mesh:
    half = 1.3
    b = _Builder((0.0, 0.0, height / 2))
    rear, front, left, right, _ = b.box(half, -length / 2, length / 2, 0.25, height, PAINT, 0.94)
    for face in (left, right):
        b.panel(face, 0.01, 0.42, 0.99, 0.78, GLASS, 0)
        b.panel(face, 0.0, 0.0, 1.0, 0.08, DARK)
        b.panel(face, 0.0, 0.28, 1.0, 0.36, ACCENT)
        for u in np.arange(0.06, 0.95, 0.08):
            b.panel(face, float(u), 0.42, float(u) + 0.012, 0.78, PAINT, 1)
        for u in (0.15, 0.4, 0.65, 0.88):
            b.panel(face, u, 0.1, u + 0.06, 0.8, ACCENT, 1)
    for face, lamp in ((front, HEADLIGHT), (rear, TAILLIGHT)):
        b.panel(face, 0.08, 0.42, 0.92, 0.84, GLASS, 0)
        b.panel(face, 0.3, 0.87, 0.7, 0.96, DARK)
        b.panel(face, 0.1, 0.2, 0.24, 0.28, lamp, 0)
        b.panel(face, 0.76, 0.2, 0.9, 0.28, lamp, 0)
        b.panel(face, 0.0, 0.0, 1.0, 0.1, DARK)
    return b.build(height)


def _motorcycle(length: float, scooter: bool) -> Mesh:
    b = _Builder((0.0, 0.0, 0.5))
    half = 0.13
    profile = (
        [
            (-0.7, 0.45),
            (-0.75, 0.75),
            (-0.2, 0.8),
            (0.0, 0.45),
            (0.35, 0.4),
            (0.5, 1.0),
            (0.62, 1.0),
            (0.55, 0.35),
            (-0.1, 0.25),
        ]
        if scooter
        else [
            (-0.85, 0.85),
            (-0.3, 0.78),
            (0.0, 0.95),
            (0.4, 0.92),
            (0.55, 0.75),
            (0.3, 0.3),
            (-0.3, 0.28),
            (-0.45, 0.55),
        ]
    )
    scale = length / 2.0
    for side in (-1, 1):
        body = b.face([(side * half, y * scale, z) for y, z in profile], PAINT)
        b.face(
            [(side * half, y * scale, z) for y, z in ((-0.3, 0.3), (0.3, 0.3), (0.35, 0.55), (-0.3, 0.55))],
            DARK,
            body,
            1,
        )
        for y in (-0.68, 0.68):
            b.wheel(body, side * half, y * scale, 0.24 if scooter else 0.3)
    r = 0.24 if scooter else 0.3
    b.face(
        [
            (-0.07, -0.9 * scale, 0),
            (0.07, -0.9 * scale, 0),
            (0.07, -0.9 * scale, 2 * r),
            (-0.07, -0.9 * scale, 2 * r),
        ],
        TYRE,
    )
    b.face(
        [
            (0.07, 0.9 * scale, 0),
            (-0.07, 0.9 * scale, 0),
            (-0.07, 0.9 * scale, 2 * r),
            (0.07, 0.9 * scale, 2 * r),
        ],
        TYRE,
    )
    back = b.face(
        [
            (-0.17, -0.8 * scale, 0.5),
            (0.17, -0.8 * scale, 0.5),
            (0.14, -0.8 * scale, 0.85),
            (-0.14, -0.8 * scale, 0.85),
        ],
        PAINT,
    )
    b.panel(back, 0.3, 0.6, 0.7, 0.95, TAILLIGHT, 0)
    b.panel(back, 0.25, 0.1, 0.75, 0.5, PLATE)
    nose = b.face(
        [
            (0.2, 0.55 * scale, 0.5),
            (-0.2, 0.55 * scale, 0.5),
            (-0.2, 0.5 * scale, 1.05),
            (0.2, 0.5 * scale, 1.05),
        ],
        PAINT,
    )
    b.panel(nose, 0.25, 0.55, 0.75, 0.95, HEADLIGHT, 0)
    b.face(
        [
            (-0.36, 0.42 * scale, 0.98),
            (0.36, 0.42 * scale, 0.98),
            (0.36, 0.42 * scale, 1.04),
            (-0.36, 0.42 * scale, 1.04),
        ],
        DARK,
    )
    return b.build(1.05)


@dataclass(frozen=True)
class VehicleModel:
    """A mesh and what it is.

    Attributes:
        label: detection class id.
        length, width: metres.
    """

    label: int
    mesh: Mesh
    length: float
    width: float


@cache
def vehicle_models(kind: str, split: str) -> tuple[VehicleModel, ...]:
    """The body variants of a split; kinds: car, truck, bus, train, motorcycle."""
    held_out = split == "test"
    if kind == "car":
        return tuple(VehicleModel(CAR, _car(s), s.length, s.width) for s in _CARS[split])
    if kind == "truck":
        sizes = (
            ((7.6, 3.3, 1.9, 2.7, False), (15.0, 3.9, 2.3, 3.5, True))
            if held_out
            else (
                (6.4, 2.9, 1.8, 2.35, False),
                (9.0, 3.6, 2.1, 2.9, False),
                (13.0, 3.9, 2.2, 3.3, False),
                (9.5, 3.2, 2.1, 3.0, True),
            )
        )
        return tuple(VehicleModel(TRUCK, _truck(*size), size[0], 2.45) for size in sizes)
    if kind == "bus":
        shapes = (
            ((11.0, 3.3, 1, False), (10.4, 4.1, 2, False))
            if held_out
            else ((12.0, 3.05, 1, True), (10.5, 4.3, 2, True), (8.0, 2.8, 1, False))
        )
        return tuple(VehicleModel(BUS, _bus(*shape), shape[0], 2.5) for shape in shapes)
    if kind == "train":
        lengths = ((24.0, 3.7),) if held_out else ((18.0, 3.5), (30.0, 3.4))
        return tuple(VehicleModel(TRAIN, _train(*size), size[0], 2.6) for size in lengths)
    if kind == "motorcycle":
        shapes_m = ((2.15, False), (1.75, True)) if held_out else ((2.05, False), (1.9, True), (2.25, False))
        return tuple(VehicleModel(MOTORCYCLE, _motorcycle(*shape), shape[0], 0.5) for shape in shapes_m)
    raise ValueError(f"no vehicle kind is called {kind!r}")


_PAINTS = {
    "train": (
        (226, 228, 230), (24, 25, 28), (150, 154, 160), (86, 90, 96), (150, 24, 28), (30, 50, 110), (48,
        60, 84),
        (196, 186, 160), (70, 24, 30), (28, 70, 56), (186, 120, 40), (110, 150, 170),
    ),
    "test": ((240, 238, 228), (40, 38, 42), (126, 126, 124), (176, 60, 36), (44, 84, 150), (92, 104, 80),
    (206, 180, 60)),
}  # fmt: skip
_LIVERIES = {
    "train": ((190, 24, 30), (228, 226, 220), (30, 80, 150), (226, 178, 30), (40, 110, 70), (120, 40, 90)),
    "test": ((230, 110, 30), (60, 150, 160), (200, 204, 206), (90, 50, 40)),
}


# Parked ones have no lights on, braking ones have the rear ones.
State = Literal["parked", "driving", "braking"]

# Rows red, green and blue; columns the materials of a stamp's map.
Mix = tuple[Triple, Triple, Triple]


def make_mix(colors: Floats) -> Mix:
    """The mix of three materials from their colours (3, 3), RGB 0..255."""
    red, green, blue = (tuple(row) for row in colors.T.tolist())
    return red, green, blue


# So many colourings are drawn for each kind and split; a vehicle names one by its number.
LOOKS = 160


@dataclass(frozen=True)
class Look:
    """A vehicle's colours.

    Attributes:
        colors: reflectance by material, float64 (MATERIALS, 3), RGB 0..255.
        mix: the same for stamps, of paint, accent and cargo.
    """

    colors: Floats
    mix: Mix


@cache
def vehicle_look(kind: str, split: str, number: int) -> Look:
    """Colouring ``number`` (0 .. LOOKS - 1) of a kind of vehicle in a split."""
    dice = Dice(31 if split == "train" else 37, number, sum(map(ord, kind)))
    options = _PAINTS[split] if kind in ("car", "motorcycle") else _LIVERIES[split]
    paint = np.array(dice.color(dice.pick(options), 14))
    table = np.empty((MATERIALS, 3))
    table[PAINT] = paint
    table[PAINT_LIGHT] = np.minimum(paint * 1.06 + 14, 250)
    table[PAINT_DARK] = paint * 0.55 if dice.chance(0.7) else (52, 52, 54)
    table[GLASS] = dice.color((38, 46, 54), 14)
    table[TYRE] = (26, 26, 28)
    table[RIM] = dice.color((140, 142, 146), 40)
    table[DARK] = (20, 20, 22)
    table[HEADLIGHT] = (222, 226, 230)
    table[TAILLIGHT] = dice.color((150, 18, 20), 24)
    table[PLATE] = dice.pick(((226, 226, 220), (224, 196, 60), (230, 230, 236)))
    table[TRIM] = (176, 178, 182)
    table[ACCENT] = dice.color(dice.pick(_LIVERIES[split]), 20)
    table[CARGO] = dice.color(
        dice.pick(((228, 228, 226), (200, 198, 192), (60, 90, 140), (170, 60, 50), (120, 130, 120))), 14
    )
    return Look(table, make_mix(table[[PAINT, ACCENT, CARGO]]))


_HEAD_GLOW, _TAIL_GLOW = (255.0, 244.0, 214.0), (255.0, 36.0, 26.0)
_HEAD_RADIUS, _TAIL_RADIUS = 0.34, 0.2
_LAMP_COLORS = {HEADLIGHT: (255.0, 248.0, 226.0), TAILLIGHT: (255.0, 40.0, 30.0)}


def turn_matrix(yaw: float, slope: float) -> Floats:
    """What turns local points (N, 3), multiplied from the right, by a yaw and onto a slope."""
    sin_yaw, cos_yaw = math.sin(yaw), math.cos(yaw)
    return np.array(
        [[cos_yaw, -sin_yaw, -sin_yaw * slope], [sin_yaw, cos_yaw, cos_yaw * slope], [0.0, 0.0, 1.0]]
    )


def _order(mesh: Mesh, eye: Floats, level: int) -> npt.NDArray[np.intp]:
    """Faces that the eye (local metres) sees at a level of detail, far ones first."""
    towards = eye - mesh.centers
    facing = np.einsum("ij,ij->i", towards, mesh.normals) > 0
    shown = np.flatnonzero(facing & (mesh.levels <= level))
    distances = np.einsum("ij,ij->i", towards, towards)[mesh.parents[shown]]
    return shown[np.argsort(-distances, kind="stable")]


# Stamps replace meshes where an object is less than so many pixels high and farther than so many lengths.
STAMP_PIXELS = 60.0
_STAMP_LENGTHS = 3.0
_YAWS = 48
_STAMP_METRE, _STAMP_LARGEST = 40.0, 220.0
_RECOLORED = {
    PAINT: (0, 1.0),
    PAINT_LIGHT: (0, 1.12),
    PAINT_DARK: (0, 0.5),
    ACCENT: (1, 1.0),
    CARGO: (2, 1.0),
}


@dataclass(frozen=True)
class VehicleView:
    """A vehicle's stamp for one direction of view, and where its lamps are: metres right of the foot, metres
    up, and whether it is a headlight.
    """

    stamp: Stamp
    lamps: tuple[tuple[float, float, bool], ...]


@cache
def vehicle_view(kind: str, split: str, model: int, direction: int, snowy: bool) -> VehicleView:
    """A vehicle seen from far away.

    Args:
        direction: the vehicle's heading relative to the line of sight, in steps of 360 / 48 degrees.
        snowy: snow lies on its upper faces.
    """
    shape = vehicle_models(kind, split)[model]
    mesh = shape.mesh
    scale = 2 * min(_STAMP_METRE, _STAMP_LARGEST / max(shape.length, mesh.height))
    distance = max(24.0, 3.0 * shape.length)
    side = int(scale * math.hypot(shape.length, shape.width) * 1.35) + 24
    tall = int(scale * mesh.height * 1.35) + 24
    foot = (side / 2, tall * 0.86)
    turn = turn_matrix(direction * 2 * math.pi / _YAWS, 0.0)
    view = make_camera(side, tall, scale * distance, (0.0, -distance, 1.5), 0.0, 0.0, 0.0, (0.0, 0.0))
    homogeneous = view.project(mesh.points @ turn)
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    pixels += np.array(foot) - (0.0, scale * 1.5)
    eye = np.asarray(np.linalg.solve(turn.T, view.position), np.float64)
    shown = _order(mesh, eye, 1)
    normals = mesh.normals[shown] @ turn
    bright = 0.8 + 0.28 * np.maximum(normals[:, 2], 0.0) + 0.12 * np.maximum(-normals[:, 1], 0.0)
    colors = vehicle_look(kind, split, 0).colors
    weights, base, shine = (np.zeros((tall, side, 3), np.uint8) for _ in range(3))
    cover = np.zeros((tall, side), np.uint8)
    lamps = []
    for face, normal, factor in zip(shown.tolist(), normals, bright.tolist(), strict=True):
        first, last = mesh.spans[face]
        points = [(pixels[first:last] * 16).astype(np.int32)]
        material = int(mesh.materials[face])
        weight, plain = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        if snowy and normal[2] > 0.6 and material != GLASS:
            plain = [226.0, 228.0, 234.0]
        elif material in _RECOLORED:
            channel, share = _RECOLORED[material]
            weight[channel] = WEIGHT * min(share * factor, 1.9)
        else:
            plain = (colors[material] * factor).tolist()
            if material == GLASS:
                plain = [0.75 * c + 18 + 50 * max(0.0, float(normal[2])) for c in plain]
        cv2.fillPoly(weights, points, weight, cv2.LINE_AA, 4)
        cv2.fillPoly(base, points, plain, cv2.LINE_AA, 4)
        cv2.fillPoly(shine, points, _LAMP_COLORS.get(material, (0.0, 0.0, 0.0)), cv2.LINE_AA, 4)
        if mesh.levels[face] == 0:
            cv2.fillPoly(cover, points, 255, cv2.LINE_AA, 4)
        if material in _LAMP_COLORS:
            x, y = ((pixels[first:last].mean(0) - foot) / scale).tolist()
            lamps.append((x, -y, material == HEADLIGHT))
    half = (side // 2, tall // 2)
    maps = [cv2.resize(m, half, interpolation=cv2.INTER_AREA) for m in (weights, base, shine)]
    small = cv2.resize(cover, half, interpolation=cv2.INTER_AREA)
    return VehicleView(make_stamp(maps, small, (foot[0] / 2, foot[1] / 2), scale / 2), tuple(lamps))


def recolor(mix: Mix, gain: Triple, offset: Triple) -> npt.NDArray[np.float32]:
    """A stamp's mix under a light: float32 (3, 4) from materials' colours."""
    (a, b, c), (d, e, f), (g, h, i) = mix
    red, green, blue = gain[0] / WEIGHT, gain[1] / WEIGHT, gain[2] / WEIGHT
    return color_matrix(
        a * red, b * red, c * red, offset[0],
        d * green, e * green, f * green, offset[1],
        g * blue, h * blue, i * blue, offset[2],
    )  # fmt: skip


def paint_vehicle(
    canvas: Canvas,
    kind: str,
    split: str,
    model: int,
    look: int,
    origin: tuple[float, float, float],
    yaw: float,
    slope: float,
    sunlit: float,
    state: State,
) -> None:
    """Paints a vehicle as one new instance: near ones as meshes, far ones as stamps.

    Args:
        model: position in ``vehicle_models``.
        look: number of the colouring.
        origin: world point below the vehicle's centre.
        yaw: turn to the right in radians.
        slope: rise of the ground per metre along y.
        sunlit: 0 in shadow .. 1.
    """
    shape = vehicle_models(kind, split)[model]
    camera = canvas.camera
    u, v, depth = camera.spot(*origin)
    unit = camera.focal / depth if depth > 1.0 else 1e6
    height = shape.mesh.height
    if unit * height < 2.5:
        return
    if unit * height > STAMP_PIXELS or depth < max(8.0, _STAMP_LENGTHS * shape.length):
        paint_mesh(
            canvas, shape.mesh, np.array(origin), yaw, slope, vehicle_look(kind, split, look).colors,
            shape.label, sunlit, state,
        )  # fmt: skip
        return
    light = canvas.light
    x, y, _ = camera.position.tolist()
    away_x, away_y = (origin[0] - x) / depth, (origin[1] - y) / depth
    steps = round((yaw - math.atan2(away_x, away_y)) * _YAWS / (2 * math.pi)) % _YAWS
    view = vehicle_view(kind, split, model, steps, light.snow > 0.3)
    gain, offset = light.gain((-0.8 * away_x, -0.8 * away_y, 0.6), depth, sunlit)
    a, b, c = gain
    plain = color_matrix(a, 0.0, 0.0, 0.0, 0.0, b, 0.0, 0.0, 0.0, 0.0, c, 0.0)
    number = canvas.next_id
    mix = recolor(vehicle_look(kind, split, look).mix, gain, offset)
    lights = light.vehicle_lights and state != "parked"
    canvas.stamp(view.stamp, (u, v), (unit, unit), (mix, plain), float(lights), shape.label)
    if lights:
        for right, up, head in view.lamps:
            radius, glow = (_HEAD_RADIUS, _HEAD_GLOW) if head else (_TAIL_RADIUS, _TAIL_GLOW)
            canvas.glows.append(Glow(u + right * unit, v - up * unit, radius * unit, glow, number))


def paint_mesh(
    canvas: Canvas,
    mesh: Mesh,
    origin: Floats,
    yaw: float,
    slope: float,
    colors: Floats,
    label: int,
    sunlit: float,
    state: State,
) -> None:
    """Paints a mesh as one new instance.

    Args:
        origin: world point (3,) below the mesh's centre.
        yaw: turn to the right in radians.
        slope: rise of the ground per metre along y.
        sunlit: 0 in shadow .. 1.
    """
    camera, light = canvas.camera, canvas.light
    turn = turn_matrix(yaw, slope)
    homogeneous = camera.project(mesh.points @ turn + origin)
    depths = homogeneous[:, 2]
    nearest = float(depths.min())
    if depths.max() < NEAR:
        return
    eye = np.asarray(np.linalg.solve(turn.T, camera.position - origin), np.float64)
    middle = max(float(origin[1] - camera.position[1]), 1.0)
    size = camera.focal * mesh.height / middle
    level = 0 if size < _DETAIL_HEIGHT[1] else 1 if size < _DETAIL_HEIGHT[2] else 2
    shown = _order(mesh, eye, level)
    if not len(shown):
        return
    materials = mesh.materials[shown]
    depth = max(middle, nearest)
    normals = mesh.normals[shown] @ turn
    base = colors[materials]
    if light.snow:
        lying = np.maximum(0.0, normals[:, 2:] - 0.3) * light.snow * (materials != GLASS)[:, None]
        base = base * (1 - lying) + 238.0 * lying
    shaded = light.shade(base, normals, depth, sunlit)
    glass = materials == GLASS
    if glass.any():
        # Glass mirrors the sky where it leans back and the dim street where it stands upright.
        mirror = light.sky_horizon * (0.08 + 0.24 * np.maximum(normals[glass][:, 2:], 0.0))
        shaded[glass] = np.minimum(0.75 * shaded[glass] + mirror, 255.0)
    lights, braking = light.vehicle_lights and state != "parked", state == "braking"
    if lights or braking:
        for material, glow in _LAMP_COLORS.items():
            if lights or material == TAILLIGHT:
                lamps = materials == material
                strength = 1.0 if braking or material == HEADLIGHT or not light.lamps else 0.8
                shaded[lamps] = light.through_air(np.array(glow) * strength, depth)
    number = canvas.next_id
    spans, rows = mesh.spans, shaded.tolist()
    outline = mesh.levels[shown] == 0
    if nearest > NEAR:
        fixed = canvas.to_fixed(homogeneous)
        for face, color, solid in zip(shown.tolist(), rows, outline.tolist(), strict=True):
            first, last = spans[face]
            convex = last - first == 4 or last - first == 12
            canvas.fixed_polygon(fixed[first:last], color, number if solid else None, convex)
        pixels = homogeneous[:, :2] / depths[:, None]
    else:
        for face, color, solid in zip(shown.tolist(), rows, outline.tolist(), strict=True):
            first, last = spans[face]
            canvas.polygon(homogeneous[first:last], color, number if solid else None)
        before = homogeneous[depths > NEAR]
        pixels = before[:, :2] / before[:, 2:]
    (x0, y0), (x1, y1) = pixels.min(0).tolist(), pixels.max(0).tolist()
    if nearest <= NEAR:
        # Where the body passes the camera its outline runs out of the frame.
        x0, y0, x1, y1 = 0.0, 0.0, canvas.width, canvas.height
    if lights and nearest > 1.0:
        seen = set(shown.tolist())
        for face, material in mesh.lamps:
            if face in seen:
                first, last = spans[face]
                x, y = pixels[first:last].mean(0)
                head = material == HEADLIGHT
                radius = camera.focal * (_HEAD_RADIUS if head else _TAIL_RADIUS) / depth
                canvas.glows.append(
                    Glow(float(x), float(y), radius, _HEAD_GLOW if head else _TAIL_GLOW, number)
                )
    canvas.register(label, x0, y0, x1, y1)
