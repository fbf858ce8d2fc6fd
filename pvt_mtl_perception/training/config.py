"""What a training run is: model, data sources, phases, optimiser, as dataclasses that YAML spells out."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.data.transforms import AugmentationConfig, check_scale
from pvt_mtl_perception.model.spec import ModelSpec
from pvt_mtl_perception.paths import read_yaml
from pvt_mtl_perception.training.balancing.config import BalancingConfig

FREE_KEYS = {
    "workers",
    "checkpoint_every",
    "keep_every",
    "image_every",
    "evaluate",
    "validate",
    "validate_every",
    "on_bad_sample",
    "affinity",
}
"""Keys that change neither weights nor data order: they may differ between a run and its continuation."""


def _at_least(least: float, config: object, *keys: str, where: str = "") -> None:
    """Refuses smaller values and those that are not finite, naming the key."""
    for key in keys:
        value = getattr(config, key)
        if not least <= value < math.inf:
            finite = " and finite" if value == math.inf else ""
            raise ValueError(f"{where}{key} is {value}; it must be at least {least}{finite}")


@dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training at one input size.

    Attributes:
        steps: optimiser steps.
        width, height: of the training crops in pixels, multiples of 32.
        batch_size: images a step, over all processes.
        scale: smallest and largest scale of the picture before the crop; at 1 the whole of it fits
            ``scale_reference``.
    """

    steps: int
    width: int
    height: int
    batch_size: int
    scale: tuple[float, float] = (0.5, 1.5)

    def __post_init__(self) -> None:
        _at_least(1, self, "steps", "width", "height", "batch_size", where="phases: ")
        check_scale("phases", self.scale)


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser by its name in timm, and the schedule of its learning rate over all phases.

    Attributes:
        name: as in ``timm.optim.list_optimizers()``.
        lr: peak learning rate.
        weight_decay: on weights of two or more dimensions.
        layer_decay: factor from each layer of the backbone to the one below (Clark 2020); None for one rate.
        schedule: after the warm-up; ``cosine`` and ``poly`` (with ``power``) go to zero.
        power: of the ``poly`` schedule.
        milestones: of ``multistep``: where, as parts of the run, the rate falls to a tenth.
        warmup_steps: linear from a hundredth of ``lr``.
        clip_norm: gradients are scaled down to this norm; None leaves them.
        ema_decay: of the averaged weights that are evaluated and shipped; 0 ships the last weights.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float | None = None
    schedule: Literal["cosine", "poly", "multistep", "constant"] = "cosine"
    power: float = 1.0
    milestones: tuple[float, ...] = (2 / 3, 11 / 12)
    warmup_steps: int = 200
    clip_norm: float | None = 5.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        _at_least(0, self, "lr", "weight_decay", "power", "warmup_steps", where="optimizer.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay is {self.layer_decay}; it is above 0 and at most 1")
        for part in self.milestones:
            if not 0 <= part <= 1:
                raise ValueError(f"optimizer.milestones has {part}; parts of the run are from 0 to 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"optimizer.ema_decay is {self.ema_decay}; it is at least 0 and below 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optimizer.clip_norm is {self.clip_norm}; it is above 0, or null for none")


@dataclass(frozen=True)
class AffinityConfig:
    """That a run measures how its tasks bear on each other, into ``affinity.jsonl`` (see ``affinity``).

    Attributes:
        every: optimiser steps between two measurements.
    """

    every: int = 50

    def __post_init__(self) -> None:
        _at_least(1, self, "every", where="affinity.")


@dataclass(frozen=True)
class TrainingConfig:
    """One run.

    Attributes:
        model: what is trained.
        train: the mixture.
        phases: one after the other, under one schedule.
        evaluate: what the final weights are scored on.
        validate: what the averaged weights are scored on every ``validate_every`` steps; the weights with the
            best mean of their main scores (AP, mIoU, accuracy) are kept in ``best.safetensors``.
        optimizer: with its schedule.
        balancing: how the tasks' losses become one gradient.
        affinity: whether the relations between the tasks are measured; it changes nothing in the training.
        batches: ``mixed`` draws each image of a batch from its own source, ``homogeneous`` a whole batch from
            one.
        augmentation: random changes of the pictures, beside the phases' scale and crop.
        on_bad_sample: ``raise`` the error of a sample that cannot be read, or ``skip``: another takes its
            place and ``bad_samples.jsonl`` lists it.
        accumulate: a batch is worked through in this many parts of equal size, for less memory. Each loss is
            the mean of the parts' losses, which are normalised by each part's own labelled images, pixels and
            positives: it is that of the whole batch where all parts have as many of these.
        label_smoothing: of the classification.
        segmentation_class_weights: ``inverse_log`` lets rare classes count more (see ``class_weights``). The
            mask then claims more pixels for them than they have: ``benchmarks/class_weights.py``.
        pretrained: weights for the backbone: ``timm`` (fetched by timm), ``hf-hub:owner/name``,
            ``hf://owner/name``, or a .safetensors or .pth file; ``$NAME`` stands for an environment variable.
        initial_weights: checkpoint to begin with, a path or ``hf://owner/name``; ``$NAME`` stands for an
            environment variable. Parts it does not have, or has in another shape, begin at random.
        input_width, input_height: of the finished checkpoint's preprocessing.
        scale_reference: (width, height) that ``scale`` is relative to; the checkpoint's input where None.
        precision: of the forward pass; bf16 runs under autocast.
        compile: whether ``torch.compile`` makes kernels of the network and the mask's loss: minutes for each
            phase's size. It gains nothing on a CPU, where it needs a C++ compiler.
        checkpoint_every: steps between two states to resume from.
        keep_every: steps between two checkpoints that are kept; 0 keeps none.
        validate_every: steps between two validations; 0 for none.
        image_every: steps between two pictures of labels and predictions in TensorBoard; 0 for none.
        workers: processes that prepare samples.
        seed: of weights, data order and augmentation.
    """

    model: ModelSpec
    train: list[SourceConfig]
    phases: list[PhaseConfig]
    evaluate: list[SourceConfig] = field(default_factory=list)
    validate: list[SourceConfig] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    balancing: BalancingConfig = field(default_factory=BalancingConfig)
    affinity: AffinityConfig | None = None
    batches: Literal["mixed", "homogeneous"] = "mixed"
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    on_bad_sample: Literal["raise", "skip"] = "raise"
    accumulate: int = 1
    label_smoothing: float = 0.0
    segmentation_class_weights: Literal["none", "inverse_log"] = "none"
    pretrained: str | None = None
    initial_weights: str | None = None
    input_width: int = 640
    input_height: int = 384
    scale_reference: tuple[int, int] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpoint_every: int = 200
    keep_every: int = 0
    validate_every: int = 0
    image_every: int = 500
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train lists no data source")
        if not self.phases:
            raise ValueError("phases lists no phase")
        _at_least(1, self, "accumulate", "checkpoint_every")
        _at_least(0, self, "keep_every", "validate_every", "image_every", "workers", "seed")
        _at_least(32, self, "input_width", "input_height")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it is from 0 to 1")
        if self.scale_reference is not None and min(self.scale_reference) < 1:
            raise ValueError(f"scale_reference is {list(self.scale_reference)}; width and height in pixels")
        if self.validate_every and not self.validate:
            raise ValueError(
                f"validate_every is {self.validate_every}, but validate lists no data source; "
                "list one, or set validate_every to 0"
            )
        if self.model.backbone.norm == "frozen" and not (self.pretrained or self.initial_weights):
            raise ValueError(
                "model.backbone.norm is frozen and keeps the statistics that the backbone was loaded with; "
                "it needs the key pretrained or initial_weights"
            )
        for number, phase in enumerate(self.phases):
            if phase.width % 32 or phase.height % 32:
                raise ValueError(
                    f"phases[{number}] is {phase.width}x{phase.height}; both are multiples of 32"
                )
            if phase.batch_size % self.accumulate:
                raise ValueError(
                    f"phases[{number}].batch_size {phase.batch_size} is not a multiple of "
                    f"accumulate {self.accumulate}"
                )

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)


def _config_parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainingConfig)
    return parser


def _with_bases(path: Path, below: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The contents of the files that make up a configuration, the one that counts most last."""
    if not path.is_file():
        raise FileNotFoundError(f"no training configuration at {path}")
    if path in below:
        raise ValueError(f"{path} extends itself by way of {' and '.join(map(str, below))}")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a training configuration is a mapping")
    return _parts(data, path, below)


def _check_kinds(data: Mapping[str, Any], kind: type, path: Path, above: str = "") -> None:
    """Refuses null, and values in the place of mappings, where ``kind`` has no such values.

    jsonargparse lets them through to the class, whose errors do not name the key.
    """
    hints = get_type_hints(kind)
    for key in data.keys() & hints.keys():
        value, name = data[key], f"{above}{key}"
        options = get_args(hints[key]) if get_origin(hints[key]) is UnionType else (hints[key],)
        if value is None and NoneType not in options:
            raise ValueError(f"{path}: {name} is null; it needs a value")
        for option in options:
            items = get_args(option)
            if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
                _check_kinds(value, cast(type, option), path, f"{name}.")
            elif dataclasses.is_dataclass(option) and value is not None:
                raise ValueError(f"{path}: {name} is {value!r}; it must be a mapping")
            elif isinstance(value, list) and items and dataclasses.is_dataclass(items[0]):
                for number, item in enumerate(value):
                    if isinstance(item, Mapping):
                        _check_kinds(item, cast(type, items[0]), path, f"{name}[{number}].")


def _parts(data: Mapping[str, Any], path: Path, below: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """As ``_with_bases`` for the content of a file at ``path``."""
    _check_kinds(data, TrainingConfig, path)
    bases = data.get("extends", [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: extends is a list of files, found {bases!r}")
    parts = [part for base in bases for part in _with_bases((path.parent / base).resolve(), (*below, path))]
    return [*parts, {key: value for key, value in data.items() if key != "extends"}]


def _without_lists_of(part: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """``part`` less the lists that ``later`` has, too: jsonargparse would mix them item by item."""
    kept = {}
    for key, value in part.items():
        if isinstance(value, Mapping) and isinstance(later.get(key), Mapping):
            kept[key] = _without_lists_of(value, later[key])
        elif not (isinstance(value, list) and isinstance(later.get(key), list)):
            kept[key] = value
    return kept


def _texts(parts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The parts as YAML texts, the one that counts most last."""
    texts = []
    for number, part in enumerate(parts):
        for later in parts[number + 1 :]:
            part = _without_lists_of(part, later)
        texts.append(yaml.safe_dump(dict(part), sort_keys=False))
    return tuple(texts)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Reads a run from a YAML file, with keys changed by ``--key.sub=value`` arguments.

    The key ``extends`` lists files, relative to this one, whose keys count where this one does not set them.
    A list is set as a whole.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for an unknown key (with the nearest known one), a wrong type or a value out of range,
            naming the file.
    """
    path = Path(path)
    return _parse(_texts(_with_bases(path)), overrides, str(path))


def compose_config(parts: Sequence[Mapping[str, Any]], path: Path, name: str) -> TrainingConfig:
    """A run from parts of which each is what a configuration file beside ``path`` would hold.

    Args:
        parts: plain data, ``extends`` included; a later one counts over an earlier one.
        path: the file that they stand in.
        name: where in it, for messages.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``.
    """
    whole = [one for part in parts for one in _parts(part, path)]
    return _composed(_texts(whole), f"{path}: {name}")


# A study's command composes each of its hundreds of runs several times, at a fifth of a second.
@functools.lru_cache(maxsize=1024)
def _composed(texts: tuple[str, ...], where: str) -> TrainingConfig:
    return _parse(texts, (), where)


def _parse(texts: Sequence[str], overrides: Sequence[str], where: str) -> TrainingConfig:
    parser = _config_parser()
    try:
        namespace = parser.parse_args([*(f"--config={text}" for text in texts), *overrides])
        namespace.pop("config")
        return TrainingConfig(**parser.instantiate(namespace).as_dict())
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {_explained(str(error), parser)}") from None


def plain_config(config: TrainingConfig) -> dict[str, Any]:
    """Every key of a run as JSON would give it back."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_yaml(config: TrainingConfig) -> str:
    """Every key of a run as YAML that ``load_config`` reads back."""
    text: str = yaml.safe_dump(plain_config(config), sort_keys=False)
    return text


def run_identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a run and its continuation must have in common: every key but ``FREE_KEYS``.

    Args:
        plain: a configuration as ``plain_config`` gives it, or gave it in an earlier version: keys that there
            were not yet have their defaults.
    """
    known = {key: value for key, value in plain.items() if key not in FREE_KEYS}
    try:
        complete = plain_config(_parse([yaml.safe_dump(known)], (), "a stored configuration"))
    except ValueError:
        # Of a version with keys or values that there are no more: it is compared as it is.
        return known
    return {key: value for key, value in complete.items() if key not in FREE_KEYS}


def _explained(message: str, parser: jsonargparse.ArgumentParser) -> str:
    """What jsonargparse says; of a key that it refuses in one line, with the known key nearest to it."""
    known = [name.lstrip("-") for name in parser._option_string_actions]
    if found := re.search(r"(?:Option '|unrecognized arguments: --)([\w.]+)", message):
        refused = found[1]
        group = re.search(r"Parser key \"([\w.]+)\".*class_path '([\w.]+)'", message, re.DOTALL)
        if group:
            # Of a list, or of what may be null: their keys are their class's.
            message = f"{group[1]}: {refused!r} is not accepted"
            known = [field.name for field in dataclasses.fields(pkgutil.resolve_name(group[2]))]
    elif found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        refused = f"{found[1]}.{found[2]}"
    else:
        return message
    near = difflib.get_close_matches(refused, known, n=1)
    return f"{message}; did you mean {near[0]}?" if near else message
