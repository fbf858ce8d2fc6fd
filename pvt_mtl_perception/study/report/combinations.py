"""Which tasks belong together, and what backbone and neck each do."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from pvt_mtl_perception.evaluation.html import Table
from pvt_mtl_perception.study.affinity import (
    MEASURES,
    AffinitySummary,
    affinity_figure,
    affinity_folders,
    affinity_sentence,
    load_affinity,
    trained_combinations,
)
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.report.document import Figure, Item, Part, Section
from pvt_mtl_perception.study.report.effects import (
    RelativeGain,
    System,
    TaskFamily,
    TaskGain,
    factorial_effects,
    factorials,
    partitioned,
    system_gain,
    task_families,
    task_gains,
)
from pvt_mtl_perception.study.report.plots import Cell, plot_matrix
from pvt_mtl_perception.study.report.results import StudyResults
from pvt_mtl_perception.study.report.words import (
    NONE,
    estimate_text,
    interval,
    listed,
    mean_and_spread,
    p_value,
    points,
)
from pvt_mtl_perception.study.statistics.paired import holm

_SHORT = {"classification": "cls", "detection": "det", "segmentation": "seg"}
_MEASURES = {
    "cosine": "cosine of the gradients",
    "norm_ratio": "norm of the row's gradient over the column's",
    "affinity": "a step for the row lowers the column's loss by, %",
}


def families_with_pairs(results: StudyResults) -> list[TaskFamily]:
    """The families in which a combination beside that of all tasks was trained."""
    return [family for family in task_families(results) if len(family.joint) > 1]


def tasks_section(results: StudyResults) -> Section | None:
    """Every combination of tasks against single-task networks, and every way to divide the tasks."""
    parts = []
    for number, family in enumerate(families_with_pairs(results)):
        gains = task_gains(results, family)
        if not any(gain.comparison for gain in gains):
            continue
        name = "tasks" if number == 0 else f"tasks_{number + 1}"
        parts += [_matrix(results, family, gains, name), *_divisions(results, family)]
    if not parts:
        return None
    note = (
        "Arms that differ in which tasks they learn, at the registered data fraction. Exploration: "
        "intervals are not corrected."
    )
    return Section("Which tasks belong together", [Part(text=[note]), *parts])


def _spelled(tasks: Sequence[str]) -> str:
    return " + ".join(_SHORT[task] for task in tasks)


def _matrix(results: StudyResults, family: TaskFamily, gains: Sequence[TaskGain], name: str) -> Part:
    cells, rows = {}, []
    for gain in gains:
        found = gain.comparison
        if found is None:
            continue
        row, column = f"{gain.endpoint.name}", _spelled(gain.tasks)
        mark = "*" if found.low > 0 or found.high < 0 else ""
        # In margins, so that scores of different spread have colours of one meaning.
        cells[row, column] = Cell(
            found.mean / gain.endpoint.margin,
            f"{points(found.mean)}{mark}\n[{100 * found.low:+.2f}, {100 * found.high:+.2f}]",
        )
        rows.append(
            [
                f"{gain.endpoint.name}: {gain.arm} - {gain.against}",
                column,
                str(len(found.first)),
                points(found.mean),
                interval(found.low, found.high),
                p_value(found.p_sign_flip),
            ]
        )
    endpoints = [results.main_endpoint(task) for task in results.tasks]
    png = plot_matrix(
        cells,
        [endpoint.name for endpoint in endpoints if endpoint is not None],
        [_spelled(tasks) for tasks in sorted(family.joint, key=len)],
        "points over the task alone",
        "in margins",
        limit=None,
    )
    caption = (
        "What each task (row) gains or loses in percentage points by being learned with others (column), "
        "against its single-task network, with the interval over seeds; * where that excludes 0, grey where "
        "the task is not learned. Colours are the difference in margins."
    )
    head = ["difference", "learned together", "seeds", "mean", "interval", "p sign-flip"]
    return Part("Gain of each task", figures=[Figure(name, png, caption)], tables=[Table(head, rows)])


def divided(results: StudyResults, family: TaskFamily) -> list[tuple[System, RelativeGain]]:
    """The ways to do all tasks with more or fewer networks, highest Δm first."""
    ways = [
        (way, system_gain(results, way, family.singles))
        for way in partitioned(family, results.tasks)
        if len(way.arms) < len(results.tasks)
    ]
    known = [(way, gain) for way, gain in ways if gain.gain is not None]
    return sorted(known, key=lambda one: -one[1].gain.mean if one[1].gain else 0.0)


def _divisions(results: StudyResults, family: TaskFamily) -> list[Part]:
    ways = divided(results, family)
    if not ways:
        return []
    rows = []
    for way, gain in ways:
        assert gain.gain is not None
        parameters = [_parameters(results, arm) for arm in way.arms]
        rows.append(
            [
                way.name,
                str(len(way.arms)),
                f"{sum(p for p in parameters if p) / 1e6:.2f}" if all(parameters) else NONE,
                str(len(gain.gain.by_seed)),
                f"{gain.gain.mean:+.2f}",
                interval(gain.gain.low, gain.gain.high, 1.0),
            ]
        )
    text = (
        "Every way to do all tasks with the networks that were trained, Δm over the primary endpoints "
        "against one network for each; a task that keeps its own network adds 0."
    )
    head = ["networks", "number", "M parameters", "seeds", "Δm %", "interval"]
    return [
        Part("Ways to divide the tasks", [text], [Item(choice(results, family))], tables=[Table(head, rows)])
    ]


def _parameters(results: StudyResults, arm: str) -> int | None:
    runs = results.of_arm(arm)
    return int(runs[0].result["parameters"]["total"]) if runs and "parameters" in runs[0].result else None


def choice(results: StudyResults, family: TaskFamily) -> str:
    """A sentence on which combination to choose, and what that rests on."""
    ways = divided(results, family)
    best, gain = ways[0]
    fewest = min(ways, key=lambda way: len(way[0].arms))
    p_values = [1.0 if g.gain is None or g.gain.p_sign_flip is None else g.gain.p_sign_flip for _, g in ways]
    corrected = holm(p_values)
    alpha = results.study.preregistration.alpha
    figures = f"Δm {estimate_text(gain.gain, '%')}"
    ranked = (
        f"sign-flip p {p_value(float(corrected[0]))} after Holm over {len(ways)} ways; ranked by the test "
        "scores themselves, so to be confirmed on others"
    )
    assert gain.gain is not None
    if gain.gain.low is not None and gain.gain.low > 0 and corrected[0] < alpha:
        return (
            f"By accuracy alone choose {best.name}: it gains most over one network for each task "
            f"({figures}; {ranked})."
        )
    lost = [g.gain is not None and g.gain.high is not None and g.gain.high < 0 for _, g in ways]
    if all(lost) and (corrected < alpha).all():
        return (
            f"By accuracy alone keep one network for each task: every combination loses; {best.name} loses "
            f"least ({figures}; {ranked})."
        )
    return (
        f"No combination is shown to gain over one network for each task; {best.name} is highest "
        f"({figures}; {ranked}). By cost choose {fewest[0].name}, if its Δm of "
        f"{estimate_text(fewest[1].gain, '%')} is acceptable."
    )


def affinity_section(results: StudyResults, compared: Sequence[Compared]) -> Section | None:
    """What runs measured of their tasks' gradients; None where none did."""
    parts = []
    trained = trained_combinations(results.study, results.jobs, compared)
    for arm, folders in affinity_folders(results.jobs, results.out, results.fraction).items():
        try:
            summary = load_affinity(folders)
        except ValueError as error:
            parts.append(Part(arm, [str(error)]))
            continue
        buffer = io.BytesIO()
        affinity_figure(summary).savefig(buffer, format="png", dpi=110)
        caption = (
            f"{arm}: relations of the tasks on the parameters they share, mean over training (above) and "
            f"along it (below), {len(summary.runs)} runs."
        )
        parts.append(
            Part(
                arm,
                items=[Item(affinity_sentence(summary, trained))],
                figures=[Figure(f"affinity_{arm}", buffer.getvalue(), caption)],
                tables=[_affinity_table(summary, measure) for measure in MEASURES],
            )
        )
    return Section("Task affinity", parts) if parts else None


def _affinity_table(summary: AffinitySummary, measure: str) -> Table:
    found = next(summary.over_training[m] for m in MEASURES if m == measure)
    scale, digits = (100.0, 3) if measure == "affinity" else (1.0, 2)
    rows = []
    for i, task in enumerate(summary.tasks):
        row = [task]
        for j in range(len(summary.tasks)):
            mean, low, high = (scale * float(part[i, j]) for part in (found.mean, found.low, found.high))
            cell = f"{mean:.{digits}f}" if np.isfinite(mean) else NONE
            row.append(cell + (f" ({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(low) else ""))
        rows.append(row)
    return Table([_MEASURES[measure], *summary.tasks], rows)


def factorial_section(results: StudyResults) -> Section | None:
    """Backbone and neck apart, where a 2x2 of them was trained."""
    parts = []
    for square in factorials(results):
        cells, effects = [], []
        for endpoint in results.endpoints:
            scores = {cell: results.scores(arm, endpoint) for cell, arm in square.arms.items()}
            if not all(scores.values()):
                continue
            cells.append(
                [
                    endpoint.name,
                    *(mean_and_spread(scores[b, n].values()) for b in square.backbones for n in square.necks),
                ]
            )
            for name, found in factorial_effects(results, square, endpoint).items():
                first, second = square.backbones if name == "backbone" else square.necks
                what = "interaction" if name == "interaction" else f"{name}: {first} - {second}"
                if found is not None:
                    effects.append(
                        [
                            f"{endpoint.name}, {what}",
                            str(len(found.by_seed)),
                            points(found.mean),
                            interval(found.low, found.high),
                            p_value(found.p_sign_flip),
                        ]
                    )
        if cells:
            head = [
                "percent",
                *(f"{b}, {n} ({square.arms[b, n]})" for b in square.backbones for n in square.necks),
            ]
            note = (
                f"{listed(list(square.arms.values()))} differ in backbone and neck only. An effect is the "
                "mean over the other factor, by seed; the interaction is what the backbones differ by with "
                "the first neck minus that with the second. Exploration: not corrected."
            )
            parts.append(
                Part(
                    f"{listed(square.backbones)} times {listed(square.necks)}",
                    [note],
                    tables=[
                        Table(head, cells),
                        Table(["effect in points", "seeds", "mean", "interval", "p sign-flip"], effects),
                    ],
                )
            )
    return Section("Backbone and neck", parts) if parts else None
