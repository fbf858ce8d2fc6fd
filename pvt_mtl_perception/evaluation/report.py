"""Scores as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvt_mtl_perception.evaluation.records import OperatingPoint


def main_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """The main score of each task, 0..1, by name: AP, mIoU, and ``accuracy <group>``.

    Args:
        scores: of one data set, from ``evaluate``; what could not be scored is left out.
    """
    main = {
        "AP": scores.get("detection", {}).get("ap"),
        "mIoU": scores.get("segmentation", {}).get("miou"),
        **{
            f"accuracy {group}": values["accuracy"]
            for group, values in scores.get("classification", {}).items()
        },
    }
    return {name: value for name, value in main.items() if value is not None}


def percent(value: float | None) -> str:
    """0..1 in percent with one decimal, ``-`` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def format_scores(scores: Mapping[str, Any]) -> str:
    """A table of what ``evaluate`` returns, in percent."""
    lines = [f"{scores['images']} images"]
    if detection := scores.get("detection"):
        lines += _heading("detection", list(DETECTION_SCORES.values()))
        lines.append(_row("all classes", [detection[name] for name in DETECTION_SCORES]))
        lines += [
            _row(name, [values.get(key) for key in DETECTION_SCORES if key != "ar100"])
            + f"{values['boxes']:>16} boxes"
            for name, values in detection["per_class"].items()
        ]
    if segmentation := scores.get("segmentation"):
        outlines = segmentation.get("per_class_boundary_f", {})
        lines += _heading("segmentation", ["IoU", "bound. F", "pixels"])
        means = [segmentation["miou"], segmentation.get("boundary_f"), segmentation["pixel_accuracy"]]
        lines.append(_row("all classes", means))
        lines += [_row(name, [iou, outlines.get(name)]) for name, iou in segmentation["per_class"].items()]
    if classification := scores.get("classification"):
        lines += _heading("classification", ["top-1", "balanced", "top-5"])
        for group, values in classification.items():
            cells = [values["accuracy"], values["balanced_accuracy"]]
            lines.append(_row(group, [*cells, *([values["top5"]] if "top5" in values else [])]))
            lines += [
                _row(f"  {name}", [recall]) + f"{'':10}{sum(row):>18} images"
                for (name, recall), row in zip(
                    values["per_class"].items(), filter(any, values["confusion"]), strict=True
                )
            ]
    return "\n".join(lines)


def format_best_threshold(best: OperatingPoint) -> str:
    """A sentence on the score threshold of the highest F1, as the node's ``score_threshold`` takes it."""
    return (
        "F1 at IoU 0.5, the mean over the classes, is highest with a score threshold of "
        f"{best.score_threshold:.2f}: {percent(best.f1)} %, with a precision of {percent(best.precision)} % "
        f"and a recall of {percent(best.recall)} %."
    )


DETECTION_SCORES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
    "ar100": "AR100",
}
"""Keys of the detection scores, and how they are called in tables."""


def classification_scores(classes: int) -> tuple[str, ...]:
    """Keys of the scores of a label group with so many classes; among five the right one always is."""
    return ("accuracy", "balanced_accuracy", *(("top5",) if classes > 5 else ()))


def format_cost(cost: Mapping[str, Any]) -> str:
    """A table of what ``measure_cost`` returns."""
    lines = [f"{'cost':<24}{'M parameters':>14}{'GFLOP':>10}"]
    for part, parameters in cost["parameters"].items():
        lines.append(f"{part:<24}{parameters / 1e6:>14.2f}{cost['flops'].get(part, 0) / 1e9:>10.2f}")
    height, width = cost["input_size"]
    threads = f", {cost['threads']} threads" if cost["device"] == "cpu" else ""
    lines.append(f"one image of {width}x{height}; two operations a multiply-add")
    lines += ["", f"{'latency, ' + cost['device'] + threads:<24}{'median':>14}{'p95':>10}{'memory':>12}"]
    for latency, memory in zip(cost["latency"], cost["memory"], strict=True):
        frames = f"{latency['batch']} x {latency['width']}x{latency['height']}"
        lines.append(
            f"{frames:<24}{latency['median_ms']:>11.1f} ms{latency['p95_ms']:>7.1f} ms"
            f"{mebibytes(memory['peak_bytes']):>8} MiB"
        )
    if any(memory["peak_bytes"] is None for memory in cost["memory"]):
        lines.append(f"memory of {cost['backend']} is not known: it does not come from torch's allocator")
    return "\n".join(lines)


def mebibytes(count: int | None) -> str:
    """Bytes in whole MiB; a dash where they are not known."""
    return "-" if count is None else f"{count / 2**20:.0f}"


def format_robustness(sources: Mapping[str, Any], corruptions: Mapping[str, Any]) -> str:
    """A table of the main scores under each corruption, by data set, in percent.

    Args:
        sources: scores without corruption by data set.
        corruptions: by corruption, strength and data set.
    """
    lines = []
    for source, clean in sources.items():
        for score, value in main_scores(clean).items():
            strengths = sorted({strength for rows in corruptions.values() for strength in rows})
            lines += ["", f"{score}, {source}", f"{'strength':<18}{0:>8}" + _join(map(str, strengths))]
            for name, rows in corruptions.items():
                cells = [main_scores(rows[s][source]).get(score) if s in rows else None for s in strengths]
                lines.append(f"{name:<18}{percent(value):>8}" + _join(map(percent, cells)))
    return "\n".join(lines[1:])


def _join(cells: Any) -> str:
    return "".join(f"{cell:>8}" for cell in cells)


def _heading(task: str, columns: list[str]) -> list[str]:
    return ["", f"{task:<18}" + "".join(f"{column:>10}" for column in columns)]


def _row(name: str, values: list[float | None]) -> str:
    return f"{name:<18}" + "".join(f"{percent(v):>10}" for v in values)
