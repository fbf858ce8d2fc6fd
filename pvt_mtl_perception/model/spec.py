"""What a network is made of, as plain data: dataclasses that YAML files and checkpoints spell out."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from pvt_mtl_perception.labels import TaskLabels, load_label_set
from pvt_mtl_perception.paths import read_yaml

TASKS = ("classification", "detection", "segmentation")


@dataclass(frozen=True)
class BackboneSpec:
    """The shared encoder.

    Attributes:
        name: a timm model that offers ``features_only``; it must have strides 4, 8, 16 and 32.
        drop_path_rate: stochastic depth while training, at least 0 and below 1.
        norm: what a backbone with BatchNorm does with it. ``batch`` learns from each process's own batch;
            ``sync`` from the batches of all processes (GPUs only); ``frozen`` keeps statistics and scale as
            they were loaded, for data sets that would otherwise mix theirs.
    """

    name: str = "pvt_v2_b0"
    drop_path_rate: float = 0.0
    norm: Literal["batch", "frozen", "sync"] = "batch"


@dataclass(frozen=True)
class NeckSpec:
    """The feature pyramid between backbone and heads.

    Attributes:
        type: ``fpn`` (Lin 2017) or ``bifpn`` (Tan 2020).
        channels: width of every pyramid level.
        repeats: number of BiFPN layers; FPN ignores it.
        separable: ``fpn``: its 3x3 convolutions are depthwise separable, as BiFPN's always are.
    """

    type: Literal["fpn", "bifpn"] = "fpn"
    channels: int = 64
    repeats: int = 3
    separable: bool = False


@dataclass(frozen=True)
class ClassificationSpec:
    """Image classification with one linear layer a label group.

    Attributes:
        label_sets: for each group, the name or path of its label set.
        dropout: on the pooled features while training, at least 0 and below 1.
    """

    label_sets: dict[str, str] = field(default_factory=dict)
    dropout: float = 0.0


@dataclass(frozen=True)
class DetectionSpec:
    """Object detection on P3 to P7.

    Attributes:
        type: ``gfl``, the generalised focal loss head (Li 2020) without anchors, or ``retinanet``,
            torchvision's RetinaNet head (Lin 2017b) with nine anchors a cell, as wide as the neck and four
            convolutions deep.
        label_set: name or path.
        channels: ``gfl``: width of the two towers.
        num_convs: ``gfl``: 3x3 convolutions in each tower.
        reg_max: ``gfl``: the distance distribution has ``reg_max + 1`` bins, 0..reg_max strides.
        separable: ``gfl``: the towers' convolutions are depthwise separable and the outputs 1x1.
        anchor_scale: ``gfl``: side of the square anchor that ATSS assigns with, in strides.
        strides: of P3 to P7 in input pixels.
    """

    type: Literal["gfl", "retinanet"] = "gfl"
    label_set: str = "driving_detection"
    channels: int = 64
    num_convs: int = 2
    separable: bool = False
    reg_max: int = 16
    anchor_scale: float = 8.0
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class SegmentationSpec:
    """Semantic segmentation by Semantic FPN (Kirillov 2019) at stride 4.

    Attributes:
        label_set: name or path.
        channels: width of the head.
        separable: its 3x3 convolutions are depthwise separable.
    """

    label_set: str = "driving_segmentation"
    channels: int = 64
    separable: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A network: backbone, neck, and a head for each task that is not None.

    Raises:
        ValueError: when no task is given or a value is out of its range, naming the key.
    """

    backbone: BackboneSpec = field(default_factory=BackboneSpec)
    neck: NeckSpec = field(default_factory=NeckSpec)
    classification: ClassificationSpec | None = None
    detection: DetectionSpec | None = None
    segmentation: SegmentationSpec | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(f"a model needs at least one of the keys {', '.join(TASKS)}")
        if self.classification is not None and not self.classification.label_sets:
            raise ValueError("classification.label_sets is empty; it needs at least one group: label set")
        for key, value in {
            "neck.channels": self.neck.channels,
            "neck.repeats": self.neck.repeats,
            "detection.channels": self.detection.channels if self.detection else 32,
            "detection.reg_max": self.detection.reg_max if self.detection else 1,
            "segmentation.channels": self.segmentation.channels if self.segmentation else 32,
        }.items():
            if value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 1")
            if key.endswith("channels") and value % 8:
                raise ValueError(f"{key} is {value}; it must be a multiple of 8 (GroupNorm)")
        for key, part in {
            "backbone.drop_path_rate": self.backbone.drop_path_rate,
            "classification.dropout": self.classification.dropout if self.classification else 0.0,
        }.items():
            if not 0 <= part < 1:
                raise ValueError(f"{key} is {part}; it must be at least 0 and below 1")
        if self.detection is not None and self.detection.num_convs < 0:
            raise ValueError(f"detection.num_convs is {self.detection.num_convs}; it must be at least 0")
        if self.detection is not None and self.detection.strides != (8, 16, 32, 64, 128):
            raise ValueError(
                f"detection.strides is {list(self.detection.strides)}; P3 to P7 have 8, 16, 32, 64, 128"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this network has heads for, in the order of ``TASKS``."""
        return tuple(task for task in TASKS if getattr(self, task) is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``spec_from_dict`` reads it back."""
        return dataclasses.asdict(self)


def load_task_labels(spec: ModelSpec) -> TaskLabels:
    """The label sets that a spec names, read from their files.

    Raises:
        FileNotFoundError, ValueError: from ``load_label_set`` and ``TaskLabels``.
    """
    groups = spec.classification.label_sets if spec.classification else {}
    return TaskLabels(
        classification={group: load_label_set(name) for group, name in groups.items()},
        detection=load_label_set(spec.detection.label_set) if spec.detection else None,
        segmentation=load_label_set(spec.segmentation.label_set) if spec.segmentation else None,
    )


def _refuse_unknown_keys(data: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> None:
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown key {prefix}{key}; {hint}")
        if isinstance(value, Mapping) and known[key] is not None:
            _refuse_unknown_keys(value, known[key], f"{prefix}{key}.")


def spec_from_dict(data: Mapping[str, Any]) -> ModelSpec:
    """Reads a spec from plain data, with types checked.

    Raises:
        ValueError: for an unknown key (with the nearest known one), a wrong type, or a value out of range.
    """
    if not isinstance(data, Mapping):
        raise ValueError("a model spec is a mapping with the keys backbone, neck and tasks")

    def keys(cls: Any) -> dict[str, Any]:
        return {f.name: None for f in dataclasses.fields(cls)}

    known: dict[str, Any] = {
        "backbone": keys(BackboneSpec),
        "neck": keys(NeckSpec),
        "classification": keys(ClassificationSpec),
        "detection": keys(DetectionSpec),
        "segmentation": keys(SegmentationSpec),
    }
    _refuse_unknown_keys(data, known)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--spec", type=ModelSpec)
    try:
        spec = parser.instantiate(parser.parse_object({"spec": dict(data)})).spec
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise ValueError(f"not a model spec: {error}") from None
    assert isinstance(spec, ModelSpec)
    return spec


def load_spec(path: str | Path) -> ModelSpec:
    """Reads a spec from a YAML file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no YAML, or from ``spec_from_dict``, naming the file.
    """
    data = read_yaml(Path(path))
    try:
        return spec_from_dict(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
