"""One picture of a drive: input, boxes, mask and classes side by side at a few moments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pvt_mtl_perception.inference.render import colorize, draw_overlay
from pvt_mtl_perception.labels import LabelSet, TaskLabels
from pvt_mtl_perception.result import Detections, Result

Pixels = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

CELL_WIDTH = 640
GAP = 10
MARGIN = 28
CLASS_ROWS = 3
"""Classes of a group that are shown, the likeliest ones."""

BACKGROUND: Color = (250, 250, 252)
PANEL: Color = (255, 255, 255)
INK: Color = (28, 32, 40)
FAINT: Color = (112, 118, 130)
BAR: Color = (66, 120, 214)
BAR_FAINT: Color = (196, 210, 236)
RIGHT: Color = (38, 150, 84)

LEGEND_SHARE = 0.001
"""A class with less of the pixels is left out of the legend."""


@dataclass(frozen=True)
class Moment:
    """A frame to show.

    Attributes:
        seconds: from the start of the drive.
        image: uint8 (H, W, 3) RGB.
        result: of it.
        truth: for each label group its true class, where it is known.
    """

    seconds: float
    image: Pixels
    result: Result
    truth: Mapping[str, int]


def write_summary(
    path: Path, title: str, subtitle: str, moments: Sequence[Moment], labels: TaskLabels
) -> None:
    """Writes the picture as PNG: a row a moment, a column a task, and the mask's legend below.

    Args:
        path: the file.
        title, subtitle: above the rows.
        moments: at least one.
        labels: label sets of the results.
    """
    columns = ["input"]
    if labels.detection is not None:
        columns.append("detection")
    if labels.segmentation is not None:
        columns.append("segmentation")
    if labels.classification:
        columns.append("classification")
    heights = [round(CELL_WIDTH * m.result.height / m.result.width) for m in moments]
    legend = _legend_entries(moments, labels.segmentation)
    width = 2 * MARGIN + len(columns) * CELL_WIDTH + (len(columns) - 1) * GAP
    top = 132
    legend_rows = _legend_layout(legend, width - 2 * MARGIN)
    bottom = 40 * len(legend_rows) + (16 if legend_rows else 0)
    height = top + sum(heights) + GAP * (len(heights) - 1) + bottom + MARGIN

    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 22), title, INK, _font(30))
    draw.text((MARGIN, 62), subtitle, FAINT, _font(19))
    for column, name in enumerate(columns):
        draw.text((MARGIN + column * (CELL_WIDTH + GAP), top - 30), name, INK, _font(20))
    y = top
    for moment, cell_height in zip(moments, heights, strict=True):
        for column, name in enumerate(columns):
            x = MARGIN + column * (CELL_WIDTH + GAP)
            if name == "classification":
                _draw_classes(draw, (x, y), cell_height, moment, labels)
            else:
                cell = _cell(name, moment, labels, cell_height)
                canvas.paste(Image.fromarray(cell), (x, y))
        _draw_tag(draw, (MARGIN + 8, y + 8), f"{moment.seconds:.1f} s")
        y += cell_height + GAP
    y += 6
    for row in legend_rows:
        x = MARGIN
        for name, color, advance in row:
            draw.rounded_rectangle((x, y + 8, x + 26, y + 28), 4, color, outline=(0, 0, 0, 60))
            draw.text((x + 34, y + 6), name, INK, _font(19))
            x += advance
        y += 40
    canvas.save(path)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _cell(name: str, moment: Moment, labels: TaskLabels, height: int) -> Pixels:
    """A panel of one task, drawn at the panel's size so that lines and letters stay sharp."""
    result = moment.result
    if name == "segmentation" and result.segmentation is not None and labels.segmentation is not None:
        colored = colorize(result.segmentation.mask, labels.segmentation)
        return np.asarray(
            cv2.resize(colored, (CELL_WIDTH, height), interpolation=cv2.INTER_NEAREST), np.uint8
        )
    image = np.asarray(cv2.resize(moment.image, (CELL_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    if name == "detection" and result.detections is not None:
        scale = np.array([CELL_WIDTH / result.width, height / result.height] * 2, np.float32)
        found = Detections(
            result.detections.boxes * scale, result.detections.scores, result.detections.labels
        )
        boxes_only = dataclasses.replace(
            result,
            height=height,
            width=CELL_WIDTH,
            detections=found,
            segmentation=None,
            classification=None,
        )
        return draw_overlay(image, boxes_only, labels)
    return image


def _draw_tag(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str) -> None:
    font = _font(17)
    box = draw.textbbox((corner[0] + 8, corner[1] + 4), text, font=font)
    draw.rounded_rectangle((*corner, box[2] + 8, box[3] + 6), 5, (0, 0, 0))
    draw.text((corner[0] + 8, corner[1] + 4), text, (255, 255, 255), font)


def _draw_classes(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], height: int, moment: Moment, labels: TaskLabels
) -> None:
    """For each group its likeliest classes with bars; the true class is marked where it is known."""
    x, y = corner
    draw.rounded_rectangle((x, y, x + CELL_WIDTH, y + height), 6, PANEL, outline=(226, 228, 234))
    classification = moment.result.classification
    if classification is None:
        return
    groups = list(classification.probabilities.items())
    group_height = height / len(groups)
    size = int(np.clip(group_height / 6.8, 11, 19))
    line = size * 1.5
    left, bar_left, bar_right = x + 20, x + 250, x + CELL_WIDTH - 70
    for index, (group, probabilities) in enumerate(groups):
        label_set = labels.classification[group]
        row = y + index * group_height + (group_height - (CLASS_ROWS + 1.2) * line) / 2
        draw.text((left, row), group, FAINT, _font(size))
        row += 1.2 * line
        for class_id in np.argsort(-probabilities, kind="stable")[:CLASS_ROWS]:
            probability = float(probabilities[class_id])
            best = class_id == probabilities.argmax()
            true = moment.truth.get(group) == class_id
            ink = RIGHT if true else INK if best else FAINT
            draw.text((left, row), label_set.names[class_id] + ("  · true" if true else ""), ink, _font(size))
            end = bar_left + (bar_right - bar_left) * probability
            color = (RIGHT if true else BAR) if best else BAR_FAINT
            if end >= bar_left + 1:
                draw.rectangle((bar_left, row + 3, end, row + size + 2), color)
            draw.text((bar_right + 10, row), f"{probability:.2f}", ink, _font(size))
            row += line


def _legend_entries(moments: Sequence[Moment], labels: LabelSet | None) -> list[tuple[str, Color]]:
    """Names and colours of the classes in the shown masks, by their ids."""
    masks = [m.result.segmentation.mask for m in moments if m.result.segmentation is not None]
    if labels is None or not masks:
        return []
    shares = np.mean([np.bincount(mask.ravel(), minlength=256) / mask.size for mask in masks], axis=0)
    return [
        (name, color)
        for name, color, share in zip(labels.names, labels.colors, shares, strict=False)
        if share >= LEGEND_SHARE
    ]


def _legend_layout(entries: Sequence[tuple[str, Color]], width: int) -> list[list[tuple[str, Color, int]]]:
    """The entries in rows, each with its width in pixels."""
    rows: list[list[tuple[str, Color, int]]] = []
    used = width
    for name, color in entries:
        advance = 34 + round(_font(19).getlength(name)) + 30
        if used + advance > width:
            rows.append([])
            used = 0
        rows[-1].append((name, color, advance))
        used += advance
    return rows
