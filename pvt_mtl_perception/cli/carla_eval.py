"""Scores mask and boxes against the images of CARLA's semantic and instance cameras.

The frames come from a bag, matched by stamp. They are predicted, or (--recorded) the bag has what
perception_node published while CARLA ran; --live makes such a bag first, of a running CARLA and a running
node. Boxes from instance images are exact; from semantic images they are derived: touching objects of a class
are one box.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvt_mtl_perception.cli.model_arguments import (
    add_model_arguments,
    checkpoint_digest,
    checkpoint_path,
    count,
    load_predictor,
    make_output_folder,
)

if TYPE_CHECKING:
    from pvt_mtl_perception.cli.carla_frames import CarlaCamera, CarlaFrames, Counts
    from pvt_mtl_perception.data.sample import Sample
    from pvt_mtl_perception.evaluation.passes import FinishedPasses, Scored
    from pvt_mtl_perception.evaluation.pictures import Picture
    from pvt_mtl_perception.inference.predictor import Predictor
    from pvt_mtl_perception.labels import LabelSet, TaskLabels
    from pvt_mtl_perception.result import Result

SUMMARY = "score mask and boxes against CARLA's semantic images, from a bag or live"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument(
        "bag",
        type=Path,
        metavar="BAG",
        help="recording of CARLA's cameras (a rosbag2 folder, .mcap, .db3); with --live the "
        "folder of the new one",
    )
    cameras = parser.add_argument_group(
        "cameras", "Sensor names, or topics that begin with a slash; several views in the same order."
    )
    cameras.add_argument("--ego", default="ego_vehicle", help="the vehicle's name; default: %(default)s")
    cameras.add_argument(
        "--rgb", nargs="+", default=["rgb_front"], metavar="SENSOR", help="default: rgb_front"
    )
    cameras.add_argument(
        "--semantic",
        nargs="+",
        default=["semantic_segmentation_front"],
        metavar="SENSOR",
        help="default: semantic_segmentation_front",
    )
    cameras.add_argument(
        "--instance",
        nargs="+",
        default=[],
        metavar="SENSOR",
        help="instance cameras, from which boxes are exact; by default they are derived from the semantic "
        "images",
    )
    cameras.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="NAMESPACE",
        help="where the node's results of each view are, like /carla/ego_vehicle/rgb_front, which is the "
        "default: beside the RGB images",
    )
    what = parser.add_argument_group("what is scored")
    what.add_argument(
        "--recorded",
        action="store_true",
        help="the detections and masks that the bag has, as the node published them",
    )
    what.add_argument(
        "--live",
        action="store_true",
        help="records CARLA's images and the node's results into BAG until Ctrl-C or --frames, then scores "
        "them",
    )
    what.add_argument(
        "--frames", type=count, metavar="N", help="ends a live recording after N results of every camera"
    )
    what.add_argument(
        "--best-effort",
        action="store_true",
        help="with --live: CARLA's cameras do not offer to be reliable",
    )
    what.add_argument("--taxonomy", help="label set in which masks are scored, such as carla or camvid")
    what.add_argument(
        "--batch-size", type=count, default=8, help="frames predicted at once; default: %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for scores.json, report.html and each camera's records (.npz)"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Records where that is asked for, scores, prints tables and writes the report.

    Raises:
        FileExistsError: when a live recording would overwrite a bag.
        FileNotFoundError, ValueError: for a bag, topic or label set that does not fit, and images that are
            not CARLA's.
        KeyError: when the model's label sets have no mapping from CARLA's.
    """
    from pvt_mtl_perception.bags.reader import BagReader
    from pvt_mtl_perception.cli.carla_frames import CarlaFrames, Counts, carla_cameras
    from pvt_mtl_perception.evaluation.html import source_section
    from pvt_mtl_perception.evaluation.passes import Pass
    from pvt_mtl_perception.evaluation.report import format_scores
    from pvt_mtl_perception.labels import load_label_set
    from pvt_mtl_perception.model.checkpoint import load_checkpoint

    cameras = carla_cameras(args.ego, args.rgb, args.semantic, args.instance, args.results)
    recorded = args.recorded or args.live
    taxonomy = load_label_set(args.taxonomy) if args.taxonomy else None
    checkpoint = checkpoint_path(args)
    if args.out:
        make_output_folder(args.out)
    predictor = None if recorded else load_predictor(args)
    labels = load_checkpoint(checkpoint).labels if predictor is None else predictor.labels
    if args.live:
        _record(args.bag, cameras, labels, args.frames, args.best_effort)

    described = {
        "bag": str(args.bag),
        "checkpoint": str(checkpoint),
        "results": "recorded" if recorded else "predicted",
        "boxes": "instance images" if args.instance else "derived from semantic images",
        "taxonomy": args.taxonomy,
    }
    report: dict[str, Any] = {**described, "frames": {}, "sources": {}}
    sections = []
    with BagReader(args.bag) as reader:
        finished = None
        if args.out:
            settings = {
                "sha256": checkpoint_digest(checkpoint),
                "messages": [f"{reader.start} + {reader.duration} s", *map(str, reader.topics)],
                "cameras": [str(camera) for camera in cameras],
                "taxonomy": str(taxonomy),
            }
            finished = _finished_views(args.out, described, settings, predictor)
        for camera in cameras:
            frames = CarlaFrames(reader, camera, labels, recorded)
            one = Pass(camera.name)
            scored = finished.find(one) if finished is not None else None
            if scored is None:
                scored = _scored(frames, predictor, args.batch_size, taxonomy)
                if finished is not None:
                    finished.add(one, scored)
            report["frames"][camera.name] = scored.about
            report["sources"][camera.name] = scored.scores
            counts = Counts(scored.about["semantic"], scored.about["without"])
            print(f"{camera.name}: {counts}; boxes {_box_kind(camera)}")
            print(f"{format_scores(scored.scores)}\n")
            if args.out:
                pictures = _pictures(frames, scored.records, predictor)
                sections.append(source_section(camera.name, scored.scores, scored.records, pictures))
    if finished is not None:
        _write_report(args.out, checkpoint.stem, report, sections)
        finished.finish()
    return 0


def _finished_views(
    out: Path, described: Mapping[str, Any], settings: Mapping[str, Any], predictor: Predictor | None
) -> FinishedPasses:
    """The views that a run like this one scored before it was interrupted; what is done now is kept, too.

    Args:
        out: the output folder.
        described: what every file says of the run.
        settings: plain data on what its scores depend on beside that; a taxonomy's in place of its name.
        predictor: None where results are recorded.
    """
    from pvt_mtl_perception import __version__
    from pvt_mtl_perception.evaluation.passes import FinishedPasses

    computed = {}
    if predictor is not None:
        computed = {
            "precision": predictor.precision,
            "nms_threshold": predictor.nms_threshold,
            "backend": predictor.backend,
            "device": predictor.device.type,
        }
    finished = FinishedPasses(out, {**described, **settings, **computed, "version": __version__}, described)
    if len(finished):
        print(f"going on: {finished}")
    return finished


def _scored(
    frames: CarlaFrames, predictor: Predictor | None, batch_size: int, taxonomy: LabelSet | None
) -> Scored:
    """What the frames of a view score; ``about`` counts them.

    Raises:
        ValueError: when there is no frame to score.
    """
    from pvt_mtl_perception.cli.carla_frames import Counts
    from pvt_mtl_perception.evaluation.evaluator import predict_samples, score_results
    from pvt_mtl_perception.evaluation.passes import Scored
    from pvt_mtl_perception.inference.batches import prefetched

    counts = Counts()
    read = _with_progress(frames, counts)
    results: Iterable[tuple[Sample, Result]]
    if predictor is None:
        results = ((sample, result) for sample, result in read if result is not None)
    else:
        samples = prefetched((sample for sample, _ in read), depth=2 * batch_size)
        results = predict_samples(predictor, samples, batch_size)
    metrics = score_results(frames.labels, results, taxonomy)
    if not metrics.names:
        raise ValueError(f"{frames}: nothing to score: {counts}")
    about = {"semantic": counts.semantic, "scored": counts.matched, "without": counts.without}
    return Scored(metrics.scores(), metrics.records(), about)


def _box_kind(camera: CarlaCamera) -> str:
    return "exact, of the instance images" if camera.instances else "derived from the semantic images"


def _with_progress(frames: CarlaFrames, counts: Counts) -> Iterator[tuple[Sample, Result | None]]:
    from tqdm import tqdm

    with tqdm(total=frames.total, unit="image", desc="evaluate", dynamic_ncols=True) as bar:
        for item in frames.read(counts):
            bar.update(counts.semantic - bar.n)
            yield item
        bar.update(counts.semantic - bar.n)


def _record(
    bag: Path, cameras: Sequence[CarlaCamera], labels: TaskLabels, limit: int | None, best_effort: bool
) -> None:
    """Records CARLA's cameras and the node's results in a process of its own until the limit or Ctrl-C.

    Raises:
        FileExistsError: when the bag exists.
        ValueError: when nothing came on a topic that is needed, naming it; the bag is then removed.
        ChildError: when the recorder fails.
    """
    from pvt_mtl_perception.bags.reader import BagReader
    from pvt_mtl_perception.bags.types import DETECTIONS, IMAGE, LABEL_INFO
    from pvt_mtl_perception.demo.processes import Child
    from pvt_mtl_perception.inference.batches import deferred_interrupt
    from pvt_mtl_perception.inference.process import with_large_images

    if bag.exists():
        raise FileExistsError(f"{bag} exists already; --live records a new bag")
    bag.parent.mkdir(parents=True, exist_ok=True)
    arguments, counted = [str(bag)], []
    for camera in cameras:
        for topic in (camera.image, camera.semantic, camera.instances):
            if topic:
                arguments += ["--best-effort" if best_effort else "--topic", f"{topic}:{IMAGE}"]
        if labels.detection is not None:
            arguments += ["--topic", f"{camera.results.detections}:{DETECTIONS}"]
            counted.append(camera.results.detections)
        if labels.segmentation is not None:
            arguments += ["--topic", f"{camera.results.mask}:{IMAGE}"]
            arguments += ["--latched", f"{camera.results.label_info}:{LABEL_INFO}"]
            counted.append(camera.results.mask)
    log = bag.with_name(f"{bag.name}.log")
    with deferred_interrupt() as stopping:
        recorder = Child(
            "recorder", "pvt_mtl_perception.ros.bag_recorder", arguments, log, with_large_images()
        )
        with recorder:
            _watch(recorder, counted, limit, stopping)
            if status := recorder.stop():
                raise recorder.error(f"ended with status {status}")
    log.unlink()
    with BagReader(bag) as reader:
        have = {topic.name for topic in reader.topics if topic.count}
    needed = [*counted, *(camera.semantic for camera in cameras)]
    if silent := [topic for topic in needed if topic not in have]:
        shutil.rmtree(bag)
        raise ValueError(
            f"nothing came on {', '.join(silent)}, so there is nothing to score; {bag} is removed"
        )


def _watch(recorder: Any, counted: Sequence[str], limit: int | None, stopping: Any) -> None:
    """Shows what the recorder says until every counted topic has ``limit`` messages or Ctrl-C."""
    from tqdm import tqdm

    said = 0
    with tqdm(total=limit, unit="result", desc="record", dynamic_ncols=True) as bar:
        while not stopping() and (limit is None or bar.n < limit):
            if recorder.status is not None:
                raise recorder.error(f"ended with status {recorder.status} before the recording's end")
            lines = recorder.output.splitlines()
            for line in lines[said:]:
                if line.startswith("recorded "):
                    counts = dict(word.rsplit("=", 1) for word in line.split()[1:])
                    # A bar that is only updated would show the last results with the next ones.
                    bar.n = min(int(counts[topic]) for topic in counted)
                    bar.refresh()
                elif line.startswith("waiting for "):
                    bar.write(f"no publisher that fits yet: {line.removeprefix('waiting for ')}")
                elif line == "ready":
                    bar.write("every topic has a publisher")
            said = len(lines)
            time.sleep(0.1)


def _pictures(frames: CarlaFrames, records: Any, predictor: Predictor | None) -> list[Picture]:
    """The best, the worst and some random frames, read from the bag again."""
    from pvt_mtl_perception.cli.carla_frames import Counts
    from pvt_mtl_perception.evaluation.pictures import (
        Picture,
        choose_frames,
        frame_scores,
        label_beside_prediction,
    )

    chosen = choose_frames(records)
    wanted = {number for numbers in chosen.values() for number in numbers}
    scores = frame_scores(records)
    images = {}
    for number, (sample, result) in enumerate(frames.read(Counts())):
        if number in wanted:
            if predictor is not None:
                (result,) = predictor.predict([sample.image])
            assert result is not None
            images[number] = sample.name, label_beside_prediction(sample, result, frames.model_labels)
    return [
        Picture(kind, images[number][0], float(scores[number]), images[number][1])
        for kind, numbers in chosen.items()
        for number in numbers
    ]


def _write_report(out: Path, model: str, report: Mapping[str, Any], sections: Sequence[Any]) -> None:
    from pvt_mtl_perception.evaluation.html import write_report, write_scores

    write_scores(out, report)
    subtitle = (
        f"{report['bag']}, {report['results']} results of {report['checkpoint']}; boxes: {report['boxes']}"
    )
    if report["taxonomy"]:
        subtitle += f"; segmentation scored in {report['taxonomy']}"
    write_report(out / "report.html", model, subtitle, sections)
    print(out / "report.html")
