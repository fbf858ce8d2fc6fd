"""The report's main tables for other programs: tidy CSV, and LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.report.costs import PARAMETERS, Quantity
from pvt_mtl_perception.study.report.differences import is_primary
from pvt_mtl_perception.study.report.effects import RelativeGain
from pvt_mtl_perception.study.report.images import ImageIntervals
from pvt_mtl_perception.study.report.results import StudyResults
from pvt_mtl_perception.study.report.words import NONE, interval, mean_and_spread, number, p_value, points

Scores = Mapping[str, Mapping[float, Mapping[str, Mapping[int, float]]]]
"""By endpoint, fraction, arm and seed, 0..1."""

ArmCosts = Mapping[str, Mapping[Quantity, float]]
"""By arm."""

Gains = Mapping[tuple[str, float], RelativeGain]
"""By comparison and fraction."""

Cell = str | int | float | None


def table_files(
    results: StudyResults,
    scores: Scores,
    by_arm: ArmCosts,
    compared: Sequence[Compared],
    images: ImageIntervals,
    gains: Gains,
) -> dict[str, str]:
    """The files' content by name.

    ``scores.csv`` has a row for each endpoint, fraction, arm and seed; ``comparisons.csv`` for each
    comparison, fraction and endpoint, and for its Δm, the endpoint ``delta_m``; ``costs.csv`` for each arm
    and cost. What is not known is empty. ``tables.tex`` has the arms and the comparisons at the registered
    fraction.
    """
    study = results.study.name
    label = re.sub(r"[^A-Za-z0-9]+", "-", study)
    return {
        "scores.csv": _csv(
            ["study", "fraction", "arm", "seed", "endpoint", "value", "unit"],
            [
                [study, fraction, arm, seed, endpoint, 100 * value, "percent"]
                for endpoint, by_fraction in scores.items()
                for fraction, of_fraction in by_fraction.items()
                for arm, by_seed in of_fraction.items()
                for seed, value in by_seed.items()
            ],
        ),
        "comparisons.csv": _comparisons_csv(results, compared, images, gains),
        "costs.csv": _csv(
            ["study", "arm", "cost", "value", "unit"],
            [
                [study, arm, name, scale * value, unit]
                for arm, known in by_arm.items()
                for (name, unit, scale), value in known.items()
            ],
        ),
        "tables.tex": "% Needs \\usepackage{booktabs}.\n"
        + _arms_latex(results, scores, by_arm, label)
        + "\n"
        + _comparisons_latex(results, compared, gains, label),
    }


def _csv(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *(map(_cell, row) for row in rows)])
    return text.getvalue()


def _cell(value: Cell) -> Cell:
    """Of a number ten digits, without what a change of units adds beyond them; nothing where it is none."""
    if isinstance(value, float):
        return f"{value:.10g}" if math.isfinite(value) else None
    return value


def _comparisons_csv(
    results: StudyResults, compared: Sequence[Compared], images: ImageIntervals, gains: Gains
) -> str:
    head = ["study", "comparison", "fraction", "arm", "against", "endpoint", "primary", "seeds", "unit"]
    head += ["effect", "low", "high", "low_with_images", "high_with_images", "p_sign_flip", "p_holm"]
    head += ["margin", "p_no_loss", "p_equivalent", "verdict"]
    rows: list[list[Cell]] = []
    for one in compared:
        place: list[Cell] = [results.study.name, one.comparison.name, one.fraction, one.comparison.arm]
        claims = {claim.endpoint.name: claim for claim in one.claims}
        for endpoint in (e for e in results.endpoints if e.name in one.values):
            name, margin = endpoint.name, 100 * endpoint.margin
            row = [*place, one.comparison.against[endpoint.task], name, is_primary(results, one, name)]
            row += [len(one.values[name]), "percentage points"]
            if name in claims:
                found, equivalence = claims[name].comparison, claims[name].equivalence
                nested = images.intervals.get((one.comparison.name, one.fraction, name))
                row += [100 * found.mean, 100 * found.low, 100 * found.high]
                row += [None, None] if nested is None else [100 * nested.low, 100 * nested.high]
                row += [found.p_sign_flip, claims[name].p_corrected, margin]
                row += [equivalence.p_non_inferior, equivalence.p_equivalent, claims[name].verdict]
            else:
                row += [*[None] * 7, margin, None, None, "no result"]
            rows.append(row)
        gain = gains.get((one.comparison.name, one.fraction))
        if gain is not None and (of_all := gain.gain) is not None:
            against = " + ".join(dict.fromkeys(one.comparison.against.values()))
            row = [*place, against, "delta_m", False, len(of_all.by_seed), "percent"]
            row += [of_all.mean, of_all.low, of_all.high, None, None, of_all.p_sign_flip, *[None] * 5]
            rows.append(row)
    return _csv(head, rows)


def _arms_latex(results: StudyResults, scores: Scores, by_arm: ArmCosts, label: str) -> str:
    known = list(dict.fromkeys(quantity for costs in by_arm.values() for quantity in costs))
    # A page has room for one size of frames and one batch; costs.csv has all.
    kinds = [PARAMETERS[0], "operations, .*", "latency, .*batch of 1", "training time"]
    first = [next((q for q in known if re.fullmatch(kind, q[0])), None) for kind in kinds]
    quantities = [quantity for quantity in first if quantity is not None]
    head = [
        ["arm", *(e.name for e in results.endpoints), *(name.partition(",")[0] for name, _, _ in quantities)],
        ["", *("%" for _ in results.endpoints), *(unit for _, unit, _ in quantities)],
    ]
    rows = [
        [
            _latex(arm),
            *(
                _latex(mean_and_spread(scores[e.name][results.fraction].get(arm, {}).values()))
                for e in results.endpoints
            ),
            *(
                _latex(number(q[2] * by_arm[arm][q]) if q in by_arm.get(arm, {}) else NONE)
                for q in quantities
            ),
        ]
        for arm in results.study.arms
    ]
    sizes = [name for name, _, _ in quantities if "," in name]
    counts = [len(results.of_arm(arm)) for arm in results.study.arms]
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    measured = f" ({'; '.join(sizes)})" if sizes else ""
    caption = (
        f"{results.study.name}: scores with {results.fraction:.0%} of the training data, mean ± standard "
        f"deviation over {seeds} seeds, and costs{measured}."
    )
    return _table(caption, f"{label}-arms", "l" + "r" * (len(head[0]) - 1), head, [rows])


def _comparisons_latex(results: StudyResults, compared: Sequence[Compared], gains: Gains, label: str) -> str:
    level = f"{100 * (1 - results.study.preregistration.alpha):g} % interval"
    head = [["endpoint", "arms", "seeds", "difference", level, "p", "p after Holm", "verdict"]]
    tasks = {endpoint.name: endpoint.task for endpoint in results.endpoints}
    groups = []
    for one in (one for one in compared if one.fraction == results.fraction):
        mark = "" if one.comparison.primary else " (exploration)"
        rows = [[rf"\multicolumn{{{len(head[0])}}}{{l}}{{\emph{{{_latex(one.comparison.name + mark)}}}}}"]]
        for claim in one.claims:
            found, name = claim.comparison, claim.endpoint.name
            arms = f"{one.comparison.arm}, {one.comparison.against[tasks[name]]}"
            rows.append(
                [
                    _latex(name),
                    _latex(arms),
                    str(len(found.first)),
                    _signed(points(found.mean)),
                    _signed(interval(found.low, found.high)),
                    _latex(p_value(found.p_sign_flip)),
                    _latex(p_value(claim.p_corrected)),
                    claim.verdict,
                ]
            )
        gain = gains.get((one.comparison.name, one.fraction))
        if gain is not None and (of_all := gain.gain) is not None:
            rows.append(
                [
                    r"$\Delta_m$, \%",
                    _latex(NONE),
                    str(len(of_all.by_seed)),
                    _signed(f"{of_all.mean:+.2f}"),
                    _signed(interval(of_all.low, of_all.high, 1.0)),
                    _latex(p_value(of_all.p_sign_flip)),
                    _latex(NONE),
                    _latex(NONE),
                ]
            )
        groups.append(rows)
    caption = (
        f"{results.study.name}: differences with {results.fraction:.0%} of the training data, first arm "
        "minus second, in percentage points, with BCa intervals over seeds and sign-flip p-values; Holm's "
        "correction is over the primary endpoints of a comparison."
    )
    return _table(caption, f"{label}-comparisons", "llrrrrrl", head, groups)


def _table(
    caption: str,
    label: str,
    columns: str,
    head: Sequence[Sequence[str]],
    groups: Sequence[Sequence[Sequence[str]]],
) -> str:
    """A table over the page's width; caption and head are text, the cells of the groups' rows LaTeX."""

    def lines() -> Iterator[str]:
        yield r"\begin{table*}"
        yield r"  \centering"
        yield rf"  \caption{{{_latex(caption)}}}"
        yield rf"  \label{{tab:{label}}}"
        yield r"  \footnotesize"
        yield r"  \setlength{\tabcolsep}{3pt}"
        yield rf"  \begin{{tabular}}{{{columns}}}"
        yield r"    \toprule"
        for row in head:
            yield f"    {' & '.join(map(_latex, row))} \\\\"
        for rows in groups:
            yield r"    \midrule"
            for row in rows:
                yield f"    {' & '.join(row)} \\\\"
        yield r"    \bottomrule"
        yield r"  \end{tabular}"
        yield r"\end{table*}"

    return "\n".join(lines()) + "\n"


_CHARACTERS = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
}


def _latex(text: str) -> str:
    """Text whose characters mean nothing to LaTeX; a dash where there is no value."""
    if text == NONE:
        return "--"
    return "".join(_CHARACTERS.get(character, character) for character in text)


def _signed(numbers: str) -> str:
    """Numbers whose minus is not a hyphen."""
    return re.sub(r"[-+][\d.]+", r"$\g<0>$", _latex(numbers))
