"""What a study is: arms, seeds, data fractions and what was decided beforehand, as dataclasses from YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from pvt_mtl_perception.data.sources import TASKS, SourceConfig

RESERVED_ARMS = ("pretraining", "tuning")
"""First parts of the ids of jobs that belong to no arm."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ArmConfig:
    """One way to train, which differs from the other arms in what its claim is about and nothing else.

    Attributes:
        training: keys of a training configuration that count over the study's; ``extends`` lists files
            relative to the study file.
        pretraining: name of the study's pretraining whose weights the arm begins with.
        trials: settings to choose from by ``study tune``, each as ``training``; the same number for all arms.
        description: one line for the report.
    """

    training: dict[str, Any] = field(default_factory=dict)
    pretraining: str | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    description: str = ""


@dataclass(frozen=True)
class EndpointConfig:
    """A score that the study is about.

    Attributes:
        name: as the report calls it.
        task: the task it belongs to.
        source: evaluated source, ``kind/split``; the second of these is ``kind/split 2``.
        metric: dotted key below the task in the source's scores: ``ap``, ``miou``, ``weather.accuracy``;
            ``*`` is the mean over all keys there: ``*.accuracy``.
        margin: a difference below it counts as none, in the score's unit (0.01 is one point).
        primary: whether it is corrected for and a claim may rest on it.
    """

    name: str
    task: str
    source: str
    metric: str
    margin: float
    primary: bool = True

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"endpoint {self.name!r}: unknown task {self.task!r}; known: {', '.join(TASKS)}")
        if self.margin <= 0:
            raise ValueError(f"endpoint {self.name!r}: margin is positive, found {self.margin}")


@dataclass(frozen=True)
class ComparisonConfig:
    """An arm against others, seed by seed.

    Attributes:
        name: as the report calls it.
        arm: whose scores are claimed to be higher, or not lower by the margin.
        against: by task the arm that it is compared with; tasks that are not named are not compared.
        primary: whether a claim may rest on it; the others are told as exploration.
    """

    name: str
    arm: str
    against: dict[str, str]
    primary: bool = True


@dataclass(frozen=True)
class PreregistrationConfig:
    """What was decided before the first job.

    Attributes:
        endpoints: what is compared.
        comparisons: which arms with which.
        fraction: the data fraction that primary claims are about.
        alpha: family-wise error rate over the primary endpoints of a comparison.
        notes: anything else that was decided, in words.
    """

    endpoints: list[EndpointConfig]
    comparisons: list[ComparisonConfig]
    fraction: float = 1.0
    alpha: float = 0.05
    notes: str = ""


@dataclass(frozen=True)
class TuningConfig:
    """How an arm's trials are compared before the study; never on its test set.

    Attributes:
        seed: of every trial, none of the study's.
        evaluate: in place of the training configuration's; an endpoint is read from the source of its kind.
        fraction: of the training data.
    """

    seed: int
    evaluate: list[SourceConfig]
    fraction: float = 1.0


@dataclass(frozen=True)
class StudyConfig:
    """Arms times data fractions times seeds.

    Attributes:
        name: of the study.
        arms: by name.
        seeds: each is one run of every arm, with the same data order and initialisation in all of them.
        preregistration: endpoints, margins and comparisons.
        training: keys of a training configuration for all arms; ``extends`` lists files relative to this one.
        fractions: parts of each training source that are used; a larger one contains the smaller.
        by_seed: keys of a training configuration that count over the arms': seed number i takes entry i
            modulo their number, so that each seed has another fold of a cross-validation.
        subset_seed: draws the parts, the same for all arms and seeds.
        pretraining: training configurations by name, each run once; arms begin with their weights.
        tuning: how trials are compared; None where no arm has any.
        question: what the study is to answer, for the report.

    Raises:
        ValueError: naming the key, when names, numbers or references do not fit together.
    """

    name: str
    arms: dict[str, ArmConfig]
    seeds: list[int]
    preregistration: PreregistrationConfig
    training: dict[str, Any] = field(default_factory=dict)
    fractions: list[float] = field(default_factory=lambda: [1.0])
    by_seed: list[dict[str, Any]] = field(default_factory=list)
    subset_seed: int = 0
    pretraining: dict[str, dict[str, Any]] = field(default_factory=dict)
    tuning: TuningConfig | None = None
    question: str = ""

    def __post_init__(self) -> None:
        for message in self._problems():
            raise ValueError(message)

    def _problems(self) -> Iterator[str]:
        for key in ("arms", "seeds", "fractions"):
            values = list(getattr(self, key))
            if not values:
                yield f"{key} is empty"
            if len(set(values)) < len(values):
                yield f"{key} lists something twice: {values}"
        for name in (*self.arms, *self.pretraining):
            if not _NAME.fullmatch(name):
                yield f"{name!r} is also a folder's name: letters, digits, '_', '-' and '.'"
            if name in RESERVED_ARMS and name in self.arms:
                yield f"an arm cannot be called {name!r}"
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                yield f"fractions lists {fraction}; each is above 0 and at most 1"
        yield from self._problems_of_arms()
        if self.preregistration.fraction not in self.fractions:
            yield f"preregistration.fraction {self.preregistration.fraction:g} is none of the fractions"
        for comparison in self.preregistration.comparisons:
            for arm in (comparison.arm, *comparison.against.values()):
                if arm not in self.arms:
                    yield f"comparison {comparison.name!r} names the arm {arm!r}, which the study lacks"
            for task in comparison.against:
                if task not in TASKS:
                    yield f"comparison {comparison.name!r}: unknown task {task!r}; known: {', '.join(TASKS)}"

    def _problems_of_arms(self) -> Iterator[str]:
        for name, arm in self.arms.items():
            if arm.pretraining is not None and arm.pretraining not in self.pretraining:
                yield f"arms.{name}.pretraining {arm.pretraining!r} is none of the study's"
        counts = {name: len(arm.trials) for name, arm in self.arms.items()}
        if len(set(counts.values())) > 1:
            spelled = ", ".join(f"{name} {count}" for name, count in counts.items())
            yield f"every arm gets the same number of trials; found {spelled}"
        if any(counts.values()) and self.tuning is None:
            yield "the arms have trials; the key tuning says how they are compared"
        if self.tuning is not None and not any(counts.values()):
            yield "tuning is set and no arm has trials"
        if self.tuning is not None and self.tuning.seed in self.seeds:
            yield f"tuning.seed {self.tuning.seed} is one of the study's seeds"


def load_study(path: str | Path) -> StudyConfig:
    """Reads a study from a YAML file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for an unknown key, a wrong type or parts that do not fit together, naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no study at {path}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(StudyConfig)
    try:
        namespace = parser.parse_args([f"--config={path.read_text()}"])
        namespace.pop("config")
        return StudyConfig(**parser.instantiate(namespace).as_dict())
    except (jsonargparse.ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None


def endpoint_value(scores: Mapping[str, Any], endpoint: EndpointConfig, source: str | None = None) -> float:
    """An endpoint's score in what a finished job holds.

    Args:
        scores: by source and task.
        endpoint: which.
        source: where it is read, in place of the endpoint's.

    Returns:
        The score, 0..1.

    Raises:
        KeyError: when it is not there, naming what is.
        ValueError: when it is not a number.
    """
    where = source or endpoint.source
    place = f"{where}.{endpoint.task}"
    values: list[Any] = [_below(_below(scores, where, "scores"), endpoint.task, where)]
    for key in endpoint.metric.split("."):
        if key == "*":
            values = [child for value in values for child in value.values()]
        else:
            values = [_below(value, key, place) for value in values]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if not numbers or len(numbers) < len(values):
        raise ValueError(f"endpoint {endpoint.name!r}: {place}.{endpoint.metric} is no number")
    return sum(numbers) / len(numbers)


def _below(values: Any, key: str, place: str) -> Any:
    if not isinstance(values, Mapping) or key not in values:
        known = ", ".join(values) if isinstance(values, Mapping) else "nothing"
        raise KeyError(f"{place} has no {key!r}; it has {known}")
    return values[key]


def registered(
    study: StudyConfig, test_sets: Mapping[str, list[SourceConfig]], training: Mapping[str, Any]
) -> dict[str, Any]:
    """What a change of after the first job has to be told: all that bears on the claims, as plain data.

    Args:
        study: the study.
        test_sets: by arm.
        training: settings by arm and, under ``pretraining``, by pretraining.
    """
    tuning = study.tuning
    content = {
        "preregistration": dataclasses.asdict(study.preregistration),
        "arms": sorted(study.arms),
        "seeds": study.seeds,
        "fractions": study.fractions,
        "subset_seed": study.subset_seed,
        "test_sets": {arm: [_set_keys(source) for source in test_sets[arm]] for arm in sorted(test_sets)},
        "trials": {arm: study.arms[arm].trials for arm in sorted(study.arms)},
        "tuning": tuning
        and {
            "seed": tuning.seed,
            "fraction": tuning.fraction,
            "evaluate": [_set_keys(source) for source in tuning.evaluate],
        },
        "by_seed": study.by_seed,
        "training": training,
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _set_keys(source: SourceConfig) -> dict[str, Any]:
    """Without defaults, so that a key which a later version adds changes nothing."""
    defaults = dataclasses.asdict(SourceConfig(source.kind, root=source.root))
    values = dataclasses.asdict(source)
    return {key: value for key, value in values.items() if key in ("kind", "root") or value != defaults[key]}


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def changed_keys(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Dotted keys in which two pieces of plain data differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            name
            for key in (*before, *(key for key in after if key not in before))
            for name in changed_keys(before.get(key), after.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if before == after else [prefix]
