"""``pvt-mtl eval``: what a checkpoint scores on data sets, what it costs, and how it bears bad weather."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvt_mtl_perception.cli.model_arguments import (
    add_nms_threshold,
    add_strengths,
    checkpoint_digest,
    count,
    image_size,
    make_output_folder,
)

if TYPE_CHECKING:
    from pvt_mtl_perception.data.sources import SourceConfig
    from pvt_mtl_perception.evaluation.html import Section
    from pvt_mtl_perception.evaluation.passes import FinishedPasses
    from pvt_mtl_perception.evaluation.records import OperatingPoint
    from pvt_mtl_perception.evaluation.run import Evaluated
    from pvt_mtl_perception.inference.predictor import Predictor
    from pvt_mtl_perception.labels import LabelSet
    from pvt_mtl_perception.training.distributed import Processes

SUMMARY = "score a checkpoint on data sets, measure its cost, write a report"

_ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help="the model's file or hf://owner/name[@revision]")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        metavar="CONFIG_OR_SOURCE",
        help="a training configuration, whose `evaluate` sources are scored, or a kind of data source: "
        "synthetic, camvid, bdd100k, cityscapes, coco, ade20k, imagenet",
    )
    data.add_argument("--root", help="folder of the data source (camvid: default $CAMVID_ROOT)")
    data.add_argument(
        "--split", help="of the data source (default: val; synthetic: test); camvid also fit and held_out"
    )
    data.add_argument("--frames", type=int, help="how many synthetic frames (default 500)")
    data.add_argument("--limit", type=count, help="use so many samples of the data source, drawn at random")
    data.add_argument(
        "--taxonomy",
        help="score segmentation in this label set (a name such as carla, or a YAML file), through its "
        "mapping table; CamVid is scored in its own 11 classes by default",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--batch-size", type=count, default=8, help="frames predicted at once (default %(default)s)"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")
    model.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16 (default %(default)s)")
    model.add_argument(
        "--backend", default="eager", help="what runs the network, as of the node (default %(default)s)"
    )
    model.add_argument(
        "--input-size",
        type=image_size,
        metavar="WxH",
        help="of the network's input, multiples of 32 (default: the checkpoint's)",
    )
    add_nms_threshold(model)
    more = parser.add_argument_group("what else is measured")
    more.add_argument(
        "--cost", action="store_true", help="parameters, FLOPs, latency and memory by part and batch size"
    )
    more.add_argument(
        "--cost-batch",
        type=count,
        default=6,
        metavar="N",
        help="frames of the second latency, beside one (default %(default)s, the cameras of a vehicle)",
    )
    more.add_argument(
        "--cost-calls", type=count, default=30, metavar="N", help="timed calls (default %(default)s)"
    )
    more.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help="score again under fog, rain, night, motion_blur, noise and jpeg, or `all` of them",
    )
    add_strengths(more)
    more.add_argument(
        "--out",
        type=Path,
        help="folder for scores.json, report.html and, for each data set, the records of its images (.npz)",
    )


def run(args: argparse.Namespace) -> int:
    """Scores the checkpoint, prints tables and writes the report.

    Started by torchrun, the processes share the images of each data set, and the first of them reports.

    Raises:
        FileNotFoundError, ValueError: for a configuration, data source, split, corruption or label set that
            does not exist, and a data set whose labels do not fit the model's.
    """
    from pvt_mtl_perception.training.distributed import join_processes

    with join_processes(args.device) as processes:
        return _evaluate(args, str(processes.device), processes)


def _sources(args: argparse.Namespace) -> list[SourceConfig]:
    """The data sources that the arguments name."""
    from pvt_mtl_perception.data.sources import SourceConfig
    from pvt_mtl_perception.training.config import load_config

    if Path(args.data).suffix in (".yaml", ".yml"):
        for key in ("root", "split", "frames", "limit"):
            if getattr(args, key) is not None:
                raise ValueError(f"--{key} is for a data source; {args.data} says it itself")
        config = load_config(args.data)
        if not config.evaluate:
            raise ValueError(f"{args.data}: lists no source under 'evaluate'")
        return list(config.evaluate)
    root = args.root or (os.environ.get("CAMVID_ROOT") if args.data == "camvid" else None)
    if args.data == "camvid" and root is None:
        raise ValueError("--data camvid needs --root, or CAMVID_ROOT in the environment")
    given: dict[str, Any] = {"root": root, "limit": args.limit}
    if args.data == "synthetic":
        given["frames"] = 500 if args.frames is None else args.frames
    elif args.frames is not None:
        raise ValueError(f"--frames is for synthetic; for {args.data} use --limit")
    split = args.split or {"synthetic": "test", "generic": "train"}.get(args.data, "val")
    return [SourceConfig(kind=args.data, split=split, **given)]


def _corruptions(args: argparse.Namespace) -> list[str]:
    from pvt_mtl_perception.evaluation.corruptions import CORRUPTIONS, STRENGTHS

    names = list(args.corruptions or ())
    if _ALL in names:
        names = list(CORRUPTIONS)
    for name in names:
        if name not in CORRUPTIONS:
            raise ValueError(f"--corruptions {name}: known are {', '.join(CORRUPTIONS)} and {_ALL}")
    for strength in args.strengths:
        if strength not in STRENGTHS:
            raise ValueError(f"--strengths {strength}: they go from 1 to 5")
    return names


def _evaluate(args: argparse.Namespace, device: str, processes: Processes) -> int:
    from pvt_mtl_perception.data.sources import named_sources
    from pvt_mtl_perception.evaluation.records import operating_points
    from pvt_mtl_perception.evaluation.report import (
        format_best_threshold,
        format_cost,
        format_robustness,
        format_scores,
    )
    from pvt_mtl_perception.evaluation.run import evaluate_source
    from pvt_mtl_perception.inference.predictor import Predictor
    from pvt_mtl_perception.labels import load_label_set

    names, sources = _corruptions(args), _sources(args)
    taxonomy = load_label_set(args.taxonomy) if args.taxonomy else None
    predictor = Predictor(
        args.checkpoint,
        device=device,
        precision=args.precision,
        backend=args.backend,
        input_size=args.input_size,
        nms_threshold=args.nms_threshold,
    )
    finished = _finished_passes(args, predictor, sources, taxonomy, processes) if args.out else None
    scored: dict[str, Evaluated] = {}
    best: dict[str, OperatingPoint] = {}
    for name, source in named_sources(sources).items():
        one = evaluate_source(
            predictor,
            source,
            taxonomy,
            args.batch_size,
            names,
            args.strengths,
            rank=processes.rank,
            world_size=processes.world_size,
            name=name,
            finished=finished,
        )
        if processes.leads:
            if one is None:
                print(f"{name}: no folder {source.root}; not scored")
            else:
                scored[name] = one
                print(f"{name}: {format_scores(one.clean.scores)}\n")
                boxes = one.clean.records.detection
                if boxes is not None and boxes.positives.any():
                    best[name] = operating_points(boxes).best()
                    print(f"{format_best_threshold(best[name])}\n")
    if not processes.leads:
        return 0
    if not scored:
        raise FileNotFoundError(f"{args.data}: none of its data sources is there")
    report = _report(args, predictor, scored, best)
    if "corruptions" in report:
        print(format_robustness(report["sources"], report["corruptions"]) + "\n")
    if args.cost:
        from pvt_mtl_perception.evaluation.cost import measure_cost
        from pvt_mtl_perception.model.checkpoint import load_checkpoint

        frame = next(iter(scored.values())).data[0].image
        report["cost"] = measure_cost(
            load_checkpoint(args.checkpoint), predictor, frame, args.cost_batch, args.cost_calls
        )
        print(format_cost(report["cost"]) + "\n")
    if finished is not None:
        _write(finished, predictor, report, scored)
        print(args.out / "report.html")
    return 0


def _described(args: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """What every file of an evaluation says of the model."""
    size = predictor.preprocessing
    return {
        "checkpoint": str(args.checkpoint),
        "taxonomy": args.taxonomy,
        "input_size": [size.height, size.width],
        "precision": predictor.precision,
        "nms_threshold": predictor.nms_threshold,
    }


def _finished_passes(
    args: argparse.Namespace,
    predictor: Predictor,
    sources: Sequence[SourceConfig],
    taxonomy: LabelSet | None,
    processes: Processes,
) -> FinishedPasses:
    """Those of an evaluation like this one that was interrupted; what is done now is kept there, too."""
    from pvt_mtl_perception import __version__
    from pvt_mtl_perception.evaluation.passes import FinishedPasses
    from pvt_mtl_perception.model.hub import resolve_checkpoint

    make_output_folder(args.out)
    description = _described(args, predictor)
    settings = {
        **description,
        "sha256": checkpoint_digest(resolve_checkpoint(args.checkpoint)),
        "version": __version__,
        # What $NAME stands for now.
        "sources": [os.path.expandvars(str(source)) for source in sources],
        "taxonomy": str(taxonomy),
        "backend": predictor.backend,
        "device": predictor.device.type,
    }
    finished = FinishedPasses(
        args.out, settings, description, processes.leads, lambda flag: processes.any(flag)[0]
    )
    if len(finished):
        print(f"going on: {finished}")
    return finished


def _report(
    args: argparse.Namespace,
    predictor: Predictor,
    scored: Mapping[str, Evaluated],
    best: Mapping[str, OperatingPoint],
) -> dict[str, Any]:
    report: dict[str, Any] = {
        **_described(args, predictor),
        "data": args.data,
        "backend": predictor.backend,
        "device": str(predictor.device),
        "sources": {name: one.clean.scores for name, one in scored.items()},
        "best_threshold": {name: point._asdict() for name, point in best.items()},
    }
    corruptions: dict[str, dict[int, dict[str, Any]]] = {}
    for name, one in scored.items():
        for (corruption, strength), corrupted in one.corrupted.items():
            by_source = corruptions.setdefault(corruption, {}).setdefault(strength, {})
            by_source[name] = corrupted.scores
    return report | ({"corruptions": corruptions} if corruptions else {})


def _write(
    finished: FinishedPasses,
    predictor: Predictor,
    report: Mapping[str, Any],
    scored: Mapping[str, Evaluated],
) -> None:
    from pvt_mtl_perception.evaluation.html import (
        corruption_examples,
        cost_section,
        robustness_section,
        source_section,
        write_report,
        write_scores,
    )
    from pvt_mtl_perception.evaluation.pictures import gallery

    out = finished.out
    sections: list[Section] = []
    for name, one in scored.items():
        clean = one.clean
        pictures = gallery(predictor, one.data, clean.records)
        sections.append(source_section(name, clean.scores, clean.records, pictures))
    write_scores(out, report)
    if "corruptions" in report:
        first = next(iter(scored.values()))
        examples = corruption_examples(first.data[0].image, report["corruptions"])
        sections.append(robustness_section(report["sources"], report["corruptions"], examples))
    if "cost" in report:
        sections.append(cost_section(report["cost"]))
    height, width = report["input_size"]
    subtitle = f"{report['checkpoint']}, input {width}x{height}, {report['precision']} on {report['device']}"
    if report["taxonomy"]:
        subtitle += f"; segmentation scored in {report['taxonomy']}"
    write_report(out / "report.html", predictor.model_name, subtitle, sections)
    finished.finish()
