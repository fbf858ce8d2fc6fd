"""What the finished jobs of a study hold, by arm, data fraction and seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.sources import TASKS, named_sources
from pvt_mtl_perception.study.comparisons import different_images
from pvt_mtl_perception.study.config import EndpointConfig, StudyConfig, endpoint_value
from pvt_mtl_perception.study.folder import JobFolder
from pvt_mtl_perception.study.jobs import Job, job_folder
from pvt_mtl_perception.training.config import TrainingConfig

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A finished job.

    Attributes:
        job: which.
        folder: its files.
        result: what it wrote into ``result.json``.
    """

    job: Job
    folder: JobFolder
    result: Mapping[str, Any]


def fold_of(run: Run, source: str) -> str:
    """What tells the images of an evaluated source from those of another fold: its configuration."""
    return repr(named_sources(run.job.config.evaluate).get(source))


@dataclass(frozen=True, eq=False)
class StudyResults:
    """A study with the jobs that are finished.

    Attributes:
        study: the study.
        out: its folder.
        jobs: all of its jobs.
        runs: the finished ones of the arms by arm, fraction and seed.
    """

    study: StudyConfig
    out: Path
    jobs: Sequence[Job]
    runs: Mapping[tuple[str, float, int], Run]

    @property
    def fraction(self) -> float:
        """The data fraction that primary claims are about."""
        return self.study.preregistration.fraction

    @property
    def endpoints(self) -> list[EndpointConfig]:
        """All endpoints."""
        return self.study.preregistration.endpoints

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that endpoints are about, in the order of ``TASKS``."""
        return tuple(task for task in TASKS if any(e.task == task for e in self.endpoints))

    def main_endpoint(self, task: str) -> EndpointConfig | None:
        """A task's first primary endpoint, its first one where none is primary."""
        own = [e for e in self.endpoints if e.task == task]
        return next((e for e in own if e.primary), own[0] if own else None)

    def config(self, arm: str) -> TrainingConfig:
        """The training configuration of an arm's first job at the registered fraction."""
        return next(j.config for j in self.jobs if j.arm == arm and j.fraction == self.fraction)

    def arm_tasks(self, arm: str) -> tuple[str, ...]:
        """The tasks that an arm learns."""
        return self.config(arm).model.tasks

    def of_arm(self, arm: str, fraction: float | None = None) -> list[Run]:
        """The finished runs of an arm in the order of the seeds; at the registered fraction where None."""
        at = self.fraction if fraction is None else fraction
        return [self.runs[arm, at, seed] for seed in self.study.seeds if (arm, at, seed) in self.runs]

    def counts(self, source: str, count: Callable[[Mapping[str, Any]], Mapping[str, int]]) -> dict[str, int]:
        """How many of each thing an evaluated source holds, over the test sets of all seeds.

        Of arms that were scored on different numbers, or with fewer seeds, the largest counts.

        Args:
            source: its name.
            count: from the scores of one run on it, by the thing's name.
        """
        by_arm: dict[str, dict[str, dict[str, int]]] = {}
        for (arm, _, _), run in self.runs.items():
            found = by_arm.setdefault(arm, {}).setdefault(fold_of(run, source), {})
            for name, number in count(run.result["scores"].get(source, {})).items():
                found[name] = max(number, found.get(name, 0))
        totals: dict[str, int] = {}
        for folds in by_arm.values():
            for name in {name for found in folds.values() for name in found}:
                total = sum(found.get(name, 0) for found in folds.values())
                totals[name] = max(total, totals.get(name, 0))
        return totals

    def comparable(self, arms: Iterable[str], endpoint: EndpointConfig) -> bool:
        """Whether arms were scored on the same labelled images, at the registered fraction.

        Jobs without records are taken to be.
        """
        folders = [{run.job.seed: run.folder for run in self.of_arm(arm)} for arm in arms]
        return not any(different_images(endpoint, *pair) for pair in itertools.pairwise(folders))

    def scores(self, arm: str, endpoint: EndpointConfig, fraction: float | None = None) -> dict[int, float]:
        """An endpoint's score by seed, 0..1; empty where the arm does not learn the task."""
        if endpoint.task not in self.arm_tasks(arm):
            return {}
        return {
            run.job.seed: endpoint_value(run.result["scores"], endpoint) for run in self.of_arm(arm, fraction)
        }


def read_results(study: StudyConfig, jobs: Sequence[Job], out: Path) -> StudyResults:
    """Reads the results that there are.

    Args:
        study: the study.
        jobs: all of its jobs.
        out: its folder.
    """
    runs = {}
    for job in jobs:
        folder = job_folder(out, job)
        if job.arm is not None and folder.result.is_file():
            runs[job.arm, job.fraction, job.seed] = Run(job, folder, folder.read_result())
    return StudyResults(study, out, jobs, runs)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[list[int], Array, Array]:
    """The seeds that both have, and the values of each: (seeds,) float64 twice."""
    seeds = [seed for seed in first if seed in second]
    return seeds, np.array([first[s] for s in seeds]), np.array([second[s] for s in seeds])
