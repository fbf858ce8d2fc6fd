"""The report of one model as one HTML file that needs no other: tables, plots and frames."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.evaluation.corruptions import corrupt
from pvt_mtl_perception.evaluation.pictures import Picture
from pvt_mtl_perception.evaluation.plots import (
    plot_class_iou,
    plot_confusion,
    plot_operating_points,
    plot_precision_recall,
    plot_robustness,
)
from pvt_mtl_perception.evaluation.records import Records, confusion_matrix, operating_points
from pvt_mtl_perception.evaluation.report import (
    DETECTION_SCORES,
    format_best_threshold,
    main_scores,
    mebibytes,
    percent,
)
from pvt_mtl_perception.paths import replaced

_TEMPLATE = "report.html.jinja"
_LARGEST_CONFUSION = 200
"""Classes beyond which a confusion matrix is a grey square."""
_FRAME_WIDTH = 960


@dataclass(frozen=True)
class Table:
    """Cells as they are shown.

    Attributes:
        head: of the columns.
        rows: as many cells as the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Frame:
    """A picture with a line below it.

    Attributes:
        image: as a data address.
        caption: the line.
    """

    image: str
    caption: str


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Attributes:
        title, note: may be empty.
        tables, plots, frames: in this order; plots as data addresses.
    """

    title: str = ""
    note: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[str] = ()
    frames: Sequence[Frame] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading.

    Attributes:
        title: the heading.
        blocks: what stands below.
    """

    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def png_address(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def frame_address(image: npt.NDArray[np.uint8]) -> str:
    """A uint8 (H, W, 3) RGB image as an address that holds it, at most ``_FRAME_WIDTH`` wide, as JPEG."""
    height, width = image.shape[:2]
    if width > _FRAME_WIDTH:
        size = (_FRAME_WIDTH, round(height * _FRAME_WIDTH / width))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()


def source_section(
    name: str, scores: Mapping[str, Any], records: Records, pictures: Sequence[Picture]
) -> Section:
    """What one data set shows.

    Args:
        name: of the data set.
        scores: from ``Metrics.scores``.
        records: from ``Metrics.records``.
        pictures: from ``gallery``.
    """
    main = main_scores(scores)
    blocks = [Block(tables=[Table(list(main), [[percent(value) for value in main.values()]])])]
    if detection := scores.get("detection"):
        blocks.append(_detection(detection, records))
    if segmentation := scores.get("segmentation"):
        blocks.append(_segmentation(segmentation, records))
    if classification := scores.get("classification"):
        blocks.append(_classification(classification, records))
    for kind in ("best", "worst", "random"):
        frames = [
            Frame(frame_address(p.image), f"{p.name}, {percent(p.score)} %")
            for p in pictures
            if p.kind == kind
        ]
        if frames:
            note = (
                "Labels left, prediction right; the mean of the frame's mIoU, F1 of boxes and right classes."
            )
            blocks.append(Block(f"{kind.capitalize()} frames", note, frames=frames))
    return Section(f"{name}: {scores['images']} images", blocks)


def _detection(scores: Mapping[str, Any], records: Records) -> Block:
    head = ["class", *DETECTION_SCORES.values(), "boxes"]
    boxes = sum(values["boxes"] for values in scores["per_class"].values())
    rows = [["all", *(percent(scores[key]) for key in DETECTION_SCORES), str(boxes)]]
    for name, values in scores["per_class"].items():
        cells = [percent(values[key]) if key in values else "" for key in DETECTION_SCORES]
        rows.append([name, *cells, str(values["boxes"])])
    plots, best = [], ""
    if (matches := records.detection) is not None:
        plots = [png_address(plot_precision_recall(matches))]
        if matches.positives.any():
            points = operating_points(matches)
            plots.append(png_address(plot_operating_points(matches, points)))
            best = f" {format_best_threshold(points.best())}"
    note = "COCO average precision in percent; s, m, l: boxes below 32², to 96² and above, in source pixels."
    return Block("Detection", note + best, [Table(head, rows)], plots)


def _segmentation(scores: Mapping[str, Any], records: Records) -> Block:
    outlines = scores["per_class_boundary_f"]
    rows = [["all", percent(scores["miou"]), percent(scores["boundary_f"])]]
    rows += [[name, percent(iou), percent(outlines.get(name))] for name, iou in scores["per_class"].items()]
    plots = []
    if (masks := records.segmentation) is not None:
        plots.append(png_address(plot_class_iou(masks)))
        if len(masks.classes) <= _LARGEST_CONFUSION:
            confusion = confusion_matrix(masks)
            present = confusion.sum(1) > 0
            kept = np.append(present | (confusion[:, :-1].sum(0) > 0), True)
            names = [name for name, there in zip(masks.classes, kept, strict=False) if there]
            plots.append(
                png_address(plot_confusion(confusion[kept[:-1]][:, kept], names, "pixels by label, %"))
            )
    note = (
        f"Pixel accuracy {percent(scores['pixel_accuracy'])} %. Boundary F: outline pixels within 0.75 % of "
        "the diagonal of one of their class, pooled over the images."
    )
    return Block("Segmentation", note, [Table(["class", "IoU", "boundary F"], rows)], plots)


def _classification(scores: Mapping[str, Any], records: Records) -> Block:
    head = ["group", "top-1", "balanced", "top-5", "images"]
    rows = [
        [
            group,
            percent(values["accuracy"]),
            percent(values["balanced_accuracy"]),
            percent(values.get("top5")),
            str(values["images"]),
        ]
        for group, values in scores.items()
    ]
    plots = [
        png_address(plot_confusion(confusion_matrix(group), group.classes, name))
        for name, group in records.classification.items()
        if len(group.classes) <= _LARGEST_CONFUSION
    ]
    return Block("Classification", "", [Table(head, rows)], plots)


def cost_section(cost: Mapping[str, Any]) -> Section:
    """Parameters, operations, latency and memory, from ``measure_cost``."""
    height, width = cost["input_size"]
    parts = Table(
        ["part", "M parameters", f"GFLOP at {width}x{height}"],
        [
            [part, f"{count / 1e6:.2f}", f"{cost['flops'].get(part, 0) / 1e9:.2f}"]
            for part, count in cost["parameters"].items()
        ],
    )
    times = Table(
        ["frames", "median ms", "p95 ms", "frames/s", "peak MiB"],
        [
            [
                f"{one['batch']} x {one['width']}x{one['height']}",
                f"{one['median_ms']:.1f}",
                f"{one['p95_ms']:.1f}",
                f"{one['frames_per_s']:.1f}",
                mebibytes(memory["peak_bytes"]),
            ]
            for one, memory in zip(cost["latency"], cost["memory"], strict=True)
        ],
    )
    threads = f", {cost['threads']} threads" if cost["device"] == "cpu" else ""
    note = (
        f"On {cost['device']}{threads}, {cost['precision']}, torch {cost['torch']}. A latency is that from "
        "frames in memory to results in memory, decoding and non-maximum suppression included, over "
        f"{cost['latency'][0]['calls']} calls after a warm-up. The peak is what torch holds beside the "
        f"weights, which take {cost['weights_bytes'] / 2**20:.0f} MiB, and a dash where an engine's memory "
        "is not torch's. Two operations a multiply-add."
    )
    return Section("Cost", [Block(note=note, tables=[parts, times])])


def corruption_examples(
    image: npt.NDArray[np.uint8], corruptions: Mapping[str, Collection[int]]
) -> list[Frame]:
    """One frame under each corruption at its least and greatest strength, side by side.

    Args:
        image: uint8 (H, W, 3) RGB.
        corruptions: strengths by corruption.
    """
    frames = []
    for name, strengths in corruptions.items():
        ends = sorted({min(strengths), max(strengths)})
        pictures = np.hstack([corrupt(image, name, strength) for strength in ends])
        frames.append(Frame(frame_address(pictures), f"{name}, strength {' and '.join(map(str, ends))}"))
    return frames


def robustness_section(
    sources: Mapping[str, Any], corruptions: Mapping[str, Any], examples: Sequence[Frame]
) -> Section:
    """The main scores under corruptions.

    Args:
        sources: scores without corruption by data set.
        corruptions: scores by corruption, strength and data set.
        examples: frames that show the corruptions.
    """
    blocks = []
    for source, clean in sources.items():
        plots, tables = [], []
        for score, value in main_scores(clean).items():
            values = {
                name: {
                    strength: found[score]
                    for strength, by_source in rows.items()
                    if score in (found := main_scores(by_source[source]))
                }
                for name, rows in corruptions.items()
            }
            strengths = sorted({strength for rows in values.values() for strength in rows})
            plots.append(png_address(plot_robustness(values, value, score)))
            tables.append(
                Table(
                    [score, "0", *map(str, strengths)],
                    [
                        [name, percent(value), *(percent(rows.get(strength)) for strength in strengths)]
                        for name, rows in values.items()
                    ],
                )
            )
        blocks.append(Block(source, "Scores in percent by strength.", tables, plots))
    if examples:
        blocks.append(Block("The corruptions", frames=examples))
    return Section("Robustness", blocks)


def write_scores(out: Path, report: Mapping[str, Any]) -> None:
    """Writes ``scores.json`` into a folder; its ``report.html``, which is of other scores, is removed.

    Raises:
        OSError: from the file system.
    """
    (out / "report.html").unlink(missing_ok=True)
    with replaced(out / "scores.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def write_report(path: Path, model: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Writes the report; replaces the file whole.

    Args:
        path: of the HTML file.
        model: name for the title.
        subtitle: a line below it.
        sections: in order.

    Raises:
        OSError: from the file system.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(_TEMPLATE).render(model=model, subtitle=subtitle, sections=sections)
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")
