"""What a playback shows: frames, rate and latency of the node, and its scores against ground truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.demo.drive import truth_labels
from pvt_mtl_perception.demo.playback import DIAGNOSTICS_TOPIC
from pvt_mtl_perception.evaluation.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.result import Result


def publishing_times(path: Path) -> dict[int, int]:
    """From the player's log: stamp to the time at which the image was published, both ns."""
    entries = map(json.loads, path.read_text().splitlines())
    return {entry["stamp"]: entry["published"] for entry in entries}


@dataclass
class Traffic:
    """Counts and times of the frames that went through the node.

    Attributes:
        published: stamp to publishing time of every image, ns.
        received: of the processed frames, when their last output was received, ns.
    """

    published: Mapping[int, int]
    received: dict[int, int] = field(default_factory=dict)

    def add(self, stamp: int, timestamps: Mapping[str, int]) -> None:
        """Counts a processed frame.

        Args:
            stamp: of its image, ns.
            timestamps: when each of its outputs was received, ns.
        """
        self.received[stamp] = max(timestamps.values())

    def summary(self) -> dict[str, Any]:
        """``frames_in``, ``frames_processed``, ``rate_in`` and ``rate_out`` in Hz, and ``latency_ms``.

        The latency of a frame runs from its publishing to the arrival of its last output at the recorder.
        """
        latency = np.array([self.received[stamp] - self.published[stamp] for stamp in self.received]) / 1e6
        return {
            "frames_in": len(self.published),
            "frames_processed": len(self.received),
            "rate_in": _rate(list(self.published.values())),
            "rate_out": _rate(list(self.received.values())),
            "latency_ms": _percentiles(latency),
        }


def _rate(times: list[int]) -> float | None:
    if len(times) < 2:
        return None
    seconds = (max(times) - min(times)) / 1e9
    return round((len(times) - 1) / seconds, 2) if seconds else None


def _percentiles(values: np.ndarray[Any, Any]) -> dict[str, float] | None:
    if not values.size:
        return None
    return {name: round(float(np.percentile(values, q)), 1) for name, q in (("p50", 50), ("p95", 95))}


def node_diagnostics(recording: BagReader) -> dict[str, dict[str, str]]:
    """What the node has said last in ``/diagnostics``, by key, of itself (``node``) and its ``camera``.

    A rate or latency is empty as soon as the images have ended; the last one that was not empty counts.
    """
    found: dict[str, dict[str, str]] = {"node": {}, "camera": {}}
    for _, _, message in recording.messages([DIAGNOSTICS_TOPIC]):
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            kind = "camera" if "frames processed" in values else "node"
            found[kind].update({key: value for key, value in values.items() if value})
    return found


class Scores:
    """Scores of the tasks whose label sets are those of the ground truth.

    Args:
        labels: the model's.
    """

    def __init__(self, labels: TaskLabels) -> None:
        truth = truth_labels()
        self._detection = self._segmentation = self._classification = None
        if labels.detection is not None and labels.detection == truth.detection:
            self._detection = DetectionMetric(labels.detection)
        if labels.segmentation is not None and labels.segmentation == truth.segmentation:
            self._segmentation = SegmentationMetric(labels.segmentation)
        groups = {
            group: label_set
            for group, label_set in labels.classification.items()
            if truth.classification.get(group) == label_set
        }
        if groups:
            self._classification = ClassificationMetric(groups)

    def update(self, result: Result, truth: Sample) -> None:
        """Counts a processed frame; an output of it that was lost on the way is passed over."""
        if self._detection is not None and result.detections is not None:
            self._detection.update(result, truth)
        if self._segmentation is not None and result.segmentation is not None:
            self._segmentation.update(result, truth)
        if self._classification is not None and result.classification is not None:
            self._classification.update(result, truth)

    def compute(self) -> dict[str, Any]:
        """By task, what its metric computes; tasks without a frame are absent."""
        metrics = {
            "detection": self._detection,
            "segmentation": self._segmentation,
            "classification": self._classification,
        }
        return {
            task: metric.compute() for task, metric in metrics.items() if metric is not None and metric.images
        }


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's main figures: what and how much."""
    frames, rate, latency = report["frames"], report["rate_hz"], report["latency_ms"]
    rows = [
        ("frames", " · ".join(f"{value} {name}" for name, value in frames.items() if value is not None)),
        ("rate", f"{_number(rate['in'])} Hz in · {_number(rate['out'])} Hz out"),
    ]
    if end_to_end := latency["image_to_last_result"]:
        rows.append(("latency", f"p50 {end_to_end['p50']:.0f} ms · p95 {end_to_end['p95']:.0f} ms"))
    scores = report["scores"] or {}
    if detection := scores.get("detection"):
        rows.append(("detection", f"AP50 {_percent(detection['ap50'])} · AP {_percent(detection['ap'])}"))
    if segmentation := scores.get("segmentation"):
        rows.append(
            (
                "segmentation",
                f"mIoU {_percent(segmentation['miou'])} · pixels {_percent(segmentation['pixel_accuracy'])}",
            )
        )
    for group, values in scores.get("classification", {}).items():
        rows.append((group, f"accuracy {_percent(values['accuracy'])}"))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
