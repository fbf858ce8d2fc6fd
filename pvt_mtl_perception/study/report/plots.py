"""Plots of a study as PNG images in memory."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

TASK_COLORS = {"classification": "#d55e00", "detection": "#0072b2", "segmentation": "#009e73"}
"""From Okabe and Ito's colours, which stay apart for all kinds of colour vision."""

_MARKERS = "osD^vP*X<>hpd8"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666", "#8c6bb1")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    return buffer.getvalue()


@dataclass(frozen=True)
class ForestRow:
    """A difference with its intervals, all in the unit of the axis.

    Attributes:
        group: heading that rows stand under; may be empty.
        label: of the row.
        color: of its marker.
        mean: of the differences over the seeds.
        low, high: interval over the seeds.
        outer: (low, high) over seeds and images; None where it was not computed.
        margin: a difference below it counts as none; None for none.
        verdict: decides the marker: filled where a difference is shown, a diamond where the arms are
            equivalent, else an empty circle; filled for all where there are no verdicts.
    """

    group: str
    label: str
    color: str
    mean: float
    low: float
    high: float
    outer: tuple[float, float] | None
    margin: float | None
    verdict: str


def plot_forest(rows: Sequence[ForestRow], xlabel: str) -> bytes:
    """Differences below each other around a line at none.

    Args:
        rows: those of a group stand together.
        xlabel: of the axis, with its unit.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    height = len(rows) + sum(1.3 if group else 0.3 for group in groups)
    figure = Figure(figsize=(9, 0.34 * height + 1.1))
    axes = figure.subplots()
    y, ticks = 0.0, []
    beyond = max(max(abs(row.low), abs(row.high), *map(abs, row.outer or ())) for row in rows)
    for group in groups:
        if group:
            place = axes.get_yaxis_transform()
            axes.text(0, y, group, transform=place, fontsize=9, fontweight="bold", va="center")
            y += 1
        for row in (row for row in rows if row.group == group):
            if row.margin is not None:
                axes.fill_betweenx([y - 0.45, y + 0.45], -row.margin, row.margin, color="#e4e8ec", lw=0)
            if row.outer is not None:
                axes.plot(row.outer, [y, y], color=row.color, lw=1, solid_capstyle="butt", alpha=0.75)
            axes.plot([row.low, row.high], [y, y], color=row.color, lw=3.4, solid_capstyle="butt")
            equivalent = row.verdict.startswith("equivalent")
            axes.plot(
                row.mean,
                y,
                "D" if equivalent else "o",
                color=row.color,
                markerfacecolor=row.color if row.verdict in ("shown", "") else "white",
                markersize=6 if equivalent else 7,
                zorder=3,
            )
            text = f"{row.mean:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
            axes.text(
                1.01,
                y,
                text,
                transform=axes.get_yaxis_transform(),
                fontsize=8,
                va="center",
                family="monospace",
            )
            ticks.append((y, textwrap.fill(row.label, 58)))
            y += 1
        y += 0.3
    axes.axvline(0, color="#57606a", lw=0.9, zorder=0)
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y - 0.3, -0.7)
    axes.set_xlim(-1.08 * beyond, 1.08 * beyond)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    marks: list[Line2D | Patch] = []
    if any(row.verdict for row in rows):
        marks += [
            Line2D([], [], marker="o", color="#444", lw=0, label="shown"),
            Line2D([], [], marker="o", color="#444", markerfacecolor="white", lw=0, label="not shown"),
            Line2D([], [], marker="D", color="#444", markerfacecolor="white", lw=0, label="equivalent"),
        ]
    marks.append(Line2D([], [], color="#444", lw=3.4, label="seeds, BCa"))
    if any(row.outer is not None for row in rows):
        marks.append(Line2D([], [], color="#444", lw=1, label="seeds and images"))
    if any(row.margin is not None for row in rows):
        marks.append(Patch(color="#e4e8ec", label="margin"))
    axes.legend(
        handles=marks,
        fontsize=8,
        ncols=len(marks),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.4,
    )
    return _png(figure)


@dataclass(frozen=True)
class FrontPoint:
    """A system in a plot of accuracy over cost.

    Attributes:
        name: for the legend.
        cost: in the unit of the axis, above 0.
        scores: by panel the score of each seed, in percent.
        networks: how many it consists of.
    """

    name: str
    cost: float
    scores: Mapping[str, Sequence[float]]
    networks: int


def plot_fronts(points: Sequence[FrontPoint], panels: Sequence[str], xlabel: str) -> bytes:
    """A panel for each score; a line joins the systems that no other beats in both score and cost.

    Args:
        points: mean over seeds as a marker, each seed as a dot.
        panels: keys of the points' scores.
        xlabel: of the cost, with its unit.
    """
    figure = Figure(figsize=(4.1 * len(panels), 3.9))
    grid = np.atleast_1d(figure.subplots(1, len(panels)))
    handles: dict[str, Line2D] = {}
    for axes, panel in zip(grid, panels, strict=True):
        means = []
        for number, point in enumerate(points):
            values = point.scores.get(panel, ())
            if not values:
                continue
            color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
            axes.plot([point.cost] * len(values), values, ".", color=color, alpha=0.3, markersize=4)
            mean = float(np.mean(values))
            (line,) = axes.plot(
                point.cost,
                mean,
                marker,
                color=color,
                markerfacecolor=color if point.networks == 1 else "white",
                markersize=8,
                lw=0,
                zorder=3,
            )
            handles.setdefault(point.name, line)
            means.append((point.cost, mean))
        front = _front(means)
        axes.plot(*zip(*front, strict=True), color="#8c959f", lw=1, ls="--", zorder=1)
        axes.set(title=panel, xlabel=xlabel)
        axes.set_xlim(left=0, right=1.08 * max(cost for cost, _ in means))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("%")
    _legend_below(figure, handles, 4)
    figure.tight_layout()
    return _png(figure)


def _legend_below(figure: Figure, handles: Mapping[str, Line2D], columns: int) -> None:
    """A legend under the panels, in at most so many columns."""
    figure.legend(
        handles.values(),
        handles.keys(),
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=min(columns, max(1, len(handles))),
        frameon=False,
    )


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points by rising cost of which each scores higher than all cheaper ones."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def plot_seeds(
    values: Mapping[str, Mapping[str, Mapping[int, float]]], arms: Sequence[str], colors: Mapping[str, str]
) -> bytes:
    """Every seed's value as a dot, and the mean as a line, by panel and arm.

    Args:
        values: by panel, arm and seed, in percent.
        arms: from top to bottom.
        colors: of each panel.
    """
    figure = Figure(figsize=(4.0 * len(values), 0.34 * len(arms) + 1.3))
    grid = np.atleast_1d(figure.subplots(1, len(values), sharey=True))
    for axes, (panel, by_arm) in zip(grid, values.items(), strict=True):
        for place, arm in enumerate(arms):
            if found := list(by_arm.get(arm, {}).values()):
                # Seeds side by side, so that equal values do not hide each other.
                spread = place + np.linspace(-0.22, 0.22, len(found)) if len(found) > 1 else [place]
                axes.plot(found, spread, "o", color=colors[panel], alpha=0.55, markersize=4, lw=0)
                mean = float(np.mean(found))
                axes.plot([mean, mean], [place - 0.36, place + 0.36], color="#1b1f24", lw=1.6)
        axes.set(title=panel, xlabel="%")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yticks(range(len(arms)), arms, fontsize=9)
    grid[0].invert_yaxis()
    figure.tight_layout()
    return _png(figure)


def plot_fractions(values: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]]) -> bytes:
    """Scores over the data fraction, a line for each arm: the mean, and each seed as a dot.

    Args:
        values: by panel, arm and fraction the value of each seed, in percent.
    """
    arms = list(dict.fromkeys(arm for by_arm in values.values() for arm in by_arm))
    figure = Figure(figsize=(4.1 * len(values), 3.7))
    handles: dict[str, Line2D] = {}
    for axes, (panel, by_arm) in zip(
        np.atleast_1d(figure.subplots(1, len(values))), values.items(), strict=True
    ):
        fractions = sorted({fraction for rows in by_arm.values() for fraction in rows})
        for arm, rows in by_arm.items():
            number = arms.index(arm)
            color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
            places = sorted(rows)
            (line,) = axes.plot(
                [100 * place for place in places],
                [float(np.mean(rows[place])) for place in places],
                color=color,
                marker=marker,
                lw=1.3,
                markersize=6,
            )
            handles.setdefault(arm, line)
            for place in places:
                axes.plot([100 * place] * len(rows[place]), rows[place], ".", color=color, alpha=0.25)
        axes.set_xscale("log")
        axes.set_xticks([100 * fraction for fraction in fractions], [f"{f:.0%}" for f in fractions])
        axes.minorticks_off()
        axes.set(title=panel, xlabel="training data")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("%")
    _legend_below(figure, handles, 5)
    figure.tight_layout()
    return _png(figure)


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix.

    Attributes:
        value: decides the colour, red below 0 and blue above.
        text: lines in it.
    """

    value: float
    text: str


def plot_matrix(
    cells: Mapping[tuple[str, str], Cell],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    colorbar: str,
    limit: float | None = None,
) -> bytes:
    """A matrix of signed values; missing cells are grey.

    Args:
        cells: by row and column.
        rows, columns: in order.
        title: above it.
        colorbar: what the colours mean.
        limit: value of the strongest colour; the largest in the matrix where None.
    """
    figure = Figure(figsize=(1.55 * len(columns) + 2.4, 0.85 * len(rows) + 1.3))
    axes = figure.subplots()
    draw_matrix(axes, cells, rows, columns, title, colorbar, limit)
    return _png(figure)


def draw_matrix(
    axes: Axes,
    cells: Mapping[tuple[str, str], Cell],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    colorbar: str,
    limit: float | None,
) -> None:
    """As ``plot_matrix``, into axes."""
    table = np.array(
        [[cells[r, c].value if (r, c) in cells else np.nan for c in columns] for r in rows], np.float64
    )
    strongest = limit or max(float(np.nanmax(np.abs(table))) if cells else 1.0, 1e-9)
    axes.set_facecolor("#eaeef2")
    image = axes.imshow(table, cmap="RdBu", norm=TwoSlopeNorm(0, -strongest, strongest), aspect="auto")
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for (row, column), cell in cells.items():
        if row in rows and column in columns:
            dark = abs(cell.value) > 0.65 * strongest
            axes.text(
                columns.index(column),
                rows.index(row),
                cell.text,
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if dark else "#1b1f24",
            )
    axes.set_title(title, fontsize=10)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label(colorbar, fontsize=8)
    bar.ax.tick_params(labelsize=8)
