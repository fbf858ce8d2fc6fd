"""The road's course and cross-section, and what each scene puts along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pvt_mtl_perception.data.synthetic.camera import Floats
from pvt_mtl_perception.data.synthetic.dice import Color, Dice
from pvt_mtl_perception.data.synthetic.taxonomy import BUILDING, SIDEWALK, TERRAIN, VEGETATION, WALL
from pvt_mtl_perception.data.synthetic.textures import CROWNS

# Depth of the rows of stalls beside a parking lot's aisle, and of a petrol station's forecourt.
LOT_DEPTH = 10.4


@dataclass(frozen=True)
class Road:
    """The centre line in world metres: sines, so that it never ends and never jumps."""

    bend: float
    bend_length: float
    bend_phase: float
    hill: float
    hill_length: float
    hill_phase: float

    def x(self, s: Floats) -> Floats:
        """World x of the dividing line."""
        return np.asarray(self.bend * np.sin(s * (2 * math.pi / self.bend_length) + self.bend_phase))

    def z(self, s: Floats) -> Floats:
        """World height of the surface."""
        return np.asarray(self.hill * np.sin(s * (2 * math.pi / self.hill_length) + self.hill_phase))

    def place(self, s: Floats, d: Floats | float, z: Floats | float = 0.0) -> Floats:
        """Road coordinates (N,) to world points (N, 3)."""
        points = np.empty((len(s), 3))
        points[:, 0] = self.x(s) + d
        points[:, 1] = s
        points[:, 2] = self.z(s) + z
        return points

    def at(self, s: float, d: float, z: float = 0.0) -> tuple[float, float, float]:
        """One place as a world point."""
        x = self.bend * math.sin(s * (2 * math.pi / self.bend_length) + self.bend_phase)
        ground = self.hill * math.sin(s * (2 * math.pi / self.hill_length) + self.hill_phase)
        return x + d, s, ground + z

    def heading(self, s: float) -> float:
        """Direction of the road, radians to the right of +y."""
        k = 2 * math.pi / self.bend_length
        return math.atan(self.bend * k * math.cos(s * k + self.bend_phase))

    def slope(self, s: float) -> float:
        """Rise per metre."""
        k = 2 * math.pi / self.hill_length
        return self.hill * k * math.cos(s * k + self.hill_phase)


@dataclass(frozen=True)
class Band:
    """A strip of ground beside the carriageway; side is -1 (left) or 1, distances from the dividing line."""

    side: int
    inner: float
    outer: float
    id: int


@dataclass(frozen=True)
class Lane:
    """A lane's middle and the direction of its traffic (1 = with the ego vehicle); speed in m/s."""

    d: float
    direction: int
    speed: float
    rails: bool


@dataclass(frozen=True)
class Layout:
    """The cross-section and the densities of a scene; pairs are (left, right), lengths in metres.

    Attributes:
        lanes: from the dividing line outwards, oncoming ones first.
        left, right: distance of the kerbs from the dividing line.
        ego_d: where the ego vehicle drives.
        parking: width of the parking strips.
        property_line: where barriers stand.
        setback: nearest and farthest distance of buildings from there.
        floors: fewest and most.
        building_share, tree_share, bare_share, vehicle_share: 0..1.
        house: detached houses with gardens.
        barrier, median: kinds, "" for none.
        junction_every: chunks between cross streets, 0 for none.
        pedestrian_gap: metres between people, 0 for none.
        lamp_gap: chunks between lamp posts, 0 for none.
        dash: length of dash and gap.
        background: segmentation class of the far skyline.
        flora: the crowns that dominate.
    """

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
    flora: tuple[int, ...]


@dataclass(frozen=True)
class _Plan:
    """What a scene decides before the cross-section is laid out; the defaults are a city street's."""

    lane_width: float
    lanes: tuple[int, int]
    gap: float = 0.0
    shoulder: float = 0.35
    lot: float = 0.0
    parking: tuple[float, float] = (0.0, 0.0)
    walk: tuple[float, float] = (0.0, 0.0)
    verge: float = 0.0
    setback: tuple[float, float] = (0.0, 0.3)
    floors: tuple[int, int] = (2, 6)
    building_share: float = 0.96
    house: bool = False
    tree_share: float = 0.35
    barrier: tuple[str, str] = ("", "")
    median: str = ""
    junction_every: int = 0
    pedestrian_gap: float = 0.0
    vehicle_share: float = 0.6
    lamp_gap: int = 1
    center_line: str = "none"
    edge_lines: bool = False
    background: int = BUILDING
    outer: int = TERRAIN


def _plan(scene: str, dice: Dice) -> _Plan:
    if scene == "highway":
        count = dice.integer(2, 5)
        return _Plan(
            lane_width=dice.uniform(3.5, 3.75),
            lanes=(count, count),
            gap=1.2,
            shoulder=2.6,
            verge=dice.uniform(4, 9),
            setback=(14.0, 40.0),
            building_share=0.25,
            tree_share=0.9,
            barrier=dice.pick(
                (("rail", "rail"), ("rail", "sound wall"), ("sound wall", "sound wall"), ("", "rail"))
            ),
            median=dice.pick(("wall", "rail")),
            vehicle_share=dice.uniform(0.35, 0.8),
            lamp_gap=dice.pick((0, 2)),
            edge_lines=True,
            background=VEGETATION,
        )
    if scene == "tunnel":
        kerb = dice.uniform(0.6, 1.0)
        return _Plan(
            lane_width=dice.uniform(3.3, 3.7),
            lanes=dice.pick(((0, 2), (0, 3), (1, 1), (2, 2))),
            walk=(kerb, kerb),
            building_share=0.0,
            tree_share=0.0,
            vehicle_share=dice.uniform(0.4, 0.9),
            lamp_gap=0,
            center_line="solid",
            edge_lines=True,
            background=WALL,
            outer=SIDEWALK,
        )
    if scene == "residential":
        fences = ("hedge", "low wall", "planks", "rails", "")
        return _Plan(
            lane_width=dice.uniform(2.7, 3.3),
            lanes=(1, 1),
            parking=(dice.pick((0.0, 2.1)), dice.pick((0.0, 2.1))),
            walk=(dice.uniform(1.5, 2.8), dice.uniform(1.5, 2.8)),
            verge=dice.pick((0.0, 0.0, dice.uniform(1.0, 2.4))),
            setback=(dice.uniform(2, 5), dice.uniform(5, 10)),
            floors=(2, 3),
            building_share=0.85,
            house=True,
            tree_share=0.75,
            barrier=(dice.pick(fences), dice.pick(fences)),
            junction_every=dice.integer(4, 8),
            pedestrian_gap=dice.uniform(14, 40),
            vehicle_share=dice.uniform(0.15, 0.45),
            center_line=dice.pick(("none", "dashed", "none")),
            background=VEGETATION,
        )
    if scene in ("parking lot", "gas stations"):
        lot = scene == "parking lot"
        return _Plan(
            lane_width=dice.uniform(3.0, 3.6),
            lanes=(1, 1),
            lot=LOT_DEPTH,
            walk=(dice.uniform(1.2, 3.0), dice.uniform(1.2, 3.0)),
            setback=(3.0, 16.0),
            floors=(1, 4) if lot else (1, 3),
            building_share=0.5,
            tree_share=0.5,
            pedestrian_gap=dice.uniform(10, 30),
            vehicle_share=0.1 if lot else 0.2,
            lamp_gap=2,
            background=dice.pick((BUILDING, VEGETATION)),
        )
    bollards = ("", "", "", "bollards")
    return _Plan(
        lane_width=dice.uniform(2.9, 3.6),
        lanes=dice.pick(((1, 1), (1, 1), (2, 2), (1, 2), (0, 2))),
        parking=(dice.pick((0.0, 2.2)), dice.pick((0.0, 2.2))),
        walk=(dice.uniform(1.8, 5.0), dice.uniform(1.8, 5.0)),
        floors=dice.pick(((2, 4), (3, 6), (4, 9))),
        building_share=dice.uniform(0.75, 0.98),
        tree_share=dice.uniform(0.0, 0.6),
        barrier=(dice.pick(bollards), dice.pick(bollards)),
        junction_every=dice.integer(3, 7),
        pedestrian_gap=dice.uniform(3.5, 14),
        vehicle_share=dice.uniform(0.3, 0.9),
        center_line=dice.pick(("dashed", "solid", "double", "dashed", "none")),
        edge_lines=dice.chance(0.4),
        outer=SIDEWALK,
    )


def make_layout(scene: str, split: str, speed: float, dice: Dice) -> Layout:
    """Draws the cross-section of a scene (a name of the driving_scene label set); speed in m/s."""
    plan = _plan(scene, dice)
    rails = scene == "city street" and plan.lanes[0] > 0 and dice.chance(0.14)
    if rails:
        plan = replace(plan, parking=(plan.parking[0], 0.0))
    oncoming, ahead = plan.lanes
    width, gap = plan.lane_width, plan.gap
    lanes = [
        Lane(-(gap + (i + 0.5) * width), -1, speed * (1 - 0.07 * i), rails and i == 0)
        for i in range(oncoming)
    ]
    lanes += [Lane(gap + (i + 0.5) * width, 1, speed * (1.12 - 0.1 * i), False) for i in range(ahead)]
    left = gap + oncoming * width + plan.parking[0] + plan.shoulder + plan.lot
    right = gap + ahead * width + plan.parking[1] + plan.shoulder + plan.lot
    bands, lines = [], []
    highway = scene == "highway"
    for side, edge, walk in ((-1, left, plan.walk[0]), (1, right, plan.walk[1])):
        inner = edge
        if plan.verge:
            bands.append(Band(side, inner, inner + plan.verge, TERRAIN))
            inner += plan.verge
        if walk:
            bands.append(Band(side, inner, inner + walk, SIDEWALK))
            inner += walk
        lines.append(edge + 0.4 if highway else inner + 0.1)
        bands.append(Band(side, inner, inner + 60, plan.outer))
    return Layout(
        scene=scene,
        lanes=tuple(lanes),
        left=left,
        right=right,
        ego_d=gap + (dice.integer(0, ahead) + 0.5) * width,
        parking=plan.parking,
        bands=tuple(bands),
        property_line=(lines[0], lines[1]),
        setback=plan.setback,
        floors=plan.floors,
        building_share=plan.building_share,
        house=plan.house,
        tree_share=plan.tree_share,
        bare_share=dice.pick((0.0, 0.15, 0.9)),
        barrier=plan.barrier,
        median=plan.median,
        junction_every=plan.junction_every,
        pedestrian_gap=plan.pedestrian_gap,
        vehicle_share=plan.vehicle_share,
        lamp_gap=plan.lamp_gap,
        dash=dice.pick(((3.0, 6.0), (2.0, 4.0), (4.0, 8.0), (1.5, 1.5))),
        center_line=plan.center_line,
        edge_lines=plan.edge_lines,
        yellow_center=dice.chance(0.3),
        background=plan.background,
        flora=tuple(dice.integer(0, CROWNS[split]) for _ in range(3)),
    )


_GREENS = {
    "train": ((86, 112, 52), (64, 92, 46), (104, 120, 62), (74, 100, 70)),
    "test": ((96, 124, 44), (56, 84, 58), (112, 112, 70)),
}
_AUTUMN = ((168, 112, 44), (150, 84, 40), (140, 128, 60))


def leaf_color(dice: Dice, split: str, autumn: float) -> Color:
    """A leaf's reflectance, RGB; ``autumn`` is the share of turned leaves."""
    return dice.color(dice.pick(_AUTUMN if dice.throw() < autumn else _GREENS[split]), 20)
