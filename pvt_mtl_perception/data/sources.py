"""Data sets by name, as a configuration asks for them, in the labels of the model that learns from them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.ade20k import Ade20kDataset
from pvt_mtl_perception.data.bdd100k import Bdd100kDataset
from pvt_mtl_perception.data.camvid import HELD_OUT_FOLD, CamVidDataset
from pvt_mtl_perception.data.cityscapes import CityscapesDataset
from pvt_mtl_perception.data.coco import CocoDataset
from pvt_mtl_perception.data.generic import GenericDataset
from pvt_mtl_perception.data.imagenet import ImageNetDataset
from pvt_mtl_perception.data.mixture import SampleSource
from pvt_mtl_perception.data.reading import map_mask
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import check_scale
from pvt_mtl_perception.labels import IGNORE_INDEX, LabelSet, TaskLabels, load_label_set

_SPLIT = "train"
_FRAMES = 200
_FRAME_SIZE = (640, 384)

TASKS = ("classification", "detection", "segmentation")


class LabelledSource(SampleSource, Protocol):
    """A data set that says which label sets its samples' ids belong to; None or absent: never labelled."""

    @property
    def labels(self) -> TaskLabels:
        """The label sets of the tasks and groups that its samples may label."""
        ...


@runtime_checkable
class PartlyLabelled(Protocol):
    """A data set that knows, without reading the samples, which of them label a task."""

    def labelled(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """By task, bool (samples,)."""
        ...


@dataclass(frozen=True)
class SourceConfig:
    """One data set of a mixture.

    Attributes:
        kind: reader: ``ade20k``, ``bdd100k``, ``camvid``, ``cityscapes``, ``coco``, ``generic``,
            ``imagenet`` or ``synthetic``.
        ratio: share of the samples drawn from it, relative to the other sources.
        root: folder of a data set on disk; ``$NAME`` stands for an environment variable.
        split: ``train`` or ``val``; for synthetic scenes ``train`` or ``test``; for CamVid also ``fit`` and
            ``held_out``, which part its training frames. A generic source has none.
        optional: leave the source out, saying so, where ``root`` does not exist.
        frames: size of a synthetic source, which has no natural end: the pool that training draws from
            (held in memory after its first pass), or the frames that are scored.
        base_seed: where the training scenes of a synthetic source begin; other seeds, other scenes.
        frame_size: (width, height) in pixels of the frames of a synthetic source.
        cache: folder that the frames of a synthetic source are kept in, for runs that share them;
            ``$NAME`` stands for an environment variable.
        containing: detection classes; every frame of a synthetic source has a box of one of them.
        fold: which of CamVid's five folds is ``held_out``, 0 to 4; the middle one where None.
        tasks: keep the labels of these tasks only, so that data with several kinds of labels can stand for
            data with one; None keeps all.
            Samples without a label of the tasks that are learned are left out where the data set knows them.
        fraction: use this part of the samples that label any of ``tasks``, drawn by ``subset_seed``, the
            same whatever is learned; a larger part contains a smaller.
        limit: use at most so many samples, drawn likewise; ``fraction`` is then a part of these.
        subset_seed: of ``fraction`` and ``limit``.
        scale: bounds of the scale factor in training; the phase's where None.
        images: folder of images (coco, generic), relative to ``root``.
        annotations: COCO instances JSON (coco, generic), relative to ``root``.
        masks: folder of masks (generic), relative to ``root``.
        table: CSV file of classes (generic), relative to ``root``.
        detection_labels, segmentation_labels: names or paths of the label sets (generic).
        classification_labels: names or paths of the label sets by group (generic; ade20k: ``scene``).

    Raises:
        ValueError: for an unknown kind or task, with the nearest, for a key that the kind does not have, and
            for a value out of range.
    """

    kind: str
    ratio: float = 1.0
    root: str | None = None
    split: str = _SPLIT
    optional: bool = False
    frames: int = _FRAMES
    base_seed: int = 0
    frame_size: tuple[int, int] = _FRAME_SIZE
    cache: str | None = None
    containing: list[str] | None = None
    fold: int | None = None
    tasks: list[str] | None = None
    fraction: float = 1.0
    limit: int | None = None
    subset_seed: int = 0
    scale: tuple[float, float] | None = None
    images: str | None = None
    annotations: str | None = None
    masks: str | None = None
    table: str | None = None
    detection_labels: str | None = None
    segmentation_labels: str | None = None
    classification_labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in _READERS:
            raise ValueError(f"unknown kind of data source {self.kind!r}{_nearest(self.kind, _READERS)}")
        for task in self.tasks or ():
            if task not in TASKS:
                raise ValueError(f"{self.kind}: unknown task {task!r}{_nearest(task, TASKS)}")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"{self.kind}: ratio is positive, found {self.ratio}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"{self.kind}: fraction is above 0 and at most 1, found {self.fraction}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.kind}: limit is at least 1, found {self.limit}")
        for key, least in {"frames": 1, "base_seed": 0, "subset_seed": 0}.items():
            if getattr(self, key) < least:
                raise ValueError(f"{self.kind}: {key} is at least {least}, found {getattr(self, key)}")
        if min(self.frame_size) < 1:
            raise ValueError(f"{self.kind}: frame_size is in pixels, found {list(self.frame_size)}")
        if self.scale is not None:
            check_scale(self.kind, self.scale)
        if self.kind != "synthetic" and self.root is None:
            raise ValueError(f"data source {self.kind!r} needs the key 'root'")
        unset = {
            "split": _SPLIT,
            "frames": _FRAMES,
            "base_seed": 0,
            "frame_size": _FRAME_SIZE,
            "classification_labels": {},
        }
        for key, readers in _READERS_OF_KEY.items():
            if self.kind not in readers and getattr(self, key) != unset.get(key):
                raise ValueError(
                    f"data source {self.kind!r} has no key {key!r}, which is for {', '.join(readers)}"
                )


def _nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f" (known: {', '.join(known)}){hint}"


_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def _unset(text: str) -> list[str]:
    """Environment variables that a path names and that are not set."""
    names = [plain or braced for plain, braced in _VARIABLE.findall(text)]
    return [name for name in names if name not in os.environ]


def _expanded(source: SourceConfig, key: str, text: str) -> str:
    # A folder called $NAME would be made otherwise, or looked for in vain.
    if unset := _unset(text):
        raise ValueError(
            f"data source {source.kind!r}: {key} is {text}, and the environment variable {unset[0]} is not "
            "set"
        )
    return os.path.expandvars(text)


def _label_set(source: SourceConfig, key: str) -> LabelSet | None:
    name = getattr(source, key)
    return None if name is None else load_label_set(_expanded(source, key, name))


def _groups(source: SourceConfig) -> dict[str, LabelSet]:
    return {
        group: load_label_set(_expanded(source, f"classification_labels.{group}", name))
        for group, name in source.classification_labels.items()
    }


def _synthetic(source: SourceConfig, _: Path) -> LabelledSource:
    return SyntheticDataset(
        cast(Any, source.split),
        source.base_seed,
        source.frames,
        source.frame_size,
        keep=source.split == "train",
        cache=Path(_expanded(source, "cache", source.cache)) if source.cache else None,
        containing=source.containing or (),
    )


def _camvid(source: SourceConfig, root: Path) -> LabelledSource:
    return CamVidDataset(root, source.split, HELD_OUT_FOLD if source.fold is None else source.fold)


def _imagenet(source: SourceConfig, root: Path) -> LabelledSource:
    return ImageNetDataset(root, source.split)


def _coco(source: SourceConfig, root: Path) -> LabelledSource:
    return CocoDataset(root, source.split, images=source.images, annotations=source.annotations)


def _ade20k(source: SourceConfig, root: Path) -> LabelledSource:
    groups = _groups(source)
    if strange := sorted(groups.keys() - {"scene"}):
        raise ValueError(f"ade20k has the classification group 'scene' only, found {strange[0]!r}")
    return Ade20kDataset(root, source.split, scene=groups.get("scene"))


def _bdd100k(source: SourceConfig, root: Path) -> LabelledSource:
    return Bdd100kDataset(root, source.split)


def _cityscapes(source: SourceConfig, root: Path) -> LabelledSource:
    return CityscapesDataset(root, source.split)


def _generic(source: SourceConfig, root: Path) -> LabelledSource:
    return GenericDataset(
        root,
        images=source.images or "images",
        annotations=source.annotations,
        masks=source.masks,
        table=source.table,
        detection=_label_set(source, "detection_labels"),
        segmentation=_label_set(source, "segmentation_labels"),
        classification=_groups(source),
    )


_READERS: Mapping[str, Callable[[SourceConfig, Path], LabelledSource]] = {
    "ade20k": _ade20k,
    "bdd100k": _bdd100k,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "coco": _coco,
    "generic": _generic,
    "imagenet": _imagenet,
    "synthetic": _synthetic,
}

_READERS_OF_KEY = {
    "split": tuple(kind for kind in _READERS if kind != "generic"),
    "frames": ("synthetic",),
    "base_seed": ("synthetic",),
    "frame_size": ("synthetic",),
    "cache": ("synthetic",),
    "containing": ("synthetic",),
    "fold": ("camvid",),
    "images": ("coco", "generic"),
    "annotations": ("coco", "generic"),
    "masks": ("generic",),
    "table": ("generic",),
    "detection_labels": ("generic",),
    "segmentation_labels": ("generic",),
    "classification_labels": ("generic", "ade20k"),
}


def named_sources(sources: Iterable[SourceConfig]) -> dict[str, SourceConfig]:
    """Sources by the names that their scores have: ``kind/split``, the second of these ``kind/split 2``, ….

    A source that is optional and absent has a name, too, so that it changes none of the others'.
    """
    named: dict[str, SourceConfig] = {}
    counts: Counter[str] = Counter()
    for source in sources:
        name = f"{source.kind}/{source.split}"
        counts[name] += 1
        named[name if counts[name] == 1 else f"{name} {counts[name]}"] = source
    return named


def open_source(source: SourceConfig, labels: TaskLabels | None = None) -> LabelledSource | None:
    """The data set of a source; None where it is optional and absent.

    Args:
        source: what to open.
        labels: label sets of the model. The samples are then in its ids, by equal names or by the mapping
            that the model's label set has from the data set's; tasks that the model does not have are left
            out. None keeps the data set's own ids.

    Raises:
        FileNotFoundError: when a folder or file is absent and the source is not optional.
        ValueError: when the data set is not as its format says (``SampleError``), for a split it does not
            have, when its labels and the model's, or ``source.tasks``, have nothing in common, and for a
            path with an environment variable that is not set, naming both.
    """
    if source.optional and _unset(source.root or ""):
        return None
    root = Path(_expanded(source, "root", source.root or ""))
    if source.optional and not root.is_dir():
        return None
    data = _READERS[source.kind](source, root)
    tasks = set(_tasks_of(data.labels))
    if source.tasks is not None:
        if missing := [task for task in source.tasks if task not in tasks]:
            raise ValueError(f"data source {source.kind!r} has no labels for {missing[0]}")
        tasks &= set(source.tasks)
    kept = _restrict(data.labels, tasks)
    learned = tasks if labels is None else tasks & set(_tasks_of(labels))
    view = SourceView(data, _chosen(data, tasks, learned, source), kept, labels, source.kind)
    return data if view.changes_nothing else view


def _chosen(
    data: LabelledSource, tasks: set[str], learned: set[str], source: SourceConfig
) -> npt.NDArray[np.int64] | None:
    """The samples that a source uses; None for all.

    Args:
        data: the data set.
        tasks: whose labels the source keeps: the part is drawn from the samples with any of these, so that
            it is the same for every model.
        learned: those of ``tasks`` that the model has; samples without a label of them are left out.
        source: says how large a part.
    """
    drawn = labelled_samples(data, tasks)
    most = len(drawn) if source.limit is None else min(len(drawn), source.limit)
    count = max(1, round(most * source.fraction))
    if count < len(drawn):
        order = np.random.default_rng(source.subset_seed).permutation(len(drawn))
        drawn = drawn[np.sort(order[:count])]
    chosen = np.intersect1d(drawn, labelled_samples(data, learned))
    if not len(chosen):
        raise ValueError(
            f"data source {source.kind!r}: none of the {len(drawn)} samples in use has a label of the "
            "model's tasks"
        )
    return None if len(chosen) == len(data) else chosen


def labelled_samples(data: SampleSource, tasks: Collection[str]) -> npt.NDArray[np.int64]:
    """The samples with a label of any of the tasks, rising; all where the data set does not know."""
    if isinstance(data, SourceView):
        labelled = labelled_samples(data.data, tasks)
        return labelled if data.indices is None else np.flatnonzero(np.isin(data.indices, labelled))
    if not isinstance(data, PartlyLabelled):
        return np.arange(len(data))
    rows = data.labelled()
    return np.flatnonzero(np.any([rows[task] for task in tasks if task in rows], axis=0))


def _tasks_of(labels: TaskLabels) -> tuple[str, ...]:
    present = (bool(labels.classification), labels.detection is not None, labels.segmentation is not None)
    return tuple(task for task, there in zip(TASKS, present, strict=True) if there)


def _restrict(labels: TaskLabels, tasks: set[str]) -> TaskLabels:
    return TaskLabels(
        classification=labels.classification if "classification" in tasks else {},
        detection=labels.detection if "detection" in tasks else None,
        segmentation=labels.segmentation if "segmentation" in tasks else None,
    )


class SourceView:
    """Some of a data set's samples, with some of their labels, in another model's ids.

    Args:
        data: the data set.
        indices: which samples, None for all.
        kept: the label sets of ``data`` whose labels are kept.
        target: the label sets to bring them to; None leaves the ids.
        name: of the data set, for messages.

    Raises:
        ValueError: when a label set has other names than the target's and no mapping into it, or when no
            label is left.
    """

    def __init__(
        self,
        data: LabelledSource,
        indices: npt.NDArray[np.int64] | None,
        kept: TaskLabels,
        target: TaskLabels | None,
        name: str,
    ) -> None:
        self.data = data
        self.indices = indices
        self._box_table = self._mask_table = None
        if target is not None:
            self._box_table = _table(kept.detection, target.detection, name, "detection")
            self._mask_table = _table(kept.segmentation, target.segmentation, name, "segmentation")
            groups = {}
            for group in kept.classification.keys() & target.classification.keys():
                if kept.classification[group].names != target.classification[group].names:
                    raise ValueError(
                        f"{name} labels {group!r} with {kept.classification[group].name!r}, "
                        f"the model with {target.classification[group].name!r}; their names differ"
                    )
                groups[group] = target.classification[group]
            found = kept
            kept = TaskLabels(
                classification=groups,
                detection=target.detection if kept.detection else None,
                segmentation=target.segmentation if kept.segmentation else None,
            )
            if not _tasks_of(kept):
                raise ValueError(
                    f"{name} labels {_spell(found)} and the model learns {_spell(target)}: nothing in common"
                )
        self.labels = kept

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader says of the data set."""
        return tuple(getattr(self.data, "notes", ()))

    @property
    def changes_nothing(self) -> bool:
        """Whether the samples are those of ``data``."""
        return (
            self.indices is None
            and self._box_table is None
            and self._mask_table is None
            and _tasks_of(self.labels) == _tasks_of(self.data.labels)
            and self.labels.classification.keys() == self.data.labels.classification.keys()
        )

    def __len__(self) -> int:
        return len(self.data) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            ValueError: from the data set.
        """
        sample = self.data[index if self.indices is None else int(self.indices[index])]
        changes: dict[str, Any] = {}
        if sample.classes is not None:
            changes["classes"] = {
                group: label for group, label in sample.classes.items() if group in self.labels.classification
            }
        if self.labels.segmentation is None:
            changes["mask"] = None
        elif sample.mask is not None and self._mask_table is not None:
            table, known = self._mask_table
            changes["mask"] = map_mask(sample.mask, table, known, Path(sample.name))
        if self.labels.detection is None:
            changes |= _NO_BOXES
        elif sample.boxes is not None and self._box_table is not None:
            changes |= _mapped_boxes(sample, self._box_table[0].astype(np.int64))
        return dataclasses.replace(sample, **changes)


_NO_BOXES: Mapping[str, Any] = {
    "boxes": None,
    "box_labels": None,
    "box_classes": None,
    "ignore_boxes": np.zeros((0, 4), np.float32),
}

_Table = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


def _spell(labels: TaskLabels) -> str:
    words = [
        *(f"classification of {group}" for group in labels.classification),
        *(("detection",) if labels.detection else ()),
        *(("segmentation",) if labels.segmentation else ()),
    ]
    return ", ".join(words)


def _table(source: LabelSet | None, target: LabelSet | None, name: str, task: str) -> _Table | None:
    """The target's id of each source id, and which source ids there are; None where they are the same."""
    if source is None or target is None or source.names == target.names:
        return None
    try:
        table = target.lookup_from(source)
    except KeyError as error:
        raise ValueError(
            f"{name} labels {task} with {source.name!r}, the model with {target.name!r}: {error.args[0]}; "
            "leave the task out with 'tasks', or add a mapping to the model's label set"
        ) from None
    known = np.zeros(256, np.bool_)
    known[: len(source)] = known[IGNORE_INDEX] = True
    return table, known


def _mapped_boxes(sample: Sample, table: npt.NDArray[np.int64]) -> Mapping[str, Any]:
    assert sample.boxes is not None and sample.box_labels is not None and sample.box_classes is not None
    classes = {int(table[c]) for c in sample.box_classes} - {IGNORE_INDEX}
    if not classes:
        return _NO_BOXES
    labels = table[sample.box_labels]
    kept = labels != IGNORE_INDEX
    return {
        "boxes": sample.boxes[kept],
        "box_labels": labels[kept],
        "box_classes": tuple(sorted(classes)),
    }
