"""Scores as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def format_scores(scores: Mapping[str, Any]) -> str:
    """A table of what ``evaluate`` returns, in percent."""
    lines = [f"{scores['images']} images"]
    if detection := scores.get("detection"):
        lines += _heading("detection", [_DETECTION_HEADS[name] for name in _DETECTION_HEADS])
        lines.append(_row("all classes", [detection[name] for name in _DETECTION_HEADS]))
        lines += [
            _row(name, [values["ap"], values["ap50"]]) + f"{'':40}{values['boxes']:>8} boxes"
            for name, values in detection["per_class"].items()
        ]
    if segmentation := scores.get("segmentation"):
        lines += _heading("segmentation", ["mIoU", "pixels"])
        lines.append(_row("all classes", [segmentation["miou"], segmentation["pixel_accuracy"]]))
        lines += [_row(name, [iou]) for name, iou in segmentation["per_class"].items()]
    if classification := scores.get("classification"):
        lines += _heading("classification", ["top-1", "balanced", "top-5"])
        for group, values in classification.items():
            cells = [values["accuracy"], values["balanced_accuracy"]]
            lines.append(_row(group, [*cells, *([values["top5"]] if "top5" in values else [])]))
            lines += [
                _row(f"  {name}", [recall]) + f"{'':8}{sum(row):>16} images"
                for (name, recall), row in zip(
                    values["per_class"].items(), filter(any, values["confusion"]), strict=True
                )
            ]
    return "\n".join(lines)


_DETECTION_HEADS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
    "ar100": "AR100",
}


def _heading(task: str, columns: list[str]) -> list[str]:
    return ["", f"{task:<18}" + "".join(f"{column:>8}" for column in columns)]


def _row(name: str, values: list[float | None]) -> str:
    return f"{name:<18}" + "".join(f"{'-':>8}" if v is None else f"{100 * v:8.1f}" for v in values)
