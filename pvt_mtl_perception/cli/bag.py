"""Predicts every image of a ROS 1 or ROS 2 bag, without ROS, into a new bag with the original stamps.

A run that was ended by Ctrl-C, a kill or a power cut is continued by the same command.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pvt_mtl_perception.cli.model_arguments import (
    add_model_arguments,
    checkpoint_digest,
    checkpoint_path,
    load_predictor,
)

SUMMARY = "results of every image of a bag into a new bag, without ROS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("source", type=Path, metavar="IN", help="ROS 1 .bag, rosbag2 folder, .mcap or .db3")
    parser.add_argument("target", type=Path, metavar="OUT", help="folder of the new ROS 2 bag")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="image topic, raw or compressed; again for further cameras; not needed where there is one",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once; default: %(default)s")
    parser.add_argument("--images", action="store_true", help="copy the images into the new bag")
    parser.add_argument("--storage", choices=["mcap", "sqlite3"], default="mcap", help="default: %(default)s")
    parser.add_argument(
        "--segment",
        type=int,
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
    """Predicts the bag, then draws the videos."""
    from pvt_mtl_perception.bags.overlay import write_overlay_video
    from pvt_mtl_perception.bags.predict import predict_bag

    predictor = load_predictor(args)
    begun = time.monotonic()
    summary = predict_bag(
        args.source,
        args.target,
        predictor,
        topics=args.topic,
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
