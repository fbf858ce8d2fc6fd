"""Samples a second of each reader on one core, what each stage costs, and batches a second of the loader.

``python benchmarks/loader.py [--camvid DIR] [--size HEIGHT WIDTH] [--workers N ...]``

Stages are CPU time of one thread, so that other work on the machine does not count; the loader's rate is
wall time and does.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from pvt_mtl_perception.data.camvid import CamVidDataset
from pvt_mtl_perception.data.collate import Collator
from pvt_mtl_perception.data.mixture import Mixture, SampleSource, build_loader
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import training_transform

Item = TypeVar("Item")
COLLATOR = Collator(10, {"weather": 6, "scene": 6, "timeofday": 3})


def timed(count: int, work: Callable[[int], Item]) -> tuple[list[Item], float]:
    """The results for 0..count-1, and the median milliseconds of one."""
    results, times = [], []
    for i in range(count):
        start = time.thread_time()
        results.append(work(i))
        times.append(time.thread_time() - start)
    return results, 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--camvid", type=Path, default=os.environ.get("CAMVID_ROOT"))
    parser.add_argument("--size", type=int, nargs=2, default=(192, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40, help="batches that the loader is timed over")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    sources: dict[str, SampleSource] = {"synthetic": SyntheticDataset()}
    if args.camvid is not None:
        sources["camvid"] = CamVidDataset(args.camvid)
    transform = training_transform(tuple(args.size))
    height, width = args.size
    print(f"one core, crops of {width}x{height}")
    print(
        f"{'reader':<12}{'read ms':>9}{'first ms':>10}{'transform ms':>14}{'collate ms':>12}{'samples/s':>11}"
    )
    for name, source in sources.items():
        samples, first = timed(args.samples, source.__getitem__)
        _, read = timed(args.samples, source.__getitem__)
        transform(samples[0], 0)
        crops, change = timed(args.samples, lambda i, samples=samples: transform(samples[i], i))
        batches = [crops[i : i + args.batch_size] for i in range(0, len(crops), args.batch_size)]
        _, collate = timed(len(batches), lambda i, batches=batches: COLLATOR(batches[i]))
        collate /= args.batch_size
        rate = 1e3 / (read + change + collate)
        print(f"{name:<12}{read:9.2f}{first:10.2f}{change:14.2f}{collate:12.2f}{rate:11.0f}")

    mixture = Mixture(tuple(map(len, sources.values())), (1.0,) * len(sources), args.batch_size, seed=0)
    for workers in args.workers:
        loader = iter(
            build_loader(
                list(sources.values()), transform, mixture, COLLATOR, stop_step=args.steps, workers=workers
            )
        )
        # What the workers prepare while they start belongs to no rate.
        for _ in range(args.steps // 4):
            next(loader)
        start = time.perf_counter()
        seen = sum(len(batch) for batch in loader)
        rate = seen / (time.perf_counter() - start)
        print(f"loader, {' + '.join(sources)}, {workers} workers: {rate:.0f} samples/s")


if __name__ == "__main__":
    main()
