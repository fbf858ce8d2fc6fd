"""What the arms score: endpoints by seed, sizes and classes, conditions, corruptions."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pvt_mtl_perception.evaluation.html import Table
from pvt_mtl_perception.evaluation.report import DETECTION_SCORES
from pvt_mtl_perception.study.config import EndpointConfig, endpoint_value
from pvt_mtl_perception.study.report.document import Figure, Part, Section
from pvt_mtl_perception.study.report.images import Condition
from pvt_mtl_perception.study.report.plots import TASK_COLORS, plot_fractions, plot_seeds
from pvt_mtl_perception.study.report.results import StudyResults, fold_of
from pvt_mtl_perception.study.report.words import NONE, listed, mean_and_spread, points
from pvt_mtl_perception.study.robustness import FILE as ROBUSTNESS_FILE

BySeed = Mapping[int, float]


def arms_in_order(results: StudyResults, present: Mapping[str, Any]) -> list[str]:
    """Those of a mapping's arms that have something, in the order of the study file."""
    return [arm for arm in results.study.arms if present.get(arm)]


def all_scores(results: StudyResults) -> dict[str, dict[float, dict[str, dict[int, float]]]]:
    """Every endpoint by name, fraction, arm and seed, 0..1; arms without the task are absent."""
    return {
        endpoint.name: {
            fraction: {
                arm: found for arm in results.study.arms if (found := results.scores(arm, endpoint, fraction))
            }
            for fraction in results.study.fractions
        }
        for endpoint in results.endpoints
    }


def scores_section(results: StudyResults) -> Section:
    """Every seed's value of every endpoint, with plots."""
    scores = all_scores(results)
    seeds = results.study.seeds
    parts = []
    descriptions = [[arm, config.description or NONE] for arm, config in results.study.arms.items()]
    parts.append(Part("Arms", tables=[Table(["arm", "what"], descriptions)]))
    at_main = {name: by[results.fraction] for name, by in scores.items() if by[results.fraction]}
    if at_main:
        colors = {endpoint.name: TASK_COLORS[endpoint.task] for endpoint in results.endpoints}
        in_percent = {
            name: {
                arm: {seed: 100 * v for seed, v in by_arm[arm].items()}
                for arm in arms_in_order(results, by_arm)
            }
            for name, by_arm in at_main.items()
        }
        present = arms_in_order(results, {arm: True for by_arm in in_percent.values() for arm in by_arm})
        caption = f"Every seed's score with {results.fraction:.0%} of the data as a dot, the mean as a line."
        parts.append(Part(figures=[Figure("seeds", plot_seeds(in_percent, present, colors), caption)]))
    # The lines of every arm would hide each other.
    compared = {
        arm
        for one in results.study.preregistration.comparisons
        if one.primary
        for arm in (one.arm, *one.against.values())
    }
    fractions = {
        name: {
            arm: {
                fraction: [100 * v for v in by_arm[arm].values()]
                for fraction, by_arm in by_fraction.items()
                if by_arm.get(arm)
            }
            for arm in results.study.arms
            if arm in compared and sum(bool(by_arm.get(arm)) for by_arm in by_fraction.values()) > 1
        }
        for name, by_fraction in scores.items()
    }
    fractions = {name: by_arm for name, by_arm in fractions.items() if by_arm}
    if fractions:
        caption = (
            "Scores of the arms of primary comparisons over the part of the training data that is used; a "
            "larger part contains the smaller."
        )
        parts.append(Part(figures=[Figure("fractions", plot_fractions(fractions), caption)]))
    for endpoint in results.endpoints:
        for fraction, by_arm in sorted(scores[endpoint.name].items(), reverse=True):
            rows = [
                [
                    arm,
                    mean_and_spread(by_arm[arm].values()),
                    *(f"{100 * by_arm[arm][s]:.2f}" if s in by_arm[arm] else NONE for s in seeds),
                ]
                for arm in arms_in_order(results, by_arm)
            ]
            if rows:
                head = ["arm", "mean ± sd", *(f"seed {seed}" for seed in seeds)]
                title = f"{endpoint.name}, {fraction:.0%} of the data, in percent"
                parts.append(Part(title, tables=[Table(head, rows)]))
    return Section("Scores of every seed", parts)


def detail_endpoint(endpoint: EndpointConfig, name: str, metric: str) -> EndpointConfig:
    """Another score of an endpoint's task on its source."""
    return EndpointConfig(name, endpoint.task, endpoint.source, metric, endpoint.margin, primary=False)


def _details(
    results: StudyResults, source: str, task: str, key: str
) -> dict[str, dict[str, dict[int, float]]]:
    """Scores below ``key`` by name, arm and seed, at the registered fraction."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for arm in results.study.arms:
        for run in results.of_arm(arm):
            values = run.result["scores"].get(source, {}).get(task) or {}
            for name, value in (values.get(key) or {}).items() if key else values.items():
                score = value.get("ap") if isinstance(value, dict) else value
                if isinstance(score, int | float) and not isinstance(score, bool):
                    found.setdefault(name, {}).setdefault(arm, {})[run.job.seed] = float(score)
    return found


def _table(
    results: StudyResults, values: Mapping[str, Mapping[str, BySeed]], head: str, counts: Mapping[str, int]
) -> list[Table]:
    arms = arms_in_order(results, {arm: True for by_arm in values.values() for arm in by_arm})
    if not arms:
        return []
    rows = [
        [
            name,
            *([str(counts.get(name, NONE))] if counts else []),
            *(mean_and_spread(by_arm.get(arm, {}).values(), 1) for arm in arms),
        ]
        for name, by_arm in values.items()
    ]
    return [Table([head, *(["number"] if counts else []), *arms], rows)]


def classes_section(results: StudyResults) -> Section | None:
    """Scores by object size and by class, mean over the seeds with their standard deviation."""
    parts = []
    for source, task in dict.fromkeys((e.source, e.task) for e in results.endpoints):
        if task == "detection":
            overall = _details(results, source, task, "")
            sizes = {DETECTION_SCORES[key]: overall[key] for key in DETECTION_SCORES if key in overall}
            boxes = results.counts(source, _boxes)
            note = "APs, APm, APl: boxes below 32², to 96² and above, in source pixels; percent, mean ± sd."
            if tables := _table(results, sizes, "all classes", {}):
                parts.append(Part(f"Detection by size, {source}", [note], tables=tables))
            if tables := _table(results, _details(results, source, task, "per_class"), "class", boxes):
                parts.append(Part(f"AP of each class, {source}", tables=tables))
        elif task == "segmentation":
            for key, title in (("per_class", "IoU"), ("per_class_boundary_f", "Boundary F")):
                if tables := _table(results, _details(results, source, task, key), "class", {}):
                    parts.append(Part(f"{title} of each class, {source}", tables=tables))
        else:
            parts += _classification(results, source)
    return Section("Sizes and classes", parts) if parts else None


def _boxes(scores: Mapping[str, Any]) -> dict[str, int]:
    by_class = (scores.get("detection") or {}).get("per_class", {})
    return {name: value["boxes"] for name, value in by_class.items()}


def _labels(scores: Mapping[str, Any], group: str) -> dict[str, int]:
    values = (scores.get("classification") or {}).get(group, {})
    labelled = [sum(row) for row in values.get("confusion", []) if any(row)]
    return dict(zip(values.get("per_class", {}), labelled, strict=False))


def _classification(results: StudyResults, source: str) -> list[Part]:
    groups: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    for arm in results.study.arms:
        for run in results.of_arm(arm):
            by_group = run.result["scores"].get(source, {}).get("classification") or {}
            for group, values in by_group.items():
                rows = groups.setdefault(group, {})
                for key in ("accuracy", "balanced_accuracy"):
                    if key in values:
                        name = key.replace("_", " ")
                        rows.setdefault(name, {}).setdefault(arm, {})[run.job.seed] = values[key]
                for name, recall in values.get("per_class", {}).items():
                    rows.setdefault(name, {}).setdefault(arm, {})[run.job.seed] = recall
    parts = []
    for group, rows in groups.items():
        counts = results.counts(source, functools.partial(_labels, group=group))
        if tables := _table(results, rows, group, counts):
            parts.append(Part(f"Recall of each class of {group}, {source}", tables=tables))
    return parts


def conditions_section(results: StudyResults, found: Sequence[Condition]) -> Section | None:
    """Scores on the test images of one time of day, one weather, …."""
    parts = []
    for endpoint in results.endpoints:
        rows = [condition for condition in found if endpoint.name in condition.scores]
        arms = arms_in_order(results, {arm: True for c in rows for arm in c.scores[endpoint.name]})
        if rows:
            table = Table(
                ["images", "number", *arms],
                [
                    [
                        f"{c.group}: {c.label}",
                        str(c.images),
                        *(mean_and_spread(c.scores[endpoint.name].get(arm, {}).values(), 1) for arm in arms),
                    ]
                    for c in rows
                ],
            )
            parts.append(Part(endpoint.name, tables=[table]))
    if not parts:
        return None
    note = (
        "Scores on the test images of each label, computed again from the pooled records; percent, mean ± "
        "sd over seeds. Exploration: labels overlap, some have few images, and nothing is corrected."
    )
    return Section("By condition", [Part(text=[note]), *parts])


Robustness = dict[str, dict[str, dict[str, dict[int, float]]]]
"""By endpoint, corruption and arm each seed's mean over the strengths, 0..1; ``none`` without corruption."""


def _robustness_files(results: StudyResults) -> dict[tuple[str, int], dict[str, Any]]:
    """By arm and seed what was measured at the registered fraction."""
    paths = {
        (arm, run.job.seed): run.folder.path / ROBUSTNESS_FILE
        for arm in results.study.arms
        for run in results.of_arm(arm)
    }
    return {key: json.loads(path.read_text()) for key, path in paths.items() if path.is_file()}


def read_robustness(results: StudyResults) -> Robustness:
    """What was measured under corruptions at the registered fraction; empty where nothing was.

    Means are over those strengths of a corruption at which all were measured that were measured under it.
    """
    files = _robustness_files(results)
    common: dict[str, set[str]] = {}
    for content in files.values():
        for corruption, strengths in content.get("corruptions", {}).items():
            common[corruption] = common.get(corruption, set(strengths)) & set(strengths)
    found: Robustness = {}
    for (arm, seed), content in files.items():
        for endpoint in results.endpoints:
            if endpoint.task not in results.arm_tasks(arm) or endpoint.source not in content["sources"]:
                continue
            by_name = found.setdefault(endpoint.name, {})
            clean = endpoint_value(content["sources"], endpoint)
            by_name.setdefault("none", {}).setdefault(arm, {})[seed] = clean
            for corruption, strengths in content.get("corruptions", {}).items():
                values = [
                    endpoint_value(strengths[s], endpoint) for s in strengths if s in common[corruption]
                ]
                if values:
                    by_name.setdefault(corruption, {}).setdefault(arm, {})[seed] = float(np.mean(values))
    return found


def _robustness_images(results: StudyResults) -> set[int]:
    """How many images each arm was measured on, over the test sets of its seeds."""
    sizes: dict[tuple[str, str], dict[str, set[int]]] = {}
    for (arm, seed), content in _robustness_files(results).items():
        run = results.runs[arm, results.fraction, seed]
        for source, scores in content["sources"].items():
            if "images" in scores:
                folds = sizes.setdefault((arm, source), {})
                folds.setdefault(fold_of(run, source), set()).add(scores["images"])
    # Seeds that were measured on different parts of one fold differ in both sums.
    return {sum(map(of, folds.values())) for folds in sizes.values() for of in (min, max)}


def robustness_section(results: StudyResults, found: Robustness) -> Section | None:
    """Scores under corruptions, mean over their strengths."""
    parts = []
    for name, rows in found.items():
        if tables := _table(results, rows, "corruption", {}):
            parts.append(Part(name, tables=tables))
    if not parts:
        return None
    note = (
        "Scores of the same models on the corrupted test images, mean over the strengths; percent, mean ± "
        "sd over those seeds that were measured. Exploration."
    )
    if counts := _robustness_images(results):
        note += f" Images: {listed([str(count) for count in sorted(counts)])}."
    if len(counts) > 1:
        note += " Rows of different numbers of images are not comparable."
    return Section("Under corruptions", [Part(text=[note]), *parts])


def difference_text(first: BySeed, second: BySeed) -> str:
    """Mean difference over the seeds that both have, in points."""
    seeds = [seed for seed in first if seed in second]
    return points(float(np.mean([first[s] - second[s] for s in seeds]))) if seeds else NONE
