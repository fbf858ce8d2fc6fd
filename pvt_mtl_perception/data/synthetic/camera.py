"""A pinhole camera on a car: world metres to pixels, with clipping at the near plane.

World axes: x right, y along the road, z up. Camera axes: x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Spot = tuple[float, float, float]
NEAR = 0.25


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and how it projects.

    Attributes:
        width, height: image size in pixels.
        focal: focal length in pixels.
        position: float64 (3,), world metres.
        matrix, offset: float64 (3, 3) and (3,); ``points @ matrix + offset`` is homogeneous pixels
            (u*w, v*w, w) with the depth in metres as w.
    """

    width: int
    height: int
    focal: float
    position: Floats
    matrix: Floats
    offset: Floats

    def project(self, points: Floats) -> Floats:
        """World points (N, 3) to homogeneous pixels (N, 3); column 2 is the depth in metres."""
        return points @ self.matrix + self.offset

    @cached_property
    def _plain(self) -> tuple[float, ...]:
        return (*self.matrix.ravel().tolist(), *self.offset.tolist())

    def spot(self, x: float, y: float, z: float) -> Spot:
        """One world point to pixel u, v and depth; a depth below ``NEAR`` means it is not in view.

        Plain floats: for one point a tenth of the cost of ``project``.
        """
        a, b, c, d, e, f, g, h, i, j, k, n = self._plain
        depth = x * c + y * f + z * i + n
        if depth < NEAR:
            return 0.0, 0.0, depth
        return (x * a + y * d + z * g + j) / depth, (x * b + y * e + z * h + k) / depth, depth


def make_camera(
    width: int,
    height: int,
    focal: float,
    position: tuple[float, float, float],
    yaw: float,
    pitch: float,
    roll: float,
    center: tuple[float, float],
) -> Camera:
    """A camera looking along +y, turned by yaw (to the right), pitch (downwards) and roll, in radians.

    Args:
        center: principal point in pixels.
    """
    sin_yaw, cos_yaw = math.sin(yaw), math.cos(yaw)
    sin_pitch, cos_pitch = math.sin(pitch), math.cos(pitch)
    forward = np.array([sin_yaw * cos_pitch, cos_yaw * cos_pitch, -sin_pitch])
    right = np.array([cos_yaw, -sin_yaw, 0.0])
    down = np.cross(forward, right)
    sin_roll, cos_roll = math.sin(roll), math.cos(roll)
    axes = np.stack([cos_roll * right + sin_roll * down, cos_roll * down - sin_roll * right, forward])
    intrinsics = np.array([[focal, 0.0, center[0]], [0.0, focal, center[1]], [0.0, 0.0, 1.0]])
    where = np.array(position)
    matrix = np.ascontiguousarray((intrinsics @ axes).T)
    return Camera(width, height, focal, where, matrix, -where @ matrix)


def clip_near(polygon: Floats) -> Floats:
    """The part of a polygon (N, 3), homogeneous pixels, that lies before the near plane (M, 3)."""
    kept: list[Floats] = []
    previous = polygon[-1]
    for point in polygon:
        if (point[2] >= NEAR) != (previous[2] >= NEAR):
            share = (NEAR - previous[2]) / (point[2] - previous[2])
            kept.append(previous + share * (point - previous))
        if point[2] >= NEAR:
            kept.append(point)
        previous = point
    return np.array(kept) if kept else np.zeros((0, 3))
