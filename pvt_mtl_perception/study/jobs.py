"""The jobs of a study: every arm, data fraction and seed, with its whole training configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_mtl_perception.study.config import StudyConfig, endpoint_value
from pvt_mtl_perception.study.folder import STUDY_VARIABLE, JobFolder, write_atomically
from pvt_mtl_perception.training.config import FREE_KEYS, TrainingConfig, compose_config, config_yaml


@dataclass(frozen=True)
class Job:
    """One training with its evaluation.

    Attributes:
        id: ``arm/fraction/seed``, ``pretraining/name`` or ``tuning/arm/number``; also its folder.
        arm: None for a pretraining.
        fraction: of the training data.
        seed: of the training.
        config: everything that is trained and scored.
        needs: id of the pretraining that has to be done before.
    """

    id: str
    arm: str | None
    fraction: float
    seed: int
    config: TrainingConfig
    needs: str | None = None


def job_folder(out: Path, job: Job | str) -> JobFolder:
    """The folder of a job in a study's folder."""
    return JobFolder(out / "jobs" / (job if isinstance(job, str) else job.id))


def prepare(folder: JobFolder, job: Job) -> None:
    """Makes the folder of a job that is not finished.

    Raises:
        OSError: from the file system.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    described = {"id": job.id, "arm": job.arm, "fraction": job.fraction, "seed": job.seed}
    write_atomically(folder.path / "job.json", json.dumps(described, indent=1) + "\n")
    write_atomically(folder.config, config_yaml(job.config))


def arm_config(study: StudyConfig, path: Path, arm: str, *changes: Mapping[str, Any]) -> TrainingConfig:
    """The training configuration of an arm, before seed and data fraction.

    Args:
        study: the study.
        path: its file.
        arm: name.
        changes: keys that count over the arm's: of a fold, of a trial.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``, naming the arm.
    """
    settings = study.arms[arm]
    parts = [study.training, settings.training, *changes]
    if settings.pretraining is not None:
        weights = f"${STUDY_VARIABLE}/jobs/pretraining/{settings.pretraining}/model.safetensors"
        parts.append({"initial_weights": weights})
    return compose_config(parts, path, f"arms.{arm}")


def _of_part(config: TrainingConfig, study: StudyConfig, fraction: float, seed: int) -> TrainingConfig:
    train = [
        dataclasses.replace(source, fraction=source.fraction * fraction, subset_seed=study.subset_seed)
        for source in config.train
    ]
    return dataclasses.replace(config, train=train, seed=seed)


def study_jobs(
    study: StudyConfig, path: Path, tuned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Job]:
    """All jobs of a study: pretrainings, then every arm and fraction of the first seed, of the second, ….

    So the seeds that are done are done in every arm.

    Args:
        study: the study.
        path: its file.
        tuned: by arm the settings that its trials were won by.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``; also when an arm of a comparison lacks a task, or
            an endpoint's source is not evaluated.
    """
    folds = [
        {arm: arm_config(study, path, arm, fold, (tuned or {}).get(arm, {})) for arm in study.arms}
        for fold in study.by_seed or [{}]
    ]
    for configs in folds:
        _check_endpoints(study, path, configs)
    runs = [
        Job(
            id=f"{arm}/{fraction:g}/{seed}",
            arm=arm,
            fraction=fraction,
            seed=seed,
            config=_of_part(folds[number % len(folds)][arm], study, fraction, seed),
            needs=f"pretraining/{study.arms[arm].pretraining}" if study.arms[arm].pretraining else None,
        )
        for number, seed in enumerate(study.seeds)
        for fraction in study.fractions
        for arm in study.arms
    ]
    return [*_pretrainings(study, path), *runs]


def tuning_jobs(study: StudyConfig, path: Path) -> list[Job]:
    """The trials of every arm, after the pretrainings that they begin with.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``; also when the study has no trials.
    """
    if study.tuning is None:
        raise ValueError(f"{path} has no trials to tune")
    trials = []
    for arm, settings in study.arms.items():
        for number, changes in enumerate(settings.trials):
            config = _of_part(
                arm_config(study, path, arm, changes), study, study.tuning.fraction, study.tuning.seed
            )
            trials.append(
                Job(
                    id=f"tuning/{arm}/{number}",
                    arm=arm,
                    fraction=study.tuning.fraction,
                    seed=study.tuning.seed,
                    config=dataclasses.replace(config, evaluate=study.tuning.evaluate),
                    needs=f"pretraining/{settings.pretraining}" if settings.pretraining else None,
                )
            )
    return [*_pretrainings(study, path), *trials]


def _pretrainings(study: StudyConfig, path: Path) -> list[Job]:
    jobs = []
    for name, training in study.pretraining.items():
        config = compose_config([training], path, f"pretraining.{name}")
        jobs.append(Job(f"pretraining/{name}", None, 1.0, config.seed, config))
    return jobs


def _check_endpoints(study: StudyConfig, path: Path, configs: Mapping[str, TrainingConfig]) -> None:
    endpoints = study.preregistration.endpoints
    for comparison in study.preregistration.comparisons:
        for task, other in comparison.against.items():
            for arm in (comparison.arm, other):
                if task not in configs[arm].model.tasks:
                    raise ValueError(
                        f"{path}: comparison {comparison.name!r} is about {task}, "
                        f"which the arm {arm!r} does not learn"
                    )
                scored = [f"{source.kind}/{source.split}" for source in configs[arm].evaluate]
                for endpoint in endpoints:
                    if endpoint.task == task and endpoint.source not in scored:
                        raise ValueError(
                            f"{path}: endpoint {endpoint.name!r} is read from {endpoint.source}; "
                            f"the arm {arm!r} is scored on {', '.join(scored) or 'nothing'}"
                        )


def part_of(jobs: Sequence[Job], part: tuple[int, int]) -> list[Job]:
    """The jobs of one of ``n`` runners, and the pretrainings that they need.

    Args:
        jobs: all.
        part: (k, n), k from 1 to n.

    Raises:
        ValueError: when k is not 1..n.
    """
    k, n = part
    if not 1 <= k <= n:
        raise ValueError(f"part {k}/{n}: the first number is from 1 to the second")
    own = [job for job in jobs if job.arm is not None][k - 1 :: n]
    needed = {job.needs for job in own}
    return [job for job in jobs if job.id in needed] + own


def outdated(result: Mapping[str, Any], job: Job) -> list[str]:
    """Keys in which a finished job's configuration is not the study's any more.

    Keys that the result does not have are of a later version and do not count.
    """
    current = json.loads(json.dumps(dataclasses.asdict(job.config)))
    # Tests read the evaluated sources from the results, so that key counts here.
    free = FREE_KEYS - {"evaluate"}
    return sorted(
        key
        for key, value in result["config"].items()
        if key in current and key not in free and not _equal_where_known(value, current[key])
    )


def _equal_where_known(stored: Any, current: Any) -> bool:
    if isinstance(stored, dict) and isinstance(current, dict):
        return all(k in current and _equal_where_known(v, current[k]) for k, v in stored.items())
    if isinstance(stored, list) and isinstance(current, list):
        pairs = zip(stored, current, strict=False)
        return len(stored) == len(current) and all(_equal_where_known(a, b) for a, b in pairs)
    return bool(stored == current)


def tuning_record(study: StudyConfig, path: Path, out: Path) -> dict[str, Any]:
    """Every arm's trials with their scores, and the best one.

    The objective is the mean of the endpoints of the tasks that the arm learns.

    Returns:
        by arm ``trials`` (each ``settings``, ``endpoints``, ``objective``), ``chosen`` (a number) and
        ``settings`` (the chosen ones).

    Raises:
        ValueError: when a trial is not finished, naming it.
    """
    jobs = tuning_jobs(study, path)
    assert study.tuning is not None
    sources = {source.kind: f"{source.kind}/{source.split}" for source in study.tuning.evaluate}
    record: dict[str, Any] = {}
    for arm, settings in study.arms.items():
        trials: list[dict[str, Any]] = []
        objectives: list[float] = []
        for number, changes in enumerate(settings.trials):
            job = next(job for job in jobs if job.id == f"tuning/{arm}/{number}")
            folder = job_folder(out, job)
            if not folder.result.is_file():
                raise ValueError(f"the trial {job.id} is not finished; `pvt-mtl study tune` runs the trials")
            result = folder.read_result()
            if keys := outdated(result, job):
                raise ValueError(
                    f"the trial {job.id} was run under another configuration ({', '.join(keys)} differ); "
                    f"remove {folder.path} to run it again"
                )
            values = {
                endpoint.name: endpoint_value(
                    result["scores"], endpoint, sources.get(endpoint.source.split("/")[0])
                )
                for endpoint in study.preregistration.endpoints
                if endpoint.task in job.config.model.tasks
            }
            objectives.append(sum(values.values()) / len(values))
            trials.append({"settings": changes, "endpoints": values, "objective": objectives[-1]})
        best = objectives.index(max(objectives))
        record[arm] = {"trials": trials, "chosen": best, "settings": settings.trials[best]}
    return record


def read_tuning(study: StudyConfig, out: Path) -> dict[str, dict[str, Any]]:
    """By arm the settings that its trials were won by, as ``study tune`` left them in ``tuning.json``.

    Raises:
        ValueError: when there is no such file, or the study's trials are not those in it.
    """
    path = out / "tuning.json"
    if not path.is_file():
        raise ValueError(f"the study has trials and there is no {path}; run `pvt-mtl study tune` first")
    record = json.loads(path.read_text())
    for arm, settings in study.arms.items():
        tried = [trial["settings"] for trial in record.get(arm, {}).get("trials", [])]
        if tried != settings.trials:
            raise ValueError(f"{path} has other trials of the arm {arm!r}; run `pvt-mtl study tune` again")
    return {arm: record[arm]["settings"] for arm in study.arms}
