"""What stands and moves along the road: a layout, static things chunk by chunk, and traffic at a time.

Positions are road coordinates: s metres along the road, d metres to the right of its dividing line,
z metres above its surface. Everything follows from the seed, so any stretch can be built at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pvt_mtl_perception.data.synthetic.camera import Floats
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.figures import Person, make_person
from pvt_mtl_perception.data.synthetic.meshes import VehicleModel, vehicle_colors, vehicle_models
from pvt_mtl_perception.data.synthetic.taxonomy import (
    BUILDING,
    FENCE,
    ROAD,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
    VOID,
    WALL,
)
from pvt_mtl_perception.data.synthetic.textures import CROWNS, FACADES, FLOOR_METRES

CHUNK = 24.0
_CHUNK_OFFSET = 1 << 20
_SPLIT_KEY = {"train": 11, "test": 13}
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Road:
    """The centre line in world metres: sums of sines, so that it never ends and never jumps."""

    bend: float
    bend_length: float
    bend_phase: float
    hill: float
    hill_length: float
    hill_phase: float

    def x(self, s: Floats | float) -> Floats:
        """World x of the dividing line."""
        return np.asarray(
            self.bend * np.sin(np.asarray(s) * (2 * math.pi / self.bend_length) + self.bend_phase)
        )

    def z(self, s: Floats | float) -> Floats:
        """World height of the surface."""
        return np.asarray(
            self.hill * np.sin(np.asarray(s) * (2 * math.pi / self.hill_length) + self.hill_phase)
        )

    def heading(self, s: float) -> float:
        """Direction of the road, radians to the right of +y."""
        k = 2 * math.pi / self.bend_length
        return math.atan(self.bend * k * math.cos(s * k + self.bend_phase))

    def slope(self, s: float) -> float:
        """Rise per metre."""
        k = 2 * math.pi / self.hill_length
        return self.hill * k * math.cos(s * k + self.hill_phase)

    def place(self, s: Floats, d: Floats | float, z: Floats | float = 0.0) -> Floats:
        """Road coordinates to world points (N, 3)."""
        s = np.asarray(s, np.float64)
        points = np.empty((len(s), 3))
        points[:, 0] = self.x(s) + d
        points[:, 1] = s
        points[:, 2] = self.z(s) + z
        return points

    def point(self, s: float, d: float, z: float = 0.0) -> Floats:
        """One place as a world point (3,)."""
        k, m = 2 * math.pi / self.bend_length, 2 * math.pi / self.hill_length
        return np.array(
            [
                self.bend * math.sin(s * k + self.bend_phase) + d,
                s,
                self.hill * math.sin(s * m + self.hill_phase) + z,
            ]
        )


@dataclass(frozen=True)
class Band:
    """A strip of ground beside the carriageway; side is -1 (left) or 1, distances from the dividing line."""

    side: int
    inner: float
    outer: float
    id: int


@dataclass(frozen=True)
class Lane:
    """A lane's middle and the direction of its traffic (1 = with the ego vehicle)."""

    d: float
    direction: int
    speed: float


@dataclass(frozen=True)
class Layout:
    """The cross-section of the road and what the scene puts along it."""

    scene: str
    lanes: tuple[Lane, ...]
    left: float
    right: float
    ego_d: float
    parking: tuple[float, float]
    bands: tuple[Band, ...]
    property_line: tuple[float, float]
    setback: tuple[float, float]
    floors: tuple[int, int]
    building_share: float
    house: bool
    tree_share: float
    bare_share: float
    barrier: tuple[str, str]
    barrier_ids: tuple[int, int]
    median: str
    junction_every: int
    pedestrian_gap: float
    vehicle_share: float
    lamp_gap: int
    dash: tuple[float, float]
    center_line: str
    edge_lines: bool
    yellow_center: bool
    background: int
    flora: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Building:
    side: int
    s0: float
    s1: float
    d: float
    depth: float
    floors: int
    facade: int
    tint: tuple[float, float, float]
    roof: float
    roof_color: tuple[float, float, float]
    offset: int
    shift: float

    @property
    def height(self) -> float:
        return self.floors * FLOOR_METRES


@dataclass(frozen=True)
class Barrier:
    """A wall, fence, hedge or guard rail along the road."""

    s0: float
    s1: float
    d: float
    height: float
    kind: str
    id: int
    color: tuple[float, float, float]
    tile: int


@dataclass(frozen=True)
class Tree:
    s: float
    d: float
    kind: str
    index: int
    height: float
    width: float
    trunk: float
    color: tuple[float, float, float]


@dataclass(frozen=True)
class Lamp:
    s: float
    d: float
    height: float
    arm: float
    color: tuple[float, float, float]


@dataclass(frozen=True)
class Sign:
    s: float
    d: float
    z: float
    size: float
    kind: int
    post: bool
    backplate: bool


@dataclass(frozen=True)
class Gantry:
    s: float
    d0: float
    d1: float
    height: float
    panels: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Signal:
    """A traffic light on a post, and with an arm a second one over the road."""

    s: float
    d: float
    height: float
    arm: float
    phase: float
    variant: int


@dataclass(frozen=True)
class Block:
    """A box: canopy, pump, shelter, cabinet, kiosk, column."""

    s0: float
    s1: float
    d0: float
    d1: float
    z0: float
    z1: float
    color: tuple[float, float, float]
    id: int


@dataclass(frozen=True)
class Vehicle:
    s: float
    d: float
    yaw: float
    model: VehicleModel
    colors: Floats
    parked: bool
    braking: bool
    rider: Person | None


@dataclass(frozen=True)
class Cycle:
    s: float
    d: float
    yaw: float
    color: tuple[float, float, float]
    rider: Person | None
    phase: float
    z: float


@dataclass(frozen=True)
class Walker:
    s: float
    d: float
    z: float
    yaw: float
    person: Person
    phase: float
    stride: float


Thing = Building | Barrier | Tree | Lamp | Sign | Gantry | Signal | Block | Vehicle | Cycle | Walker


@dataclass(frozen=True)
class Chunk:
    """The static content of 24 m of road."""

    index: int
    buildings: tuple[Building, ...]
    barriers: tuple[Barrier, ...]
    things: tuple[Thing, ...]
    junction: bool


def _leaf_color(dice: Dice, split: Split, season: float) -> tuple[float, float, float]:
    greens = {
        "train": ((86, 112, 52), (64, 92, 46), (104, 120, 62), (74, 100, 70)),
        "test": ((96, 124, 44), (56, 84, 58), (112, 112, 70)),
    }
    autumn = ((168, 112, 44), (150, 84, 40), (140, 128, 60))
    return dice.color(dice.pick(autumn if dice.throw() < season else greens[split]), 20)


class World:
    """Everything along one road.

    Args:
        seed: any integer >= 0.
        split: "train" or "test"; decides the appearance families.
        scene: a name of the driving_scene label set.
    """

    def __init__(self, seed: int, split: Split, scene: str) -> None:
        self.seed, self.split, self.scene = seed, split, scene
        self._key = (_SPLIT_KEY[split], seed)
        dice = Dice(*self._key, 1)
        highway = scene == "highway"
        curvy = scene not in ("parking lot", "gas stations")
        self.road = Road(
            bend=dice.uniform(0, 14) * (dice.throw() if curvy else 0.1) * (2.2 if highway else 1.0),
            bend_length=dice.uniform(260, 420) * (1.7 if highway else 1.0),
            bend_phase=dice.uniform(0, 2 * math.pi),
            hill=dice.uniform(0, 1.6) * (dice.throw() if curvy else 0.0),
            hill_length=dice.uniform(170, 320),
            hill_phase=dice.uniform(0, 2 * math.pi),
        )
        self.season = max(0.0, dice.uniform(-0.5, 0.6))
        self.speed = {
            "highway": dice.uniform(19, 30),
            "parking lot": 3.0,
            "gas stations": 4.0,
            "tunnel": dice.uniform(12, 20),
        }.get(scene, dice.uniform(6, 13))
        self.layout = self._make_layout(dice)
        self.junction_phase = dice.integer(0, 8)
        self.asphalt = dice.integer(0, 1000)
        self.asphalt_color = dice.color((98, 98, 100), 26)
        self.paving_color = dice.color((142, 138, 132), 26)
        self.grass_color = _leaf_color(dice, split, 0.15)
        self.ego_wobble = (dice.uniform(0.5, 3.5), dice.uniform(0.15, 0.4), dice.uniform(0, 2 * math.pi))
        self._tables: dict[int, list[list[float]]] = {}
        self._chunks: dict[int, Chunk] = {}

    def _make_layout(self, dice: Dice) -> Layout:
        scene = self.scene
        width = dice.uniform(2.9, 3.6)
        parking = (0.0, 0.0)
        median, center = "", "dashed"
        edge_lines = dice.chance(0.4)
        barrier: tuple[str, str] = ("", "")
        setback, floors, share, house = (0.0, 0.3), (2, 6), 0.96, False
        trees, junction, pedestrian_gap, vehicles, lamp_gap = (
            0.35,
            dice.integer(3, 7),
            dice.uniform(3.5, 14),
            dice.uniform(0.3, 0.9),
            1,
        )
        walk_left, walk_right = dice.uniform(1.8, 4.5), dice.uniform(1.8, 4.5)
        verge = 0.0
        background = BUILDING
        if scene == "highway":
            width = dice.uniform(3.5, 3.75)
            count_left = count_right = dice.integer(2, 5)
            median = dice.pick(("wall", "rail"))
            gap = 1.2
            center, edge_lines = "none", True
            barrier = dice.pick(
                (("rail", "rail"), ("rail", "sound wall"), ("sound wall", "sound wall"), ("", "rail"))
            )
            setback, floors, share, trees, junction, pedestrian_gap = (14.0, 40.0), (2, 6), 0.25, 0.9, 0, 0.0
            vehicles, lamp_gap = dice.uniform(0.35, 0.8), dice.pick((0, 2))
            walk_left = walk_right = 0.0
            verge, background = dice.uniform(4, 9), VEGETATION
        elif scene == "tunnel":
            width = dice.uniform(3.3, 3.7)
            count_left, count_right = dice.pick(((0, 2), (0, 3), (1, 1), (2, 2)))
            gap = 0.0
            center, edge_lines = "solid", True
            share, trees, junction, pedestrian_gap, lamp_gap = 0.0, 0.0, 0, 0.0, 0
            vehicles = dice.uniform(0.4, 0.9)
            walk_left = walk_right = dice.uniform(0.6, 1.0)
            background = WALL
        elif scene == "residential":
            count_left = count_right = 1
            gap = 0.0
            width = dice.uniform(2.7, 3.3)
            center = dice.pick(("none", "dashed", "none"))
            edge_lines = False
            parking = (dice.pick((0.0, 2.1)), dice.pick((0.0, 2.1)))
            setback, floors, share, house = (dice.uniform(2, 5), dice.uniform(5, 10)), (2, 3), 0.85, True
            trees, junction, pedestrian_gap, vehicles = (
                0.75,
                dice.integer(4, 8),
                dice.uniform(14, 40),
                dice.uniform(0.15, 0.45),
            )
            walk_left, walk_right = dice.uniform(1.4, 2.4), dice.uniform(1.4, 2.4)
            verge = dice.pick((0.0, 0.0, dice.uniform(1.0, 2.2)))
            barrier = (
                dice.pick(("hedge", "low wall", "planks", "rails", "")),
                dice.pick(("hedge", "low wall", "planks", "rails", "")),
            )
            background = VEGETATION
        elif scene == "parking lot":
            count_left = count_right = 1
            gap, width, center, edge_lines = 0.0, dice.uniform(3.0, 3.6), "none", False
            setback, floors, share, trees, junction, pedestrian_gap = (
                (3.0, 16.0),
                (1, 4),
                0.5,
                0.5,
                0,
                dice.uniform(10, 30),
            )
            vehicles, lamp_gap = 0.1, 2
            walk_left = walk_right = dice.uniform(1.2, 3.0)
            background = dice.pick((BUILDING, VEGETATION))
        elif scene == "gas stations":
            count_left = count_right = 1
            gap, width, center, edge_lines = 0.0, dice.uniform(3.0, 3.6), "none", False
            setback, floors, share, trees, junction, pedestrian_gap = (
                (4.0, 14.0),
                (1, 3),
                0.45,
                0.6,
                0,
                dice.uniform(12, 30),
            )
            vehicles, lamp_gap = 0.2, 2
            walk_left = walk_right = dice.uniform(1.2, 2.5)
            background = dice.pick((BUILDING, VEGETATION))
        else:
            count_left, count_right = dice.pick(((1, 1), (1, 1), (2, 2), (1, 2), (0, 2)))
            gap = 0.0
            parking = (dice.pick((0.0, 2.2)), dice.pick((0.0, 2.2)))
            center = dice.pick(("dashed", "solid", "double", "dashed", "none"))
            floors = dice.pick(((2, 4), (3, 6), (4, 9)))
            trees = dice.uniform(0.0, 0.6)
            share = dice.uniform(0.75, 0.98)
            barrier = (dice.pick(("", "", "", "bollards")), dice.pick(("", "", "", "bollards")))
        lanes = [Lane(-(gap + (i + 0.5) * width), -1, self.speed * (1 - 0.07 * i)) for i in range(count_left)]
        lanes += [Lane(gap + (i + 0.5) * width, 1, self.speed * (1.12 - 0.1 * i)) for i in range(count_right)]
        ego_lane = dice.integer(0, count_right)
        ego_d = gap + (ego_lane + 0.5) * width
        shoulder = 2.6 if scene == "highway" else 0.35
        left = gap + count_left * width + parking[0] + shoulder
        right = gap + count_right * width + parking[1] + shoulder
        if scene in ("parking lot", "gas stations"):
            left += 10.4
            right += 10.4
        bands = []
        lines = []
        for side, edge, walk in ((-1, left, walk_left), (1, right, walk_right)):
            position = edge
            if verge and scene != "highway":
                bands.append(Band(side, position, position + verge, TERRAIN))
                position += verge
            if walk:
                bands.append(Band(side, position, position + walk, SIDEWALK))
                position += walk
            if scene == "highway":
                bands.append(Band(side, position, position + verge, TERRAIN))
                lines.append(position + 0.4)
            else:
                lines.append(position + 0.1)
            outer = SIDEWALK if scene in ("city street", "tunnel") else TERRAIN
            bands.append(Band(side, position + (verge if scene == "highway" else 0.0), position + 60, outer))
        ids = {
            "hedge": VEGETATION,
            "low wall": WALL,
            "planks": FENCE,
            "rails": FENCE,
            "rail": FENCE,
            "sound wall": WALL,
        }
        return Layout(
            scene=scene, lanes=tuple(lanes), left=left, right=right, ego_d=ego_d, parking=parking, bands=tuple(bands),
            property_line=(lines[0], lines[1]), setback=setback, floors=floors, building_share=share, house=house,
            tree_share=trees, bare_share=dice.pick((0.0, 0.15, 0.9)), barrier=barrier,
            barrier_ids=(ids.get(barrier[0], VOID), ids.get(barrier[1], VOID)), median=median,
            junction_every=junction, pedestrian_gap=pedestrian_gap, vehicle_share=vehicles, lamp_gap=lamp_gap,
            dash=dice.pick(((3.0, 6.0), (2.0, 4.0), (4.0, 8.0), (1.5, 1.5))), center_line=center,
            edge_lines=edge_lines, yellow_center=dice.chance(0.3), background=background,
            flora=tuple(dice.integer(0, CROWNS[self.split]) for _ in range(3)),
        )  # fmt: skip

    def ego_s(self, t: float) -> float:
        """The ego vehicle's way along the road at a time in seconds; speed varies smoothly and stays > 0."""
        amplitude, rate, phase = self.ego_wobble
        return self.speed * t + min(amplitude, 0.5 * self.speed / rate) * math.sin(rate * t + phase)

    def is_junction(self, index: int) -> bool:
        """Whether a cross street runs through this chunk."""
        every = self.layout.junction_every
        return every > 0 and (index + self.junction_phase) % every == 0

    def chunk(self, index: int) -> Chunk:
        """The static content of s in [24 * index, 24 * (index + 1))."""
        if index not in self._chunks:
            if len(self._chunks) > 64:
                self._chunks.clear()
            self._chunks[index] = self._make_chunk(index)
        return self._chunks[index]

    def _tree(self, dice: Dice, s: float, d: float, small: bool = False) -> Tree:
        layout = self.layout
        kind = (
            "bare"
            if dice.chance(layout.bare_share)
            else dice.weighted(("broadleaf", "conifer"), (0.85, 0.15))
        )
        height = dice.uniform(3, 6) if small else dice.uniform(5, 13)
        index = dice.pick(layout.flora) if dice.chance(0.6) else dice.integer(0, CROWNS[self.split])
        color = (104.0, 88.0, 74.0) if kind == "bare" else _leaf_color(dice, self.split, self.season)
        if kind == "conifer":
            color = dice.color((58, 78, 52), 14)
        width = height * (dice.uniform(0.4, 0.55) if kind == "conifer" else dice.uniform(0.6, 0.95))
        trunk = height * (0.06 if kind == "conifer" else dice.uniform(0.18, 0.4))
        return Tree(s, d, kind, index, height, width, trunk, color)

    def _bush(self, dice: Dice, s: float, d: float) -> Tree:
        height = dice.uniform(0.7, 2.4)
        return Tree(
            s, d, "bush", dice.integer(0, CROWNS[self.split]), height, height * dice.uniform(1.0, 2.2), 0.0,
            _leaf_color(dice, self.split, self.season),
        )  # fmt: skip

    def _make_chunk(self, index: int) -> Chunk:
        layout = self.layout
        dice = Dice(*self._key, 2, index + _CHUNK_OFFSET)
        start, end = index * CHUNK, (index + 1) * CHUNK
        buildings: list[Building] = []
        barriers: list[Barrier] = []
        things: list[Thing] = []
        junction = self.is_junction(index)
        if layout.scene == "tunnel":
            tile = self.asphalt % 3
            color = (150.0, 146.0, 138.0)
            for side, line in ((-1, layout.property_line[0]), (1, layout.property_line[1])):
                barriers.append(Barrier(start, end, side * line, 5.2, "panel", WALL, color, tile))
            if dice.chance(0.3):
                things.append(
                    Sign(
                        start + 8, layout.property_line[1] - 0.1, 2.4, 0.6, dice.integer(0, 12), False, False
                    )
                )
            return Chunk(index, (), tuple(barriers), tuple(things), False)
        for side, edge, line in (
            (-1, layout.left, layout.property_line[0]),
            (1, layout.right, layout.property_line[1]),
        ):
            position = start + (dice.uniform(5, 8) if junction else 0.0)
            last = end - (dice.uniform(5, 8) if junction else 0.0)
            while position < last - 3:
                length = min(dice.uniform(7, 12) if layout.house else dice.uniform(6, 18), last - position)
                if last - position - length < 4:
                    length = last - position
                setback = dice.uniform(*layout.setback)
                if dice.chance(layout.building_share):
                    gap = dice.uniform(0.5, 3.5) if layout.house else (0.0 if dice.chance(0.8) else 1.5)
                    tint = dice.uniform(0.78, 1.15)
                    warm = dice.uniform(-0.08, 0.08)
                    buildings.append(
                        Building(
                            side=side, s0=position, s1=position + length - gap, d=side * (line + setback),
                            depth=dice.uniform(8, 14), floors=dice.integer(layout.floors[0], layout.floors[1] + 1),
                            facade=dice.integer(0, FACADES[self.split]), tint=(tint * (1 + warm), tint, tint * (1 - warm)),
                            roof=dice.uniform(2.0, 4.2) if dice.chance(0.92 if layout.house else 0.35) else 0.0,
                            roof_color=dice.color(dice.pick(((120, 66, 50), (74, 70, 72), (96, 84, 76))), 16),
                            offset=dice.integer(0, 5), shift=dice.uniform(0, 0.5),
                        )
                    )  # fmt: skip
                    if layout.house and setback > 2.5 and dice.chance(0.6):
                        things.append(
                            self._bush(
                                dice, position + dice.uniform(1, length), side * (line + setback * 0.4)
                            )
                        )
                    if layout.house and dice.chance(0.25):
                        things.append(
                            self._tree(dice, position + length, side * (line + setback * 0.5), small=True)
                        )
                else:
                    for _ in range(dice.integer(1, 4)):
                        where = position + dice.uniform(0, length)
                        things.append(self._tree(dice, where, side * (line + dice.uniform(1, 9))))
                        things.append(self._bush(dice, where + 1, side * (line + dice.uniform(0.8, 4))))
                position += length
            if layout.scene == "highway":
                for _ in range(dice.integer(2, 6)):
                    where, far = start + dice.uniform(0, CHUNK), line + dice.uniform(5, 26)
                    things.append(
                        self._tree(dice, where, side * far)
                        if dice.chance(0.7)
                        else self._bush(dice, where, side * far)
                    )
            kind = layout.barrier[0 if side < 0 else 1]
            if kind and kind != "bollards" and (dice.chance(0.85) or layout.scene == "highway"):
                height = {
                    "hedge": 1.3,
                    "low wall": 0.9,
                    "planks": 1.5,
                    "rails": 1.1,
                    "rail": 0.75,
                    "sound wall": 3.6,
                }[kind]
                color = {
                    "hedge": _leaf_color(dice, self.split, 0.0), "low wall": dice.color((140, 110, 94), 30),
                    "planks": dice.color((122, 92, 66), 26), "rails": dice.color((60, 62, 62), 30),
                    "rail": (150.0, 154.0, 158.0), "sound wall": (150.0, 146.0, 132.0),
                }[kind]  # fmt: skip
                id = layout.barrier_ids[0 if side < 0 else 1]
                if junction:
                    barriers.append(
                        Barrier(start, start + 6, side * line, height, kind, id, color, dice.integer(0, 3))
                    )
                    barriers.append(
                        Barrier(end - 6, end, side * line, height, kind, id, color, dice.integer(0, 3))
                    )
                else:
                    barriers.append(
                        Barrier(start, end, side * line, height, kind, id, color, dice.integer(0, 3))
                    )
            if kind == "bollards" and not junction:
                for step in range(12):
                    s0 = start + 2 * step
                    things.append(
                        Block(
                            s0,
                            s0 + 0.14,
                            side * (edge + 0.4),
                            side * (edge + 0.54),
                            0.1,
                            1.0,
                            (50.0, 50.0, 54.0),
                            VOID,
                        )
                    )
            if layout.scene in ("city street", "residential") and not junction:
                curb = side * (edge + 0.7)
                for step in range(2):
                    if dice.chance(layout.tree_share * 0.8):
                        things.append(self._tree(dice, start + 4 + 12 * step + dice.uniform(-2, 2), curb))
                if dice.chance(0.3):
                    things.append(
                        self._bicycle(
                            dice, start + dice.uniform(2, 22), side * (edge + dice.uniform(0.8, 1.6))
                        )
                    )
                if dice.chance(0.15):
                    s0, d0 = start + dice.uniform(2, 18), side * (edge + 1.1)
                    tone = dice.color((70, 76, 74), 30)
                    things.append(
                        Block(s0, s0 + 0.8, d0, d0 + side * 0.6, 0.1, dice.uniform(0.9, 1.5), tone, VOID)
                    )
                if layout.scene == "city street" and dice.chance(0.08):
                    things.extend(self._shelter(start + dice.uniform(4, 14), side, edge))
            if layout.parking[0 if side < 0 else 1] and not junction:
                middle = edge - 0.35 - layout.parking[0 if side < 0 else 1] / 2
                for step in range(4):
                    if dice.chance(0.72):
                        things.append(
                            self._parked(
                                dice, start + 3 + 6 * step + dice.uniform(-0.4, 0.4), side * middle, side
                            )
                        )
            if layout.lamp_gap and index % layout.lamp_gap == 0:
                far = edge + (0.5 if layout.scene != "highway" else 1.5)
                if layout.scene == "highway" or (side > 0) == (index % 2 == 0) or dice.chance(0.3):
                    tone = dice.color((86, 90, 90), 24)
                    things.append(
                        Lamp(
                            start + 11,
                            side * far,
                            6.5 if not layout.house else 5.5,
                            -side * dice.uniform(0.6, 2.2),
                            tone,
                        )
                    )
            if dice.chance(0.55 if layout.scene == "city street" else 0.25):
                kind_of_sign = dice.integer(0, 12)
                size = dice.uniform(0.55, 0.85) * (1.6 if layout.scene == "highway" else 1.0)
                things.append(
                    Sign(
                        start + dice.uniform(1, 20),
                        side * (edge + 0.45),
                        dice.uniform(1.9, 2.6),
                        size,
                        kind_of_sign,
                        True,
                        side < 0 and dice.chance(0.6),
                    )
                )
            if dice.chance(0.12) and layout.scene == "city street":
                things.append(
                    Sign(
                        start + 5,
                        side * (line - 0.5),
                        dice.uniform(2.8, 3.6),
                        0.9,
                        dice.integer(0, 12),
                        False,
                        False,
                    )
                )
            if layout.scene in ("parking lot", "gas stations"):
                things.extend(self._lot(dice, start, side, index))
        if junction:
            phase = dice.uniform(0, 20)
            variant = dice.integer(0, 3)
            if dice.chance(0.75):
                arm = dice.uniform(2.5, 5) if dice.chance(0.4) else 0.0
                height = dice.uniform(2.6, 3.4)
                things.append(Signal(start + 4.5, layout.right + 0.5, height, -arm, phase, variant))
                things.append(Signal(end - 4.5, layout.right + 0.6, height, 0.0, phase, variant))
                things.append(Signal(start + 4.5, -layout.left - 0.5, height, 0.0, phase, variant))
                if dice.chance(0.5):
                    things.append(Signal(end - 4.5, -layout.left - 0.6, height, arm, phase, variant))
            if dice.chance(0.5):
                kind = dice.weighted(("car", "truck", "bus"), (0.85, 0.08, 0.07))
                model = dice.pick(vehicle_models(kind, self.split))
                far = dice.uniform(8, 25) * dice.pick((-1, 1))
                things.append(
                    Vehicle(start + 12 + math.copysign(1.8, far), far, math.copysign(math.pi / 2, far) * dice.pick((-1, 1)), model,
                            vehicle_colors(kind, self.split, dice), True, False, None)
                )  # fmt: skip
        if layout.scene == "highway":
            if layout.median:
                id = WALL if layout.median == "wall" else FENCE
                tone = (160.0, 158.0, 152.0) if layout.median == "wall" else (150.0, 154.0, 158.0)
                kind = "plain" if layout.median == "wall" else "rail"
                barriers.append(Barrier(start, end, 0.0, 0.85, kind, id, tone, 0))
            if index % 6 == self.junction_phase % 6:
                count = sum(lane.direction > 0 for lane in layout.lanes)
                panels = tuple(
                    (1.2 + (i + 0.5) * 3.6, dice.uniform(2.2, 3.2), 12 + dice.integer(0, 4))
                    for i in range(count)
                    if dice.chance(0.8)
                )
                things.append(Gantry(start + 12, 0.0, layout.right + 1.0, 5.8, panels))
        return Chunk(index, tuple(buildings), tuple(barriers), tuple(things), junction)

    def _parked(self, dice: Dice, s: float, d: float, side: int, yaw: float | None = None) -> Vehicle:
        kind = dice.weighted(("car", "truck", "motorcycle"), (0.93, 0.03, 0.04))
        model = dice.pick(vehicle_models(kind, self.split))
        turned = (0.0 if side > 0 or dice.chance(0.2) else math.pi) if yaw is None else yaw
        return Vehicle(
            s,
            d,
            turned + dice.uniform(-0.03, 0.03),
            model,
            vehicle_colors(kind, self.split, dice),
            True,
            False,
            None,
        )

    def _bicycle(self, dice: Dice, s: float, d: float) -> Cycle:
        color = dice.color(
            dice.pick(((30, 30, 34), (150, 30, 30), (40, 70, 130), (190, 190, 190), (50, 110, 80))), 20
        )
        return Cycle(s, d, dice.pick((0.0, math.pi / 2, 1.2, -1.4, 0.3)), color, None, 0.0, 0.1)

    def _shelter(self, s: float, side: int, edge: float) -> Iterator[Block]:
        inner, outer = side * (edge + 1.0), side * (edge + 2.3)
        yield Block(s, s + 3.6, inner, outer, 2.4, 2.55, (60.0, 62.0, 66.0), VOID)
        yield Block(s, s + 0.08, outer - side * 0.1, outer, 0.1, 2.4, (70.0, 72.0, 76.0), VOID)
        yield Block(s + 3.5, s + 3.6, inner + side * 0.3, outer, 0.3, 2.3, (110.0, 124.0, 128.0), VOID)

    def _lot(self, dice: Dice, start: float, side: int, index: int) -> Iterator[Thing]:
        """A parking lot's rows of cars, or a petrol station's canopies and pumps."""
        edge = self.layout.right if side > 0 else self.layout.left
        inner = edge - 10.4
        if self.layout.scene == "parking lot":
            for row, share in ((inner + 2.4, 0.72), (inner + 7.6, 0.6)):
                for stall in range(9):
                    if dice.chance(share):
                        turned = math.pi / 2 * dice.pick((-1, 1))
                        yield self._parked(
                            dice,
                            start + 1.3 + 2.66 * stall,
                            side * (row + dice.uniform(-0.3, 0.3)),
                            side,
                            turned,
                        )
            if dice.chance(0.4):
                yield self._tree(dice, start + dice.uniform(0, 4), side * (inner + 10.1), small=True)
            return
        brand = Dice(*self._key, 5)
        stripe = brand.color(brand.pick(((200, 40, 40), (30, 110, 70), (30, 70, 160), (230, 150, 30))), 20)
        if (index + (side > 0)) % 2 == 0:
            near, far = inner + 0.6, inner + 8.5
            yield Block(start + 2, start + 20, side * near, side * far, 4.5, 5.3, stripe, BUILDING)
            for s in (start + 5, start + 16):
                yield Block(
                    s,
                    s + 0.35,
                    side * (near + 2.5),
                    side * (near + 2.85),
                    0.0,
                    4.5,
                    (220.0, 220.0, 218.0),
                    BUILDING,
                )
                yield Block(s + 2, s + 2.8, side * (near + 2.4), side * (near + 3.0), 0.15, 1.7, stripe, VOID)
                yield Block(
                    s + 2.05,
                    s + 2.75,
                    side * (near + 2.36),
                    side * (near + 2.4),
                    0.9,
                    1.5,
                    (226.0, 226.0, 226.0),
                    VOID,
                )
                if dice.chance(0.7):
                    yield self._parked(dice, s + 2.5, side * (near + 1.1), side)
                if dice.chance(0.5):
                    yield self._parked(dice, s + 2.5, side * (near + 4.6), side)
            if dice.chance(0.6):
                yield Block(
                    start + 1, start + 1.4, side * (far + 0.2), side * (far + 1.6), 0.0, 5.5, stripe, VOID
                )

    def _slots(self, stream: int) -> list[list[float]]:
        """Sixty-four repeating slots of a stream of traffic, sixteen throws each."""
        if stream not in self._tables:
            self._tables[stream] = np.random.default_rng([*self._key, 3, stream]).random((64, 16)).tolist()
        return self._tables[stream]

    def _stream(
        self, stream: int, speed: float, gap: float, share: float, t: float, first: float, last: float
    ) -> Iterator[tuple[int, float, Dice]]:
        """Slots of a stream between two places: number, s and the slot's own dice."""
        table = self._slots(stream)
        shift = speed * t
        for number in range(math.floor((first - shift) / gap), math.ceil((last - shift) / gap) + 1):
            dice = Dice(values=table[number % 64])
            if dice.throw() < share:
                s = number * gap + shift + dice.uniform(-0.28, 0.28) * gap
                if first <= s <= last:
                    yield number, s, dice

    def moving(self, t: float, first: float, last: float) -> Iterator[Vehicle | Cycle | Walker]:
        """Traffic and people between two places at a time in seconds."""
        layout = self.layout
        ego = self.ego_s(t)
        gap = {"highway": 26.0, "tunnel": 22.0, "parking lot": 40.0, "gas stations": 34.0}.get(
            layout.scene, 15.0
        )
        for position, lane in enumerate(layout.lanes):
            own = abs(lane.d - layout.ego_d) < 0.1
            speed = self.speed if own else lane.direction * lane.speed
            for number, s, dice in self._stream(
                10 + position, speed, gap, layout.vehicle_share, t, first, last
            ):
                # The ego vehicle sways by a few metres about slot 0 of its own lane.
                if own and number in (-1, 0):
                    continue
                kinds = ("car", "truck", "bus", "motorcycle")
                weights = (0.72, 0.22, 0.03, 0.03) if layout.scene == "highway" else (0.8, 0.07, 0.07, 0.06)
                kind = dice.weighted(kinds, weights)
                model = dice.pick(vehicle_models(kind, self.split))
                yaw = self.road.heading(s) + (0.0 if lane.direction > 0 else math.pi)
                rider_dice = Dice(*self._key, 4, position, number % 64)
                rider = make_person(self.split, rider_dice, helmet=True) if kind == "motorcycle" else None
                colors = vehicle_colors(kind, self.split, rider_dice)
                d = lane.d + dice.uniform(-0.3, 0.3)
                braking = dice.chance(0.2) and lane.direction > 0 and s < ego + 40
                yield Vehicle(s, d, yaw, model, colors, False, braking, rider)
        if layout.scene in ("highway", "tunnel"):
            return
        for stream, direction in ((30, 1), (31, -1)):
            edge = layout.right - layout.parking[1] if direction > 0 else layout.left - layout.parking[0]
            share = 0.25 if layout.scene == "city street" else 0.12
            for number, s, dice in self._stream(stream, 5.0 * direction, 21.0, share, t, first, last):
                person = make_person(
                    self.split, Dice(*self._key, 6, stream, number % 64), helmet=dice.chance(0.5)
                )
                yaw = self.road.heading(s) + (0.0 if direction > 0 else math.pi)
                tone = dice.color(
                    dice.pick(((30, 30, 34), (150, 30, 30), (40, 70, 130), (190, 190, 190))), 10
                )
                yield Cycle(
                    s, direction * (edge - 0.75), yaw, tone, person, 4.0 * t + dice.uniform(0, 6), 0.0
                )
        if not layout.pedestrian_gap:
            return
        for band_number, band in enumerate(
            b for b in layout.bands if b.id == SIDEWALK and b.outer - b.inner < 20
        ):
            for direction in (-1, 1):
                stream = 40 + 2 * band_number + (direction > 0)
                for number, s, dice in self._stream(
                    stream, 1.3 * direction, layout.pedestrian_gap, 0.6, t, first, last
                ):
                    key = (*self._key, 7, stream, number % 64)
                    for member in range(2 if dice.chance(0.25) else 1):
                        person = make_person(self.split, Dice(*key, member))
                        d = band.side * (
                            band.inner + 0.5 + dice.uniform(0, max(0.1, band.outer - band.inner - 0.9))
                        )
                        standing = dice.chance(0.15)
                        yaw = self.road.heading(s) + (0.0 if direction > 0 else math.pi)
                        yaw += dice.uniform(-2, 2) if standing else dice.uniform(-0.15, 0.15)
                        phase = dice.uniform(0, 6) + (0.0 if standing else 5.5 * t)
                        yield Walker(s + 0.2 * member, d, 0.12, yaw, person, phase, 0.15 if standing else 1.0)
        for index in range(math.floor(first / CHUNK), math.ceil(last / CHUNK)):
            if self.is_junction(index):
                dice = Dice(*self._key, 8, index + _CHUNK_OFFSET)
                for place in (3.0, 21.0):
                    for _ in range(dice.integer(0, 4)):
                        yield self._crosser(dice, index * CHUNK + place, t)

    def _crosser(self, dice: Dice, s: float, t: float) -> Walker:
        """Somebody who walks to and fro over a crossing."""
        low, high = -self.layout.left - 1.5, self.layout.right + 1.5
        way = (dice.uniform(0, 200) + dice.uniform(1.0, 1.6) * t) % (2 * (high - low))
        rightward = way < high - low
        d = low + way if rightward else 2 * high - low - way
        person = make_person(self.split, Dice(*self._key, 9, int(dice.uniform(0, 1e9))))
        raised = 0.12 if d < -self.layout.left or d > self.layout.right else 0.0
        return Walker(
            s + dice.uniform(-1, 1),
            d,
            raised,
            math.pi / 2 if rightward else -math.pi / 2,
            person,
            5.5 * t + dice.uniform(0, 6),
            1.0,
        )

    def sunlit(self, s: float, d: float, direction: Floats, chunks: Sequence[Chunk]) -> float:
        """1 where the sun reaches a place at eye height, 0 where a building stands before it."""
        side = 1 if direction[0] > 0 else -1
        if abs(direction[0]) < 0.05:
            return 1.0
        for chunk in chunks:
            for building in chunk.buildings:
                if building.side != side:
                    continue
                reach = (building.d - d) / direction[0]
                if reach <= 0:
                    continue
                where = s + direction[1] * reach
                if building.s0 <= where <= building.s1 and building.height > 1.0 + direction[2] * reach:
                    return 0.0
        return 1.0


def is_stall_line(scene: str) -> bool:
    """Whether the scene paints parking stalls."""
    return scene == "parking lot"


__all__ = ["CHUNK", "ROAD", "Chunk", "Layout", "Road", "Split", "Thing", "World"]
