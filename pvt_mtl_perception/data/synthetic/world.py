"""What stands and moves along one road: static things chunk by chunk, traffic and people at a time.

Everything follows from the seed, so any stretch can be built at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from pvt_mtl_perception.data.synthetic.camera import Floats
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.figures import PEOPLE, person
from pvt_mtl_perception.data.synthetic.layout import LOT_DEPTH, Band, Road, leaf_color, make_layout
from pvt_mtl_perception.data.synthetic.lighting import Triple
from pvt_mtl_perception.data.synthetic.meshes import LOOKS, State, vehicle_models
from pvt_mtl_perception.data.synthetic.taxonomy import BUILDING, FENCE, SIDEWALK, VEGETATION, VOID, WALL
from pvt_mtl_perception.data.synthetic.textures import CROWNS, FACADES
from pvt_mtl_perception.data.synthetic.things import (
    Barrier,
    Block,
    Building,
    Chunk,
    Cycle,
    End,
    Gantry,
    Lamp,
    Moving,
    Sign,
    Signal,
    Thing,
    Tree,
    Vehicle,
    Walker,
)

CHUNK = 24.0
# Seeds take non-negative keys, and a road has a part before its start.
_CHUNK_OFFSET = 1 << 20
_SPLIT_KEY = {"train": 11, "test": 13}
Split = Literal["train", "test"]

_BARRIER_IDS = {
    "hedge": VEGETATION,
    "low wall": WALL,
    "planks": FENCE,
    "rails": FENCE,
    "rail": FENCE,
    "sound wall": WALL,
}
_BARRIER_HEIGHTS = {
    "hedge": 1.3,
    "low wall": 0.9,
    "planks": 1.5,
    "rails": 1.1,
    "rail": 0.75,
    "sound wall": 3.6,
}
_BARRIER_COLORS = {
    "low wall": (140, 110, 94),
    "planks": (122, 92, 66),
    "rails": (60, 62, 62),
    "rail": (150, 154, 158),
    "sound wall": (150, 146, 132),
}
_ROOFS = ((120, 66, 50), (74, 70, 72), (96, 84, 76))
_FRAMES = ((30, 30, 34), (150, 30, 30), (40, 70, 130), (190, 190, 190), (50, 110, 80))
_VEHICLE_GAPS = {"highway": 26.0, "tunnel": 22.0, "parking lot": 40.0, "gas stations": 34.0}


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
        self.autumn = max(0.0, dice.uniform(-0.5, 0.6))
        speeds = {"highway": (19, 30), "parking lot": (3, 3), "gas stations": (4, 4), "tunnel": (12, 20)}
        self.speed = dice.uniform(*speeds.get(scene, (6, 13)))
        self.layout = make_layout(scene, split, self.speed, dice)
        self.junction_phase = dice.integer(0, 8)
        # Chooses among the family's tiles and the wear of the markings.
        self.style = dice.integer(0, 1000)
        self.asphalt_color = dice.color((98, 98, 100), 26)
        self.paving_color = dice.color((142, 138, 132), 26)
        self.grass_color = leaf_color(dice, split, 0.15)
        # Share of the road that lying snow covers, where there is any.
        self.snow_on_road = dice.uniform(0.2, 0.75)
        self._sway = (dice.uniform(0.5, 3.5), dice.uniform(0.15, 0.4), dice.uniform(0, 2 * math.pi))
        self._tables: dict[int, Floats] = {}
        self._chunks: dict[tuple[int, bool], Chunk] = {}

    def ego_s(self, t: float) -> float:
        """The ego vehicle's way along the road at a time in seconds; speed varies smoothly and stays > 0."""
        amplitude, rate, phase = self._sway
        return self.speed * t + min(amplitude, 0.5 * self.speed / rate) * math.sin(rate * t + phase)

    def dice(self, purpose: int, index: int) -> Dice:
        """Choices about one chunk that only its painter makes."""
        return Dice(*self._key, purpose, index + _CHUNK_OFFSET)

    def is_junction(self, index: int) -> bool:
        """Whether a cross street runs through this chunk."""
        every = self.layout.junction_every
        return every > 0 and (index + self.junction_phase) % every == 0

    def chunk(self, index: int, near: bool = True) -> Chunk:
        """The static content of s in [24 * index, 24 * (index + 1)); far away without the small things."""
        key = (index, near)
        if key not in self._chunks:
            if len(self._chunks) > 64:
                self._chunks.clear()
            self._chunks[key] = self._make_chunk(index, near)
        return self._chunks[key]

    def _make_chunk(self, index: int, near: bool) -> Chunk:
        layout = self.layout
        # Two streams, so that what is built does not change when the small things are added.
        dice, small = self.dice(2, index), self.dice(4, index)
        junction = self.is_junction(index)
        if layout.scene == "tunnel":
            return self._tunnel(index, dice)
        buildings: list[Building] = []
        barriers: list[Barrier] = []
        things: list[Thing] = []
        for side, edge, line in (
            (-1, layout.left, layout.property_line[0]),
            (1, layout.right, layout.property_line[1]),
        ):
            self._plots(dice, index, side, line, junction, buildings, things)
            self._barrier(dice, index, side, edge, line, junction, barriers, things)
            if near:
                self._roadside(small, index, side, edge, line, junction, things)
        if junction and near:
            self._signals(small, index, things)
        if layout.scene == "highway":
            self._motorway(dice, index, barriers, things)
        return Chunk(index, tuple(buildings), tuple(barriers), tuple(things), junction)

    def _tunnel(self, index: int, dice: Dice) -> Chunk:
        start, lines = index * CHUNK, self.layout.property_line
        color = (150.0, 146.0, 138.0)
        walls = tuple(
            Barrier(start, start + CHUNK, side * line, 5.2, "panel", WALL, color, self.style % 3)
            for side, line in zip((-1, 1), lines, strict=True)
        )
        things: list[Thing] = []
        if dice.chance(0.3):
            things.append(Sign(start + 8, lines[1] - 0.1, 2.4, 0.6, dice.integer(0, 12), False, False))
        return Chunk(index, (), walls, tuple(things), False)

    def _plots(
        self,
        dice: Dice,
        index: int,
        side: int,
        line: float,
        junction: bool,
        buildings: list[Building],
        things: list[Thing],
    ) -> None:
        """Buildings, gardens and empty plots along one side."""
        layout = self.layout
        start = index * CHUNK
        position = start + (dice.uniform(5, 8) if junction else 0.0)
        last = start + CHUNK - (dice.uniform(5, 8) if junction else 0.0)
        mine: list[Building] = []
        while position < last - 3:
            length = min(dice.uniform(7, 12) if layout.house else dice.uniform(6, 18), last - position)
            if last - position - length < 4:
                length = last - position
            setback = dice.uniform(*layout.setback)
            if dice.chance(layout.building_share):
                gap = dice.uniform(0.5, 3.5) if layout.house else (0.0 if dice.chance(0.8) else 1.5)
                tint, warm = dice.uniform(0.78, 1.15), dice.uniform(-0.08, 0.08)
                floors = dice.integer(layout.floors[0], layout.floors[1] + 1)
                roof = dice.uniform(2.0, 4.2) if dice.chance(0.92 if layout.house else 0.35) else 0.0
                before = mine[-1] if mine else None
                end: End = "windows"
                if before is not None and position - before.s1 < 0.3:
                    covered = abs(before.d) <= line + setback + 0.05 and before.floors >= floors
                    end = "hidden" if covered and before.depth > 9 and not roof else "blank"
                mine.append(
                    Building(
                        side,
                        position,
                        position + length - gap,
                        side * (line + setback),
                        dice.uniform(8, 14),
                        floors,
                        dice.integer(0, FACADES[self.split]),
                        (tint * (1 + warm), tint, tint * (1 - warm)),
                        roof,
                        dice.color(dice.pick(_ROOFS), 16),
                        dice.integer(0, 5),
                        end,
                    )
                )
                if layout.house and setback > 2.5 and dice.chance(0.6):
                    things.append(
                        self._bush(dice, position + dice.uniform(1, length), side * (line + setback * 0.4))
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
        buildings.extend(mine)
        if layout.scene == "highway":
            for _ in range(dice.integer(2, 5)):
                where, far = start + dice.uniform(0, CHUNK), side * (line + dice.uniform(5, 26))
                things.append(
                    self._tree(dice, where, far) if dice.chance(0.7) else self._bush(dice, where, far)
                )

    def _barrier(
        self,
        dice: Dice,
        index: int,
        side: int,
        edge: float,
        line: float,
        junction: bool,
        barriers: list[Barrier],
        things: list[Thing],
    ) -> None:
        """The fence, hedge, wall or row of bollards of one side."""
        layout = self.layout
        kind = layout.barrier[0 if side < 0 else 1]
        start, end = index * CHUNK, (index + 1) * CHUNK
        if kind == "bollards":
            if not junction:
                for step in range(12):
                    s, d = start + 2 * step, side * (edge + 0.4)
                    things.append(Block(s, s + 0.14, d, d + side * 0.14, 0.1, 1.0, (50.0, 50.0, 54.0), VOID))
            return
        if not kind or not (dice.chance(0.85) or layout.scene == "highway"):
            return
        color = (
            leaf_color(dice, self.split, 0.0) if kind == "hedge" else dice.color(_BARRIER_COLORS[kind], 20)
        )
        tile = dice.integer(0, 3)
        for s0, s1 in ((start, start + 6), (end - 6, end)) if junction else ((start, end),):
            barriers.append(
                Barrier(s0, s1, side * line, _BARRIER_HEIGHTS[kind], kind, _BARRIER_IDS[kind], color, tile)
            )

    def _roadside(
        self, dice: Dice, index: int, side: int, edge: float, line: float, junction: bool, things: list[Thing]
    ) -> None:
        """Trees at the kerb, parked vehicles, lamps, signs and street furniture of one side."""
        layout, start = self.layout, index * CHUNK
        city = layout.scene == "city street"
        if layout.scene in ("city street", "residential") and not junction:
            for step in range(2):
                if dice.chance(layout.tree_share * 0.8):
                    things.append(
                        self._tree(dice, start + 4 + 12 * step + dice.uniform(-2, 2), side * (edge + 0.7))
                    )
            if dice.chance(0.3):
                things.append(
                    self._bicycle(dice, start + dice.uniform(2, 22), side * (edge + dice.uniform(0.8, 1.6)))
                )
            if dice.chance(0.15):
                s, d = start + dice.uniform(2, 18), side * (edge + 1.1)
                tone = dice.color((70, 76, 74), 30)
                things.append(Block(s, s + 0.8, d, d + side * 0.6, 0.1, dice.uniform(0.9, 1.5), tone, VOID))
            if city and dice.chance(0.08):
                things.extend(self._shelter(start + dice.uniform(4, 14), side, edge))
        strip = layout.parking[0 if side < 0 else 1]
        if strip and not junction:
            middle = side * (edge - 0.35 - strip / 2)
            for step in range(4):
                if dice.chance(0.72):
                    turned = 0.0 if side > 0 or dice.chance(0.2) else math.pi
                    things.append(
                        self._parked(dice, start + 3 + 6 * step + dice.uniform(-0.4, 0.4), middle, turned)
                    )
        if layout.lamp_gap and index % layout.lamp_gap == 0:
            highway = layout.scene == "highway"
            far = edge + (1.5 if highway else 0.5)
            if highway or (side > 0) == (index % 2 == 0) or dice.chance(0.3):
                tone, arm = dice.color((86, 90, 90), 24), -side * dice.uniform(0.6, 2.2)
                things.append(Lamp(start + 11, side * far, 5.5 if layout.house else 6.5, arm, tone))
        if dice.chance(0.55 if city else 0.25):
            size = dice.uniform(0.55, 0.85) * (1.6 if layout.scene == "highway" else 1.0)
            s, z, back = start + dice.uniform(1, 20), dice.uniform(1.9, 2.6), side < 0 and dice.chance(0.6)
            things.append(Sign(s, side * (edge + 0.45), z, size, dice.integer(0, 12), True, back))
        if city and dice.chance(0.12):
            z = dice.uniform(2.8, 3.6)
            things.append(Sign(start + 5, side * (line - 0.5), z, 0.9, dice.integer(0, 12), False, False))
        if layout.scene == "parking lot":
            things.extend(self._stalls(dice, start, side, edge - LOT_DEPTH))
        elif layout.scene == "gas stations":
            things.extend(self._forecourt(dice, index, side, edge - LOT_DEPTH))

    def _signals(self, dice: Dice, index: int, things: list[Thing]) -> None:
        """Traffic lights of a junction and a vehicle on the cross street."""
        layout, start = self.layout, index * CHUNK
        phase, variant = dice.uniform(0, 20), dice.integer(0, 3)
        if dice.chance(0.75):
            arm = dice.uniform(2.5, 5) if dice.chance(0.4) else 0.0
            height = dice.uniform(2.6, 3.4)
            near, far = start + 4.5, start + CHUNK - 4.5
            things.append(Signal(near, layout.right + 0.5, height, -arm, phase, variant))
            things.append(Signal(far, layout.right + 0.6, height, 0.0, phase, variant))
            things.append(Signal(near, -layout.left - 0.5, height, 0.0, phase, variant))
            if dice.chance(0.5):
                things.append(Signal(far, -layout.left - 0.6, height, arm, phase, variant))
        if dice.chance(0.5):
            kind = dice.weighted(("car", "truck", "bus"), (0.85, 0.08, 0.07))
            d = dice.uniform(8, 25) * dice.pick((-1, 1))
            yaw = math.pi / 2 * dice.pick((-1, 1))
            things.append(self._vehicle(dice, kind, start + 12 + math.copysign(1.8, d), d, yaw))

    def _motorway(self, dice: Dice, index: int, barriers: list[Barrier], things: list[Thing]) -> None:
        """The central reservation and now and then a gantry."""
        layout, start = self.layout, index * CHUNK
        if layout.median == "wall":
            barriers.append(Barrier(start, start + CHUNK, 0.0, 0.85, "plain", WALL, (160.0, 158.0, 152.0), 0))
        else:
            barriers.append(Barrier(start, start + CHUNK, 0.0, 0.85, "rail", FENCE, (150.0, 154.0, 158.0), 0))
        if index % 6 == self.junction_phase % 6:
            count = sum(lane.direction > 0 for lane in layout.lanes)
            panels = tuple(
                (1.2 + (i + 0.5) * 3.6, dice.uniform(2.2, 3.2), 12 + dice.integer(0, 4))
                for i in range(count)
                if dice.chance(0.8)
            )
            things.append(Gantry(start + 12, 0.0, layout.right + 1.0, 5.8, panels))

    def _tree(self, dice: Dice, s: float, d: float, small: bool = False) -> Tree:
        layout = self.layout
        height = dice.uniform(3, 6) if small else dice.uniform(5, 13)
        index = dice.pick(layout.flora) if dice.chance(0.6) else dice.integer(0, CROWNS[self.split])
        if dice.chance(layout.bare_share):
            color = (104.0, 88.0, 74.0)
            return Tree(s, d, "bare", index, height, height * dice.uniform(0.6, 0.95), height * 0.28, color)
        if dice.chance(0.15):
            color = dice.color((58, 78, 52), 14)
            return Tree(
                s, d, "conifer", index, height, height * dice.uniform(0.4, 0.55), height * 0.06, color
            )
        color = leaf_color(dice, self.split, self.autumn)
        trunk = height * dice.uniform(0.18, 0.4)
        return Tree(s, d, "broadleaf", index, height, height * dice.uniform(0.6, 0.95), trunk, color)

    def _bush(self, dice: Dice, s: float, d: float) -> Tree:
        height, index = dice.uniform(0.7, 2.4), dice.integer(0, CROWNS[self.split])
        width = height * dice.uniform(1.0, 2.2)
        return Tree(s, d, "bush", index, height, width, 0.0, leaf_color(dice, self.split, self.autumn))

    def _vehicle(
        self, dice: Dice, kind: str, s: float, d: float, yaw: float, state: State = "driving"
    ) -> Vehicle:
        models = vehicle_models(kind, self.split)
        number = dice.integer(0, len(models))
        model = models[number]
        look = dice.integer(0, LOOKS)
        return Vehicle(
            s, d, yaw, kind, number, look, model.length, model.width, model.mesh.height, state, None
        )

    def _parked(self, dice: Dice, s: float, d: float, yaw: float) -> Vehicle:
        kind = "motorcycle" if dice.chance(0.04) else "car"
        return self._vehicle(dice, kind, s, d, yaw + dice.uniform(-0.03, 0.03), "parked")

    def _bicycle(self, dice: Dice, s: float, d: float) -> Cycle:
        yaw = dice.pick((0.0, math.pi / 2, 1.2, -1.4, 0.3))
        return Cycle(s, d, 0.1, yaw, dice.color(dice.pick(_FRAMES), 20), None, 0.0)

    def _shelter(self, s: float, side: int, edge: float) -> Iterator[Block]:
        """A bus stop's roof and glass."""
        inner, outer = side * (edge + 1.0), side * (edge + 2.3)
        yield Block(s, s + 3.6, inner, outer, 2.4, 2.55, (60.0, 62.0, 66.0), VOID)
        yield Block(s, s + 0.08, outer - side * 0.1, outer, 0.1, 2.4, (70.0, 72.0, 76.0), VOID)
        yield Block(s + 3.5, s + 3.6, inner + side * 0.3, outer, 0.3, 2.3, (110.0, 124.0, 128.0), VOID)

    def _stalls(self, dice: Dice, start: float, side: int, inner: float) -> Iterator[Thing]:
        """Two rows of parked vehicles."""
        for row, share in ((inner + 2.4, 0.72), (inner + 7.6, 0.6)):
            for stall in range(9):
                if dice.chance(share):
                    yaw, d = math.pi / 2 * dice.pick((-1, 1)), side * (row + dice.uniform(-0.3, 0.3))
                    yield self._parked(dice, start + 1.3 + 2.66 * stall, d, yaw)
        if dice.chance(0.4):
            yield self._tree(dice, start + dice.uniform(0, 4), side * (inner + 10.1), small=True)

    def _forecourt(self, dice: Dice, index: int, side: int, inner: float) -> Iterator[Thing]:
        """A petrol station's canopy, columns, pumps and customers."""
        if (index + (side > 0)) % 2:
            return
        start = index * CHUNK
        brand = Dice(*self._key, 5)
        stripe = brand.color(brand.pick(((200, 40, 40), (30, 110, 70), (30, 70, 160), (230, 150, 30))), 20)
        near, far = inner + 0.6, inner + 8.5
        white = (222.0, 222.0, 220.0)
        yield Block(start + 2, start + 20, side * near, side * far, 4.6, 5.3, stripe, BUILDING)
        yield Block(
            start + 2.3, start + 19.7, side * (near + 0.3), side * (far - 0.3), 4.45, 4.6, white, BUILDING
        )
        for s in (start + 5, start + 16):
            column, pump = side * (near + 2.5), side * (near + 2.4)
            yield Block(s, s + 0.35, column, column + side * 0.35, 0.0, 4.45, white, BUILDING)
            yield Block(s + 2, s + 2.8, pump, pump + side * 0.6, 0.15, 1.7, stripe, VOID)
            yield Block(s + 2.05, s + 2.75, pump - side * 0.04, pump, 0.9, 1.5, (226.0, 226.0, 226.0), VOID)
            for d, share in ((near + 1.1, 0.7), (near + 4.6, 0.5)):
                if dice.chance(share):
                    yield self._parked(dice, s + 2.5, side * d, 0.0 if side > 0 else math.pi)
        if dice.chance(0.6):
            yield Block(
                start + 1, start + 1.4, side * (far + 0.2), side * (far + 1.6), 0.0, 5.5, stripe, VOID
            )

    def _stream(
        self, stream: int, speed: float, gap: float, share: float, t: float, first: float, last: float
    ) -> Iterator[tuple[int, float, Dice]]:
        """Slots of a stream of traffic between two places: number, s and the slot's own dice.

        A stream is a row of slots that moves as a whole; it repeats after sixty-four of them.
        """
        if stream not in self._tables:
            self._tables[stream] = np.random.default_rng([*self._key, 3, stream]).random((64, 16))
        table = self._tables[stream]
        shift = speed * t
        for number in range(math.floor((first - shift) / gap), math.ceil((last - shift) / gap) + 1):
            throws = table[number % 64].tolist()
            if throws[0] < share:
                s = (number + 0.4 * (throws[1] - 0.5)) * gap + shift
                if first <= s <= last:
                    yield number, s, Dice(values=throws[2:])

    def moving(self, t: float, first: float, last: float) -> Iterator[Moving]:
        """Traffic and people between two places at a time in seconds."""
        yield from self._traffic(t, first, last)
        if self.scene not in ("highway", "tunnel"):
            yield from self._cyclists(t, first, last)
        if self.layout.pedestrian_gap:
            yield from self._pedestrians(t, first, min(last, first + 80.0))

    def _traffic(self, t: float, first: float, last: float) -> Iterator[Vehicle]:
        layout, ego = self.layout, self.ego_s(t)
        gap = _VEHICLE_GAPS.get(layout.scene, 17.0)
        kinds = ("car", "truck", "bus", "motorcycle")
        weights = (0.72, 0.22, 0.03, 0.03) if layout.scene == "highway" else (0.8, 0.07, 0.07, 0.06)
        for position, lane in enumerate(layout.lanes):
            own = abs(lane.d - layout.ego_d) < 0.1
            speed = self.speed if own else lane.direction * lane.speed
            stretch, share = (55.0, 0.6) if lane.rails else (gap, layout.vehicle_share)
            for number, s, dice in self._stream(10 + position, speed, stretch, share, t, first, last):
                # The ego vehicle sways by a few metres about slot 0 of its own lane.
                if own and number in (-1, 0):
                    continue
                kind = "train" if lane.rails else dice.weighted(kinds, weights)
                yaw = self.road.heading(s) + (0.0 if lane.direction > 0 else math.pi)
                d = lane.d + (0.0 if lane.rails else dice.uniform(-0.3, 0.3))
                braking = dice.chance(0.2) and lane.direction > 0 and s < ego + 40
                vehicle = self._vehicle(dice, kind, s, d, yaw, "braking" if braking else "driving")
                if kind == "motorcycle":
                    vehicle = vehicle._replace(rider=person(self.split, dice.integer(0, PEOPLE), helmet=True))
                yield vehicle

    def _cyclists(self, t: float, first: float, last: float) -> Iterator[Cycle]:
        layout = self.layout
        share = 0.25 if layout.scene == "city street" else 0.12
        for stream, direction, edge in (
            (30, 1, layout.right - layout.parking[1]),
            (31, -1, layout.left - layout.parking[0]),
        ):
            for _, s, dice in self._stream(stream, 5.0 * direction, 21.0, share, t, first, last):
                rider = person(self.split, dice.integer(0, PEOPLE), dice.chance(0.5))
                yaw = self.road.heading(s) + (0.0 if direction > 0 else math.pi)
                tone = dice.color(dice.pick(_FRAMES), 10)
                yield Cycle(s, direction * (edge - 0.75), 0.0, yaw, tone, rider, 4.0 * t + dice.uniform(0, 6))

    def _pedestrians(self, t: float, first: float, last: float) -> Iterator[Walker]:
        layout = self.layout
        walks: list[Band] = [b for b in layout.bands if b.id == SIDEWALK and b.outer - b.inner < 20]
        for number, band in enumerate(walks):
            for direction in (-1, 1):
                stream = 40 + 2 * number + (direction > 0)
                for _, s, dice in self._stream(
                    stream, 1.3 * direction, layout.pedestrian_gap, 0.6, t, first, last
                ):
                    pair = dice.chance(0.25)
                    standing = dice.chance(0.15)
                    yaw = self.road.heading(s) + (0.0 if direction > 0 else math.pi)
                    yaw += dice.uniform(-2, 2) if standing else dice.uniform(-0.15, 0.15)
                    room = max(0.1, band.outer - band.inner - (1.5 if pair else 0.9))
                    d = band.inner + 0.5 + dice.uniform(0, room)
                    phase = dice.uniform(0, 6) + (0.0 if standing else 5.5 * t)
                    for member in range(2 if pair else 1):
                        who = person(self.split, dice.integer(0, PEOPLE))
                        side_step = band.side * (d + 0.6 * member)
                        yield Walker(s + 0.2 * member, side_step, 0.12, yaw, who, phase + member, standing)
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
        raised = 0.12 if d < -self.layout.left or d > self.layout.right else 0.0
        who = person(self.split, dice.integer(0, PEOPLE))
        yaw = math.pi / 2 if rightward else -math.pi / 2
        return Walker(s + dice.uniform(-1, 1), d, raised, yaw, who, 5.5 * t + dice.uniform(0, 6), False)

    @staticmethod
    def sunlit(s: float, d: float, direction: Triple, buildings: Sequence[Building]) -> float:
        """1 where the sun reaches a place at eye height, 0 behind one of the buildings on its side."""
        across, along, up = direction
        if abs(across) < 0.05:
            return 1.0
        for building in buildings:
            reach = (building.d - d) / across
            if (
                reach > 0
                and building.s0 <= s + along * reach <= building.s1
                and building.height > 1.0 + up * reach
            ):
                return 0.0
        return 1.0
