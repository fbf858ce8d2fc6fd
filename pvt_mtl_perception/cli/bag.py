"""Predicts every image of a bag, without ROS, into a new bag with the original stamps.

The bag is one of ROS 1 or ROS 2, or an MCAP file with Foxglove's images. Without OUT its image topics are
listed. A run that was ended by Ctrl-C, a kill or a power cut is continued by the same command.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pvt_mtl_perception.cli.model_arguments import (
    add_model_arguments,
    checkpoint_digest,
    checkpoint_path,
    count,
    load_predictor,
)

SUMMARY = "results of every image of a bag into a new bag, without ROS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("source", type=Path, metavar="IN", help="ROS 1 .bag, rosbag2 folder, .mcap or .db3")
    parser.add_argument("target", type=Path, metavar="OUT", nargs="?", help="folder of the new ROS 2 bag")
    cameras = parser.add_mutually_exclusive_group()
    cameras.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="image topic, raw or compressed; again for further cameras; not needed where there is one",
    )
    cameras.add_argument(
        "--preset",
        metavar="NAME",
        help="every camera of a known data set: kitti or nuscenes (config/presets)",
    )
    parser.add_argument("--batch", type=count, default=1, help="images at once; default: %(default)s")
    parser.add_argument("--images", action="store_true", help="copy the images into the new bag")
    parser.add_argument("--storage", choices=["mcap", "sqlite3"], default="mcap", help="default: %(default)s")
    parser.add_argument(
        "--segment",
        type=count,
        default=1000,
        metavar="N",
        help="images a file of the new bag, which is also what a kill can cost; default: %(default)s",
    )
    parser.add_argument(
        "--video",
        type=Path,
        metavar="FILE.mp4",
        help="H.264 of the images with results drawn on them; several topics give one video each",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Lists the bag's images, or predicts them and draws the videos."""
    from pvt_mtl_perception.bags.listing import image_listing
    from pvt_mtl_perception.bags.overlay import write_overlay_video
    from pvt_mtl_perception.bags.predict import predict_bag
    from pvt_mtl_perception.bags.presets import load_preset
    from pvt_mtl_perception.bags.reader import BagReader

    if args.video and args.video.suffix != ".mp4":
        raise ValueError(f"--video {args.video} is no .mp4 file")
    if args.video and not args.video.parent.is_dir():
        raise FileNotFoundError(f"no folder {args.video.parent} for --video {args.video.name}")
    topics = list(args.topic)
    with BagReader(args.source) as reader:
        if args.preset:
            topics = [topic.name for topic in load_preset(args.preset).topics(reader).values()]
        if args.target is None or (not topics and len(reader.image_topics) > 1):
            print(image_listing(reader))
        if args.target is None:
            return 0
        reader.select(topics)

    predictor = load_predictor(args)
    begun = time.monotonic()
    summary = predict_bag(
        args.source,
        args.target,
        predictor,
        topics=topics,
        batch_size=args.batch,
        with_images=args.images,
        storage=args.storage,
        segment=args.segment,
        settings={"model_sha256": checkpoint_digest(checkpoint_path(args))},
    )
    failed = f", {summary.failed} undecodable" if summary.failed else ""
    seconds = time.monotonic() - begun
    print(f"{args.target}: {summary.images} images{failed}, {seconds:.1f} s on {predictor.device}")
    for topic, places in summary.topics.items():
        print(f"  {topic}: results on {places.detections.rpartition('/')[0] or '/'}")
        if args.video:
            video = args.video
            if len(summary.topics) > 1:
                video = video.with_name(f"{video.stem}{topic.replace('/', '_')}{video.suffix}")
            frames = write_overlay_video(video, args.source, topic, args.target, places, predictor.labels)
            print(f"  {video}: {frames} frames")
    return 0
