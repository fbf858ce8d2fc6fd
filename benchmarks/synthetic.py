"""Frames per second of the synthetic scenes on one core, and what each stage of a frame costs."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from pvt_mtl_perception.data.synthetic import frame as stages
from pvt_mtl_perception.data.synthetic.world import World

# Painters that the frame calls, and the method that builds the static world.
_STAGES = (
    "paint_sky",
    "paint_background",
    "paint_ground",
    "light_ground",
    "reflect_wet_ground",
    "paint_building",
    "paint_barrier",
    "paint_tree",
    "paint_vehicle",
    "paint_person",
    "paint_bicycle",
    "paint_sign",
    "paint_signal",
    "paint_lamp",
    "paint_block",
    "paint_gantry",
    "reflect_object",
    "add_glow",
    "add_weather",
    "expose",
    "read_boxes",
)


def _timed(
    call: Callable[..., Any], name: str, spent: dict[str, float], number: dict[str, int]
) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **options)
        finally:
            spent[name] += time.process_time() - start
            number[name] += 1

    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--frames", type=int, default=100, help="frames to time (default %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="each frame counts with its fastest pass")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    seeds = range(1000, 1000 + args.frames)
    size = (args.width, args.height)
    for seed in tqdm(seeds, desc="warm-up: textures and stamps", unit="frame"):
        stages.render_frame(seed, *size)
    best = np.full(len(seeds), np.inf)
    for _ in range(args.passes):
        for position, seed in enumerate(tqdm(seeds, desc="timing", unit="frame")):
            start = time.process_time()
            stages.render_frame(seed, *size)
            best[position] = min(best[position], time.process_time() - start)
    spent: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for name in _STAGES:
        setattr(stages, name, _timed(getattr(stages, name), name, spent, number))
    moving = World.moving
    World.chunk = _timed(World.chunk, "World.chunk", spent, number)
    World.moving = _timed(lambda *place: list(moving(*place)), "World.moving", spent, number)
    start = time.process_time()
    for seed in tqdm(seeds, desc="stages", unit="frame"):
        stages.render_frame(seed, *size)
    total = time.process_time() - start
    spent["everything else"] = total - sum(spent.values())
    print(f"{args.width}x{args.height}, one core, {args.frames} frames")
    print(
        f"{1 / best.mean():.1f} frames/s, {1e3 * best.mean():.1f} ms a frame (slowest {1e3 * best.max():.1f})"
    )
    print(f"{'stage':22}{'share':>7}{'calls a frame':>15}{'us a call':>11}")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        calls = number[name] / len(seeds)
        each = f"{1e6 * seconds / number[name]:11.0f}" if number[name] else ""
        print(f"{name:22}{seconds / total:7.1%}{calls:15.1f}{each}")


if __name__ == "__main__":
    main()
