"""Samples a second of each reader on one core, what each stage costs, and batches a second of the loader.

``python benchmarks/loader.py [--camvid DIR] [--size WxH] [--workers N ...]``

Every reader reads rendered pictures that are written for it in its data set's layout, at the size that the
data set's images have, in a temporary folder; CamVid's own files where ``--camvid`` or CAMVID_ROOT says.
Stages are CPU time of one thread, so that other work on the machine does not count; the loader's rate is
wall time and does. ``decode`` is the image's part of ``read``; ``first`` is a sample's first visit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.data.collate import Collator
from pvt_mtl_perception.data.mixture import Mixture, SampleSource, build_loader
from pvt_mtl_perception.data.reading import read_image
from pvt_mtl_perception.data.sources import SourceConfig, open_source
from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.data.transforms import training_transform

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
import data_layouts

Item = TypeVar("Item")
# As many classes and groups as the data sets together have.
COLLATOR = Collator(80, {"weather": 6, "scene": 6, "timeofday": 3, "imagenet": 1000})


def timed(count: int, work: Callable[[int], Item]) -> tuple[list[Item], float]:
    """The results for 0..count-1, and the median milliseconds of one."""
    results, times = [], []
    for i in range(count):
        start = time.thread_time()
        results.append(work(i))
        times.append(time.thread_time() - start)
    return results, 1e3 * float(np.median(times))


def scenes(size: tuple[int, int], count: int) -> list[data_layouts.Scene]:
    """Rendered pictures of (height, width), with rectangles for labels."""
    height, width = size
    made = []
    for seed in range(count):
        drawn = data_layouts.make_scene(seed, size, count=3)
        image = cv2.resize(render_frame(seed).image, (width, height), interpolation=cv2.INTER_CUBIC)
        made.append(data_layouts.Scene(image, drawn.boxes, drawn.rectangles))
    return made


def write_layouts(folder: Path, count: int) -> dict[str, SourceConfig]:
    """A data set for each reader, of images as large as the official ones are in the mean."""
    data_layouts.write_imagenet(folder / "imagenet", pictures=[s.image for s in scenes((375, 500), count)])
    data_layouts.write_coco(folder / "coco", scenes((480, 640), count))
    data_layouts.write_ade20k(folder / "ade20k", scenes((512, 683), count))
    data_layouts.write_bdd100k(folder / "bdd100k", scenes((720, 1280), count))
    data_layouts.write_cityscapes(folder / "cityscapes", scenes((1024, 2048), count))
    data_layouts.write_generic(
        folder / "generic", scenes((480, 640), count), ("car", "bus"), {"weather": "rainy"}
    )
    generic = SourceConfig(
        "generic",
        root=str(folder / "generic"),
        annotations="boxes.json",
        masks="masks",
        table="classes.csv",
        detection_labels="driving_detection",
        segmentation_labels="driving_segmentation",
        classification_labels={"weather": "driving_weather"},
    )
    kinds = ("imagenet", "coco", "ade20k", "bdd100k", "cityscapes")
    return {kind: SourceConfig(kind, root=str(folder / kind)) for kind in kinds} | {"generic": generic}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--camvid", type=Path, default=os.environ.get("CAMVID_ROOT"))
    parser.add_argument("--size", type=image_size, default=(192, 320), metavar="WxH")
    parser.add_argument("--samples", type=int, default=64, help="visits each stage is timed over")
    parser.add_argument("--files", type=int, default=16, help="images written for each reader")
    parser.add_argument("--steps", type=int, default=40, help="batches that the loader is timed over")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--loader", help="reader that the loader is timed with (default: camvid, else coco)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    with tempfile.TemporaryDirectory() as folder:
        configs = {"synthetic": SourceConfig("synthetic", split="test")}
        if args.camvid is not None:
            configs["camvid"] = SourceConfig("camvid", root=str(args.camvid))
        configs |= write_layouts(Path(folder), args.files)
        measure({name: open_source(config) for name, config in configs.items()}, args)


def measure(sources: dict[str, SampleSource], args: argparse.Namespace) -> None:
    transform = training_transform(tuple(args.size))
    height, width = args.size
    print(f"one core, crops of {width}x{height}")
    print(
        f"{'reader':<12}{'image':>11}{'first ms':>10}{'read ms':>9}{'decode ms':>11}{'transform ms':>14}"
        f"{'collate ms':>12}{'samples/s':>11}"
    )
    for name, source in sources.items():
        # Spread over the whole of it: of a thousand links to pictures the first are all one class.
        indices = np.linspace(0, len(source) - 1, min(args.samples, len(source)), dtype=int).tolist()
        samples, first = timed(len(indices), lambda i, source=source, at=indices: source[at[i]])
        _, read = timed(args.samples, lambda i, source=source, at=indices: source[at[i % len(at)]])
        samples = [samples[i % len(samples)] for i in range(args.samples)]
        if name == "synthetic":
            decode = f"{'-':>11}"
        else:
            paths = [Path(sample.name) for sample in samples]
            decode = f"{timed(args.samples, lambda i, paths=paths: read_image(paths[i]))[1]:11.2f}"
        height, width = samples[0].image.shape[:2]
        transform(samples[0], 0)
        crops, change = timed(args.samples, lambda i, samples=samples: transform(samples[i], i))
        batches = [crops[i : i + args.batch_size] for i in range(0, len(crops), args.batch_size)]
        _, collate = timed(len(batches), lambda i, batches=batches: COLLATOR(batches[i]))
        collate /= args.batch_size
        rate = 1e3 / (read + change + collate)
        print(
            f"{name:<12}{f'{width}x{height}':>11}{first:10.2f}{read:9.2f}{decode}{change:14.2f}{collate:12.2f}"
            f"{rate:11.0f}"
        )

    name = args.loader or ("camvid" if "camvid" in sources else "coco")
    time_loader(name, sources[name], transform, args)


def time_loader(name: str, source: SampleSource, transform: object, args: argparse.Namespace) -> None:
    mixture = Mixture((len(source),), (1.0,), args.batch_size, seed=0)
    for workers in args.workers:
        loader = iter(
            build_loader([source], transform, mixture, COLLATOR, stop_step=args.steps, workers=workers)
        )
        # What the workers prepare while they start belongs to no rate.
        for _ in range(args.steps // 4):
            next(loader)
        start = time.perf_counter()
        seen = sum(len(batch) for batch in loader)
        rate = seen / (time.perf_counter() - start)
        print(f"loader, {name}, {workers} workers: {rate:.0f} samples/s", flush=True)


if __name__ == "__main__":
    main()
