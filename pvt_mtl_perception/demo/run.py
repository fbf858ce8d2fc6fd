"""The demonstration from end to end: a bag through the node, then video, picture, figures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pvt_mtl_perception.bags.overlay import FrameClock, fitted
from pvt_mtl_perception.bags.reader import BagReader, BagTopic
from pvt_mtl_perception.bags.results import ResultReader
from pvt_mtl_perception.demo.drive import IMAGE_TOPIC, DriveSettings, DriveTruth, prepare_drive
from pvt_mtl_perception.demo.measurement import (
    Scores,
    Traffic,
    node_diagnostics,
    publishing_times,
    table_rows,
)
from pvt_mtl_perception.demo.playback import Playback, play_through_node
from pvt_mtl_perception.demo.processes import ChildError
from pvt_mtl_perception.demo.summary import Moment, write_summary
from pvt_mtl_perception.inference.decode import DetectionSettings
from pvt_mtl_perception.inference.render import draw_overlay
from pvt_mtl_perception.inference.video import VideoWriter
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.model.checkpoint import load_checkpoint
from pvt_mtl_perception.result import Detections, Result

SHOWN_SCORE = DetectionSettings.score_threshold
"""Boxes with a lower score are in no picture."""

SCORED_SCORE = 0.05
"""Boxes with a lower score are not published when there is ground truth: AP needs the unsure ones too."""

MOMENTS = (1 / 8, 1 / 2, 7 / 8)
"""Where in the drive the summary looks, as a share of its frames."""


def run_demo(
    folder: Path,
    model: Path,
    bag: Path | None = None,
    topic: str | None = None,
    drive: DriveSettings | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Plays a bag, or a rendered drive, through the node and writes what it saw.

    The folder then has ``overlay.mp4``, ``summary.png``, ``report.json``, ``recording`` (a bag with what the
    node published) and the processes' logs; drives are kept in ``drives``. What an earlier run left there is
    replaced.

    Args:
        folder: for all of it; made when absent.
        model: checkpoint file.
        bag: a ROS 1 or ROS 2 bag; None for a drive.
        topic: its image topic; may be None where it has one.
        drive: which drive, with ground truth and hence scores; only without a bag.
        device: for the node.
        progress: shows bars.

    Returns:
        The content of ``report.json``.

    Raises:
        FileNotFoundError, ValueError: for a bag, topic or checkpoint that is wrong.
        ChildError: when one of the processes fails, or the node processes no frame.
    """
    checkpoint = load_checkpoint(model)
    folder.mkdir(parents=True, exist_ok=True)
    truth = None
    settings = drive or DriveSettings()
    if bag is None:
        bags = prepare_drive(settings, folder / "drives", progress)
        bag, truth, topic = bags.images, bags.truth, IMAGE_TOPIC
    with BagReader(bag) as reader:
        (image_topic,) = reader.select([topic] if topic else [])
    shutil.rmtree(folder / "recording", ignore_errors=True)
    playback = play_through_node(
        bag,
        image_topic,
        model,
        checkpoint.spec.tasks,
        folder,
        device=device,
        score_threshold=SHOWN_SCORE if truth is None else SCORED_SCORE,
        progress=progress,
    )
    review = _review(folder / "overlay.mp4", checkpoint.labels, bag, image_topic, playback, truth, progress)
    report = {
        "source": {
            "bag": str(bag),
            "topic": image_topic.name,
            "type": image_topic.type,
            "drive": dataclasses.asdict(settings) if truth else None,
        },
        "model": {"file": str(model), "tasks": list(checkpoint.spec.tasks), **_of_node(review.diagnostics)},
        **review.figures(),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    name = f"drive {settings.seed}" if truth else bag.name
    write_summary(
        folder / "summary.png",
        f"{model.stem} on {name}",
        "    ".join(f"{name}: {text}" for name, text in table_rows(report)),
        review.moments,
        checkpoint.labels,
    )
    return report


def _of_node(diagnostics: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    kept = ("device", "precision", "backend")
    return {key: diagnostics["node"][key] for key in kept if key in diagnostics["node"]}


@dataclass(frozen=True)
class _Review:
    """What the bags show after a playback."""

    traffic: Traffic
    scores: Scores | None
    diagnostics: Mapping[str, Mapping[str, str]]
    moments: Sequence[Moment]

    def figures(self) -> dict[str, Any]:
        """The measured part of the report."""
        traffic = self.traffic.summary()
        camera = self.diagnostics["camera"]

        def count(key: str) -> int | None:
            return int(camera[key]) if key in camera else None

        def node_time(key: str) -> float | None:
            return float(camera[key]) if camera.get(key) else None

        return {
            "frames": {
                "in": traffic["frames_in"],
                "processed": traffic["frames_processed"],
                "replaced": count("frames replaced"),
                "failed": count("frames failed"),
                "lost in transport": count("frames lost in transport"),
            },
            "rate_hz": {"in": traffic["rate_in"], "out": traffic["rate_out"]},
            "latency_ms": {
                "image_to_last_result": traffic["latency_ms"],
                "node": {"p50": node_time("latency p50 [ms]"), "p95": node_time("latency p95 [ms]")},
            },
            "scores": self.scores.compute() if self.scores is not None else None,
        }


def _review(
    video_path: Path,
    labels: TaskLabels,
    bag: Path,
    topic: BagTopic,
    playback: Playback,
    truth: Path | None,
    progress: bool,
) -> _Review:
    """Reads images and results side by side: counts, scores, and writes the video."""
    traffic = Traffic(publishing_times(playback.published))
    scores = Scores(labels) if truth is not None else None
    due = [round(share * topic.count) for share in MOMENTS]
    moments: list[Moment] = []
    latest: Moment | None = None
    with ExitStack() as stack:
        images = stack.enter_context(BagReader(bag))
        recording = stack.enter_context(BagReader(playback.recording))
        results = ResultReader(recording, playback.topics, labels)
        truths = DriveTruth(stack.enter_context(BagReader(truth))) if truth is not None else None
        fps = topic.count / max(images.duration, 1e-3)
        video = stack.enter_context(VideoWriter(video_path, min(max(fps, 1.0), 120.0)))
        bar = stack.enter_context(
            tqdm(total=topic.count, desc="review", unit="frame", disable=not progress, dynamic_ncols=True)
        )
        size: tuple[int, int] | None = None
        clock = FrameClock()
        for index, image in enumerate(images.images([topic])):
            bar.update()
            seconds = clock.seconds(image)
            found = results.take(image.stamp)
            if found is None:
                continue
            pixels = image.decode()
            height, width = pixels.shape[:2]
            size = size or (height, width)
            result = found.result(height, width)
            traffic.add(image.stamp, found.timestamps)
            sample = truths.take(image.stamp, pixels) if truths is not None else None
            if scores is not None and sample is not None:
                scores.update(result, sample)
            shown = _above(result, SHOWN_SCORE)
            video.write(fitted(draw_overlay(pixels, shown, labels), size), seconds)
            latest = Moment(seconds, pixels, shown, (sample.classes or {}) if sample is not None else {})
            if due and index >= due[0]:
                moments.append(latest)
                due = [wanted for wanted in due if wanted > index]
        diagnostics = node_diagnostics(recording)
    if latest is None:
        reason = diagnostics["camera"].get("last error") or f"its log is {playback.node_log}"
        raise ChildError(
            f"the node published no result for the {len(traffic.published)} images of {bag} on {topic.name}: "
            f"{reason}"
        )
    return _Review(traffic, scores, diagnostics, moments or [latest])


def _above(result: Result, score: float) -> Result:
    """The result without boxes that score less."""
    if result.detections is None:
        return result
    keep = result.detections.scores >= score
    found = result.detections
    return dataclasses.replace(
        result, detections=Detections(found.boxes[keep], found.scores[keep], found.labels[keep])
    )
