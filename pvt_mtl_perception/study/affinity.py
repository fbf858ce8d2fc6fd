"""Which tasks belong together: what runs measured of their tasks' relations, summarised over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.sources import TASKS
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.config import StudyConfig
from pvt_mtl_perception.study.jobs import Job, job_folder
from pvt_mtl_perception.study.statistics.paired import bca_interval, holm, sign_flip_test
from pvt_mtl_perception.study.statistics.relative import delta_m
from pvt_mtl_perception.training.affinity import read_relations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Measure = Literal["cosine", "norm_ratio", "affinity"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

FILE = "affinity.jsonl"
"""What a run with the training key ``affinity`` leaves."""

_ALPHA = 0.05

SHORT = {"classification": "cls", "detection": "det", "segmentation": "seg"}

_TITLES: Mapping[Measure, str] = {
    "cosine": "cosine of the gradients",
    "norm_ratio": "gradient norm, row over column",
    "affinity": "a step for the row lowers\nthe column's loss by (%)",
}


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: NaN where nothing was measured.
        low: lower end of the 95 % BCa interval; NaN where fewer than two runs, or not all, have a value.
        high: its upper end.
    """

    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class AffinitySummary:
    """The relations of T tasks, measured by R runs at S steps.

    Attributes:
        tasks: rows and columns of every matrix.
        runs: folders.
        steps: (S,) at which any run has a row, counted from 1.
        series: by measure float64 (R, S, T, T), NaN where a run did not measure a pair. ``cosine`` -1..1,
            the same both ways; ``norm_ratio`` norm of the row's gradient over that of the column's;
            ``affinity`` of the row onto the column as a part of the column's loss.
        over_training: by measure (T, T): each run's mean over its steps, which is geometric for
            ``norm_ratio``, then the mean over runs.
    """

    tasks: tuple[str, ...]
    runs: tuple[str, ...]
    steps: npt.NDArray[np.int64]
    series: Mapping[Measure, Array]
    over_training: Mapping[Measure, Estimate]


@dataclass(frozen=True)
class PairAffinity:
    """Lookahead affinity of two tasks, the mean of both directions.

    Attributes:
        mean: over training and then over runs, a part of the loss.
        low: lower end of the 95 % BCa interval over runs; NaN where fewer than two runs, or not all, have it.
        high: its upper end.
        p_corrected: exact sign-flip p-value after Holm over the pairs; NaN as the interval.
    """

    mean: float
    low: float
    high: float
    p_corrected: float


@dataclass(frozen=True)
class Combination:
    """Tasks that were trained together in an arm, against a single-task arm for each.

    Attributes:
        arm: of the study.
        tasks: what it learns.
        delta_m: by seed, percent; positive where the arm scores higher (``statistics.relative``).
        mean: over seeds.
        low: lower end of the BCa interval of the mean.
        high: its upper end.
    """

    arm: str
    tasks: tuple[str, ...]
    delta_m: tuple[float, ...]
    mean: float
    low: float
    high: float


def load_affinity(folders: Sequence[Path]) -> AffinitySummary:
    """Reads and summarises what runs of one arm measured.

    Args:
        folders: of the runs, one for each seed.

    Raises:
        FileNotFoundError: when a folder has no ``affinity.jsonl``.
        ValueError: when there is no folder or no row, or runs of other tasks.
    """
    if not folders:
        raise ValueError("no run to read task affinities of")
    rows = []
    for folder in folders:
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; a run of two tasks or more writes it where its training configuration "
                "has the key affinity, for example affinity.every=50"
            )
        rows.append(read_relations(path))
    steps = sorted({row["step"] for run in rows for row in run})
    if not steps:
        raise ValueError(f"{Path(folders[0]) / FILE} has no row: no batch had labels of two tasks")
    found = [{task for row in run for task in row["losses"]} for run in rows]
    for folder, tasks_of_run in zip(folders, found, strict=True):
        if tasks_of_run and tasks_of_run != set.union(*found):
            raise ValueError(
                f"{Path(folder) / FILE} is of the tasks {', '.join(sorted(tasks_of_run))}; other runs have "
                f"{', '.join(sorted(set.union(*found)))}"
            )
    tasks = tuple(task for task in TASKS if task in set.union(*found))
    series: dict[Measure, Array] = {
        measure: np.full((len(folders), len(steps), len(tasks), len(tasks)), np.nan) for measure in MEASURES
    }
    place = {task: i for i, task in enumerate(tasks)}
    at = {step: i for i, step in enumerate(steps)}
    for run, rows_of_run in enumerate(rows):
        for row in rows_of_run:
            for measure in MEASURES:
                matrix = series[measure][run, at[row["step"]]]
                for first, others in row[measure].items():
                    for second, value in others.items():
                        matrix[place[first], place[second]] = value
                        if measure != "affinity":
                            matrix[place[second], place[first]] = (
                                1 / value if measure == "norm_ratio" else value
                            )
    return AffinitySummary(
        tasks,
        tuple(str(folder) for folder in folders),
        np.array(steps, np.int64),
        series,
        {measure: _over_runs(_over_steps(series[measure], measure), measure) for measure in MEASURES},
    )


def _over_steps(series: Array, measure: Measure) -> Array:
    """(R, T, T) means over the steps; logarithms of the norm ratio."""
    values = np.log(series) if measure == "norm_ratio" else series
    return _nan_mean(values, 1)


def _over_runs(values: Array, measure: Measure | None = None) -> Estimate:
    """Mean and interval over the first axis; ``values`` of the norm ratio are logarithms."""
    mean = _nan_mean(values, 0)
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    whole = np.isfinite(values).all(axis=0)
    if len(values) > 1 and whole.any():
        low[whole], high[whole] = bca_interval(values[:, whole].T)
    if measure == "norm_ratio":
        mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
    return Estimate(mean, low, high)


def _nan_mean(values: Array, axis: int) -> Array:
    """As ``np.nanmean`` without its warning: NaN where all are."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    mean: Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def pair_affinity(summary: AffinitySummary) -> dict[tuple[str, str], PairAffinity]:
    """Of each pair of tasks that was measured the mean affinity, by which Fifty et al. 2021 choose groups."""
    by_run = _over_steps(summary.series["affinity"], "affinity")
    both = (by_run + by_run.transpose(0, 2, 1)) / 2
    estimate = _over_runs(both)
    measured = [
        (i, j) for i, j in combinations(range(len(summary.tasks)), 2) if np.isfinite(estimate.mean[i, j])
    ]
    tested = [pair for pair in measured if np.isfinite(estimate.low[pair])]
    p_values = holm(sign_flip_test([both[:, i, j] for i, j in tested])) if tested else np.empty(0)
    corrected = dict(zip(tested, p_values.tolist(), strict=True))
    return {
        (summary.tasks[i], summary.tasks[j]): PairAffinity(
            float(estimate.mean[i, j]),
            float(estimate.low[i, j]),
            float(estimate.high[i, j]),
            corrected.get((i, j), float("nan")),
        )
        for i, j in measured
    }


def affinity_folders(jobs: Sequence[Job], out: Path, fraction: float) -> dict[str, list[Path]]:
    """By arm the folders of the finished jobs at a data fraction that measured their tasks' relations."""
    found: dict[str, list[Path]] = {}
    for job in jobs:
        folder = job_folder(out, job)
        measured = job.arm is not None and (folder.path / FILE).is_file()
        if measured and job.fraction == fraction and folder.result.is_file():
            assert job.arm is not None
            found.setdefault(job.arm, []).append(folder.path)
    return found


def trained_combinations(
    study: StudyConfig, jobs: Sequence[Job], compared: Sequence[Compared]
) -> list[Combination]:
    """The arms that were compared with a single-task arm for each of their tasks, best first.

    Of an arm the first such comparison counts, at the pre-registered fraction, by each task's first primary
    endpoint. Backbone and neck have to be the same, and two seeds finished. Where a task's single-task scores
    are all 0, which leaves nothing to be relative to, there is no Δm and the arm is left out.
    """
    models = {job.arm: job.config.model for job in jobs}
    found: dict[str, Combination] = {}
    for one in compared:
        arm, against = one.comparison.arm, one.comparison.against
        model = models[arm]
        alone = all(
            models[single].tasks == (task,)
            and (models[single].backbone, models[single].neck) == (model.backbone, model.neck)
            for task, single in against.items()
        )
        whole = len(model.tasks) > 1 and set(against) == set(model.tasks)
        if not (alone and whole) or arm in found or one.fraction != study.preregistration.fraction:
            continue
        primary = [e for e in study.preregistration.endpoints if e.primary]
        names = [next((e.name for e in primary if e.task == task), None) for task in model.tasks]
        values = [one.values[name] for name in names if name is not None]
        seeds = sorted(set.intersection(*(set(v) for v in values))) if len(values) == len(names) else []
        scores = np.array([[v[seed] for v in values] for seed in seeds]).reshape(len(seeds), len(names), 2)
        if len(seeds) < 2 or not scores[..., 1].any(axis=0).all():
            continue
        gains = delta_m(scores[..., 0], scores[..., 1], [False] * len(names))
        low, high = bca_interval(gains, study.preregistration.alpha)
        found[arm] = Combination(
            arm, model.tasks, tuple(gains.tolist()), float(gains.mean()), float(low), float(high)
        )
    return sorted(found.values(), key=lambda combination: -combination.mean)


def affinity_sentence(summary: AffinitySummary, trained: Sequence[Combination] = ()) -> str:
    """Which combination of tasks to choose, and what that rests on.

    What was trained counts first: affinity and cosine predict at best what a training shows.

    Args:
        summary: what was measured.
        trained: from ``trained_combinations``, of the same study; empty where no combination was trained
            beside its single tasks.
    """
    pairs = pair_affinity(summary)
    parts = []
    if trained:
        parts.append(_trained_sentence(trained))
    if not pairs:
        parts.append("No pair of tasks was ever measured: no batch had labels of both.")
        return " ".join(parts)
    parts.append(_measured_sentence(summary, pairs))
    trained_pairs = [c for c in trained if len(c.tasks) == 2]
    best = max(pairs, key=lambda pair: pairs[pair].mean)
    if len(trained_pairs) > 1:
        gained = trained_pairs[0].tasks
        parts.append(
            "It is the pair that gained most in training, too."
            if gained == best
            else f"In training another pair gained most: {_spelled(gained)}."
        )
    elif not trained:
        parts.append(
            "No combination was trained beside its single tasks: this suggests what to train together, and "
            "does not show that it pays."
        )
    return " ".join(parts)


def _measured_sentence(summary: AffinitySummary, pairs: Mapping[tuple[str, str], PairAffinity]) -> str:
    best = max(pairs, key=lambda pair: pairs[pair].mean)
    highest = pairs[best]
    together = _spelled(best)
    figures = f"lookahead affinity {100 * highest.mean:+.4f} % of the loss, mean of both directions"
    if not np.isfinite(highest.low):
        only = "; one run, so no interval" if len(summary.runs) == 1 else "; not in every run, so no interval"
        did = "helped the other most" if highest.mean > 0 else "hindered the other least"
        return f"A gradient step for one task {did} between {together} ({figures}{only})."
    figures += (
        f", 95 % interval {100 * highest.low:+.4f} to {100 * highest.high:+.4f}, sign-flip "
        f"p = {highest.p_corrected:.3f} after Holm over {len(pairs)} pairs, {len(summary.runs)} runs"
    )
    if highest.low > 0 and highest.p_corrected < _ALPHA:
        return (
            f"A gradient step for one task is shown to help the other, most between {together} ({figures})."
        )
    if all(pair.high < 0 and pair.p_corrected < _ALPHA for pair in pairs.values()):
        hinder = "Gradient steps for one task are shown to hinder the others"
        return f"{hinder}, least between {together} ({figures})."
    return f"No pair's gradient steps are shown to help each other; highest is {together} ({figures})."


def _trained_sentence(trained: Sequence[Combination]) -> str:
    best = trained[0]
    p_values = holm([float(sign_flip_test(c.delta_m)) for c in trained]).tolist()
    figures = ", ".join(
        f"{_spelled(c.tasks)} ({c.arm}) {c.mean:+.1f} % "
        f"({c.low:+.1f} to {c.high:+.1f}, p = {p:.3f}, {len(c.delta_m)} seeds)"
        for c, p in zip(trained, p_values, strict=True)
    )
    listed = (
        f"Δm over the single-task networks with its interval, sign-flip p after Holm: {figures}; "
        "ranked by the test scores themselves, so exploration"
    )
    if best.low > 0 and p_values[0] < _ALPHA:
        return f"Choose {_spelled(best.tasks)}, which gained most in training ({listed})."
    if all(c.high < 0 and p < _ALPHA for c, p in zip(trained, p_values, strict=True)):
        return f"For accuracy alone train the tasks apart: every combination lost ({listed})."
    return f"No combination is shown to gain in accuracy, so cost decides ({listed})."


def _spelled(tasks: Sequence[str]) -> str:
    return f"{', '.join(tasks[:-1])} and {tasks[-1]}"


def affinity_tables(summary: AffinitySummary) -> str:
    """The matrices over training as Markdown tables, means with intervals; affinities in percent."""
    blocks = []
    for measure in MEASURES:
        estimate, scale, digits = summary.over_training[measure], *_scale(measure)
        lines = [
            f"| {_TITLES[measure].replace(chr(10), ' ')} | {' | '.join(summary.tasks)} |",
            "| --- |" + " --- |" * len(summary.tasks),
        ]
        for i, task in enumerate(summary.tasks):
            cells = [_cell(estimate, i, j, scale, digits, " ") for j in range(len(summary.tasks))]
            lines.append(f"| {task} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _scale(measure: Measure) -> tuple[float, int]:
    return (100.0, 4) if measure == "affinity" else (1.0, 2)


def _cell(estimate: Estimate, i: int, j: int, scale: float, digits: int, between: str) -> str:
    mean, low, high = (scale * float(x[i, j]) for x in (estimate.mean, estimate.low, estimate.high))
    if not np.isfinite(mean):
        return "" if i == j else "not measured"
    interval = f"{between}({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(low) else ""
    return f"{mean:.{digits}f}{interval}"


def affinity_figure(summary: AffinitySummary) -> Figure:
    """Matrices over training above, curves of the pairs with their intervals over runs below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 8), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=(1, 1.1))
    for column, measure in enumerate(MEASURES):
        _draw_matrix(axes[0, column], summary, measure)
        _draw_curves(axes[1, column], summary, measure)
    count = len(summary.runs)
    figure.suptitle(
        f"Relations of the tasks on the parameters they share, {len(summary.steps)} measured steps, "
        f"{count} run{'s with 95 % intervals over runs' if count > 1 else ' and so no intervals'}",
        fontsize="medium",
    )
    return figure


def _draw_matrix(axis: Any, summary: AffinitySummary, measure: Measure) -> None:
    estimate, scale, digits = summary.over_training[measure], *_scale(measure)
    colours = np.log(estimate.mean) if measure == "norm_ratio" else scale * estimate.mean
    off_diagonal = ~np.eye(len(summary.tasks), dtype=bool)
    # A task's own step does far more than another's; its colour would leave none for the others.
    known = np.abs(colours[off_diagonal & np.isfinite(colours)])
    most = 1.0 if measure == "cosine" else max(float(known.max()) if known.size else 0.0, 1e-9)
    shown = np.where(off_diagonal, colours, np.nan)
    cmap = "PuOr" if measure == "norm_ratio" else "RdBu"
    # Cells as wide as there is room, for the intervals in them.
    axis.imshow(shown, cmap=cmap, vmin=-most, vmax=most, aspect="auto")
    for i in range(len(summary.tasks)):
        for j in range(len(summary.tasks)):
            if i == j and measure != "affinity":
                continue
            dark = bool(np.isfinite(shown[i, j]) and abs(shown[i, j]) > 0.7 * most)
            text = _cell(estimate, i, j, scale, digits, "\n")
            axis.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize="x-small" if "\n" in text else "small",
                color="white" if dark else "black",
            )
    names = [SHORT[task] for task in summary.tasks]
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set_title(_TITLES[measure], fontsize="medium")


def _draw_curves(axis: Any, summary: AffinitySummary, measure: Measure) -> None:
    scale, _ = _scale(measure)
    series = summary.series[measure]
    for i, first in enumerate(summary.tasks):
        for j, second in enumerate(summary.tasks):
            values = series[:, :, i, j]
            if i == j or (measure != "affinity" and j < i) or not np.isfinite(values).any():
                continue
            estimate = _over_runs(np.log(values) if measure == "norm_ratio" else values, measure)
            known = np.isfinite(estimate.mean)
            joined = {"cosine": " and ", "norm_ratio": " / ", "affinity": " on "}[measure]
            (line,) = axis.plot(
                summary.steps[known],
                scale * estimate.mean[known],
                lw=1.4,
                marker="o" if len(summary.steps) < 30 else None,
                ms=3,
                label=f"{SHORT[first]}{joined}{SHORT[second]}",
            )
            axis.fill_between(
                summary.steps,
                scale * estimate.low,
                scale * estimate.high,
                color=line.get_color(),
                alpha=0.15,
                lw=0,
            )
    axis.axhline(1.0 if measure == "norm_ratio" else 0.0, color="black", lw=0.8)
    if measure == "norm_ratio":
        axis.set_yscale("log")
    axis.set(xlabel="step")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small", framealpha=0.5)
