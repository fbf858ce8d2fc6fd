"""Plays a drive in real time through the node over ROS 2, and shows what it saw and how well.

Without --bag the drive is rendered and has ground truth, against which the node is scored; it is kept, so
that the next run starts at once. The results are overlay.mp4, summary.png, report.json and the bag recording.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.paths import shipped_checkpoint

SUMMARY = "play a drive or a bag through the node and show what it sees"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument(
        "--bag", type=Path, help="bag of ROS 1, ROS 2 or Foxglove images to play instead of a rendered drive"
    )
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--topic", help="its image topic, raw or compressed; not needed where there is one")
    camera.add_argument(
        "--preset",
        metavar="NAME",
        help="the first camera of a known data set: kitti or nuscenes (config/presets)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for results; default: %(default)s"
    )
    parser.add_argument(
        "--model", help="checkpoint file or hf://owner/name[@revision]; the shipped one by default"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    drive = parser.add_argument_group("rendered drive")
    drive.add_argument("--seed", type=int, default=3, help="which drive; default: %(default)s")
    drive.add_argument("--seconds", type=float, default=15.0, help="default: %(default)s")
    drive.add_argument("--fps", type=float, default=10.0, help="default: %(default)s")
    drive.add_argument(
        "--size", type=image_size, default=(720, 1280), metavar="WxH", help="default: 1280x720"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demonstration and prints its figures."""
    from pvt_mtl_perception.bags.listing import image_listing
    from pvt_mtl_perception.bags.presets import load_preset
    from pvt_mtl_perception.bags.reader import BagReader
    from pvt_mtl_perception.demo.drive import DriveSettings
    from pvt_mtl_perception.demo.measurement import table_rows
    from pvt_mtl_perception.demo.run import run_demo
    from pvt_mtl_perception.model.hub import resolve_checkpoint

    if (args.topic or args.preset) and not args.bag:
        raise ValueError("--topic and --preset name a topic of --bag, which is missing")
    topic = args.topic
    if args.bag:
        with BagReader(args.bag) as reader:
            if args.preset:
                topic = next(iter(load_preset(args.preset).topics(reader).values())).name
            elif not topic and len(reader.image_topics) > 1:
                print(image_listing(reader))
    height, width = args.size
    report = run_demo(
        args.out,
        resolve_checkpoint(args.model) if args.model else shipped_checkpoint(),
        bag=args.bag,
        topic=topic,
        drive=DriveSettings(args.seed, width, height, args.fps, args.seconds),
        device=args.device,
    )
    rows = table_rows(report)
    column = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{column}}  {text}")
    print(f"{args.out}: overlay.mp4, summary.png, report.json, recording")
    return 0
