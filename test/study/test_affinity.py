"""Relations of tasks over seeds: matrices, intervals, picture, and the sentence that may be said."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.study.affinity import (
    AffinitySummary,
    Combination,
    affinity_figure,
    affinity_folders,
    affinity_sentence,
    affinity_tables,
    load_affinity,
    pair_affinity,
    trained_combinations,
)
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.config import StudyConfig, load_study
from pvt_mtl_perception.study.jobs import Job, job_folder, study_jobs

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS = ("classification", "detection", "segmentation")


def row(step: int, cosine: float, ratio: float, affinity: float, others: float = -0.001) -> dict:
    """Detection and segmentation as given; the other pairs alike."""
    return {
        "step": step,
        "lr": 0.001,
        "losses": dict.fromkeys(TASKS, 1.0),
        "cosine": {
            "classification": {"detection": 0.0, "segmentation": -0.1},
            "detection": {"segmentation": cosine},
        },
        "norm_ratio": {
            "classification": {"detection": 1.0, "segmentation": 1.0},
            "detection": {"segmentation": ratio},
        },
        "affinity": {
            "classification": {"classification": 0.05, "detection": others, "segmentation": others},
            "detection": {"classification": others, "detection": 0.06, "segmentation": affinity},
            "segmentation": {"classification": others, "detection": affinity / 2, "segmentation": 0.07},
        },
    }


def write_run(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "affinity.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


AFFINITIES = (0.004, 0.006, 0.005, 0.007)


def four_runs(folder: Path) -> list[Path]:
    return [
        write_run(
            folder / str(seed),
            [
                row(10, 0.2 + seed / 10, 2.0, affinity - 0.001),
                row(20, 0.4 + seed / 10, 8.0, affinity + 0.001),
            ],
        )
        for seed, affinity in enumerate(AFFINITIES)
    ]


def test_matrices_are_means_over_steps_and_then_over_runs(tmp_path: Path) -> None:
    summary = load_affinity(four_runs(tmp_path))
    assert summary.tasks == TASKS and summary.steps.tolist() == [10, 20] and len(summary.runs) == 4
    cosine, ratio, affinity = (summary.over_training[m] for m in ("cosine", "norm_ratio", "affinity"))
    assert cosine.mean[1, 2] == cosine.mean[2, 1] == pytest.approx(0.45)
    assert np.isnan(cosine.mean[0, 0])
    # The geometric mean, so that either way round says the same.
    assert ratio.mean[1, 2] == pytest.approx(4.0) and ratio.mean[2, 1] == pytest.approx(0.25)
    assert affinity.mean[1, 2] == pytest.approx(0.0055) and affinity.mean[2, 1] == pytest.approx(0.00275)
    assert affinity.mean[0, 0] == pytest.approx(0.05)
    expected = stats.bootstrap(
        (np.array(AFFINITIES),), np.mean, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert affinity.low[1, 2] == pytest.approx(expected.low, abs=2e-4)
    assert affinity.high[1, 2] == pytest.approx(expected.high, abs=2e-4)
    pair = pair_affinity(summary)["detection", "segmentation"]
    assert pair.mean == pytest.approx(0.0055 * 0.75) and pair.low < pair.mean < pair.high
    # Two of the 16 sign patterns are as far from 0, and there are three pairs.
    assert pair.p_corrected == pytest.approx(3 * 2 / 16)
    assert (
        "| detection | -0.1000 (-0.1000 to -0.1000) | 6.0000 (6.0000 to 6.0000) | 0.5500 ("
        in affinity_tables(summary)
    )


def test_pairs_that_are_missing_in_some_rows_are_left_out_there(tmp_path: Path) -> None:
    first, second = row(10, 0.2, 2.0, 0.004), row(20, 0.6, 2.0, 0.008)
    for measure in ("cosine", "norm_ratio", "affinity"):
        del first[measure]["detection"]
    summary = load_affinity([write_run(tmp_path / "0", [first, second])])
    assert summary.over_training["cosine"].mean[1, 2] == pytest.approx(0.6)
    assert summary.over_training["affinity"].mean[1, 2] == pytest.approx(0.008)
    assert np.isnan(summary.over_training["cosine"].low).all()
    assert "one run, so no interval" in affinity_sentence(summary)
    assert affinity_figure(summary).axes


def test_the_sentence_says_no_more_than_the_interval(tmp_path: Path) -> None:
    def summary_of(values: tuple[float, ...], name: str) -> AffinitySummary:
        return load_affinity(
            [
                write_run(tmp_path / name / str(i), [row(10, 0.1, 1.0, v, others=-0.05 - i / 1000)])
                for i, v in enumerate(values)
            ]
        )

    eight = AFFINITIES + tuple(value + 0.0005 for value in AFFINITIES)
    helps = affinity_sentence(summary_of(eight, "helps"))
    assert (
        "is shown to help the other, most between detection and segmentation (lookahead affinity +0.43"
        in helps
    )
    assert "p = 0.023 after Holm over 3 pairs, 8 runs" in helps and "does not show that it pays" in helps
    # The interval of four excludes 0, and no test of four seeds can.
    few = affinity_sentence(summary_of(AFFINITIES, "few"))
    assert few.startswith("No pair's gradient steps are shown to help each other; highest is detection and")
    mixed = tuple(value * (-1) ** i for i, value in enumerate(eight))
    unclear = affinity_sentence(summary_of(mixed, "unclear"))
    assert unclear.startswith(
        "No pair's gradient steps are shown to help each other; highest is detection and"
    )
    hinders = affinity_sentence(summary_of(tuple(-value for value in eight), "hinders"))
    assert hinders.startswith(
        "Gradient steps for one task are shown to hinder the others, least between detec"
    )


def combination(arm: str, tasks: tuple[str, ...], mean: float, half: float, seeds: int = 8) -> Combination:
    gains = tuple(mean + half * (-1) ** i for i in range(seeds))
    return Combination(arm, tasks, gains, mean, mean - half, mean + half)


def test_trained_combinations_count_before_affinities(tmp_path: Path) -> None:
    summary = load_affinity(four_runs(tmp_path))
    pair, other = ("detection", "segmentation"), ("classification", "detection")
    gained = [combination("det_seg", pair, 2.0, 1.0), combination("cls_det", other, -1.0, 3.0)]
    text = affinity_sentence(summary, gained)
    assert text.startswith("Choose detection and segmentation, which gained most in training (Δm over the ")
    assert "(det_seg) +2.0 % (+1.0 to +3.0, p = 0.016, 8 seeds), classification and detection (cls_d" in text
    assert text.endswith("It is the pair that gained most in training, too.") and "exploration" in text
    nothing = "No combination is shown to gain in accuracy, so cost decides"
    text = affinity_sentence(summary, [combination("cls_det", other, 1.0, 3.0), gained[0]])
    assert text.startswith(nothing)
    assert text.endswith("In training another pair gained most: classification and detection.")
    assert affinity_sentence(summary, [combination("det_seg", pair, 2.0, 1.0, seeds=5)]).startswith(nothing)
    text = affinity_sentence(summary, [combination("mtl", TASKS, -2.0, 1.0)])
    assert text.startswith("For accuracy alone train the tasks apart: every combination lost")
    assert "classification, detection and segmentation (mtl) -2.0 %" in text


@pytest.fixture(scope="module")
def joint() -> tuple[StudyConfig, list[Job]]:
    path = REPOSITORY / "config" / "study" / "synthetic_joint.yaml"
    study = load_study(path)
    return study, study_jobs(study, path)


def test_a_studys_combinations_are_its_arms_against_single_tasks(joint) -> None:
    study, jobs = joint
    gain = {"cls_det": 0.1, "cls_seg": -0.1, "det_seg": 0.2, "mtl_fixed": 0.3, "mtl_equal": 0.0}
    compared = []
    for comparison in study.preregistration.comparisons:
        names = [e.name for e in study.preregistration.endpoints if e.task in comparison.against]
        for fraction in study.fractions:
            factor = 1 + gain.get(comparison.arm, 0.0) * fraction
            values = {name: dict.fromkeys((0, 1), (0.5 * factor, 0.5)) for name in names}
            compared.append(Compared(comparison, fraction, values, [], {}))
    found = trained_combinations(study, jobs, compared)
    # Neither the arms against networks of other backbones nor those against each other.
    assert {c.arm: pytest.approx(c.mean) for c in found} == {arm: 100 * g for arm, g in gain.items()}
    assert [c.arm for c in found] == ["mtl_fixed", "det_seg", "cls_det", "mtl_equal", "cls_seg"]
    assert found[1].tasks == ("detection", "segmentation") and found[1].delta_m == pytest.approx((20, 20))
    # Scores of zero leave nothing to be relative to, and a single seed no interval.
    for one in compared:
        if one.comparison.arm == "det_seg":
            one.values["AP"] = dict.fromkeys((0, 1), (0.1, 0.0))
        if one.comparison.arm == "cls_seg":
            del one.values["mIoU"][0]
    assert {c.arm for c in trained_combinations(study, jobs, compared)} == {
        "cls_det",
        "mtl_fixed",
        "mtl_equal",
    }


def test_a_study_measures_its_multi_task_arm_and_finds_its_finished_jobs(joint, tmp_path: Path) -> None:
    _, jobs = joint
    assert {job.arm for job in jobs if job.config.affinity is not None} == {"mtl_equal"}
    chosen = [job for job in jobs if job.arm == "mtl_equal" and job.seed < 3]
    for job in chosen:
        write_run(job_folder(tmp_path, job).path, [row(50, 0.1, 1.0, 0.01)])
        if job.seed < 2:
            job_folder(tmp_path, job).result.write_text("{}")
    found = affinity_folders(jobs, tmp_path, 1.0)
    assert found == {"mtl_equal": [tmp_path / "jobs" / "mtl_equal" / "1" / str(seed) for seed in (0, 1)]}


def test_the_command_prints_tables_and_draws(tmp_path: Path, capsys) -> None:
    runs = four_runs(tmp_path / "runs")
    picture = tmp_path / "relations.png"
    assert main(["study", "affinity", *map(str, runs), "--out", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "| cosine of the gradients | classification | detection | segmentation |" in said
    assert "highest is detection and segmentation (lookahead affinity +0.41" in said
    assert cv2.imread(str(picture)).shape[1] > 1000
    (tmp_path / "empty").mkdir()
    assert main(["study", "affinity", str(tmp_path / "empty"), "--out", str(picture)]) == 2
    assert "affinity.jsonl is not there; a run of two tasks or more writes it" in capsys.readouterr().err


def test_runs_of_other_tasks_are_not_put_together(tmp_path: Path) -> None:
    two = row(10, 0.1, 1.0, 0.01)
    two = {k: dict(list(v.items())[1:]) if isinstance(v, dict) else v for k, v in two.items()}
    first = write_run(tmp_path / "0", [row(10, 0.1, 1.0, 0.01)])
    second = write_run(tmp_path / "1", [two | {"affinity": {}, "cosine": {}, "norm_ratio": {}}])
    with pytest.raises(ValueError, match=r"1/affinity.jsonl is of the tasks detection, segmentation; other"):
        load_affinity([first, second])
    with pytest.raises(ValueError, match=r"has no row: no batch had labels of two tasks"):
        load_affinity([write_run(tmp_path / "2", [])])
