"""Predicts images, folders and videos: JSON lines with boxes and classes, masks, and overlay pictures.

The same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pvt_mtl_perception.cli.model_arguments import (
    add_model_arguments,
    checkpoint_digest,
    checkpoint_path,
    count,
    load_predictor,
)

SUMMARY = "results of images, folders and videos as JSON lines and pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("inputs", type=Path, nargs="+", metavar="IN", help="image, video, or folder of them")
    parser.add_argument(
        "--out", type=Path, default=Path("out/predict"), help="folder for results; default: %(default)s"
    )
    parser.add_argument("--batch", type=count, default=1, help="images at once; default: %(default)s")
    parser.add_argument("--no-pictures", action="store_true", help="write only the JSON lines")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Predicts the files."""
    from pvt_mtl_perception.inference.files import RESULTS, find_inputs, predict_files

    inputs = find_inputs(args.inputs, args.out)
    predictor = load_predictor(args)
    settings = {
        "model_sha256": checkpoint_digest(checkpoint_path(args)),
        "precision": args.precision,
        "backend": predictor.backend,
        "score_threshold": str(args.score_threshold),
        "nms_threshold": str(args.nms_threshold),
        "max_detections": str(args.max_detections),
        "pictures": str(not args.no_pictures),
    }
    done, failed = predict_files(
        inputs, args.out, predictor, args.batch, pictures=not args.no_pictures, settings=settings
    )
    unread = f", {failed} could not be read" if failed else ""
    print(f"{args.out}: results of {done} of {len(inputs)} files{unread}; images are in {RESULTS}")
    return 0
