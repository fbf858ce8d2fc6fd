"""What a training run is: model, data sources, phases, optimiser, as dataclasses that YAML spells out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jsonargparse

from pvt_mtl_perception.model.spec import ModelSpec


@dataclass(frozen=True)
class SourceConfig:
    """One data set of the mixture.

    Attributes:
        kind: reader.
        ratio: share of the samples drawn from it, relative to the other sources.
        root: folder of a data set on disk; ``$NAME`` stands for an environment variable.
        split: ``train`` or ``test`` for synthetic scenes; ``fit``, ``held_out`` or ``all`` for CamVid.
        optional: leave the source out, saying so, where ``root`` does not exist.
        frames: size of a synthetic source, which has no natural end: the pool that training draws from
            (held in memory after its first pass), or the frames that are scored.
    """

    kind: Literal["synthetic", "camvid"]
    ratio: float = 1.0
    root: str | None = None
    split: str = "train"
    optional: bool = False
    frames: int = 200


@dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training at one input size.

    Attributes:
        steps: optimiser steps.
        width, height: of the training crops in pixels, multiples of 32.
        batch_size: images a step.
        scale: smallest and largest scale of the picture before the crop; at 1 the whole of it fits the
            checkpoint's input size.
    """

    steps: int
    width: int
    height: int
    batch_size: int
    scale: tuple[float, float] = (0.5, 1.5)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov 2019) with linear warm-up and a cosine to zero over all phases.

    Attributes:
        lr: peak learning rate.
        weight_decay: on weights of two or more dimensions.
        warmup_steps: linear from a hundredth of ``lr``.
        clip_norm: gradients are scaled down to this norm.
        ema_decay: of the averaged weights that are evaluated and shipped.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    clip_norm: float = 5.0
    ema_decay: float = 0.999


@dataclass(frozen=True)
class TrainingConfig:
    """One run.

    Attributes:
        model: what is trained.
        train: the mixture.
        evaluate: what the final weights are scored on.
        phases: one after the other, under one schedule.
        task_weights: factor of each task's loss; 1 where it is not given.
        input_width, input_height: of the finished checkpoint's preprocessing.
        segmentation_class_weights: ``inverse_log`` lets rare classes count more (see ``class_weights``).
        initial_weights: checkpoint to begin with, ``$NAME`` in its path standing for an environment variable;
            parts it does not have, or has in another shape, begin at random.
        precision: of the forward pass; bf16 runs under autocast.
        checkpoint_every: steps between two states to resume from.
        workers: processes that prepare samples.
        seed: of weights, data order and augmentation.
    """

    model: ModelSpec
    train: list[SourceConfig]
    phases: list[PhaseConfig]
    evaluate: list[SourceConfig] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    task_weights: dict[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.0
    segmentation_class_weights: Literal["none", "inverse_log"] = "none"
    initial_weights: str | None = None
    input_width: int = 640
    input_height: int = 384
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = 200
    workers: int = 1
    seed: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Reads a run from a YAML file, with keys changed by ``--key.sub value`` arguments.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for an unknown key (with the nearest known one), a wrong type or a value out of range,
            naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no training configuration at {path}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainingConfig)
    try:
        namespace = parser.parse_args([f"--config={path}", *overrides])
        namespace.pop("config")
        return TrainingConfig(**parser.instantiate(namespace).as_dict())
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        message = str(error)
        if found := re.search(r"Option '([\w.]+)' is not accepted", message):
            known = [name.lstrip("-") for name in parser._option_string_actions]
            if near := difflib.get_close_matches(found[1], known, n=1):
                message += f"; did you mean {near[0]}?"
        raise ValueError(f"{path}: {message}") from None
