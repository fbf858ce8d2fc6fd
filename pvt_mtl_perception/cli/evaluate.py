"""``pvt-mtl eval``: the scores of one checkpoint on one data set."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvt_mtl_perception.data.mixture import SampleSource

SUMMARY = "score a checkpoint on a data set"

_SPLITS = {"synthetic": ("test", "train"), "camvid": ("val", "held_out", "fit", "train")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help="the model's file or hf://owner/name[@revision]")
    parser.add_argument("--data", choices=sorted(_SPLITS), required=True, help="which data set")
    parser.add_argument(
        "--root",
        type=Path,
        default=os.environ.get("CAMVID_ROOT"),
        help="CamVid's folder (default $CAMVID_ROOT)",
    )
    parser.add_argument(
        "--split",
        help="synthetic: test (default) or train; camvid: val (default), train, its blocks fit or held_out",
    )
    parser.add_argument(
        "--frames", type=int, default=500, help="how many synthetic frames (default %(default)s)"
    )
    parser.add_argument("--taxonomy", help="score segmentation in this label set, such as camvid")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="frames predicted at once (default %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16 (default %(default)s)")
    parser.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the network's input, multiples of 32 (default: the checkpoint's)",
    )
    parser.add_argument("--json", type=Path, help="write the scores to this file too")


def run(args: argparse.Namespace) -> int:
    """Scores the checkpoint and prints a table.

    Raises:
        ValueError: for a split that the data set does not have, a missing ``--root``, or a checkpoint whose
            label sets are not those of the data set.
    """
    from pvt_mtl_perception.evaluation.evaluator import evaluate
    from pvt_mtl_perception.evaluation.report import format_scores
    from pvt_mtl_perception.inference.predictor import Predictor
    from pvt_mtl_perception.labels import load_label_set

    split = args.split or _SPLITS[args.data][0]
    if split not in _SPLITS[args.data]:
        raise ValueError(f"--split {split}: {args.data} has {', '.join(_SPLITS[args.data])}")
    predictor = Predictor(
        args.checkpoint,
        device=args.device,
        precision=args.precision,
        input_size=tuple(args.input_size) if args.input_size else None,
    )
    labels = predictor.labels
    label_sets = {"driving_detection": labels.detection, "driving_segmentation": labels.segmentation}
    label_sets |= {f"driving_{group}": label_set for group, label_set in labels.classification.items()}
    for name, label_set in label_sets.items():
        if label_set is not None and label_set.names != load_label_set(name).names:
            raise ValueError(
                f"{args.checkpoint} predicts {label_set.name!r}; {args.data} is labelled in {name!r}"
            )
    taxonomy = load_label_set(args.taxonomy) if args.taxonomy else None
    scores = evaluate(predictor, _dataset(args, split), taxonomy, args.batch_size)
    print(format_scores(scores))
    if args.json:
        described = {
            "checkpoint": str(args.checkpoint),
            "data": args.data,
            "split": split,
            "taxonomy": args.taxonomy,
            "input_size": [predictor.preprocessing.height, predictor.preprocessing.width],
            "precision": predictor.precision,
        }
        args.json.write_text(json.dumps(described | scores, indent=2) + "\n")
    return 0


def _dataset(args: argparse.Namespace, split: str) -> SampleSource:
    if args.data == "synthetic":
        from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset

        return SyntheticDataset("train" if split == "train" else "test", size=args.frames)
    from pvt_mtl_perception.data.camvid import CamVidDataset

    if args.root is None:
        raise ValueError("--data camvid needs --root, or CAMVID_ROOT in the environment")
    return CamVidDataset(args.root, split)
