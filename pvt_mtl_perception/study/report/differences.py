"""The report's claims, the differences that they rest on, and Δm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pvt_mtl_perception.evaluation.html import Table
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.report.document import Figure, Item, Part, Section
from pvt_mtl_perception.study.report.effects import RelativeGain
from pvt_mtl_perception.study.report.images import ImageIntervals
from pvt_mtl_perception.study.report.plots import TASK_COLORS, ForestRow, plot_forest
from pvt_mtl_perception.study.report.results import StudyResults
from pvt_mtl_perception.study.report.words import NONE, interval, listed, p_value, points
from pvt_mtl_perception.study.statistics.bootstrap import NestedBootstrap
from pvt_mtl_perception.study.statistics.claims import Claim
from pvt_mtl_perception.study.statistics.paired import smallest_p

SIGN_CONVENTION = (
    "Δm = 100 / T · Σ (M_multi,i - M_single,i) / M_single,i over the T tasks (Maninis 2019; Vandenhende "
    "2021, equation 10). Differences are by seed; what they are divided by is the mean over the seeds. Every "
    "score here is better when higher, so a positive Δm means that the arm scores higher than the "
    "single-task networks. CAGrad, Nash-MTL and FAMO print the same quantity with the opposite sign."
)

_FLOOR = 5
"""Scores below so many margins leave an equivalence with little to say."""


def is_primary(results: StudyResults, one: Compared, endpoint: str | None = None) -> bool:
    """Whether a claim may rest on a comparison at its data fraction, and on an endpoint of it."""
    primary = one.comparison.primary and one.fraction == results.fraction
    if endpoint is None:
        return primary
    return primary and any(e.name == endpoint and e.primary for e in results.endpoints)


def claims_sections(
    results: StudyResults, compared: Sequence[Compared], images: ImageIntervals
) -> list[Section]:
    """One sentence for each hypothesis: the pre-registered ones, then the others."""
    plan = results.study.preregistration
    rule = (
        f"A difference is shown where the {100 * (1 - plan.alpha):g} % interval excludes 0 and the exact "
        "sign-flip test, after Holm's correction over the primary endpoints of the comparison, is below "
        f"{plan.alpha:g}. Where none is shown, two one-sided tests say whether the arms are equivalent "
        f"within the margin. With {len(results.study.seeds)} seeds the smallest p of the sign-flip test is "
        f"{smallest_p(len(results.study.seeds)):.3g}."
    )
    first = [Part(text=[rule])]
    later = []
    for one in sorted(compared, key=lambda one: one.fraction != results.fraction):
        title = one.comparison.name
        if one.fraction != results.fraction or len(results.study.fractions) > 1:
            title += f" ({one.fraction:.0%} of the data)"
        primary: list[Item] = []
        others: list[Item] = []
        for claim in one.claims:
            nested = images.intervals.get((one.comparison.name, one.fraction, claim.endpoint.name))
            chosen = primary if is_primary(results, one, claim.endpoint.name) else others
            chosen.append(Item(claim.text + _over_images(claim, nested) + _floor(claim), claim.verdict))
        unjudged = _unjudged(results, one)
        if is_primary(results, one):
            first.append(Part(title, items=[*primary, *unjudged]))
            if others:
                later.append(Part(title, items=others))
        else:
            later.append(Part(title, items=[*others, *unjudged]))
    sections = [Section("Claims", first)]
    if later:
        note = (
            "Other comparisons, data fractions and endpoints. They raise questions and answer none: over "
            "them nothing is corrected."
        )
        sections.append(Section("Exploration", [Part(text=[note]), *later]))
    return sections


def _floor(claim: Claim) -> str:
    """A warning where scores are so low that no difference of them, or the lack of one, says much."""
    first, second = (
        sum(scores) / len(scores) for scores in (claim.comparison.first, claim.comparison.second)
    )
    margin = claim.endpoint.margin
    if max(first, second) >= _FLOOR * margin:
        return ""
    low = f" Both score next to nothing ({100 * first:.2f} and {100 * second:.2f} %)"
    if claim.verdict == "shown":
        return f"{low}: the difference is one of the beginning of learning."
    return f"{low}, so that a margin of {100 * margin:g} points excludes little."


def _over_images(claim: Claim, nested: NestedBootstrap | None) -> str:
    """What test images add to a claim over seeds."""
    if nested is None:
        return ""
    text = f" Over seeds and test images: {interval(nested.low, nested.high)}"
    if claim.verdict == "shown" and nested.low <= 0 <= nested.high:
        return text + ", which includes 0: other test images may not show it."
    return text + "."


def _unjudged(results: StudyResults, one: Compared) -> list[Item]:
    judged = {claim.endpoint.name for claim in one.claims}
    items = []
    for endpoint in results.endpoints:
        if endpoint.name not in one.values or endpoint.name in judged:
            continue
        arms = f"{one.comparison.arm} and {one.comparison.against[endpoint.task]} in {endpoint.name}"
        if reason := one.refused.get(endpoint.name):
            items.append(Item(f"Nothing is said of {arms}: {reason}.", "no result"))
            continue
        done, planned = len(one.values[endpoint.name]), len(results.study.seeds)
        why = "its family of endpoints is not whole" if done > 1 else "a comparison needs two"
        items.append(
            Item(
                f"Nothing is said of {arms}: {done} of {planned} seeds are finished in both, and {why}.",
                "no result",
            )
        )
    return items


def differences_section(
    results: StudyResults, compared: Sequence[Compared], images: ImageIntervals
) -> Section:
    """Forest plots, and every statistic of every difference."""
    level = f"{100 * (1 - results.study.preregistration.alpha):g} %"
    note = [
        f"Differences in percentage points, first arm minus second, mean over paired seeds with the {level} "
        "BCa interval over seeds."
    ]
    drawings: dict[tuple[int, int], list[str]] = {}
    for name in images.images:
        drawings.setdefault((images.images[name], images.blocks[name]), []).append(name)
    for (count, block), names in drawings.items():
        drawn = f"blocks of {block} consecutive frames" if block > 1 else "single images"
        note.append(
            f"{listed(names)}: the interval over seeds and images draws seeds, then {drawn} of {count} "
            "test images, the same in both arms, and computes the score again from the pooled records of "
            "each draw."
        )
    if images.reasons:
        note.append(
            f"No interval over images for {len(images.reasons)} scores, the first: {images.reasons[0]}."
        )
    groups = [
        ("primary", "Pre-registered", [one for one in compared if is_primary(results, one)]),
        (
            "exploration",
            "Exploration at the registered data fraction",
            [one for one in compared if one.fraction == results.fraction and not one.comparison.primary],
        ),
    ]
    for fraction in results.study.fractions:
        if fraction != results.fraction:
            groups.append(
                (
                    f"{100 * fraction:g}",
                    f"With {fraction:.0%} of the data",
                    [one for one in compared if one.fraction == fraction],
                )
            )
    parts = [Part(text=note)]
    for name, title, ones in groups:
        rows = [row for one in ones for row in _forest_rows(results, one, images)]
        if rows:
            caption = (
                f"{title}: differences with {level} intervals; thick over seeds, thin over seeds and "
                "images; grey is the margin."
            )
            figure = Figure(f"differences_{name}", plot_forest(rows, "percentage points"), caption)
            parts.append(Part(title, figures=[figure], tables=_tables(results, ones, images)))
    return Section("Differences", parts)


def _task_of(results: StudyResults) -> Mapping[str, str]:
    return {endpoint.name: endpoint.task for endpoint in results.endpoints}


def _forest_rows(results: StudyResults, one: Compared, images: ImageIntervals) -> list[ForestRow]:
    rows = []
    tasks = _task_of(results)
    for claim in one.claims:
        name, found = claim.endpoint.name, claim.comparison
        nested = images.intervals.get((one.comparison.name, one.fraction, name))
        against = one.comparison.against[tasks[name]]
        rows.append(
            ForestRow(
                group=one.comparison.name,
                label=f"{name} vs {against}",
                color=TASK_COLORS[tasks[name]],
                mean=100 * found.mean,
                low=100 * found.low,
                high=100 * found.high,
                outer=None if nested is None else (100 * nested.low, 100 * nested.high),
                margin=100 * claim.endpoint.margin,
                verdict=claim.verdict,
            )
        )
    return rows


def _tables(results: StudyResults, ones: Sequence[Compared], images: ImageIntervals) -> list[Table]:
    tables = []
    tasks = _task_of(results)
    for one in ones:
        if not one.claims:
            continue
        head = [
            one.comparison.name,
            "seeds",
            "mean",
            "over seeds",
            "over seeds and images",
            "SE (of images)",
            "p sign-flip",
            "p Holm",
            "p Wilcoxon",
            "p t",
            "d_z",
            "P same seed",
            "P any seeds",
            "p no loss",
            "p equivalent",
            "verdict",
        ]
        rows = []
        for claim in one.claims:
            against = one.comparison.against[tasks[claim.endpoint.name]]
            label = f"{claim.endpoint.name}: {one.comparison.arm} - {against}"
            nested = images.intervals.get((one.comparison.name, one.fraction, claim.endpoint.name))
            rows.append([label, *_statistics(claim), claim.verdict])
            rows[-1][4:4] = (
                [NONE, NONE]
                if nested is None
                else [
                    interval(nested.low, nested.high),
                    f"{100 * nested.standard_error:.2f} ({100 * nested.image_standard_error:.2f})",
                ]
            )
        tables.append(Table(head, rows))
    return tables


def _statistics(claim: Claim) -> list[str]:
    found, equivalence = claim.comparison, claim.equivalence
    return [
        str(len(found.first)),
        points(found.mean),
        interval(found.low, found.high),
        p_value(found.p_sign_flip),
        p_value(claim.p_corrected),
        p_value(found.p_wilcoxon),
        p_value(found.p_t),
        NONE if found.effect_size is None else f"{found.effect_size:+.2f}",
        f"{found.wins:.2f}",
        f"{found.superiority:.2f}",
        p_value(equivalence.p_non_inferior),
        p_value(equivalence.p_equivalent),
    ]


def gain_section(
    results: StudyResults, compared: Sequence[Compared], gains: Mapping[tuple[str, float], RelativeGain]
) -> Section | None:
    """Δm of every comparison over two tasks or more."""
    rows, forest = [], []
    for one in compared:
        gain = gains.get((one.comparison.name, one.fraction))
        if gain is None or gain.gain is None:
            continue
        found = gain.gain
        rows.append(
            [
                one.comparison.name,
                f"{one.fraction:.0%}",
                listed(gain.endpoints),
                str(len(found.by_seed)),
                f"{found.mean:+.2f}",
                interval(found.low, found.high, 1.0),
                p_value(found.p_sign_flip),
            ]
        )
        if found.low is not None and found.high is not None and one.fraction == results.fraction:
            forest.append(
                ForestRow(
                    "",
                    one.comparison.name,
                    "#424a53",
                    found.mean,
                    found.low,
                    found.high,
                    None,
                    None,
                    "",
                )
            )
    if not rows:
        return None
    text = [
        SIGN_CONVENTION
        + " Against other arms than single-task ones it is relative to these. Δm is secondary: it has "
        "an interval and no verdict."
    ]
    undefined = [
        f"{name} at {fraction:.0%} of the data has none: the scores to be relative to are all 0 in "
        f"{listed(gain.undefined)}."
        for (name, fraction), gain in gains.items()
        if gain.undefined
    ]
    text += _near_nothing(results, compared, gains)
    head = ["comparison", "data", "over", "seeds", "Δm %", "interval", "p sign-flip"]
    figures = []
    if forest:
        level = 100 * (1 - results.study.preregistration.alpha)
        caption = f"Δm in percent with {level:g} % BCa intervals over seeds."
        figures = [Figure("delta_m", plot_forest(forest, "Δm, %"), caption)]
    return Section(
        "Relative gain Δm", [Part(text=[*text, *undefined], figures=figures, tables=[Table(head, rows)])]
    )


def _near_nothing(
    results: StudyResults, compared: Sequence[Compared], gains: Mapping[tuple[str, float], RelativeGain]
) -> list[str]:
    """A warning of endpoints whose scores are so low that their relative change fills Δm."""
    lowest: dict[str, float] = {}
    for one in compared:
        gain = gains.get((one.comparison.name, one.fraction))
        for endpoint in results.endpoints:
            pairs = one.values.get(endpoint.name, {}).values()
            if gain is None or endpoint.name not in gain.endpoints or not pairs:
                continue
            score = sum(second for _, second in pairs) / len(pairs)
            if score < _FLOOR * endpoint.margin:
                lowest[endpoint.name] = min(score, lowest.get(endpoint.name, 1.0))
    return [
        f"{name} is next to nothing in some arms ({100 * score:.2f} %): small differences of it are large "
        "relative ones, and fill Δm."
        for name, score in lowest.items()
    ]
