"""The report of a study: its sections in order, and the files it is written to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_mtl_perception.study.comparisons import Compared, compare_arms
from pvt_mtl_perception.study.config import StudyConfig
from pvt_mtl_perception.study.cost import read_costs
from pvt_mtl_perception.study.folder import write_atomically
from pvt_mtl_perception.study.jobs import Job
from pvt_mtl_perception.study.report.combinations import (
    affinity_section,
    factorial_section,
    tasks_section,
)
from pvt_mtl_perception.study.report.costs import arm_costs, cost_section, rival_section
from pvt_mtl_perception.study.report.differences import claims_sections, differences_section, gain_section
from pvt_mtl_perception.study.report.document import Document, Section, write_html, write_markdown
from pvt_mtl_perception.study.report.effects import (
    RelativeGain,
    factorial_effects,
    factorials,
    relative_gain,
    system_gain,
    systems,
    task_families,
)
from pvt_mtl_perception.study.report.images import ImageIntervals, conditions, image_intervals
from pvt_mtl_perception.study.report.results import StudyResults, read_results
from pvt_mtl_perception.study.report.scores import (
    all_scores,
    classes_section,
    conditions_section,
    read_robustness,
    robustness_section,
    scores_section,
)
from pvt_mtl_perception.study.report.tables import table_files
from pvt_mtl_perception.study.report.threats import (
    Standing,
    provenance_section,
    threats_section,
    tuning_section,
)


@dataclass(frozen=True, eq=False)
class Report:
    """A study's report before it is written.

    Attributes:
        document: what HTML and Markdown hold.
        compared: the comparisons with their claims.
        values: the raw values, as plain data for ``comparisons.json``.
        tables: the main tables as files' content by name, from ``table_files``.
    """

    document: Document
    compared: Sequence[Compared]
    values: dict[str, Any]
    tables: dict[str, str]


def build_report(
    study: StudyConfig,
    jobs: Sequence[Job],
    out: Path,
    standing: Standing,
    replicates: int,
    progress: bool = False,
) -> Report:
    """Everything that the finished jobs of a study show.

    Nothing is trained or timed. What is not there yet is told in its place.

    Args:
        study: the study.
        jobs: all of its jobs.
        out: its folder.
        standing: its pre-registration and what is to be remarked.
        replicates: bootstrap draws of seeds and images.
        progress: show bars of long work.

    Raises:
        KeyError, ValueError: when a result lacks an endpoint, or a file in the folder is damaged.
    """
    results = read_results(study, jobs, out)
    compared = compare_arms(study, jobs, out)
    images = image_intervals(results, compared, replicates, progress)
    gains = {
        (one.comparison.name, one.fraction): gain
        for one in compared
        if (gain := relative_gain(results, one)) is not None
    }
    costs, robustness, by_condition = read_costs(out), read_robustness(results), conditions(results)
    by_arm = {arm: known for arm in study.arms if (known := arm_costs(results, costs, arm))}
    claims, *explored = claims_sections(results, compared, images)
    sections: list[Section | None] = [
        claims,
        differences_section(results, compared, images),
        gain_section(results, compared, gains),
        tasks_section(results),
        affinity_section(results, compared),
        factorial_section(results),
        cost_section(results, costs, by_arm),
        rival_section(results, compared, costs, by_condition, robustness),
        *explored,
        scores_section(results),
        classes_section(results),
        conditions_section(results, by_condition),
        robustness_section(results, robustness),
        tuning_section(results),
        threats_section(results, compared, images, costs, standing),
        provenance_section(results, standing),
    ]
    planned = sum(job.arm is not None for job in jobs)
    lead = [
        *([study.question] if study.question else []),
        f"{len(study.arms)} arms, {len(study.seeds)} seeds, "
        f"{' and '.join(f'{fraction:.0%}' for fraction in study.fractions)} of the training data: "
        f"{len(results.runs)} of {planned} jobs are finished.",
        *(f"{remark[:1].upper()}{remark[1:]}." for remark in standing.remarks),
    ]
    document = Document(f"Study {study.name}", lead, [section for section in sections if section is not None])
    values = _values(results, compared, images, gains, standing)
    values |= {"cost": costs, "robustness": robustness}
    values["conditions"] = [dataclasses.asdict(condition) for condition in by_condition]
    tables = table_files(results, values["scores"], by_arm, compared, images, gains)
    return Report(document, compared, values, tables)


def _values(
    results: StudyResults,
    compared: Sequence[Compared],
    images: ImageIntervals,
    gains: dict[tuple[str, float], RelativeGain],
    standing: Standing,
) -> dict[str, Any]:
    comparisons = []
    for one in compared:
        nested = {}
        for (comparison, fraction, endpoint), found in images.intervals.items():
            if (comparison, fraction) == (one.comparison.name, one.fraction):
                plain = {k: v for k, v in vars(found).items() if k != "replicates"}
                nested[endpoint] = {
                    **plain,
                    "replicates": len(found.replicates),
                    "images": images.images[endpoint],
                    "block_length": images.blocks[endpoint],
                }
        gain = gains.get((one.comparison.name, one.fraction))
        values = dataclasses.asdict(one)
        if not one.refused:
            del values["refused"]
        values |= {"nested_bootstrap": nested, "delta_m": None if gain is None else dataclasses.asdict(gain)}
        comparisons.append(values)
    families = task_families(results)
    return {
        "study": results.study.name,
        "registrations": list(standing.registrations),
        "remarks": [*standing.changes, *standing.unrecorded, *standing.tuning, *standing.outdated],
        "jobs": {
            "finished": len(results.runs),
            "planned": sum(job.arm is not None for job in results.jobs),
        },
        "scores": all_scores(results),
        "comparisons": comparisons,
        "systems": [
            {
                "by_task": system.by_task,
                "delta_m": {
                    "against": family.singles,
                    **dataclasses.asdict(system_gain(results, system, family.singles)),
                },
            }
            for family in families[:1]
            for system in systems(results)
            if set(results.tasks) <= set(family.singles)
        ],
        "backbone_and_neck": [
            {
                "arms": {f"{backbone}, {neck}": arm for (backbone, neck), arm in square.arms.items()},
                "effects": {
                    endpoint.name: {
                        name: None if found is None else dataclasses.asdict(found)
                        for name, found in factorial_effects(results, square, endpoint).items()
                    }
                    for endpoint in results.endpoints
                },
            }
            for square in factorials(results)
        ],
        "parameters": {
            arm: runs[0].result["parameters"]
            for arm in results.study.arms
            if (runs := results.of_arm(arm)) and "parameters" in runs[0].result
        },
        "no_interval_over_images": list(images.reasons),
    }


def write_report(to: Path, report: Report) -> None:
    """Writes ``report.html``, ``report.md`` with ``figures``, ``comparisons.json`` and the tables.

    Args:
        to: folder, made where it is not there.
        report: from ``build_report``.

    Raises:
        OSError: from the file system.
    """
    to.mkdir(parents=True, exist_ok=True)
    write_atomically(to / "comparisons.json", json.dumps(_finite(report.values), indent=1) + "\n")
    for name, text in report.tables.items():
        write_atomically(to / name, text)
    write_html(to / "report.html", report.document)
    write_markdown(to / "report.md", report.document)


def _finite(value: Any) -> Any:
    """Plain data in which what is not a number is null, as JSON has it."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
