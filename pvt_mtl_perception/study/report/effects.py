"""What follows from the scores of several arms together: Δm, partitions of the tasks, backbone times neck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.config import EndpointConfig
from pvt_mtl_perception.study.report.results import StudyResults, paired
from pvt_mtl_perception.study.statistics.paired import (
    PairedComparison,
    bca_interval,
    compare_pairs,
    sign_flip_test,
)
from pvt_mtl_perception.study.statistics.relative import delta_m


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        by_seed: the value of each seed.
        mean: of them.
        low, high: BCa interval at 1 - alpha; None with fewer than two seeds.
        p_sign_flip: two-sided, not corrected; None with fewer than two seeds.
    """

    by_seed: dict[int, float]
    mean: float
    low: float | None
    high: float | None
    p_sign_flip: float | None


def estimate(by_seed: Mapping[int, float], alpha: float) -> Estimate | None:
    """The mean of some values with its interval; None without any."""
    if not by_seed:
        return None
    values = np.array(list(by_seed.values()))
    if len(values) < 2:
        return Estimate(dict(by_seed), float(values.mean()), None, None, None)
    low, high = bca_interval(values, alpha)
    return Estimate(
        dict(by_seed), float(values.mean()), float(low), float(high), float(sign_flip_test(values))
    )


@dataclass(frozen=True)
class RelativeGain:
    """Δm of a comparison.

    Attributes:
        endpoints: that it is the mean over, one a task.
        gain: in percent, positive where the arm scores higher; None without a common seed, and where there is
            nothing to be relative to.
        undefined: the endpoints whose scores to be relative to are all 0.
    """

    endpoints: tuple[str, ...]
    gain: Estimate | None
    undefined: tuple[str, ...]


def relative_gain(results: StudyResults, compared: Compared) -> RelativeGain | None:
    """Δm over the primary endpoints of the tasks compared; None where they are fewer than two."""
    endpoints = _primary_endpoints(results, compared.comparison.against)
    if len(endpoints) < 2:
        return None
    return _relative_gain(results, [compared.values[e.name] for e in endpoints], endpoints)


def _primary_endpoints(results: StudyResults, tasks: Mapping[str, str]) -> list[EndpointConfig]:
    """The first primary one of each task that has any."""
    found = [results.main_endpoint(task) for task in results.tasks if task in tasks]
    return [endpoint for endpoint in found if endpoint is not None and endpoint.primary]


def _relative_gain(
    results: StudyResults,
    values: Sequence[Mapping[int, tuple[float, float]]],
    endpoints: Sequence[EndpointConfig],
) -> RelativeGain:
    names = tuple(endpoint.name for endpoint in endpoints)
    seeds = [seed for seed in results.study.seeds if all(seed in one for one in values)]
    if not seeds:
        return RelativeGain(names, None, ())
    scores = np.array([[one[seed] for one in values] for seed in seeds])
    multi, single = scores[..., 0], scores[..., 1]
    undefined = tuple(name for name, column in zip(names, single.T, strict=True) if not column.any())
    if undefined:
        return RelativeGain(names, None, undefined)
    gains = dict(zip(seeds, delta_m(multi, single, [False] * len(names)).tolist(), strict=True))
    return RelativeGain(names, estimate(gains, results.study.preregistration.alpha), ())


@dataclass(frozen=True)
class TaskFamily:
    """Arms that differ in which tasks they learn.

    Attributes:
        singles: the arm that learns a task alone, by task.
        joint: the arm that learns several tasks, by these.
    """

    singles: dict[str, str]
    joint: dict[tuple[str, ...], str]

    def arm(self, tasks: tuple[str, ...]) -> str | None:
        """The arm that learns these tasks and no other."""
        return self.singles.get(tasks[0]) if len(tasks) == 1 else self.joint.get(tasks)


def task_families(results: StudyResults) -> list[TaskFamily]:
    """The families of a study, found by what its arms have in common.

    Arms with several tasks are of one family where backbone, neck, balancing and length of training are the
    same. An arm with one task belongs to them where backbone, neck and pretraining are the same; of several,
    the one with the same length of training.
    """
    common: dict[str, str] = {}
    joint: dict[tuple[str, str], dict[tuple[str, ...], str]] = {}
    for arm, settings in results.study.arms.items():
        config = results.config(arm)
        common[arm] = repr(
            (config.model.backbone, config.model.neck, config.pretrained, settings.pretraining)
        )
        if len(config.model.tasks) > 1:
            kind = common[arm], repr((config.balancing, config.phases))
            joint.setdefault(kind, {}).setdefault(config.model.tasks, arm)
    families = []
    for (parts, _), arms in joint.items():
        phases = results.config(next(iter(arms.values()))).phases
        singles = {}
        for task in dict.fromkeys(task for tasks in arms for task in tasks):
            alone = [
                arm
                for arm in results.study.arms
                if common[arm] == parts and results.arm_tasks(arm) == (task,)
            ]
            alone.sort(key=lambda arm: results.config(arm).phases != phases)
            if alone:
                singles[task] = alone[0]
        if all(task in singles for tasks in arms for task in tasks):
            families.append(TaskFamily(singles, arms))
    return families


@dataclass(frozen=True)
class TaskGain:
    """What a task gains by being learned with others.

    Attributes:
        endpoint: the task's main one.
        tasks: learned together.
        arm: that learns them.
        against: the arm that learns the task alone.
        comparison: over the seeds that both have; None where they are fewer than two, or were scored on
            different images.
    """

    endpoint: EndpointConfig
    tasks: tuple[str, ...]
    arm: str
    against: str
    comparison: PairedComparison | None


def task_gains(results: StudyResults, family: TaskFamily) -> list[TaskGain]:
    """Each task of each combination against the task alone, at the registered fraction."""
    gains = []
    for tasks, arm in family.joint.items():
        for task in tasks:
            endpoint = results.main_endpoint(task)
            if endpoint is None:
                continue
            against = family.singles[task]
            _, first, second = paired(results.scores(arm, endpoint), results.scores(against, endpoint))
            comparison = (
                compare_pairs(first, second, results.study.preregistration.alpha)
                if len(first) > 1 and results.comparable((arm, against), endpoint)
                else None
            )
            gains.append(TaskGain(endpoint, tasks, arm, against, comparison))
    return gains


@dataclass(frozen=True)
class System:
    """One or several networks that do all tasks between them.

    Attributes:
        by_task: the arm that does a task.
    """

    by_task: dict[str, str]

    @property
    def arms(self) -> tuple[str, ...]:
        """The networks."""
        return tuple(dict.fromkeys(self.by_task.values()))

    @property
    def name(self) -> str:
        """The networks' names."""
        return " + ".join(self.arms)


def partitions(tasks: tuple[str, ...]) -> Iterator[list[tuple[str, ...]]]:
    """Every way to divide tasks among networks, the order of the tasks kept in each."""
    if not tasks:
        yield []
        return
    first, others = tasks[0], tasks[1:]
    for divided in partitions(others):
        yield [(first,), *divided]
        for position, block in enumerate(divided):
            yield [*divided[:position], (first, *block), *divided[position + 1 :]]


def systems(results: StudyResults) -> list[System]:
    """Every set of a study's networks that does all tasks: of each family, and of the comparisons."""
    tasks = results.tasks
    found = [System(dict.fromkeys(tasks, arm)) for arm in results.study.arms if _does(results, arm, tasks)]
    for comparison in results.study.preregistration.comparisons:
        if set(comparison.against) == set(tasks):
            found.append(System({task: comparison.against[task] for task in tasks}))
    for family in task_families(results):
        found += partitioned(family, tasks)
    unique = {tuple(system.by_task.items()): system for system in found}
    return sorted(unique.values(), key=lambda system: -len(system.arms))


def _does(results: StudyResults, arm: str, tasks: Sequence[str]) -> bool:
    return set(tasks) <= set(results.arm_tasks(arm))


def partitioned(family: TaskFamily, tasks: tuple[str, ...]) -> list[System]:
    """The ways to do all tasks with the arms of a family."""
    ways = []
    for division in partitions(tasks):
        arms = [(family.arm(block), block) for block in division]
        if all(arm is not None for arm, _ in arms):
            by_task = {task: arm for arm, block in arms if arm is not None for task in block}
            ways.append(System({task: by_task[task] for task in tasks}))
    return ways


def system_gain(results: StudyResults, system: System, singles: Mapping[str, str]) -> RelativeGain:
    """Δm of a system over the primary endpoints against an arm for each task.

    A task that the system does with that arm adds 0. There is none where the arms were scored on different
    images.
    """
    endpoints = _primary_endpoints(results, system.by_task)
    values = []
    for endpoint in endpoints:
        arms = system.by_task[endpoint.task], singles[endpoint.task]
        seeds, first, second = paired(*(results.scores(arm, endpoint) for arm in arms))
        pairs = dict(zip(seeds, zip(first.tolist(), second.tolist(), strict=True), strict=True))
        values.append(pairs if results.comparable(arms, endpoint) else {})
    return _relative_gain(results, values, endpoints)


@dataclass(frozen=True)
class Factorial:
    """Arms with two backbones and two necks, of which nothing else differs.

    Attributes:
        backbones, necks: two each; effects are the first minus the second.
        arms: by backbone and neck.
    """

    backbones: tuple[str, str]
    necks: tuple[str, str]
    arms: dict[tuple[str, str], str]


def factorials(results: StudyResults) -> list[Factorial]:
    """Every 2x2 of backbone and neck among the arms with several tasks."""
    groups: dict[str, dict[tuple[str, str], str]] = {}
    for arm in results.study.arms:
        config = results.config(arm)
        if len(config.model.tasks) > 1:
            key = repr((config.model.tasks, config.balancing, config.phases))
            cell = config.model.backbone.name, config.model.neck.type
            groups.setdefault(key, {}).setdefault(cell, arm)
    found = []
    for cells in groups.values():
        backbones = list(dict.fromkeys(backbone for backbone, _ in cells))
        necks = list(dict.fromkeys(neck for _, neck in cells))
        for number, first in enumerate(backbones):
            for second in backbones[number + 1 :]:
                four = {(b, n): cells.get((b, n), "") for b in (first, second) for n in necks}
                if len(necks) == 2 and all(four.values()):
                    found.append(Factorial((first, second), (necks[0], necks[1]), four))
    return found


def factorial_effects(
    results: StudyResults, square: Factorial, endpoint: EndpointConfig
) -> dict[str, Estimate | None]:
    """Main effects and interaction by seed, at the registered fraction, in the unit of the scores.

    Returns:
        ``backbone`` and ``neck``: the first minus the second, mean over the two of the other factor;
        ``interaction``: what the backbones differ by with the first neck minus that with the second.
    """
    (b0, b1), (n0, n1) = square.backbones, square.necks
    cells = {cell: results.scores(arm, endpoint) for cell, arm in square.arms.items()}
    seeds = [seed for seed in results.study.seeds if all(seed in values for values in cells.values())]
    if not results.comparable(square.arms.values(), endpoint):
        seeds = []
    signs = {
        "backbone": {(b0, n0): 0.5, (b0, n1): 0.5, (b1, n0): -0.5, (b1, n1): -0.5},
        "neck": {(b0, n0): 0.5, (b0, n1): -0.5, (b1, n0): 0.5, (b1, n1): -0.5},
        "interaction": {(b0, n0): 1.0, (b0, n1): -1.0, (b1, n0): -1.0, (b1, n1): 1.0},
    }
    return {
        name: estimate(
            {seed: sum(factor * cells[cell][seed] for cell, factor in factors.items()) for seed in seeds},
            results.study.preregistration.alpha,
        )
        for name, factors in signs.items()
    }
