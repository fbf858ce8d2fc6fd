"""The jobs of a study: every arm, data fraction and seed, with its whole training configuration."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_mtl_perception.data.sources import SourceConfig, named_sources
from pvt_mtl_perception.evaluation.report import DETECTION_SCORES, classification_scores
from pvt_mtl_perception.model.spec import ModelSpec, load_task_labels
from pvt_mtl_perception.study.config import EndpointConfig, StudyConfig, endpoint_value, registered
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
    parts = [study.training, settings.training, *filter(None, changes)]
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
    """All jobs of a study: pretrainings, then every arm of the first seed, of the second, …, by fraction.

    The data fraction that primary claims are about comes first. So the seeds that are done are done in every
    arm, and a study that is interrupted has its claims before its data curve.

    Args:
        study: the study.
        path: its file.
        tuned: by arm the settings that its trials were won by.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``; also when an arm of a comparison lacks a task, or
            an endpoint's source is not evaluated or its metric is no score.
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
        for fraction in sorted(study.fractions, key=lambda f: f != study.preregistration.fraction)
        for number, seed in enumerate(study.seeds)
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
        for job_id, changes in zip(trial_ids(study)[arm], settings.trials, strict=True):
            config = _of_part(
                arm_config(study, path, arm, changes), study, study.tuning.fraction, study.tuning.seed
            )
            trials.append(
                Job(
                    id=job_id,
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
    for arm, config in configs.items():
        for endpoint in endpoints:
            if endpoint.task in config.model.tasks:
                _check_metric(endpoint, config.model, f"{path}: endpoint {endpoint.name!r}, arm {arm!r}")
    for comparison in study.preregistration.comparisons:
        for task, other in comparison.against.items():
            for arm in (comparison.arm, other):
                if task not in configs[arm].model.tasks:
                    raise ValueError(
                        f"{path}: comparison {comparison.name!r} is about {task}, "
                        f"which the arm {arm!r} does not learn"
                    )
                scored = named_sources(configs[arm].evaluate)
                for endpoint in endpoints:
                    if endpoint.task == task and endpoint.source not in scored:
                        raise ValueError(
                            f"{path}: endpoint {endpoint.name!r} is read from {endpoint.source}; "
                            f"the arm {arm!r} is scored on {', '.join(scored) or 'nothing'}"
                        )


def _check_metric(endpoint: EndpointConfig, spec: ModelSpec, place: str) -> None:
    known = _score_names(spec, endpoint.task)
    if any(_is_metric(endpoint.metric.split("."), name.split(".")) for name in known):
        return
    near = difflib.get_close_matches(endpoint.metric.lower(), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"{place}: {endpoint.task} has no score {endpoint.metric!r}; {hint}known: {', '.join(known)}"
    )


def _is_metric(keys: list[str], name: list[str]) -> bool:
    return len(keys) == len(name) and all(n in (key, "CLASS") for key, n in zip(keys, name, strict=True))


def _score_names(spec: ModelSpec, task: str) -> list[str]:
    """Dotted keys of the numbers that an evaluation has of a task; ``CLASS`` is the name of any class.

    Class names are those of the source's own taxonomy where it has one, which the spec does not tell.
    """
    if task == "detection":
        return [*DETECTION_SCORES, *(f"per_class.CLASS.{key}" for key in DETECTION_SCORES if key != "ar100")]
    if task == "segmentation":
        return ["miou", "pixel_accuracy", "boundary_f", "per_class.CLASS", "per_class_boundary_f.CLASS"]
    sizes = {group: len(labels) for group, labels in load_task_labels(spec).classification.items()}
    return [
        f"{group}.{score}"
        for group, size in {"*": min(sizes.values()), **sizes}.items()
        for score in (*classification_scores(size), "per_class.CLASS")
    ]


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
        if key in current and key not in free and not _equal_where_known(value, current[key], key)
    )


_OWN_KEYS = ("options", "weights", "label_sets", "classification_labels")
"""Dictionaries whose keys are the user's: one more is no key of a later version."""


def _equal_where_known(stored: Any, current: Any, name: str = "") -> bool:
    if isinstance(stored, dict) and isinstance(current, dict) and name not in _OWN_KEYS:
        return all(k in current and _equal_where_known(v, current[k], k) for k, v in stored.items())
    if isinstance(stored, list) and isinstance(current, list):
        pairs = zip(stored, current, strict=False)
        return len(stored) == len(current) and all(_equal_where_known(a, b) for a, b in pairs)
    return bool(stored == current)


def registration(study: StudyConfig, path: Path) -> dict[str, Any]:
    """What is decided before the first trial or job, for ``register``.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``.
    """
    test_sets: dict[str, list[SourceConfig]] = {}
    arms: dict[str, Any] = {}
    for arm in study.arms:
        configs = [arm_config(study, path, arm, fold) for fold in study.by_seed or [{}]]
        evaluated = test_sets.setdefault(arm, [])
        evaluated += [s for config in configs for s in config.evaluate if s not in evaluated]
        # Each seed has its own, and the other folds are under ``by_seed``.
        arms[arm] = _decided(configs[0], FREE_KEYS | {"seed"})
    pretraining = {
        job.id.partition("/")[2]: _decided(job.config, FREE_KEYS) for job in _pretrainings(study, path)
    }
    return registered(study, test_sets, {**arms, **({"pretraining": pretraining} if pretraining else {})})


def _decided(config: TrainingConfig, left_out: Collection[str]) -> dict[str, Any]:
    """A run's keys without defaults, so that a key which a later version adds changes nothing."""
    return {key: value for key, value in _without_defaults(config).items() if key not in left_out}


def _without_defaults(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_defaults(child) for child in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    kept = {}
    for item in dataclasses.fields(value):
        found = getattr(value, item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if found != default:
            kept[item.name] = _without_defaults(found)
    return kept


def trial_ids(study: StudyConfig) -> dict[str, list[str]]:
    """By arm the ids of its trials."""
    return {
        arm: [f"tuning/{arm}/{number}" for number in range(len(settings.trials))]
        for arm, settings in study.arms.items()
    }


def unfinished_trials(study: StudyConfig, out: Path) -> dict[str, list[str]]:
    """By arm the ids of its trials that are not finished, of arms that have any such."""
    missing = {
        arm: [job_id for job_id in ids if not job_folder(out, job_id).result.is_file()]
        for arm, ids in trial_ids(study).items()
    }
    return {arm: ids for arm, ids in missing.items() if ids}


def deciding_endpoints(study: StudyConfig, tasks: Collection[str]) -> list[EndpointConfig]:
    """The endpoints whose mean decides between the trials of an arm with these tasks.

    The primary ones, because a secondary one (AP50 beside AP) would let its task count twice; all of them
    where none is primary.
    """
    own = [endpoint for endpoint in study.preregistration.endpoints if endpoint.task in tasks]
    return [endpoint for endpoint in own if endpoint.primary] or own


def tuning_record(
    study: StudyConfig, path: Path, out: Path, arms: Collection[str] | None = None
) -> dict[str, Any]:
    """The trials of arms with their scores, and the best one of each.

    The objective is the mean of ``deciding_endpoints``.

    Args:
        study: the study.
        path: its file.
        out: its folder.
        arms: which; all where None.

    Returns:
        by arm ``trials`` (each ``settings``, ``endpoints``, ``objective``), ``objective`` (the names of the
        endpoints whose mean it is), ``chosen`` (a number) and ``settings`` (the chosen ones).

    Raises:
        ValueError: when a trial is not finished, or was run under another configuration, naming it.
    """
    jobs = tuning_jobs(study, path)
    assert study.tuning is not None
    sources = {source.kind: name for name, source in named_sources(study.tuning.evaluate).items()}
    record: dict[str, Any] = {}
    for arm, settings in study.arms.items():
        if arms is not None and arm not in arms:
            continue
        trials: list[dict[str, Any]] = []
        objectives: list[float] = []
        deciding: list[str] = []
        for job_id, changes in zip(trial_ids(study)[arm], settings.trials, strict=True):
            job = next(job for job in jobs if job.id == job_id)
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
            deciding = [endpoint.name for endpoint in deciding_endpoints(study, job.config.model.tasks)]
            if not deciding:
                raise ValueError(
                    f"no endpoint is about a task of the arm {arm!r}: its trials cannot be compared"
                )
            objectives.append(sum(values[name] for name in deciding) / len(deciding))
            trials.append({"settings": changes, "endpoints": values, "objective": objectives[-1]})
        best = objectives.index(max(objectives))
        record[arm] = {
            "trials": trials,
            "objective": deciding,
            "chosen": best,
            "settings": settings.trials[best],
        }
    return record


TUNING = "tuning.json"


@dataclass(frozen=True)
class Tuning:
    """What ``study tune`` left in ``tuning.json``.

    Attributes:
        record: by arm as of ``tuning_record``; arms whose trials are not all finished are not in it.
        problems: by arm why the study cannot go on from the record.
    """

    record: dict[str, Any]
    problems: dict[str, str]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """By arm the settings that its trials were won by."""
        return {arm: found["settings"] for arm, found in self.record.items()}


def tuning_so_far(study: StudyConfig, out: Path) -> Tuning:
    """The record that there is, of trials that the study may not have any more; empty where there is none."""
    path = out / TUNING
    record = json.loads(path.read_text()) if path.is_file() else {}
    problems = {}
    for arm, settings in study.arms.items():
        if arm not in record:
            problems[arm] = f"the trials of the arm {arm!r} are not in {path}; run `pvt-mtl study tune` first"
        elif [trial["settings"] for trial in record[arm]["trials"]] != settings.trials:
            problems[arm] = f"{path} has other trials of the arm {arm!r}; run `pvt-mtl study tune` again"
    if not path.is_file():
        reason = f"the study has trials and there is no {path}; run `pvt-mtl study tune` first"
        problems = dict.fromkeys(study.arms, reason)
    return Tuning({arm: record[arm] for arm in study.arms if arm in record}, problems)


def read_tuning(
    study: StudyConfig, out: Path, arms: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """By arm the settings that its trials were won by, of all arms that are in ``tuning.json``.

    Args:
        study: the study.
        out: its folder.
        arms: those that have to be in it; all where None.

    Raises:
        ValueError: when one of them is not, or the study's trials are not those in it.
    """
    tuning = tuning_so_far(study, out)
    for arm, problem in tuning.problems.items():
        if arms is None or arm in arms:
            raise ValueError(problem)
    return tuning.settings
