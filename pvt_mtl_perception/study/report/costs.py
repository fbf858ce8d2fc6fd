"""What the arms cost, accuracy over cost, and the measured differences from HydraNet-style networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pvt_mtl_perception.evaluation.html import Table
from pvt_mtl_perception.evaluation.report import DETECTION_SCORES
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.config import EndpointConfig
from pvt_mtl_perception.study.cost import Costs
from pvt_mtl_perception.study.report.document import Figure, Item, Part, Section
from pvt_mtl_perception.study.report.effects import systems
from pvt_mtl_perception.study.report.images import Condition
from pvt_mtl_perception.study.report.plots import FrontPoint, plot_fronts
from pvt_mtl_perception.study.report.results import StudyResults, paired
from pvt_mtl_perception.study.report.scores import Robustness, detail_endpoint
from pvt_mtl_perception.study.report.words import NONE, interval, listed, mean_and_spread, number, points
from pvt_mtl_perception.study.statistics.paired import compare_pairs

RIVAL = "HydraNet-style (RegNetY and BiFPN)"

NOT_PUBLIC = (
    "Tesla's own network is not public: its widths, data and scores are unpublished, so nothing here is a "
    f"comparison with it. {RIVAL} is a network of the parts that were shown in public, with the same heads, "
    "losses and training as the other arms."
)

Quantity = tuple[str, str, float]
"""A cost: its name, its unit and what it is multiplied by for display."""

PARAMETERS: Quantity = ("parameters", "M", 1e-6)


def arm_costs(results: StudyResults, costs: Costs, arm: str) -> dict[Quantity, float]:
    """What is known of an arm's costs, in a fixed order; ratios of them mean something."""
    found: dict[Quantity, float] = {}
    runs = results.of_arm(arm)
    if parameters := _parameters(results, costs, arm):
        found[PARAMETERS] = parameters
    for size, cost in costs.get(arm, {}).items():
        found[f"operations, {size}", "GFLOP", 1e-9] = cost["flops"]["total"]
        found[f"weights, {cost['precision']}", "MiB", 2**-20] = cost["weights_bytes"]
        for latency, memory in zip(cost["latency"], cost["memory"], strict=True):
            batch = f"{size}, batch of {latency['batch']}"
            found[f"latency, {batch}", "ms", 1.0] = latency["median_ms"]
            found[f"activations, {batch}", "MiB", 2**-20] = memory["peak_bytes"]
    visits = [sum(phase.steps * phase.batch_size for phase in run.job.config.phases) for run in runs]
    if runs:
        trained = [run.result["training"] for run in runs]
        found["images seen in training", "thousand", 1e-3] = float(np.mean(visits))
        found["training time", "s", 1.0] = float(np.mean([t["seconds"] for t in trained]))
        peaks = [t.get("peak_device_memory_bytes") or t.get("peak_memory_bytes") for t in trained]
        if all(peaks):
            where = "device" if trained[0].get("peak_device_memory_bytes") else "process"
            found[f"training memory of the {where}", "MiB", 2**-20] = float(np.mean(peaks))
    return found


def _parameters(results: StudyResults, costs: Costs, arm: str) -> float | None:
    for run in results.of_arm(arm):
        if "parameters" in run.result:
            return float(run.result["parameters"]["total"])
    for cost in costs.get(arm, {}).values():
        return float(cost["parameters"]["total"])
    return None


def together(quantity: Quantity, values: Sequence[float]) -> float:
    """What several networks cost that run one after the other: the sum, of working memory the largest."""
    name = quantity[0]
    return max(values) if name.startswith(("activations", "training memory")) else sum(values)


def cost_section(
    results: StudyResults, costs: Costs, by_arm: Mapping[str, Mapping[Quantity, float]]
) -> Section | None:
    """One network against several, fronts of accuracy over cost, and parameters by part.

    Args:
        results: of the study.
        costs: what was measured.
        by_arm: ``arm_costs`` of the arms of which anything is known.
    """
    if not by_arm:
        return None
    parts = [Part(text=_notes(costs))]
    parts += _one_against_several(results, by_arm)
    parts += _fronts(results, by_arm)
    parts += _systems(results, by_arm)
    parts += _by_part(results, costs)
    return Section("Cost", parts)


def _notes(costs: Costs) -> list[str]:
    text = [
        "Parameters and operations are counted, two operations a multiply-add; they are ratios and have no "
        "p-value. Training time is the mean over seeds, as it was on the machine that trained."
    ]
    entries = [cost for sizes in costs.values() for cost in sizes.values()]
    if not entries:
        return [*text, "Latency and memory in use were not measured; the command pvt-mtl study cost does it."]
    where = sorted(
        {
            f"{e['device']}"
            + (f" with {e['threads']} threads" if e["device"] == "cpu" else "")
            + f", {e['precision']}"
            for e in entries
        }
    )
    text.append(
        f"Latency is the median of {min(e['latency'][0]['calls'] for e in entries)} or more calls after a "
        "warm-up, from frames in memory to results in memory, decoding and non-maximum suppression "
        f"included, on {listed(where)}. Networks that are used together run one after the other: their "
        "latencies, operations and weights add up, of their activations the largest counts."
    )
    if any(e["settings"]["weights"] is None for e in entries):
        text.append(
            "Some networks were measured with random weights, which leave fewer boxes for suppression than "
            "trained ones."
        )
    busy = [e for e in entries if e["load"] > 0.5 * e["cores"]]
    if busy:
        text.append(
            f"{len(busy)} of {len(entries)} measurements began while the machine was busy (load average up "
            f"to {max(e['load'] for e in busy):.1f} on {busy[0]['cores']} cores): these latencies are upper "
            "bounds."
        )
    return text


def _one_against_several(results: StudyResults, by_arm: Mapping[str, Mapping[Quantity, float]]) -> list[Part]:
    parts: list[Part] = []
    seen = set()
    for comparison in results.study.preregistration.comparisons:
        others = tuple(dict.fromkeys(comparison.against.values()))
        if len(others) < 2 or (comparison.arm, others) in seen:
            continue
        seen.add((comparison.arm, others))
        arms = [comparison.arm, *others]
        rows = []
        for quantity in by_arm.get(comparison.arm, {}):
            values = [by_arm.get(arm, {}).get(quantity) for arm in arms]
            known = [value for value in values if value is not None]
            if len(known) == len(arms):
                name, unit, scale = quantity
                whole = together(quantity, known[1:])
                rows.append(
                    [
                        f"{name}, {unit}",
                        *(number(scale * v) for v in (*known, whole)),
                        f"{known[0] / whole:.2f}",
                    ]
                )
        if rows:
            head = [comparison.name, comparison.arm, *others, f"the {len(others)} together", "ratio"]
            parts.append(Part("One network against several" if not parts else "", tables=[Table(head, rows)]))
    return parts


def _fronts(results: StudyResults, by_arm: Mapping[str, Mapping[Quantity, float]]) -> list[Part]:
    whole = systems(results)
    endpoints = [e for e in map(results.main_endpoint, results.tasks) if e is not None]
    quantities = list(dict.fromkeys(q for known in by_arm.values() for q in known))
    shown = [
        q
        for q in quantities
        if q == PARAMETERS or (q[0].startswith("latency") and q[0].endswith("batch of 1"))
    ]
    figures = []
    for quantity in shown:
        name, unit, scale = quantity
        front = []
        for system in whole:
            values = [by_arm.get(arm, {}).get(quantity) for arm in system.arms]
            known = [value for value in values if value is not None]
            scores = {
                e.name: [100 * v for v in results.scores(system.by_task[e.task], e).values()]
                for e in endpoints
            }
            if len(known) == len(values) and all(scores.values()):
                front.append(
                    FrontPoint(system.name, scale * together(quantity, known), scores, len(system.arms))
                )
        if len(front) > 1:
            caption = (
                f"Scores with {results.fraction:.0%} of the data over {name}, of everything that does all "
                "tasks: mean over seeds, each seed as a dot; filled: one network, empty: several. The "
                "dashed line joins what nothing else beats in both."
            )
            file = "front_" + "".join(c if c.isalnum() else "_" for c in name).replace("__", "_")
            png = plot_fronts(front, [e.name for e in endpoints], f"{name}, {unit}")
            figures.append(Figure(file, png, caption))
    return [Part("Accuracy over cost", figures=figures)] if figures else []


def _systems(results: StudyResults, by_arm: Mapping[str, Mapping[Quantity, float]]) -> list[Part]:
    endpoints = [e for e in map(results.main_endpoint, results.tasks) if e is not None]
    quantities = list(dict.fromkeys(q for known in by_arm.values() for q in known))
    rows = []
    for system in systems(results):
        scores = [results.scores(system.by_task[e.task], e) for e in endpoints]
        cells = []
        for quantity in quantities:
            values = [by_arm.get(arm, {}).get(quantity) for arm in system.arms]
            known = [value for value in values if value is not None]
            cells.append(
                number(quantity[2] * together(quantity, known)) if len(known) == len(values) else NONE
            )
        if any(scores):
            rows.append([system.name, *(mean_and_spread(s.values()) for s in scores), *cells])
    head = [
        "networks",
        *(f"{e.name}, %" for e in endpoints),
        *(f"{name}, {unit}" for name, unit, _ in quantities),
    ]
    return [Part("Everything that does all tasks", tables=[Table(head, rows)])] if rows else []


def _by_part(results: StudyResults, costs: Costs) -> list[Part]:
    found: dict[str, Mapping[str, int]] = {}
    for arm in results.study.arms:
        runs = results.of_arm(arm)
        if runs and "parameters" in runs[0].result:
            found[arm] = runs[0].result["parameters"]
        elif arm in costs:
            found[arm] = next(iter(costs[arm].values()))["parameters"]
    # Networks with other tasks, and others of the same, list their parts in other orders.
    names = sorted({name for parts in found.values() for name in parts if name != "total"})
    rows = [
        [arm, *(f"{parts[name] / 1e6:.3f}" if name in parts else NONE for name in (*names, "total"))]
        for arm, parts in found.items()
    ]
    return [Part("Parameters by part, millions", tables=[Table(["arm", *names, "total"], rows)])]


def rival_arms(results: StudyResults) -> list[str]:
    """The HydraNet-style arms: RegNetY with BiFPN."""
    found = []
    for arm in results.study.arms:
        model = results.config(arm).model
        if model.backbone.name.startswith("regnety") and model.neck.type == "bifpn":
            found.append(arm)
    return found


def rival_section(
    results: StudyResults,
    compared: Sequence[Compared],
    costs: Costs,
    found: Sequence[Condition],
    robustness: Robustness,
) -> Section | None:
    """What was measured for and against the network beside a HydraNet-style one, and what was not."""
    rivals = rival_arms(results)
    pairs: dict[tuple[str, str], Compared] = {}
    for one in compared:
        others = set(one.comparison.against.values())
        beside = len(others) == 1 and others <= set(rivals) and one.comparison.arm not in rivals
        if beside and one.fraction == results.fraction:
            pairs.setdefault((one.comparison.arm, others.pop()), one)
    if not rivals:
        return None
    parts = [Part(text=[NOT_PUBLIC])]
    for (arm, rival), one in pairs.items():
        parts.append(_rival_part(results, one, arm, rival, costs, found, robustness))
    missing = _not_measured(results, costs, found, robustness)
    if missing:
        parts.append(Part("Not measured", items=[Item(line) for line in missing]))
    return Section("Beside HydraNet-style", parts)


def _rival_part(
    results: StudyResults,
    one: Compared,
    arm: str,
    rival: str,
    costs: Costs,
    found: Sequence[Condition],
    robustness: Robustness,
) -> Part:
    rows = []
    judged = {claim.endpoint.name: claim for claim in one.claims}
    for endpoint in results.endpoints:
        if endpoint.name in judged:
            claim = judged[endpoint.name]
            rows.append(
                _row(
                    f"{endpoint.name}, %",
                    mean_and_spread(claim.comparison.first),
                    mean_and_spread(claim.comparison.second),
                    points(claim.comparison.mean),
                    interval(claim.comparison.low, claim.comparison.high),
                    _reading(claim.verdict, claim.comparison.mean, arm, rival),
                )
            )
    detection = results.main_endpoint("detection")
    if detection is not None and "detection" in one.comparison.against:
        for key in ("ap_small", "ap_medium", "ap_large"):
            extra = detail_endpoint(detection, DETECTION_SCORES[key], key)
            rows += _detail_row(
                results, extra, _by_seed(results, arm, extra), _by_seed(results, rival, extra), arm, rival
            )
    for endpoint in results.endpoints:
        for condition in found:
            by_arm = condition.scores.get(endpoint.name, {})
            if (condition.group, condition.label) in _HARD and arm in by_arm and rival in by_arm:
                name = f"{endpoint.name}, {condition.label} ({condition.images} images)"
                extra = detail_endpoint(endpoint, name, endpoint.metric)
                rows += _detail_row(results, extra, by_arm[arm], by_arm[rival], arm, rival)
    for endpoint in results.endpoints:
        for corruption, values in robustness.get(endpoint.name, {}).items():
            if corruption != "none" and arm in values and rival in values:
                extra = detail_endpoint(endpoint, f"{endpoint.name}, {corruption}", endpoint.metric)
                rows += _detail_row(results, extra, values[arm], values[rival], arm, rival)
    own, others = arm_costs(results, costs, arm), arm_costs(results, costs, rival)
    for quantity, value in own.items():
        if quantity in others:
            name, unit, scale = quantity
            ratio = value / others[quantity]
            rows.append(
                _row(
                    f"{name}, {unit}",
                    number(scale * value),
                    number(scale * others[quantity]),
                    f"{ratio:.2f} times",
                    "",
                    "about the same"
                    if abs(ratio - 1) < 0.02
                    else f"{arm if ratio < 1 else rival} needs less",
                )
            )
    head = ["measured", arm, f"{rival}, HydraNet-style", "difference or ratio", "interval", "reading"]
    return Part(one.comparison.name, tables=[Table(head, rows)])


_HARD = {("timeofday", "night"), ("weather", "rainy"), ("weather", "foggy"), ("weather", "snowy")}


def _row(*cells: str) -> list[str]:
    return list(cells)


def _reading(verdict: str, mean: float, arm: str, rival: str) -> str:
    return f"{arm if mean > 0 else rival} is higher: shown" if verdict == "shown" else verdict


def _by_seed(results: StudyResults, arm: str, endpoint: EndpointConfig) -> dict[int, float]:
    from pvt_mtl_perception.study.config import endpoint_value

    values = {}
    for run in results.of_arm(arm):
        try:
            values[run.job.seed] = endpoint_value(run.result["scores"], endpoint)
        except (KeyError, ValueError):
            # No box of that size is labelled.
            continue
    return values


def _detail_row(
    results: StudyResults,
    endpoint: EndpointConfig,
    first: Mapping[int, float],
    second: Mapping[int, float],
    arm: str,
    rival: str,
) -> list[list[str]]:
    seeds, a, b = paired(first, second)
    if len(seeds) < 2:
        return []
    comparison = compare_pairs(a, b, results.study.preregistration.alpha)
    excludes = comparison.low > 0 or comparison.high < 0
    reading = f"{arm if comparison.mean > 0 else rival} is higher" if excludes else "interval includes 0"
    return [
        _row(
            endpoint.name,
            mean_and_spread(a.tolist()),
            mean_and_spread(b.tolist()),
            points(comparison.mean),
            interval(comparison.low, comparison.high),
            f"exploration: {reading}",
        )
    ]


def _not_measured(
    results: StudyResults, costs: Costs, found: Sequence[Condition], robustness: Robustness
) -> list[str]:
    sizes = {size for by_size in costs.values() for size in by_size}
    batches = {
        latency["batch"]
        for by_size in costs.values()
        for cost in by_size.values()
        for latency in cost["latency"]
    }
    lines = []
    if not costs:
        lines.append("Latency and memory in use.")
    elif "1280x720" not in sizes:
        lines.append(f"Latency at 1280x720; it was measured at {listed(sorted(sizes))}.")
    if costs and 6 not in batches:
        lines.append("Latency and memory with the batch of six cameras.")
    if not found:
        lines.append("Scores by weather and time of day: no labels or no records of the test images.")
    if not robustness:
        lines.append("Scores under corruptions of the test images.")
    lines.append("Real nights and real rain, the computer of a vehicle, and driving itself.")
    return lines
