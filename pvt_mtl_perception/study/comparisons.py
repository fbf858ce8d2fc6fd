"""The study's comparisons from the results that there are: each endpoint's values by seed, and its claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pvt_mtl_perception.evaluation.records import labelled_names
from pvt_mtl_perception.study.config import ComparisonConfig, EndpointConfig, StudyConfig, endpoint_value
from pvt_mtl_perception.study.folder import JobFolder
from pvt_mtl_perception.study.jobs import Job, job_folder
from pvt_mtl_perception.study.statistics.claims import Claim, Endpoint, judge
from pvt_mtl_perception.study.statistics.paired import compare_pairs


@dataclass(frozen=True)
class Compared:
    """One comparison at one data fraction.

    Attributes:
        comparison: which.
        fraction: of the training data.
        values: by endpoint's name and seed the scores of the arm and of the one it is compared with, 0..1;
            seeds that both have finished.
        claims: of the endpoints with two seeds or more: the primary ones as a family, then the others, each
            alone.
        missing: by endpoint's name the seeds without both scores.
        refused: by endpoint's name why there are no values though there are scores.
    """

    comparison: ComparisonConfig
    fraction: float
    values: dict[str, dict[int, tuple[float, float]]]
    claims: list[Claim]
    missing: dict[str, list[int]]
    refused: dict[str, str] = field(default_factory=dict)


def compare_arms(study: StudyConfig, jobs: Sequence[Job], out: Path) -> list[Compared]:
    """Every comparison of the study at every fraction.

    Arms that were scored on different labelled images, as far as records tell, are not compared.

    Args:
        study: the study.
        jobs: all of its jobs.
        out: its folder.

    Raises:
        KeyError, ValueError: when a result lacks an endpoint, from ``endpoint_value``; for damaged records.
    """
    scores, folders = {}, {}
    for job in jobs:
        folder = job_folder(out, job)
        if job.arm is not None and folder.result.is_file():
            scores[job.arm, job.fraction, job.seed] = folder.read_result()["scores"]
            folders[job.arm, job.fraction, job.seed] = folder
    compared = []
    for comparison in study.preregistration.comparisons:
        endpoints = [e for e in study.preregistration.endpoints if e.task in comparison.against]
        for fraction in study.fractions:
            values: dict[str, dict[int, tuple[float, float]]] = {}
            missing, refused = {}, {}
            for endpoint in endpoints:
                arms = comparison.arm, comparison.against[endpoint.task]
                seeds = [s for s in study.seeds if all((arm, fraction, s) in scores for arm in arms)]
                missing[endpoint.name] = [seed for seed in study.seeds if seed not in seeds]
                values[endpoint.name] = {}
                first, second = ({seed: folders[arm, fraction, seed] for seed in seeds} for arm in arms)
                if reason := different_images(endpoint, first, second):
                    refused[endpoint.name] = reason
                    continue
                values[endpoint.name] = {
                    seed: (
                        endpoint_value(scores[arms[0], fraction, seed], endpoint),
                        endpoint_value(scores[arms[1], fraction, seed], endpoint),
                    )
                    for seed in seeds
                }
            claims = _claims(study, comparison, endpoints, values)
            compared.append(Compared(comparison, fraction, values, claims, missing, refused))
    return compared


def different_images(
    endpoint: EndpointConfig, first: Mapping[int, JobFolder], second: Mapping[int, JobFolder]
) -> str | None:
    """Why two arms cannot be compared in an endpoint: a seed scored them on different labelled images.

    Args:
        endpoint: which.
        first, second: the arms' finished jobs by seed.

    Returns:
        The first such seed with the numbers of images; None where there is none, or no records to tell.

    Raises:
        ValueError: for damaged records.
    """
    group = endpoint.metric.split(".")[0]
    for seed in (seed for seed in first if seed in second):
        paths = [jobs[seed].records(endpoint.source) for jobs in (first, second)]
        if not all(path.is_file() for path in paths):
            continue
        one, other = (labelled_names(path, endpoint.task, None if group == "*" else group) for path in paths)
        if one != other:
            return (
                f"with the seed {seed} they were scored on different images of {endpoint.source}, {len(one)} "
                f"and {len(other)} labelled for {endpoint.task}, of which both have {len(one & other)}"
            )
    return None


def _claims(
    study: StudyConfig,
    comparison: ComparisonConfig,
    endpoints: Sequence[EndpointConfig],
    values: Mapping[str, Mapping[int, tuple[float, float]]],
) -> list[Claim]:
    families = [[e for e in endpoints if e.primary], *([e] for e in endpoints if not e.primary)]
    claims: list[Claim] = []
    for family in families:
        # A family is judged when it is whole: Holm's correction is over all of it.
        if not family or any(len(values[endpoint.name]) < 2 for endpoint in family):
            continue
        pairs, against = {}, {}
        for endpoint in family:
            both = values[endpoint.name].values()
            judged = Endpoint(endpoint.name, endpoint.margin)
            against[judged] = comparison.against[endpoint.task]
            pairs[judged] = compare_pairs(
                [first for first, _ in both], [second for _, second in both], study.preregistration.alpha
            )
        claims += judge(pairs, comparison.arm, against)
    return claims
