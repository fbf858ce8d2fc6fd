"""What limits a study's claims, as far as its files tell, how it was tuned, and where it comes from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvt_mtl_perception.data.sources import named_sources
from pvt_mtl_perception.evaluation.html import Table
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.cost import Costs
from pvt_mtl_perception.study.jobs import TUNING
from pvt_mtl_perception.study.report.costs import NOT_PUBLIC, rival_arms
from pvt_mtl_perception.study.report.document import Item, Part, Section
from pvt_mtl_perception.study.report.images import VIDEO_BLOCKS, ImageIntervals
from pvt_mtl_perception.study.report.results import StudyResults
from pvt_mtl_perception.study.report.words import NONE, listed, number
from pvt_mtl_perception.study.statistics.paired import holm, smallest_p
from pvt_mtl_perception.study.statistics.power import simulate_power

_EFFECTS = (1.0, 1.5, 2.0)
"""d_z whose chance to be shown is told."""
_MOST_SIMULATED = 10
"""Seeds beyond which the exact tests of simulated studies take long."""
_SIMULATIONS = 1000


@dataclass(frozen=True)
class Standing:
    """Where a study stands beside its results.

    Attributes:
        registrations: the versions of what was decided beforehand, the first one first.
        changes: a line for each change of them after the first job.
        outdated: a line for each job that was run under another configuration than the study's.
        unrecorded: lines on what was not decided beforehand, or not stored.
        tuning: lines on trials that are not there, or not the study's.
    """

    registrations: Sequence[dict[str, Any]]
    changes: Sequence[str]
    outdated: Sequence[str]
    unrecorded: Sequence[str] = ()
    tuning: Sequence[str] = ()

    @property
    def remarks(self) -> list[str]:
        """What stands at the top of the report."""
        count = len(self.outdated)
        jobs = f"{count} finished jobs were" if count > 1 else "one finished job was"
        told = f"{jobs} run under another configuration than the study file now has"
        return [*self.changes, *self.tuning, *([told] if count else [])]


def threats_section(
    results: StudyResults,
    compared: Sequence[Compared],
    images: ImageIntervals,
    costs: Costs,
    standing: Standing,
) -> Section:
    """Threats to validity, each from what the study's files hold."""
    lines = [
        *_completeness(results, compared),
        *_registration(results, standing),
        *_statistics(results, compared, images),
        *_data(results, images),
        *_training(results),
        *_cost(results, costs),
    ]
    return Section("Threats to validity", [Part(items=[Item(line) for line in lines])])


def _completeness(results: StudyResults, compared: Sequence[Compared]) -> list[str]:
    planned = [job for job in results.jobs if job.arm is not None]
    if len(results.runs) == len(planned):
        return []
    by_arm = {}
    for arm in results.study.arms:
        done = sum(key[0] == arm for key in results.runs)
        whole = sum(job.arm == arm for job in planned)
        if done < whole:
            by_arm[arm] = f"{arm} {done} of {whole}"
    lines = [
        f"Unfinished: {len(results.runs)} of {len(planned)} jobs are done ({', '.join(by_arm.values())}). "
        "What is here is interim: to stop because of what it shows would make its tests too lenient."
    ]
    short = {
        f"{one.comparison.name}: {name}"
        for one in compared
        if one.fraction == results.fraction and one.comparison.primary
        for name, seeds in one.missing.items()
        if seeds
    }
    if short:
        lines.append(f"{len(short)} primary differences rest on fewer seeds than planned.")
    return lines


def _registration(results: StudyResults, standing: Standing) -> list[str]:
    remarks = (*standing.changes, *standing.unrecorded, *standing.tuning)
    lines = [f"{remark[:1].upper()}{remark[1:]}." for remark in remarks]
    if standing.outdated:
        lines.append(f"Jobs are not what the study file says: {'; '.join(standing.outdated)}.")
    if not standing.registrations:
        lines.append("No pre-registration was stored in the study's folder before these results.")
    elif not standing.changes:
        first = standing.registrations[0]
        lines.append(
            f"The pre-registration is of {first['time']}, when {first['finished_jobs']} jobs were finished, "
            f"and was not changed since (SHA-256 {first['sha256'][:12]}). It is a file of whoever ran the "
            "study, no public register."
        )
    return lines


def _all_together(results: StudyResults, compared: Sequence[Compared]) -> str:
    """How many differences that are shown would still be, were all primary ones of the study one family."""
    plan = results.study.preregistration
    names = {endpoint.name for endpoint in plan.endpoints if endpoint.primary}
    claims = [
        (f"{claim.endpoint.name} of {one.comparison.name}", claim)
        for one in compared
        if one.comparison.primary and one.fraction == results.fraction
        for claim in one.claims
        if claim.endpoint.name in names
    ]
    shown = [name for name, claim in claims if claim.verdict == "shown"]
    if not shown:
        return ""
    together = f" Over all {len(claims)} primary differences at once"
    seeds = max(len(claim.comparison.first) for _, claim in claims)
    if smallest_p(seeds) * len(claims) >= plan.alpha:
        needed = next(n for n in itertools.count(seeds) if smallest_p(n) * len(claims) < plan.alpha)
        return f"{together} {seeds} seeds can show nothing, whatever the difference: that takes {needed}."
    corrected = holm([claim.comparison.p_sign_flip for _, claim in claims]).tolist()
    lost = [
        f"{name} (p = {p:.3f})"
        for (name, claim), p in zip(claims, corrected, strict=True)
        if claim.verdict == "shown" and p >= plan.alpha
    ]
    if not lost:
        return f"{together}, all {len(shown)} that are shown would still be."
    kept = f"{len(shown) - len(lost)} of the {len(shown)} that are shown would still be"
    return f"{together}, {kept}; not {listed(lost)}."


def _statistics(results: StudyResults, compared: Sequence[Compared], images: ImageIntervals) -> list[str]:
    plan = results.study.preregistration
    seeds = len(results.study.seeds)
    lines = []
    families = [c for c in plan.comparisons if c.primary]
    if len(families) > 1:
        lines.append(
            f"Holm's correction is over the endpoints of one comparison, not over the {len(families)} "
            f"primary comparisons.{_all_together(results, compared)}"
        )
    size = max((sum(e.primary and e.task in c.against for e in plan.endpoints) for c in families), default=1)
    if smallest_p(seeds) * max(1, size) >= plan.alpha:
        lines.append(
            f"{seeds} seeds are too few for the exact test: its smallest p, {smallest_p(seeds):.3g}, does "
            f"not survive Holm over {size} at {plan.alpha:g}, whatever the difference."
        )
    if any({"train", "evaluate"} & set(changes) for changes in results.study.by_seed):
        folds = len(results.study.by_seed)
        shared = "seeds of one fold share their test images, and " if seeds > folds else ""
        lines.append(
            f"Seeds go through {folds} folds: {shared}training sets of different folds overlap. Differences "
            "between seeds are therefore not independent, the exchangeability that the sign-flip test "
            "assumes is approximate, and p-values and intervals over seeds may be too small."
        )
    lines.append(
        f"{seeds} seeds: BCa intervals of so few values are too narrow (of 8 normal values the 95 % "
        "interval covers the mean in about 88 % of studies), so a claim needs the exact test beside it. The "
        "equivalence tests assume differences that are about normally distributed."
    )
    if 2 <= seeds <= _MOST_SIMULATED:
        likely = [
            f"{simulate_power(seeds, effect, plan.alpha / max(1, size), _SIMULATIONS).sign_flip:.0%}"
            for effect in _EFFECTS
        ]
        lines.append(
            f"Small differences stay unseen: one of {listed([f'{e:g}' for e in _EFFECTS])} standard "
            f"deviations of the differences between seeds is shown in {listed(likely)} of studies like this "
            f"(simulated, at the first step of Holm over {size})."
        )
    without = [e.name for e in results.endpoints if e.name not in images.images]
    if without:
        lines.append(
            f"The intervals of {listed(without)} are over seeds alone: they do not say what other test "
            "images would give."
        )
    return lines


def _data(results: StudyResults, images: ImageIntervals) -> list[str]:
    lines = []
    sources = list(dict.fromkeys(e.source for e in results.endpoints))
    kinds = {source.split("/")[0] for source in sources}
    sizes = [f"{name} {count}" for name, count in images.images.items()]
    folds = "different folds of one data set" if results.study.by_seed else "one test set"
    lines.append(
        f"All scores are of {folds} ({listed(sources)}"
        + (f"; images: {', '.join(sizes)}" if sizes else "")
        + "): other places, cameras and seasons were not tested."
    )
    if "synthetic" in kinds:
        lines.append(
            "The test images are rendered. How arms differ on real driving frames does not follow from it; "
            "rendered scenes have fewer textures, shapes and rare events, and perfect labels."
        )
    if "camvid" in kinds:
        lines.append(
            "CamVid's boxes are derived from its masks: touching cars merge and occluded ones split. Its "
            "time of day follows from brightness alone. Its frames come from few drives through one town."
        )
    if blocks := sorted(kinds & set(VIDEO_BLOCKS)):
        lines.append(
            f"Frames of {listed(blocks)} are neighbours in a video. The folds part blocks of frames, and "
            "intervals draw blocks; what frames further apart share is not in them."
        )
    train = {
        (source.kind, source.frames if source.kind == "synthetic" else source.root)
        for arm in results.study.arms
        for source in results.config(arm).train
    }
    named = sorted(f"{kind}, {size} frames" if kind == "synthetic" else kind for kind, size in train)
    lines.append(f"Training data: {listed(named)}. More or other data may change the order of the arms.")
    if parts := sorted(fraction for fraction in results.study.fractions if fraction < 1):
        lines.append(
            f"Of the training data {listed([f'{fraction:.0%}' for fraction in parts])} is one draw, the same "
            "for every arm and seed. Arms with the same part are compared on equal terms; between parts it "
            "differs, too, which images were drawn and how often each class is in them."
        )
    return lines


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _training(results: StudyResults) -> list[str]:
    configs = {arm: results.config(arm) for arm in results.study.arms}
    steps = [config.total_steps for config in configs.values()]
    visits = [sum(p.steps * p.batch_size for p in config.phases) for config in configs.values()]
    crops = sorted({f"{p.width}x{p.height}" for config in configs.values() for p in config.phases})
    inputs = sorted({f"{config.input_width}x{config.input_height}" for config in configs.values()})
    lines = [
        f"Trainings are of {_range(steps)} steps, {_range(visits)} images, in crops of {listed(crops)}, and "
        f"scored at {listed(inputs)}. Longer training and larger images may change the order of the arms."
    ]
    if len(set(visits)) > 1:
        few = [arm for arm, seen in zip(configs, visits, strict=True) if seen == min(visits)]
        lines.append(f"Arms see different numbers of images in training, {listed(few)} the fewest.")
    pretrained = {arm for arm, c in configs.items() if c.pretrained or results.study.arms[arm].pretraining}
    if not pretrained:
        lines.append(
            "All networks begin with random weights. Published ones begin with ImageNet's, after which the "
            "differences between arms may be others."
        )
    elif results.study.pretraining and not any(c.pretrained for c in configs.values()):
        lines.append(
            f"Networks begin with the study's own pretraining ({listed(list(results.study.pretraining))}), "
            "once for each backbone and neck: its own spread over seeds is not in the intervals, and "
            "ImageNet's weights may change the order of the arms."
        )
    models = sorted({c.model.backbone.name for c in configs.values()})
    lines.append(f"Backbones are {listed(models)}: larger ones may share tasks better or worse.")
    lines += _tuning(results)
    lines += _matching(results)
    runs = list(results.runs.values())
    devices = sorted({run.result["training"].get("device", "?") for run in runs})
    if len(devices) > 1:
        lines.append(
            f"Jobs ran on different machines ({listed(devices)}): training times are not comparable."
        )
    commits = {run.result.get("commit") for run in runs}
    if len(commits) > 1:
        lines.append(f"Jobs were run from {len(commits)} commits of the code.")
    return lines


def _tuning(results: StudyResults) -> list[str]:
    trials = {len(arm.trials) for arm in results.study.arms.values()}
    if trials == {0}:
        return [
            "Nothing was tuned: every arm has the same settings, which may suit some arms better than others."
        ]
    assert results.study.tuning is not None
    kinds = sorted(named_sources(results.study.tuning.evaluate))
    lines = [
        f"Every arm has {max(trials)} tuning trials of one seed ({results.study.tuning.seed}, scored on "
        f"{listed(kinds)}, apart from the test set), chosen by {_objective(_tuning_file(results))}. More "
        "trials could help arms unequally."
    ]
    varied = {arm: _varied(settings.trials) for arm, settings in results.study.arms.items()}
    if fixed := [arm for arm, keys in varied.items() if keys and "optimizer.lr" not in keys]:
        keys = sorted({key for arm in fixed for key in varied[arm]})
        rates = sorted({results.config(arm).optimizer.lr for arm in fixed})
        lines.append(
            f"The trials of {listed(fixed)} ({listed(keys)}) are tried at one learning rate, "
            f"{listed([f'{rate:g}' for rate in rates])}: another one could suit them better."
        )
    return lines


def _varied(trials: Sequence[Mapping[str, Any]]) -> set[str]:
    """Dotted keys in which trials differ."""
    flat = [_flat(trial) for trial in trials]
    keys = {key for trial in flat for key in trial}
    return {key for key in keys if any(trial.get(key) != flat[0].get(key) for trial in flat)}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _tuning_file(results: StudyResults) -> dict[str, Any]:
    path = results.out / TUNING
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return record


def _objective(record: Mapping[str, Any]) -> str:
    """What trials were chosen by; records without the names are of the time when it was all endpoints."""
    if all("objective" in found for found in record.values()):
        return "the mean of the primary endpoints it learns"
    return "the mean of all endpoints it learns, the secondary ones included"


def _matching(results: StudyResults) -> list[str]:
    lines = []
    rivals = rival_arms(results)
    for comparison in results.study.preregistration.comparisons:
        others = set(comparison.against.values())
        if len(others) != 1 or not others & set(rivals) or comparison.arm in rivals:
            continue
        rival = others.pop()
        sizes = [
            runs[0].result["parameters"]["total"]
            for runs in (results.of_arm(comparison.arm), results.of_arm(rival))
            if runs and "parameters" in runs[0].result
        ]
        if len(sizes) == 2:
            lines.append(
                f"{comparison.arm} and {rival} are matched by the nearest published size: "
                f"{sizes[0] / 1e6:.2f} and {sizes[1] / 1e6:.2f} million parameters, "
                f"{sizes[0] / sizes[1]:.2f} times; other matchings can give other answers."
            )
    if rivals:
        lines.append(NOT_PUBLIC)
    return lines


def _cost(results: StudyResults, costs: Costs) -> list[str]:
    entries = [entry for sizes in costs.values() for entry in sizes.values()]
    if not entries:
        return ["Latency and memory in use were not measured; nothing is said of them."]
    devices = sorted({entry["device"] for entry in entries})
    absent = [arm for arm in results.study.arms if arm not in costs]
    lines = [
        f"Latency and memory are of {listed(devices)} with PyTorch, not of a vehicle's computer or a "
        "compiled engine, where their order can differ."
    ]
    if absent:
        lines.append(f"The cost of {listed(absent)} was not measured.")
    return lines


def tuning_section(results: StudyResults) -> Section | None:
    """Every trial of every arm, and which was taken."""
    record = _tuning_file(results)
    if not record:
        return None
    rows = []
    names = [endpoint.name for endpoint in results.endpoints]
    for arm, found in record.items():
        for count, trial in enumerate(found["trials"]):
            scores = [
                f"{100 * trial['endpoints'][name]:.2f}" if name in trial["endpoints"] else NONE
                for name in names
            ]
            settings = json.dumps(trial["settings"])[1:-1].replace('"', "")
            rows.append([arm, settings, *scores, "taken" if count == found["chosen"] else ""])
    head = ["arm", "settings", *(f"{name}, %" for name in names), ""]
    note = (
        "Trials of every arm, of one seed, on data apart from the test set. An arm's trial is chosen by "
        f"{_objective(record)}."
    )
    return Section("Tuning", [Part(text=[note], tables=[Table(head, rows)])])


def provenance_section(results: StudyResults, standing: Standing) -> Section:
    """What was run, when, with what."""
    runs = list(results.runs.values())

    def distinct(key: str) -> str:
        values = {str(run.result["versions"][key]) for run in runs if key in run.result.get("versions", {})}
        return listed(sorted(values)) if values else NONE

    hours = sum(run.result["training"]["seconds"] for run in runs) / 3600
    finished = sorted(run.result["finished"] for run in runs if "finished" in run.result)
    rows = [
        ["jobs done", f"{len(runs)} of {sum(job.arm is not None for job in results.jobs)}"],
        ["first and last finished", f"{finished[0]}, {finished[-1]}" if finished else NONE],
        ["training, all jobs", f"{hours:.1f} h"],
        [
            "trained on",
            listed(sorted({str(run.result["training"].get("device", NONE)) for run in runs})) or NONE,
        ],
        ["commit", listed(sorted({str(run.result.get("commit")) for run in runs})) or NONE],
        ["Python, torch, timm, OpenCV", "; ".join(map(distinct, ("python", "torch", "timm", "opencv")))],
    ]
    rows += [
        [f"pre-registration {count + 1}", f"{version['time']}, SHA-256 {version['sha256']}"]
        for count, version in enumerate(standing.registrations)
    ]
    parts = [Part(tables=[Table(["what", ""], rows)])]
    notes = results.study.preregistration.notes
    if notes:
        parts.append(Part("Notes of the pre-registration", [notes]))
    versions = [
        Item(f"{version['time']}: {', '.join(version['changed'])}")
        for version in standing.registrations[1:]
        if version["changed"]
    ]
    if versions:
        parts.append(Part("Changes of the pre-registration", items=versions))
    return Section("Where this comes from", parts)
