"""Reads every sample of some data sources once: what they hold, and what in them is broken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pvt_mtl_perception.data.mixture import SampleSource, prepare_worker
from pvt_mtl_perception.data.reading import SampleError
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.sources import (
    LabelledSource,
    SourceConfig,
    SourceView,
    named_sources,
    open_source,
)
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.labels import IGNORE_INDEX, LabelSet, TaskLabels

# COCO's bounds of small and large objects, in pixels of the square root of the area.
_SMALL, _LARGE = 32.0, 96.0
_BATCH = 8
_MOST_SIZES = 10
# ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, eq=False)
class _Facts:
    """What one sample adds to the statistics; small, because it comes from another process."""

    index: int
    name: str = ""
    size: tuple[int, int] = (0, 0)
    box_labels: npt.NDArray[np.int64] | None = None
    box_sizes: npt.NDArray[np.float32] | None = None
    ignored: int = 0
    pixels: npt.NDArray[np.int64] | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[str, str, str] | None = None


class _FactsOf(Dataset[_Facts]):
    """The samples of all sources, one after the other."""

    def __init__(self, sources: Sequence[SampleSource]) -> None:
        self._sources = tuple(sources)
        self.ends = np.cumsum([len(source) for source in sources])

    def source_of(self, position: int) -> int:
        """Which source a position belongs to."""
        return int(np.searchsorted(self.ends, position, "right"))

    def __getitem__(self, position: int) -> _Facts:
        source = self._sources[self.source_of(position)]
        index = position - int(self.ends[self.source_of(position)]) + len(source)
        try:
            return _facts(index, source[index])
        except SampleError as error:
            reason = str(error)
            return _Facts(index, bad=(error.file, error.record, reason))
        except (OSError, ValueError) as error:
            return _Facts(index, bad=("", "", str(error)))

    def __len__(self) -> int:
        return int(self.ends[-1])


def _facts(index: int, sample: Sample) -> _Facts:
    sizes = None
    if sample.boxes is not None:
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        sizes = np.sqrt(sides[:, 0] * sides[:, 1])
    return _Facts(
        index=index,
        name=sample.name,
        size=(sample.image.shape[1], sample.image.shape[0]),
        box_labels=sample.box_labels,
        box_sizes=sizes,
        ignored=len(sample.ignore_boxes),
        pixels=None if sample.mask is None else np.bincount(sample.mask.ravel(), minlength=256),
        classes=dict(sample.classes or {}),
    )


class _Statistics:
    """Sums of ``_Facts``.

    Attributes:
        names: of the samples.
        bad: a record for each sample that could not be read.
    """

    def __init__(self, labels: TaskLabels) -> None:
        self.labels = labels
        self.names: list[str] = []
        self.bad: list[dict[str, Any]] = []
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._unlabelled: Counter[str] = Counter()
        self._boxes = np.zeros(len(labels.detection) if labels.detection else 0, np.int64)
        self._box_images = np.zeros_like(self._boxes)
        self._box_sizes: list[npt.NDArray[np.float32]] = []
        self._ignored = 0
        self._pixels = np.zeros(256, np.int64)
        self._mask_images = np.zeros(256, np.int64)
        self._classes = {group: Counter[int]() for group in labels.classification}

    def add(self, facts: _Facts) -> None:
        """Counts one sample.

        A class id outside of its label set makes a sample bad.
        """
        bad = facts.bad or self._stranger(facts)
        if bad is not None:
            file, record, reason = bad
            self.bad.append({"sample": facts.index, "file": file, "record": record, "error": reason})
            return
        self.names.append(facts.name)
        self._sizes[facts.size] += 1
        if facts.box_labels is not None and facts.box_sizes is not None:
            counts = np.bincount(facts.box_labels, minlength=len(self._boxes))
            self._boxes += counts
            self._box_images += counts > 0
            self._box_sizes.append(facts.box_sizes)
            self._ignored += facts.ignored
        elif self.labels.detection is not None:
            self._unlabelled["detection"] += 1
        if facts.pixels is not None:
            self._pixels += facts.pixels
            self._mask_images += facts.pixels > 0
        elif self.labels.segmentation is not None:
            self._unlabelled["segmentation"] += 1
        for group, counter in self._classes.items():
            class_id = facts.classes.get(group, -1)
            if class_id >= 0:
                counter[class_id] += 1
            else:
                self._unlabelled[f"classification of {group}"] += 1

    def _stranger(self, facts: _Facts) -> tuple[str, str, str] | None:
        def outside(what: str, class_id: int, labels: LabelSet) -> tuple[str, str, str]:
            reason = f"{what} has class id {class_id}; {labels.name!r} has 0..{len(labels) - 1}"
            return facts.name, "", f"{facts.name}: {reason}"

        detection, segmentation = self.labels.detection, self.labels.segmentation
        if detection and facts.box_labels is not None:
            largest = int(facts.box_labels.max(initial=0))
            if largest >= len(detection):
                return outside("a box", largest, detection)
        if segmentation and facts.pixels is not None:
            known = np.arange(256) < len(segmentation)
            known[IGNORE_INDEX] = True
            if len(strangers := np.flatnonzero((facts.pixels > 0) & ~known)):
                return outside("the mask", int(strangers[0]), segmentation)
        for group, labels in self.labels.classification.items():
            if facts.classes.get(group, -1) >= len(labels):
                return outside(f"group {group!r}", facts.classes[group], labels)
        return None

    def result(self) -> dict[str, Any]:
        """Plain data for the report."""
        found: dict[str, Any] = {
            "images": len(self.names),
            "image_sizes": {
                f"{width}x{height}": n for (width, height), n in self._sizes.most_common(_MOST_SIZES)
            },
            "other_sizes": sum(n for _, n in self._sizes.most_common()[_MOST_SIZES:]),
            "unlabelled": dict(self._unlabelled),
            "bad_samples": self.bad,
        }
        if detection := self.labels.detection:
            sizes = np.concatenate(self._box_sizes) if self._box_sizes else np.zeros(0, np.float32)
            found["detection"] = {
                "label_set": detection.name,
                "boxes": int(self._boxes.sum()),
                "ignore_boxes": self._ignored,
                "small": int((sizes < _SMALL).sum()),
                "medium": int(((sizes >= _SMALL) & (sizes < _LARGE)).sum()),
                "large": int((sizes >= _LARGE).sum()),
                "size_quantiles": _quantiles(sizes),
                "classes": {
                    name: {"boxes": int(boxes), "images": int(images)}
                    for name, boxes, images in zip(
                        detection.names, self._boxes, self._box_images, strict=True
                    )
                },
            }
        if segmentation := self.labels.segmentation:
            classes = len(segmentation)
            labelled, total = int(self._pixels[:classes].sum()), int(self._pixels.sum())
            found["segmentation"] = {
                "label_set": segmentation.name,
                "unlabelled_share": (total - labelled) / total if total else None,
                "classes": {
                    name: {
                        "share": float(self._pixels[i]) / labelled if labelled else 0.0,
                        "images": int(self._mask_images[i]),
                    }
                    for i, name in enumerate(segmentation.names)
                },
            }
        if self.labels.classification:
            found["classification"] = {
                group: {
                    "label_set": labels.name,
                    "classes": {name: self._classes[group][i] for i, name in enumerate(labels.names)},
                }
                for group, labels in self.labels.classification.items()
            }
        return found


def _quantiles(sizes: npt.NDArray[np.float32]) -> dict[str, float]:
    if not len(sizes):
        return {}
    points = (0.05, 0.25, 0.5, 0.75, 0.95)
    values = np.quantile(sizes, points)
    return {f"{100 * p:.0f}%": round(float(v), 1) for p, v in zip(points, values, strict=True)}


def check_sources(
    sources: Mapping[str, Sequence[SourceConfig]], labels: TaskLabels, workers: int = 2
) -> tuple[dict[str, Any], list[tuple[str, LabelledSource]]]:
    """Reads all samples of all sources, with a progress bar.

    Args:
        sources: by the part of a configuration that lists them, such as ``train`` and ``evaluate``.
        labels: label sets of the model.
        workers: reading processes; 0 reads in this one.

    Returns:
        The report as plain data, and the sources that could be opened, by a name for each. A source that
        cannot be opened is in the report with its error; one that is listed twice is read once.
    """
    reports: list[dict[str, Any]] = []
    opened: list[tuple[str, LabelledSource]] = []
    places: list[tuple[str, dict[str, Any]]] = []
    names: dict[str, set[str]] = {}
    seen: list[SourceConfig] = []
    for part, configs in sources.items():
        for name, config in named_sources(configs).items():
            if config in seen:
                continue
            seen.append(config)
            title = f"{part}: {name}"
            report: dict[str, Any] = {"name": title, "root": config.root}
            reports.append(report)
            try:
                source = open_source(config, labels)
            except (OSError, ValueError) as error:
                report["error"] = str(error)
                continue
            if source is None:
                report["absent"] = f"no folder {os.path.expandvars(config.root or '')}"
                continue
            _keep_nothing(source)
            report |= {"samples": len(source), "notes": list(getattr(source, "notes", ()))}
            opened.append((title, source))
            places.append((part, report))
    for (part, report), statistics in zip(places, _read_all(opened, workers), strict=True):
        report |= statistics.result()
        names.setdefault(part, set()).update(statistics.names)
    shared = {
        f"{first} and {second}": sorted(names[first] & names[second])
        for i, first in enumerate(names)
        for second in list(names)[i + 1 :]
        if first == "train" and names[first] & names[second]
    }
    return {"sources": reports, "in_both": shared}, opened


def _keep_nothing(source: LabelledSource) -> None:
    """A pool of rendered frames in each worker would cost a gigabyte and serve nobody after one pass."""
    data = source.data if isinstance(source, SourceView) else source
    if isinstance(data, SyntheticDataset):
        data.keep = False


def _read_all(sources: Sequence[tuple[str, LabelledSource]], workers: int) -> list[_Statistics]:
    """The statistics of each source; the same processes read all, because starting some takes seconds."""
    if not sources:
        return []
    dataset = _FactsOf([source for _, source in sources])
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=_BATCH,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=prepare_worker,
    )
    every = [_Statistics(source.labels) for _, source in sources]
    position = 0
    with tqdm(total=len(dataset), unit="image", dynamic_ncols=True) as bar:
        for several in loader:
            for facts in several:
                number = dataset.source_of(position)
                every[number].add(facts)
                position += 1
            bar.set_description(sources[number][0], refresh=False)
            bar.set_postfix(bad=sum(len(statistics.bad) for statistics in every), refresh=False)
            bar.update(len(several))
    return every


def count_problems(report: Mapping[str, Any]) -> int:
    """Sources that cannot be opened and samples that cannot be read."""
    return sum(("error" in source) + len(source.get("bad_samples", ())) for source in report["sources"])


def markdown(report: Mapping[str, Any]) -> str:
    """The report to read, from what ``check_sources`` returns."""
    problems = count_problems(report)
    lines = ["# Data", "", f"{problems or 'No'} problem{'' if problems == 1 else 's'}.", ""]
    for both, names in report["in_both"].items():
        lines += [f"**{len(names)} images are in {both}**, the first {names[0]}.", ""]
    for source in report["sources"]:
        lines += [f"## {source['name']}", ""]
        if "error" in source:
            lines += [f"Cannot be opened: {source['error']}", ""]
        elif "absent" in source:
            lines += [f"Left out: {source['absent']}.", ""]
        else:
            lines += _source_lines(source)
    return "\n".join(lines)


def _source_lines(source: Mapping[str, Any]) -> list[str]:
    sizes = [f"{size} ({count})" for size, count in source["image_sizes"].items()]
    if source["other_sizes"]:
        sizes.append(f"other ({source['other_sizes']})")
    lines = [
        f"- {source['images']} images of {source['samples']} read; sizes: {', '.join(sizes) or 'none'}",
        *(f"- {note}" for note in source["notes"]),
        *(f"- without {task}: {count}" for task, count in source["unlabelled"].items()),
        "",
    ]
    if source["bad_samples"]:
        lines += ["| sample | error |", "|---|---|"]
        lines += [f"| {bad['sample']} | {_cell(bad['error'])} |" for bad in source["bad_samples"]]
        lines.append("")
    if detection := source.get("detection"):
        quantiles = ", ".join(f"{share} {value}" for share, value in detection["size_quantiles"].items())
        lines += [
            f"### Detection ({detection['label_set']})",
            "",
            f"{detection['boxes']} boxes and {detection['ignore_boxes']} ignore boxes; "
            f"small {detection['small']}, medium {detection['medium']}, large {detection['large']} "
            f"(square root of the area below 32, below 96, above); quantiles: {quantiles or 'none'}",
            "",
            "| class | boxes | images |",
            "|---|---|---|",
            *(f"| {name} | {c['boxes']} | {c['images']} |" for name, c in detection["classes"].items()),
            "",
        ]
    if segmentation := source.get("segmentation"):
        share = segmentation["unlabelled_share"]
        lines += [
            f"### Segmentation ({segmentation['label_set']})",
            "",
            "no masks" if share is None else f"{100 * share:.1f} % of the pixels are unlabelled",
            "",
            "| class | share of labelled pixels (%) | images |",
            "|---|---|---|",
            *(
                f"| {name} | {100 * c['share']:.3f} | {c['images']} |"
                for name, c in segmentation["classes"].items()
            ),
            "",
        ]
    for group, values in source.get("classification", {}).items():
        lines += [
            f"### Classification of {group} ({values['label_set']})",
            "",
            "| class | images |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in values["classes"].items()),
            "",
        ]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def draw_contact_sheet(sources: Sequence[tuple[str, LabelledSource]], path: Path, columns: int = 6) -> None:
    """A picture with evenly spaced samples of each source and their labels, a row a source.

    Masks are drawn in the colours of their label set, boxes with their class, ignore boxes dashed. Samples
    that cannot be read are passed over.

    Args:
        sources: names and data sets; at least one.
        path: of the PNG file.
        columns: samples of each source.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * columns, 3.1 * len(sources)), layout="constrained")
    grid = figure.subplots(len(sources), columns, squeeze=False)
    for axes, (title, source) in zip(grid, sources, strict=True):
        samples = _spread(source, columns)
        for axis in axes:
            axis.set_axis_off()
        axes[0].set_title(title, loc="left", fontsize=11, fontweight="bold", pad=22)
        for axis, sample in zip(axes, samples, strict=False):
            _draw_sample(axis, sample, source.labels)
    figure.savefig(path, dpi=110)


def _spread(source: LabelledSource, count: int) -> list[Sample]:
    """Up to ``count`` samples from all over a source that can be read."""
    samples: list[Sample] = []
    for index in np.linspace(0, len(source) - 1, min(count, len(source)), dtype=np.int64).tolist():
        try:
            samples.append(source[index])
        except (OSError, ValueError):
            continue
    return samples


def _draw_sample(axis: Any, sample: Sample, labels: TaskLabels) -> None:
    from matplotlib.patches import Rectangle

    picture = sample.image
    if sample.mask is not None and labels.segmentation is not None:
        labelled = (sample.mask < len(labels.segmentation))[..., None]
        blended = 0.45 * picture + 0.55 * labels.segmentation.palette[sample.mask]
        picture = np.where(labelled, blended, picture).astype(np.uint8)
    axis.imshow(picture, interpolation="antialiased")
    if sample.boxes is not None and sample.box_labels is not None and labels.detection is not None:
        for box, label in zip(sample.boxes.tolist(), sample.box_labels.tolist(), strict=True):
            color = np.array(labels.detection.colors[label]) / 255
            axis.add_patch(_rectangle(Rectangle, box, color, "-"))
            axis.text(
                box[0],
                box[1],
                labels.detection.names[label],
                fontsize=5,
                color="black" if color @ _LUMA > 0.5 else "white",
                va="bottom",
                clip_on=True,
                bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6},
            )
        for box in sample.ignore_boxes.tolist():
            axis.add_patch(_rectangle(Rectangle, box, "white", "--"))
    classes = [
        f"{group}: {labels.classification[group].names[class_id]}"
        for group, class_id in (sample.classes or {}).items()
        if class_id >= 0
    ]
    parts = Path(sample.name).parts[-2:]
    axis.text(
        0.0,
        1.01,
        "\n".join(filter(None, ["/".join(parts)[-44:], ", ".join(classes)])),
        transform=axis.transAxes,
        fontsize=6,
        va="bottom",
    )


def _rectangle(kind: Any, box: Sequence[float], color: Any, style: str) -> Any:
    x1, y1, x2, y2 = box
    # imshow puts the centre of the first pixel at 0, boxes its left edge.
    return kind((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=color, lw=0.9, linestyle=style)
