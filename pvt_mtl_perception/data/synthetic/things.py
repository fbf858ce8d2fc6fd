"""What can stand or move along a road, in road coordinates.

s metres along the road, d metres to the right of its dividing line, z metres above its surface; yaw in
radians to the right of the road's direction at s = +y. Named tuples, because a frame makes hundreds.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pvt_mtl_perception.data.synthetic.dice import Color
from pvt_mtl_perception.data.synthetic.figures import Person
from pvt_mtl_perception.data.synthetic.meshes import State
from pvt_mtl_perception.data.synthetic.textures import FLOOR_METRES

# s, d, how far the thing reaches from there along and across the road, how high above it, and at what
# distance it is no longer painted, metres.
Footing = tuple[float, float, float, float, float, float]


# With windows; without any, against a neighbour; or wholly covered by one.
End = Literal["windows", "blank", "hidden"]


class Building(NamedTuple):
    """A house with its street wall at d, between s0 and s1; side is -1 (left) or 1.

    ``end`` is the wall that looks back along the road.
    """

    side: int
    s0: float
    s1: float
    d: float
    depth: float
    floors: int
    facade: int
    tint: Color
    roof: float
    roof_color: Color
    offset: int
    end: End

    @property
    def height(self) -> float:
        """Metres up to the eaves."""
        return self.floors * FLOOR_METRES


class Barrier(NamedTuple):
    """A wall, fence, hedge or guard rail along the road; ``id`` is its segmentation class."""

    s0: float
    s1: float
    d: float
    height: float
    kind: str
    id: int
    color: Color
    tile: int


class Tree(NamedTuple):
    """A tree, or with kind "bush" a crown on the ground."""

    s: float
    d: float
    kind: str
    variant: int
    height: float
    width: float
    trunk: float
    color: Color

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d, 0.1, 0.5 * self.width, self.height, 130.0 if self.trunk else 70.0


class Lamp(NamedTuple):
    """A lamp post; the arm reaches ``arm`` metres to the right."""

    s: float
    d: float
    height: float
    arm: float
    color: Color

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d, 0.1, 3.0, self.height + 0.5, 120.0


class Sign(NamedTuple):
    """A traffic sign; ``back`` shows its blank side."""

    s: float
    d: float
    z: float
    size: float
    kind: int
    post: bool
    back: bool

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d, 0.1, 1.0, self.z + 0.6 * self.size, 110.0


class Gantry(NamedTuple):
    """A beam over the road with boards (d, width, kind)."""

    s: float
    d0: float
    d1: float
    height: float
    panels: tuple[tuple[float, float, int], ...]

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d1, 0.3, 40.0, self.height + 3.0, 220.0


class Signal(NamedTuple):
    """A traffic light on a post, and with an arm a second one over the road."""

    s: float
    d: float
    height: float
    arm: float
    phase: float
    variant: int

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d, 0.2, 7.0, self.height + 3.0, 120.0


class Block(NamedTuple):
    """A box: canopy, pump, shelter, cabinet, column; ``id`` is its segmentation class."""

    s0: float
    s1: float
    d0: float
    d1: float
    z0: float
    z1: float
    color: Color
    id: int

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s0, self.d0, self.s1 - self.s0, abs(self.d1 - self.d0), self.z1, 110.0


class Vehicle(NamedTuple):
    """A vehicle: ``model`` and ``look`` are numbers in ``meshes``; a motorcycle may have a rider."""

    s: float
    d: float
    yaw: float
    kind: str
    model: int
    look: int
    length: float
    width: float
    height: float
    state: State
    rider: Person | None

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        half, wide = 0.5 * self.length, 0.5 * self.width + 0.2
        sine, cosine = abs(math.sin(self.yaw)), abs(math.cos(self.yaw))
        rise = self.height if self.rider is None else 2.1
        far = 180.0 if self.state != "parked" else 90.0
        return self.s, self.d, half * cosine + wide * sine, half * sine + wide * cosine, rise, far


class Cycle(NamedTuple):
    """A bicycle, parked or ridden."""

    s: float
    d: float
    z: float
    yaw: float
    color: Color
    rider: Person | None
    phase: float

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d, 1.0, 1.0, 2.2, 100.0


class Walker(NamedTuple):
    """Somebody on foot."""

    s: float
    d: float
    z: float
    yaw: float
    person: Person
    phase: float
    standing: bool

    @property
    def footing(self) -> Footing:
        """See ``Footing``."""
        return self.s, self.d, 0.4, 0.4, self.z + self.person.height, 100.0


Moving = Vehicle | Cycle | Walker
Thing = Tree | Lamp | Sign | Gantry | Signal | Block | Vehicle | Cycle | Walker


class Chunk(NamedTuple):
    """The static content of one stretch of road."""

    number: int
    buildings: tuple[Building, ...]
    barriers: tuple[Barrier, ...]
    things: tuple[Thing, ...]
    junction: bool
