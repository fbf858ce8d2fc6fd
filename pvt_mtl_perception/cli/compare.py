"""Two evaluations of the same images side by side, each difference with its interval over the images.

A and B are folders that pvt-mtl eval (or carla-eval) wrote with --out. The images are drawn again and again,
the same ones for both, and every score is computed from each draw (paired bootstrap). A difference whose
interval leaves out 0 is more than the choice of images makes; whether models trained with other seeds would
show it too, it does not say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvt_mtl_perception.cli.model_arguments import make_output_folder
from pvt_mtl_perception.paths import replaced

if TYPE_CHECKING:
    from pvt_mtl_perception.evaluation.records import Records
    from pvt_mtl_perception.study.statistics.bootstrap import Resampling
    from pvt_mtl_perception.study.two_evaluations import Difference

SUMMARY = "compare two evaluations of the same images: differences with intervals"

_FEWEST_DRAWS = 100
"""Below, the ends of a 95 % interval are single draws."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("first", type=Path, metavar="A", help="folder of an evaluation")
    parser.add_argument("second", type=Path, metavar="B", help="the other one; differences are B - A")
    parser.add_argument(
        "--per-class", action="store_true", help="also AP and IoU of every class that is labelled"
    )
    parser.add_argument(
        "--draws", type=int, default=2000, metavar="N", help="of the images (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default %(default)s)")
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="draw N consecutive images together, for frames of a video: neighbours look alike, and singly "
        "drawn they make intervals too narrow (default: 20 for camvid, 1 for others, whose images are taken "
        "for one video)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")


def run(args: argparse.Namespace) -> int:
    """Compares data set by data set and prints tables.

    Raises:
        FileNotFoundError: when a folder is no evaluation.
        ValueError: when the evaluations have no data set or no score in common, or are of different images,
            label sets or labels; for a number of draws, a seed or a block that cannot be.
    """
    from pvt_mtl_perception.evaluation.records import load_records
    from pvt_mtl_perception.study.two_evaluations import compare_records, resampling_of

    _check_numbers(args)
    first, second = _records_of(args.first), _records_of(args.second)
    if args.first.samefile(args.second):
        raise ValueError(f"{args.first} and {args.second} are the same folder")
    names = [name for name in first if name in second]
    if not names:
        raise ValueError(
            f"no data set in common: {args.first} has {', '.join(first)}; {args.second} has "
            f"{', '.join(second)}"
        )
    if args.json:
        make_output_folder(args.json.parent)
    print(f"A {args.first}\nB {args.second}\n")
    for folder, have, other in ((args.first, first, second), (args.second, second, first)):
        if alone := [name for name in have if name not in other]:
            print(f"only {folder} has {', '.join(alone)}: not compared\n")
    report: dict[str, Any] = {
        "a": str(args.first),
        "b": str(args.second),
        "draws": args.draws,
        "seed": args.seed,
        "interval": 0.95,
        "sources": {},
    }
    for name in names:
        records = load_records(first[name]), load_records(second[name])
        try:
            resampling = resampling_of(records[0], args.draws, args.seed, args.block)
            differences = compare_records(*records, resampling, args.per_class, progress=True)
        except ValueError as error:
            raise ValueError(f"{first[name]}, {second[name]}: {error}") from None
        if differences:
            print(_table(name, len(records[0]), resampling, differences) + "\n")
            report["sources"][name] = _plain(*records, resampling, differences)
    if not report["sources"]:
        raise ValueError(f"{args.first} and {args.second} have no score in common: their tasks differ")
    if args.json:
        with replaced(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in (("draws", _FEWEST_DRAWS), ("seed", 0), ("block", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: it has to be {least} or more")


def _records_of(folder: Path) -> Mapping[str, Path]:
    """The records that an evaluation left, by data set.

    Raises:
        FileNotFoundError: when there are none.
    """
    files = sorted(folder.glob("*.npz"))
    if not files or not (folder / "scores.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no evaluation: `pvt-mtl eval CHECKPOINT … --out {folder}` writes scores.json and "
            "the records of each data set (.npz) there"
        )
    return {path.stem: path for path in files}


def _table(name: str, images: int, resampling: Resampling, differences: Sequence[Difference]) -> str:
    from pvt_mtl_perception.study.report.words import interval, points

    blocks = f" of blocks of {resampling.block_length}" if resampling.block_length > 1 else ""
    lines = [f"{name}: {images} images, {resampling.replicates} draws{blocks}"]
    task = ""
    for one in differences:
        found = one.bootstrap
        if one.task != task:
            task = one.task
            lines += ["", f"{task:<34}{'A':>8}{'B':>8}{'B - A':>9}{'95 % interval':>20}{'images':>9}"]
        verdict = "  higher" if found.low > 0 else "  lower" if found.high < 0 else ""
        lines.append(
            f"{_called(one.metric):<34}{100 * one.first:>8.2f}{100 * one.second:>8.2f}"
            f"{points(found.mean):>9}{interval(found.low, found.high):>20}{one.images:>9}{verdict}"
        )
    return "\n".join(lines)


_CALLED = {"miou": "mIoU", "boundary_f": "boundary F", "pixel_accuracy": "pixel accuracy"}
_CALLED_OF_GROUP = {"accuracy": "top-1", "balanced_accuracy": "balanced", "top5": "top-5"}


def _called(metric: str) -> str:
    """A score as the tables of an evaluation call it."""
    from pvt_mtl_perception.evaluation.report import DETECTION_SCORES

    of, _, last = metric.rpartition(".")
    if of.startswith("per_class."):
        return f"  {of.removeprefix('per_class.')} {'IoU' if last == 'iou' else 'AP'}"
    return f"{of} {_CALLED_OF_GROUP[last]}" if of else (DETECTION_SCORES | _CALLED)[metric]


def _plain(
    first: Records, second: Records, resampling: Resampling, differences: Sequence[Difference]
) -> dict[str, Any]:
    measures: dict[str, dict[str, Any]] = {}
    for one in differences:
        found = one.bootstrap
        measures.setdefault(one.task, {})[one.metric] = {
            "a": one.first,
            "b": one.second,
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "standard_error": found.standard_error,
            "images": one.images,
            "undefined_draws": found.undefined,
        }
    return {
        "images": len(first),
        "block": resampling.block_length,
        "a": first.description,
        "b": second.description,
        "scores": measures,
    }
