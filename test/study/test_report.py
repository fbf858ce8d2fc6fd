"""The report of a study against values computed apart from it; of unfinished and changed studies, too."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from study_results import REPOSITORY, SINGLES, TASKS, finish, labelled_images, simulated_study, skill_of

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.records import load_records, precision_curves
from pvt_mtl_perception.model.spec import load_task_labels
from pvt_mtl_perception.study.comparisons import compare_arms
from pvt_mtl_perception.study.config import StudyConfig, load_study
from pvt_mtl_perception.study.folder import JobFolder
from pvt_mtl_perception.study.jobs import Job, job_folder, registration, study_jobs
from pvt_mtl_perception.study.registration import register
from pvt_mtl_perception.study.report.effects import (
    factorial_effects,
    factorials,
    partitions,
    relative_gain,
    systems,
    task_families,
)
from pvt_mtl_perception.study.report.images import clips_of, conditions, image_intervals
from pvt_mtl_perception.study.report.results import read_results

COSINES = (0.2, 0.3, 0.7)

Simulated = tuple[Path, Path, StudyConfig, list[Job]]


@pytest.fixture(scope="module")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Simulated]:
    """Writes a study whose jobs are finished, but for those that ``left_out`` says."""

    def run(
        left_out: Callable[[Job], bool] = lambda job: False,
        images: int = 10,
        records: bool = True,
        **changes: Any,
    ) -> Simulated:
        folder = tmp_path_factory.mktemp("study")
        path, out = folder / "study.yaml", folder / "out"
        path.write_text(yaml.safe_dump(simulated_study(**changes), sort_keys=False))
        study = load_study(path)
        jobs = study_jobs(study, path)
        spec = next(job for job in jobs if job.arm == "mtl").config.model
        samples = labelled_images(load_task_labels(spec), images, 0)

        for job in jobs:
            if not left_out(job):
                finish(out, job, samples, skill_of, records)
        return path, out, study, jobs

    return run


@pytest.fixture(scope="module")
def whole(simulate: Callable[..., Simulated]) -> Simulated:
    """Every job at the registered fraction, some at the other, and affinities of one arm."""
    path, out, study, jobs = simulate(lambda job: job.fraction < 1 and str(job.arm)[:3] not in ("stl", "mtl"))
    for seed, cosine in zip(study.seeds, COSINES, strict=True):
        rows = [
            {
                "step": step,
                "losses": {"detection": 1.0, "segmentation": 2.0},
                "cosine": {"detection": {"segmentation": cosine + change}},
                "norm_ratio": {"detection": {"segmentation": 2.0}},
                "affinity": {"detection": {"segmentation": 0.01}, "segmentation": {"detection": 0.03}},
            }
            for step, change in ((10, -0.1), (20, 0.1))
        ]
        file = out / "jobs" / "det_seg" / "1" / str(seed) / "affinity.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, out, study, jobs


@pytest.fixture(scope="module")
def written(whole: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its report."""
    path, out, _, _ = whole
    to = tmp_path_factory.mktemp("report") / "new"
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(to), "--replicates", "50"]) == 0
    return to


def few_arms() -> dict[str, Any]:
    """Those that the comparisons name."""
    arms: dict[str, Any] = simulated_study()["arms"]
    return {name: arms[name] for name in (*SINGLES.values(), "mtl", "hydranet")}


def stored(to: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((to / "comparisons.json").read_text())
    return found


def scores_of(
    out: Path, arm: str, metric: Callable[[dict[str, Any]], float], fraction: str = "1"
) -> np.ndarray:
    return np.array(
        [
            metric(
                JobFolder(out / "jobs" / arm / fraction / str(seed)).read_result()["scores"]["synthetic/test"]
            )
            for seed in (3, 4, 5)
        ]
    )


METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "top-1": lambda s: float(np.mean([group["accuracy"] for group in s["classification"].values()])),
    "AP": lambda s: s["detection"]["ap"],
    "mIoU": lambda s: s["segmentation"]["miou"],
}


def test_the_three_files_say_what_the_results_hold(whole: Simulated, written: Path) -> None:
    _, out, study, jobs = whole
    values = stored(written)
    html, markdown = (written / "report.html").read_text(), (written / "report.md").read_text()
    claims = [claim for one in compare_arms(study, jobs, out) for claim in one.claims]
    assert len(claims) == 9
    for claim in claims:
        # Each claim is one sentence with its words.
        assert re.search(r"is shown|is not shown|are equivalent within the margin", claim.text)
        assert claim.text in markdown.replace("\\", "") and claim.text.replace("<", "&lt;") in html
    (one, *_) = [c for c in values["comparisons"] if c["fraction"] == 1 and c["comparison"]["arm"] == "mtl"]
    relative = []
    for name, metric in METRICS.items():
        first, second = scores_of(out, "mtl", metric), scores_of(out, SINGLES[name], metric)
        assert [one["values"][name][str(seed)] for seed in (3, 4, 5)] == [
            pytest.approx(pair) for pair in zip(first, second, strict=True)
        ]
        relative.append((first - second) / second.mean())
        # Every seed's value stands in the report.
        for value in (*first, *second):
            assert f">{100 * value:.2f}</td>" in html and f"| {100 * value:.2f} |" in markdown
    gain = 100 * np.mean(relative, axis=0)
    assert one["delta_m"]["gain"]["mean"] == pytest.approx(gain.mean())
    assert [one["delta_m"]["gain"]["by_seed"][seed] for seed in ("3", "4", "5")] == pytest.approx(
        gain.tolist()
    )
    assert f">{gain.mean():+.2f}</td>" in html
    assert "a positive Δm means that the arm scores higher" in markdown
    assert "Tesla's own network is not public" in markdown and "Tesla&#39;s own network is not public" in html


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_files_hold_what_comparisons_json_holds(written: Path) -> None:
    values = stored(written)
    scores = [
        ("simulated", fraction, arm, seed, endpoint, pytest.approx(100 * value), "percent")
        for endpoint, by_fraction in values["scores"].items()
        for fraction, by_arm in by_fraction.items()
        for arm, by_seed in by_arm.items()
        for seed, value in by_seed.items()
    ]
    assert len(scores) > 50
    assert [
        (
            r["study"],
            str(float(r["fraction"])),
            r["arm"],
            r["seed"],
            r["endpoint"],
            float(r["value"]),
            r["unit"],
        )
        for r in rows_of(written / "scores.csv")
    ] == scores

    found = {
        (r["comparison"], float(r["fraction"]), r["endpoint"]): r
        for r in rows_of(written / "comparisons.csv")
    }
    judged = set()
    for one in values["comparisons"]:
        place = one["comparison"]["name"], one["fraction"]
        for claim in one["claims"]:
            name, compared, equivalence = claim["endpoint"]["name"], claim["comparison"], claim["equivalence"]
            nested = one["nested_bootstrap"][name]
            row = found[(*place, name)]
            judged.add((*place, name))
            expected = {
                **{"effect": compared["mean"], "low": compared["low"], "high": compared["high"]},
                **{"low_with_images": nested["low"], "high_with_images": nested["high"]},
                "margin": equivalence["margin"],
            }
            assert {key: float(row[key]) for key in expected} == pytest.approx(
                {key: 100 * value for key, value in expected.items()}
            )
            p_values = ("p_sign_flip", compared["p_sign_flip"]), ("p_holm", claim["p_corrected"])
            p_values += (
                ("p_equivalent", equivalence["p_equivalent"]),
                ("p_no_loss", equivalence["p_non_inferior"]),
            )
            assert all(float(row[key]) == pytest.approx(p) for key, p in p_values)
            assert (row["verdict"], row["seeds"], row["unit"]) == (claim["verdict"], "3", "percentage points")
            assert row["primary"] == str(one["comparison"]["primary"] and one["fraction"] == 1)
        if one["delta_m"]["gain"] is not None:
            row, gain = found[(*place, "delta_m")], one["delta_m"]["gain"]
            judged.add((*place, "delta_m"))
            assert [float(row[key]) for key in ("effect", "low", "high", "p_sign_flip")] == pytest.approx(
                [gain[key] for key in ("mean", "low", "high", "p_sign_flip")]
            )
            assert (row["unit"], row["p_holm"], row["verdict"]) == ("percent", "", "")
    unjudged = [row for key, row in found.items() if key not in judged]
    assert len(judged) == 12 and len(unjudged) == 3
    assert all((row["verdict"], row["effect"], row["seeds"]) == ("no result", "", "0") for row in unjudged)

    costs = {(r["arm"], r["cost"]): (float(r["value"]), r["unit"]) for r in rows_of(written / "costs.csv")}
    for arm, counts in values["parameters"].items():
        assert costs[arm, "parameters"] == (pytest.approx(counts["total"] / 1e6), "M")
    assert costs["mtl", "training time"] == (pytest.approx(254), "s")


def test_the_latex_tables_are_whole_and_escaped(written: Path) -> None:
    text = (written / "tables.tex").read_text()
    open_now: list[str] = []
    marks = re.findall(r"\\(begin|end)\{([\w*]+)\}", text)
    for kind, name in marks:
        if kind == "begin":
            open_now.append(name)
        else:
            assert open_now.pop() == name
    assert [name for kind, name in marks if kind == "begin"] == ["table*", "tabular"] * 2 and not open_now
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    arms, comparisons = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    values = stored(written)
    # Two lines of head; a name, three endpoints and a gain for each comparison.
    for (columns, body), count in ((arms, 2 + len(values["parameters"])), (comparisons, 1 + 2 * 5)):
        rows = [row for row in body.splitlines() if row.endswith(r" \\")]
        assert len(rows) == count
        assert {row.count(" & ") + 1 for row in rows if "multicolumn" not in row} == {len(columns)}
        # What is left without commands, escaped characters and the symbol Δm.
        assert not re.search("[_%#]", re.sub(r"\\Delta_m|\\.", "", body))
    assert r"\multicolumn{8}{l}{\emph{beside HydraNet-style (exploration)}}" in comparisons[1]
    ap = 100 * np.array(list(values["scores"]["AP"]["1.0"]["det_seg"].values()))
    parameters = values["parameters"]["det_seg"]["total"] / 1e6
    (row,) = re.findall(r"^ +det\\_seg & (.*) \\\\$", arms[1], re.MULTILINE)
    assert row.startswith(rf"-- & {ap.mean():.2f} $\pm$ {ap.std(ddof=1):.2f} & ")
    assert row.endswith(f" & {parameters:.2f} & 204")
    gain = values["comparisons"][1]["delta_m"]["gain"]
    assert values["comparisons"][1]["fraction"] == 1
    assert rf"$\Delta_m$, \% & -- & 3 & ${gain['mean']:+.2f}$ & " in comparisons[1]


def test_scores_that_are_all_0_leave_nothing_to_be_relative_to(whole: Simulated) -> None:
    _, out, study, jobs = whole
    results = read_results(study, jobs, out)
    one = next(one for one in compare_arms(study, jobs, out) if one.comparison.arm == "mtl")
    once = relative_gain(
        results, dataclasses.replace(one, values=one.values | {"AP": {3: (0.1, 0), 4: (0, 0.1)}})
    )
    never = relative_gain(
        results, dataclasses.replace(one, values=one.values | {"AP": {3: (0.1, 0), 4: (0.1, 0)}})
    )
    assert once is not None and once.gain is not None and set(once.gain.by_seed) == {3, 4}
    assert never is not None and never.gain is None and never.undefined == ("AP",)


def test_a_report_from_archived_results_is_the_same_and_the_archive_is_gone_on_with(
    whole: Simulated, written: Path, tmp_path: Path
) -> None:
    path, out, _, jobs = whole
    archive, again = tmp_path / "results", tmp_path / "again"
    weights = job_folder(out, jobs[0]).path / "model.safetensors"
    weights.write_bytes(b"not to be copied")
    command = ["study", "archive", str(path), "--out", str(out), "--to", str(archive)]
    assert main(command) == 0 and main(command) == 0
    weights.unlink()
    assert not list(archive.rglob("*.safetensors"))
    report = ["study", "report", str(path), "--out", str(archive), "--to", str(again), "--replicates", "50"]
    assert main(report) == 0
    assert stored(again) == stored(written)
    assert (again / "report.md").read_text() == (written / "report.md").read_text()
    states = [[job_folder(folder, job).state() for job in jobs] for folder in (out, archive)]
    assert states[0] == states[1] and "done" in states[1] and "waiting" in states[1]


def test_there_is_nothing_to_archive_of_a_study_that_has_not_begun(
    whole: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = whole[0]
    command = ["study", "archive", str(path), "--out", str(tmp_path / "new"), "--to", str(tmp_path / "to")]
    assert main(command) != 0
    assert "no job of the study is finished" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_the_html_needs_no_other_file_and_the_markdown_has_its_figures_beside(written: Path) -> None:
    html, markdown = (written / "report.html").read_text(), (written / "report.md").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "http" not in html
    names = re.findall(r"\]\(figures/(\w+\.png)\)", markdown)
    assert len(names) == len(set(names)) == html.count("data:image/png")
    assert {"differences_primary.png", "differences_exploration.png", "seeds.png", "tasks.png"} <= set(names)
    assert {"front_parameters.png", "fractions.png", "delta_m.png"} <= set(names)
    for name in names:
        assert (written / "figures" / name).read_bytes().startswith(b"\x89PNG")
    # Each row of a table has as many cells as its head, whatever the cells hold.
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1
    assert r"all tasks \| weights 1" in markdown
    assert "Of the training data 50% is one draw, the same for every arm and seed" in markdown


def test_intervals_over_seeds_and_images_are_computed_from_the_pooled_records(
    whole: Simulated, written: Path
) -> None:
    _, out, study, jobs = whole
    values = stored(written)
    one = next(c for c in values["comparisons"] if c["fraction"] == 1 and c["comparison"]["primary"])
    for name, nested in one["nested_bootstrap"].items():
        first = scores_of(out, "mtl", METRICS[name])
        assert nested["mean"] == pytest.approx((first - scores_of(out, SINGLES[name], METRICS[name])).mean())
        assert nested["low"] < nested["mean"] < nested["high"]
        assert (nested["images"], nested["block_length"], nested["replicates"]) == (10, 1, 50)
        interval = f"{100 * nested['low']:+.2f} to {100 * nested['high']:+.2f}"
        assert interval in (written / "report.html").read_text()
    # On accuracy the share of the images is that of paired answers, whatever draws them.
    results = read_results(study, jobs, out)
    compared = next(c for c in compare_arms(study, jobs, out) if c.fraction == 1 and c.comparison.primary)
    accuracy = dataclasses.replace(compared, values={"top-1": compared.values["top-1"]})
    found = image_intervals(results, [accuracy], 4000).intervals["one against three", 1.0, "top-1"]
    by_image = []
    for seed in (3, 4, 5):
        right = []
        for arm in ("mtl", "stl_cla"):
            records = load_records(out / "jobs" / arm / "1" / str(seed) / "records" / "synthetic_test.npz")
            groups = records.classification.values()
            right.append(np.mean([group.ranks == 0 for group in groups], axis=0))
        by_image.append(right[0] - right[1])
    assert found.image_standard_error == pytest.approx(
        np.mean(by_image, axis=0).std() / np.sqrt(10), rel=0.06
    )


def test_conditions_are_scored_on_their_images_alone(whole: Simulated) -> None:
    _, out, study, jobs = whole
    results = read_results(study, jobs, out)
    found = {(c.group, c.label): c for c in conditions(results, fewest=4)}
    records = load_records(out / "jobs" / "mtl" / "1" / "3" / "records" / "synthetic_test.npz")
    group = records.classification["timeofday"]
    assert records.detection is not None
    for number, label in enumerate(group.classes):
        mask = group.labels == number
        if mask.sum() < 4:
            assert ("timeofday", label) not in found
            continue
        condition = found["timeofday", label]
        assert condition.images == mask.sum()
        # pycocotools' way of pooling, which the report's own does not share.
        curves = precision_curves(records.detection, mask.astype(float), areas=1)
        assert condition.scores["AP"]["mtl"][3] == pytest.approx(np.nanmean(curves.mean(-1)))
        # Arms without classification are scored on the same images.
        assert set(condition.scores["mIoU"]["stl_seg"]) == {3, 4, 5}


def test_tasks_are_divided_among_networks_in_every_way(whole: Simulated, written: Path) -> None:
    _, out, study, jobs = whole
    # Bell numbers.
    assert [len(list(partitions(tuple("abcd"[:n])))) for n in range(5)] == [1, 1, 2, 5, 15]
    results = read_results(study, jobs, out)
    family = next(f for f in task_families(results) if len(f.joint) > 1)
    assert family.singles == dict(zip(TASKS, SINGLES.values(), strict=True))
    assert family.joint == {
        TASKS: "mtl",
        ("classification", "detection"): "cls_det",
        ("detection", "segmentation"): "det_seg",
    }
    names = {system.name for system in systems(results)}
    assert {
        "mtl",
        "hydranet",
        "stl_cla + stl_det + stl_seg",
        "cls_det + stl_seg",
        "stl_cla + det_seg",
    } <= names
    mixed = next(s for s in stored(written)["systems"] if s["by_task"]["detection"] == "det_seg")
    gains = [
        (scores_of(out, "det_seg", METRICS[name]) - (single := scores_of(out, SINGLES[name], METRICS[name])))
        / single.mean()
        for name in ("AP", "mIoU")
    ]
    # The task that keeps its own network gains nothing.
    expected = 100 * np.sum(gains, axis=0) / 3
    assert mixed["delta_m"]["gain"]["mean"] == pytest.approx(expected.mean())
    assert "| stl_cla + det_seg | 2 |" in (written / "report.md").read_text()


def test_affinities_stand_beside_what_was_trained(written: Path) -> None:
    markdown = (written / "report.md").read_text()
    section = markdown[markdown.index("## Task affinity") : markdown.index("## Backbone and neck")]
    # Means over steps, then over seeds.
    assert re.search(r"^\| detection \| - \| 0\.40 \(", section, re.MULTILINE)
    assert re.search(r"^\| segmentation \| 0\.50 .*\| - \|$", section, re.MULTILINE)
    assert "lookahead affinity" in section and "figures/affinity_det_seg.png" in section


def test_backbone_and_neck_are_told_apart(whole: Simulated) -> None:
    _, out, study, jobs = whole
    results = read_results(study, jobs, out)
    (square,) = factorials(results)
    assert square.arms == {
        ("pvt_v2_b0", "fpn"): "mtl",
        ("pvt_v2_b0", "bifpn"): "pvt_bifpn",
        ("regnety_004", "fpn"): "regnet_fpn",
        ("regnety_004", "bifpn"): "hydranet",
    }
    effects = factorial_effects(results, square, results.endpoints[1])
    pf, pb, rf, rb = (scores_of(out, arm, METRICS["AP"]) for arm in square.arms.values())
    assert effects["backbone"] and effects["neck"] and effects["interaction"]
    assert effects["backbone"].mean == pytest.approx(((pf + pb) / 2 - (rf + rb) / 2).mean())
    assert effects["neck"].mean == pytest.approx(((pf + rf) / 2 - (pb + rb) / 2).mean())
    assert effects["interaction"].mean == pytest.approx(((pf - pb) - (rf - rb)).mean())


def test_one_network_is_set_against_three_by_what_was_measured(whole: Simulated, written: Path) -> None:
    markdown = (written / "report.md").read_text()
    totals = {arm: counts["total"] for arm, counts in stored(written)["parameters"].items()}
    together = sum(totals[arm] for arm in SINGLES.values())
    (row,) = re.findall(r"^\| parameters, M \| .*\|$", markdown, re.MULTILINE)[:1]
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    assert [float(cell) for cell in cells] == pytest.approx(
        [
            totals["mtl"] / 1e6,
            *(totals[arm] / 1e6 for arm in SINGLES.values()),
            together / 1e6,
            totals["mtl"] / together,
        ],
        rel=0.01,
    )
    # Nothing was timed, and the report says so in place of figures.
    assert "Latency and memory in use were not measured" in markdown
    assert not re.search(r"latency, \d+x\d+", markdown)
    assert "Scores under corruptions of the test images." in markdown


def test_an_unfinished_study_is_told_and_reported(
    simulate: Callable[..., Simulated], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def left_out(job: Job) -> bool:
        late = job.arm == "stl_det" and job.seed != 3
        return job.arm == "hydranet" or job.fraction < 1 or late

    path, out, _, _ = simulate(left_out, images=6, records=False, arms=few_arms())
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    assert "AP: not finished in both arms with the seeds 4, 5" in capsys.readouterr().out
    markdown = (tmp_path / "report.md").read_text()
    assert "10 of 30 jobs are finished" in markdown
    assert "Nothing is said of mtl and stl_det in AP: 1 of 3 seeds are finished in both" in markdown
    assert "stl_det 1 of 6" in markdown and "hydranet 0 of 6" in markdown
    assert "is shown to score" not in markdown
    assert "No interval over images" in markdown and "no records of the job" in markdown
    assert "No pre-registration was stored" in markdown


def test_arms_that_were_scored_on_different_images_are_not_compared(
    simulate: Callable[..., Simulated], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {name: arm for name, arm in few_arms().items() if name != "hydranet"}
    values = simulated_study(arms=arms, fractions=[1.0])
    del values["preregistration"]["comparisons"][1]
    path, out, _, jobs = simulate(lambda job: True, **values)
    samples = labelled_images(load_task_labels(next(j for j in jobs if j.arm == "mtl").config.model), 6)
    for job in jobs:
        finish(out, job, samples[1:] if (job.arm, job.seed) == ("stl_seg", 4) else samples, skill_of)
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    reason = (
        "with the seed 4 they were scored on different images of synthetic/test, 6 and 5 labelled for "
        "segmentation, of which both have 5"
    )
    assert f"  mIoU: not compared: {reason}\n" in capsys.readouterr().out
    markdown = (tmp_path / "report.md").read_text()
    assert f"Nothing is said of mtl and stl_seg in mIoU: {reason}." in markdown
    # Holm's correction is over all of a family.
    assert "Nothing is said of mtl and stl_det in AP: 3 of 3 seeds are finished in both, and its" in markdown
    (one,) = stored(tmp_path)["comparisons"]
    assert one["refused"] == {"mIoU": reason} and one["missing"]["mIoU"] == one["missing"]["AP"] == []
    assert one["values"]["mIoU"] == {} and len(one["values"]["AP"]) == 3
    assert one["delta_m"]["gain"] is None and not one["claims"]
    gains = {tuple(s["by_task"].values()): s["delta_m"]["gain"] for s in stored(tmp_path)["systems"]}
    assert gains["mtl", "mtl", "mtl"] is None and gains["stl_cla", "stl_det", "stl_seg"]["mean"] == 0


def test_a_study_without_any_result_is_reported(simulate: Callable[..., Simulated], tmp_path: Path) -> None:
    path, out, _, _ = simulate(lambda job: True, arms=few_arms(), name="a_b & 50%")
    out.mkdir()
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    markdown = (tmp_path / "report.md").read_text()
    assert "0 of 30 jobs are finished" in markdown and "0 of 3 seeds are finished in both" in markdown
    assert (tmp_path / "report.html").is_file() and stored(tmp_path)["jobs"] == {"finished": 0, "planned": 30}
    assert r"\caption{a\_b \& 50\%: scores with 100\%" in (tmp_path / "tables.tex").read_text()
    assert rows_of(tmp_path / "scores.csv") == []


def test_a_changed_registration_stands_at_the_top_and_among_the_threats(
    simulate: Callable[..., Simulated], tmp_path: Path
) -> None:
    def left_out(job: Job) -> bool:
        return job.fraction < 1 or job.arm not in ("mtl", "stl_seg")

    path, out, study, _ = simulate(left_out, images=6, records=False, arms=few_arms())
    content = registration(study, path)
    # As a version of the package that recorded less would have left it.
    older = {key: value for key, value in content.items() if key not in ("trials", "tuning", "training")}
    register(out, older, 0)
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    markdown = (tmp_path / "report.md").read_text()
    assert "and was not changed since" in markdown
    assert "The pre-registration does not record trials, tuning, training; whether they changed" in markdown
    # What is added to an older record changes nothing in it, and its time is told.
    register(out, content, 7)
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    markdown = (tmp_path / "report.md").read_text()
    assert "and was not changed since" in markdown and "Changes of the pre-registration" not in markdown
    assert re.search(r"Trials, tuning, training of .* recorded on \S+ only, after 7 finished jobs", markdown)
    changed = simulated_study(arms=few_arms())
    changed["preregistration"]["endpoints"][2]["margin"] = 0.2
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    markdown = (tmp_path / "report.md").read_text()
    line = "The study file differs from the pre-registration: preregistration.endpoints"
    assert markdown.count(line) == 2 and markdown.index(line) < markdown.index("## Claims")


@pytest.mark.parametrize("better", [0.0, 0.001])
def test_what_is_said_of_scores_near_nothing_is_told_to_be_so(
    simulate: Callable[..., Simulated], tmp_path: Path, better: float
) -> None:
    path, out, _, jobs = simulate(
        lambda job: True, arms=few_arms(), fractions=[1.0], seeds=list(range(8 if better else 3))
    )
    for job in jobs:
        ap = 0.004 + (job.arm == "stl_det") * better * (1 + job.seed / 100)
        scores = {"classification": {}, "detection": {"ap": ap}, "segmentation": {"miou": 0.3}}
        scores["classification"] = {"weather": {"accuracy": 0.5 + 0.1 * (job.arm == "mtl")}}
        result = {"scores": {"synthetic/test": scores}, "training": {"seconds": 1.0}, "config": {}}
        folder = job_folder(out, job)
        folder.path.mkdir(parents=True)
        folder.result.write_text(json.dumps(result))
    assert main(["study", "report", str(path), "--out", str(out), "--to", str(tmp_path)]) == 0
    markdown = (tmp_path / "report.md").read_text()
    claims = markdown[markdown.index("## Claims") : markdown.index("## Differences")]
    if better:
        assert "mtl is shown to score lower than stl_det in AP" in claims
        assert claims.count("Both score next to nothing (0.40 and 0.50 %): the difference is one of") == 1
    else:
        assert "equivalent within the margin of 1 point in AP" in claims
        assert claims.count("Both score next to nothing (0.40 and 0.40 %), so that a margin") == 1
    assert "AP is next to nothing in some arms (0.40 %)" in markdown


def test_video_is_cut_where_its_frames_do_not_follow_each_other() -> None:
    names = [f"/data/a_f{n:05d}.png" for n in (30, 60, 90, 300, 330)] + ["/data/b_f00360.png"]
    assert clips_of(names) == (0, 0, 0, 1, 1, 2)
    with pytest.raises(ValueError, match="'frame 1' is not"):
        clips_of(["frame 1"])


Folded = tuple[dict[str, Any], Path, list[Job], list[list[Sample]]]


def folded_study(folder: Path, *endpoints: str) -> Folded:
    """A finished study whose seeds go through two folds: content, file, jobs, and the frames of each fold."""
    values = simulated_study(fractions=[1.0], seeds=[0, 1, 2])
    values["arms"] = {name: values["arms"][name] for name in ("stl_seg", "mtl")}
    values["by_seed"] = [
        {"evaluate": [{"kind": "camvid", "root": str(folder), "split": "held_out", "fold": fold}]}
        for fold in (0, 1)
    ]
    del values["training"]["evaluate"]
    values["training"]["extends"] = [str(REPOSITORY / "config" / "training" / "camvid_mtl.yaml")]
    values["preregistration"]["endpoints"] = [
        endpoint | {"source": "camvid/held_out"}
        for endpoint in values["preregistration"]["endpoints"]
        if endpoint["name"] in endpoints
    ]
    values["preregistration"]["comparisons"] = [
        {"name": "one or not", "arm": "mtl", "against": {"segmentation": "stl_seg"}}
    ]
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    jobs = study_jobs(load_study(path), path)
    sets = load_task_labels(next(job for job in jobs if job.arm == "mtl").config.model)
    samples = []
    for fold in (0, 1):
        names = [f"seq{clip}_f{30 * n:05d}" for clip in range(2) for n in range(30 * fold, 30 * fold + 12)]
        samples.append(labelled_images(sets, 24, fold, names))
    for job in jobs:
        finish(folder / "out", job, samples[job.seed % 2], lambda job, task: 0.7 if job.arm == "mtl" else 0.5)
    return values, path, jobs, samples


def test_images_and_boxes_are_counted_over_all_folds(tmp_path: Path) -> None:
    _, path, jobs, samples = folded_study(tmp_path, "top-1", "AP", "mIoU")
    results = read_results(load_study(path), jobs, tmp_path / "out")
    frames = [sample for fold in samples for sample in fold]
    config = next(job for job in jobs if job.arm == "mtl").config.model
    sets = load_task_labels(config)
    found = {(c.group, c.label): c.images for c in conditions(results, fewest=0)}
    groups = [
        (group, label, n) for group, s in sets.classification.items() for n, label in enumerate(s.names)
    ]
    counted = {(group, label): sum(s.classes[group] == n for s in frames) for group, label, n in groups}
    assert found == {key: number for key, number in counted.items() if number}
    # What has too few images in each fold may have enough in both.
    most = max(sum(s.classes[group] == n for s in fold) for fold in samples for group, _, n in groups)
    assert (
        {key for key, number in counted.items() if number > most}
        == {(c.group, c.label) for c in conditions(results, fewest=most + 1)}
        != set()
    )
    for job in jobs:
        folder = job_folder(tmp_path / "out", job)
        sources = folder.read_result()["scores"]
        (folder.path / "robustness").mkdir()
        measured = {"sources": sources, "corruptions": {"fog": {"1": sources}}}
        (folder.path / "robustness" / "scores.json").write_text(json.dumps(measured))
    assert main(["study", "report", str(path), "--out", str(tmp_path / "out"), "--replicates", "20"]) == 0
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "over those seeds that were measured. Exploration. Images: 48.\n" in markdown
    for number, name in enumerate(sets.detection.names[:4]):
        boxes = sum((sample.box_labels == number).sum() for sample in frames)
        assert f"| {name} | {boxes} | " in markdown
    for group, label, number in groups:
        if number := counted[group, label]:
            assert f"| {group}: {label} | {number} | " in markdown or number < 10
            assert re.search(rf"^\| {label} \| {number} \| ", markdown, re.MULTILINE)


def test_folds_of_a_video_are_drawn_in_blocks_and_each_on_its_own(tmp_path: Path) -> None:
    values, path, jobs, _ = folded_study(tmp_path, "mIoU")
    study, out = load_study(path), tmp_path / "out"
    results = read_results(study, jobs, out)
    found = image_intervals(results, compare_arms(study, jobs, out), 50)
    # Both folds together have 48 images; seeds 0 and 2 share the first one's.
    assert found.images == {"mIoU": 48} and found.blocks == {"mIoU": 20} and not found.reasons
    nested = found.intervals["one or not", 1.0, "mIoU"]
    scores = {
        (job.arm, job.seed): job_folder(out, job).read_result()["scores"]["camvid/held_out"]["segmentation"][
            "miou"
        ]
        for job in jobs
    }
    assert nested.mean == pytest.approx(np.mean([scores["mtl", s] - scores["stl_seg", s] for s in range(3)]))

    # What seeds that share images, and trials of one learning rate, mean for the claims.
    weightings = [{"balancing": {"weights": {"detection": weight}}} for weight in (1.0, 2.0)]
    values["arms"]["mtl"]["trials"] = weightings
    values["arms"]["stl_seg"]["trials"] = [{"optimizer": {"lr": rate}} for rate in (0.001, 0.002)]
    values["tuning"] = {"seed": 9, "evaluate": values["by_seed"][0]["evaluate"]}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert main(["study", "report", str(path), "--out", str(out), "--replicates", "20"]) == 0
    markdown = (out / "report.md").read_text()
    assert "Seeds go through 2 folds: seeds of one fold share their test images" in markdown
    assert "exchangeability that the sign-flip test assumes is approximate" in markdown
    rate = next(job for job in jobs if job.arm == "mtl").config.optimizer.lr
    told = f"The trials of mtl (balancing.weights.detection) are tried at one learning rate, {rate:g}:"
    assert told in markdown
