"""Plots of an evaluation as PNG images in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pvt_mtl_perception.evaluation.records import (
    RECALL_POINTS,
    DetectionRecords,
    OperatingPoints,
    SegmentationRecords,
    class_boundary_f,
    class_iou,
    precision_curves,
)

_MOST_NAMED = 40
"""Classes whose names are legible along an axis."""
_MOST_CURVES = 20


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return buffer.getvalue()


def plot_confusion(confusion: npt.NDArray[np.float64], names: Sequence[str], title: str) -> bytes:
    """A confusion matrix, each row as parts of its sum; rows without a label stay white.

    Args:
        confusion: (C, C), or (C, C + 1) with a last column of predictions that are ignored.
        names: of the C classes.
        title: of the plot.
    """
    columns = [*names, "ignored"][: confusion.shape[1]]
    if confusion.shape[1] > len(names) and not confusion[:, -1].any():
        confusion, columns = confusion[:, :-1], columns[:-1]
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)
    side = float(np.clip(0.42 * len(names) + 1.5, 3, 10))
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    axes.set(title=title, xlabel="predicted", ylabel="labelled")
    if len(names) <= _MOST_NAMED:
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.6 else "black"
                axes.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color
                )
    return _png(figure)


def plot_precision_recall(records: DetectionRecords) -> bytes:
    """Interpolated precision over recall at IoU 0.5 and 0.75, a curve for each class with boxes."""
    curves = precision_curves(records, areas=1)[0]
    figure = Figure(figsize=(10, 4.2))
    boxes = records.positives[:, :, 0].sum(0)
    shown = [label for label in np.argsort(-boxes, kind="stable") if boxes[label]][:_MOST_CURVES]
    for axes, threshold, iou in zip(figure.subplots(1, 2, sharey=True), (0, 5), (0.5, 0.75), strict=True):
        for number, label in enumerate(shown):
            ap = curves[threshold, label].mean()
            axes.plot(
                RECALL_POINTS,
                curves[threshold, label],
                linestyle=("-", "--")[number // 10],
                label=f"{records.classes[label]} ({100 * ap:.1f})",
            )
        axes.set(title=f"IoU {iou}", xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, title="class (AP)", title_fontsize=7)
    figure.axes[0].set_ylabel("precision")
    return _png(figure)


def plot_operating_points(records: DetectionRecords, points: OperatingPoints) -> bytes:
    """Mean precision, recall and F1, and F1 of each class, over the score threshold, at IoU 0.5."""
    threshold = points.best().score_threshold
    figure = Figure(figsize=(10, 4.2))
    means, classes = figure.subplots(1, 2, sharey=True)
    boxes = records.positives[:, :, 0].sum(0)
    there = boxes > 0
    for name in ("precision", "recall", "f1"):
        label = {"f1": "F1"}.get(name, name)
        known = np.ma.masked_invalid(getattr(points, name)[:, there])
        means.plot(points.thresholds, known.mean(1), label=label)
    shown = [label for label in np.argsort(-boxes, kind="stable") if boxes[label]][:_MOST_CURVES]
    for number, label in enumerate(shown):
        curve = points.f1[:, label]
        classes.plot(
            points.thresholds,
            curve,
            linestyle=("-", "--")[number // 10],
            label=f"{records.classes[label]} ({points.thresholds[curve.argmax()]:.2f})",
        )
    means.set(title="mean over the classes", xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.02))
    classes.set(title="F1", xlabel="score threshold", xlim=(0, 1))
    for axes in (means, classes):
        axes.axvline(threshold, color="grey", linewidth=0.8)
        axes.grid(alpha=0.3)
    means.legend(fontsize=8)
    classes.legend(fontsize=7, title="class (its best)", title_fontsize=7)
    return _png(figure)


def plot_class_iou(records: SegmentationRecords) -> bytes:
    """IoU and boundary F of each class that is labelled, in percent."""
    iou, f = class_iou(records), class_boundary_f(records)
    shown = np.flatnonzero(~np.isnan(iou))
    figure = Figure(figsize=(7, float(np.clip(0.3 * len(shown) + 1, 2.5, 30))))
    axes = figure.subplots()
    places = np.arange(len(shown))
    axes.barh(places - 0.2, 100 * iou[shown], 0.4, label="IoU")
    axes.barh(places + 0.2, 100 * np.nan_to_num(f[shown]), 0.4, label="boundary F")
    axes.set_yticks(places, [records.classes[label] for label in shown])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="%")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return _png(figure)


def plot_robustness(values: Mapping[str, Mapping[int, float]], clean: float | None, title: str) -> bytes:
    """One score over the strength of each corruption.

    Args:
        values: by corruption and strength, 0..1.
        clean: without corruption, which stands at strength 0.
        title: of the plot.
    """
    figure = Figure(figsize=(5.5, 3.6))
    axes = figure.subplots()
    for name, by_strength in values.items():
        points = dict(by_strength) if clean is None else {0: clean, **by_strength}
        strengths = sorted(points)
        axes.plot(strengths, [100 * points[strength] for strength in strengths], marker="o", label=name)
    axes.set(title=title, xlabel="strength", ylabel="%")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)
