"""What a study file becomes: jobs, parts of them, endpoints, and what is said when it changes."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import yaml
from study_files import study_content, write_study
from study_results import simulated_study

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.cli.study import _choose
from pvt_mtl_perception.evaluation.cost import count_flops
from pvt_mtl_perception.model.checkpoint import Checkpoint, Preprocessing
from pvt_mtl_perception.model.spec import load_task_labels
from pvt_mtl_perception.study.comparisons import compare_arms
from pvt_mtl_perception.study.config import EndpointConfig, endpoint_value, load_study
from pvt_mtl_perception.study.folder import JobFolder
from pvt_mtl_perception.study.jobs import (
    Job,
    arm_config,
    job_folder,
    outdated,
    part_of,
    prepare,
    read_tuning,
    registration,
    study_jobs,
    tuning_jobs,
    tuning_record,
)
from pvt_mtl_perception.study.registration import changes, register, registrations
from pvt_mtl_perception.study.runner import Progress, outdated_jobs, status_table

REPOSITORY = Path(__file__).resolve().parents[2]


def jobs_of(path: Path) -> list[Job]:
    return study_jobs(load_study(path), path)


def finish(out: Path, job: Job, seconds: float = 10.0, miou: float = 0.5) -> None:
    folder = job_folder(out, job)
    prepare(folder, job)
    result = {
        "scores": {"generic/train": {"segmentation": {"miou": miou}}},
        "training": {"seconds": seconds - 2},
        "evaluation_seconds": 2,
        "config": json.loads(json.dumps(dataclasses.asdict(job.config))),
    }
    folder.result.write_text(json.dumps(result))


def test_jobs_are_arms_times_seeds_times_fractions_the_registered_fraction_first(
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path, study_content(fractions=[0.5, 1.0], subset_seed=7))
    jobs = jobs_of(path)
    assert [job.id for job in jobs] == [
        *("stl_seg/1/0", "mtl/1/0", "stl_seg/1/1", "mtl/1/1"),
        *("stl_seg/0.5/0", "mtl/0.5/0", "stl_seg/0.5/1", "mtl/0.5/1"),
    ]
    single, multi = jobs[4].config, jobs[5].config
    assert single.model.tasks == ("segmentation",) and multi.model.tasks == ("classification", "segmentation")
    # What a comparison is not about is the same in both arms.
    assert dataclasses.replace(multi, model=single.model) == single
    assert multi.train[0].fraction == 0.5 and multi.train[0].subset_seed == 7
    assert jobs[7].config == dataclasses.replace(multi, seed=1)


def test_an_arm_begins_with_the_weights_of_its_pretraining(tmp_path: Path) -> None:
    content = study_content(pretraining={"common": {"extends": ["base.yaml"], "seed": 5}})
    content["arms"]["mtl"] = {"pretraining": "common"}
    first, *others = jobs_of(write_study(tmp_path, content))
    assert (first.id, first.arm, first.seed, first.needs) == ("pretraining/common", None, 5, None)
    assert [job.needs for job in others] == [None, "pretraining/common"] * 2
    assert others[1].config.initial_weights == "$PVT_MTL_STUDY/jobs/pretraining/common/model.safetensors"
    assert others[0].config.initial_weights is None


def test_parts_cover_every_job_once_and_each_has_the_pretrainings_it_needs(tmp_path: Path) -> None:
    content = study_content(
        seeds=list(range(5)), fractions=[0.1, 1.0], pretraining={"common": {"extends": ["base.yaml"]}}
    )
    content["arms"]["mtl"] = {"pretraining": "common"}
    jobs = jobs_of(write_study(tmp_path, content))
    for parts in (1, 2, 3, 5, 20):
        found = [part_of(jobs, (k, parts)) for k in range(1, parts + 1)]
        counts = Counter(job.id for part in found for job in part if job.arm is not None)
        assert counts == {job.id: 1 for job in jobs if job.arm is not None} and len(counts) == 20
        for part in found:
            ids = [job.id for job in part]
            assert all(ids.index(job.needs) < ids.index(job.id) for job in part if job.needs)
    with pytest.raises(ValueError, match="part 3/2"):
        part_of(jobs, (3, 2))


def change(content: dict, keys: str, value: object) -> dict:
    content = copy.deepcopy(content)
    *parents, last = keys.split(".")
    place = content
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[int(last) if isinstance(place, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("seed", [1], "Option 'seed' is not accepted"),
        ("seeds", [], "seeds is empty"),
        ("seeds", [1, 1], r"seeds lists something twice: \[1, 1\]"),
        ("fractions", [0.0, 1.0], "fractions lists 0.0; each is above 0"),
        ("fractions", [0.5], "preregistration.fraction 1 is none of the fractions"),
        ("arms.a/b", {}, "'a/b' is also a folder's name"),
        ("arms.tuning", {}, "an arm cannot be called 'tuning'"),
        ("arms.mtl", {"pretraining": "x"}, "arms.mtl.pretraining 'x' is none of the study's"),
        ("arms.mtl", {"trials": [{}]}, "same number of trials; found stl_seg 0, mtl 1"),
        ("tuning", {"seed": 9, "evaluate": []}, "tuning is set and no arm has trials"),
        ("preregistration.comparisons.0.arm", "mtk", "names the arm 'mtk', which the study lacks"),
        ("preregistration.comparisons.0.against", {"detection": "mtl"}, "'mtl' does not learn"),
        ("preregistration.endpoints.0.task", "depth", "unknown task 'depth'"),
        ("preregistration.endpoints.0.margin", 0, "margin is positive"),
        (
            "preregistration.endpoints.0.source",
            "camvid/val",
            "camvid/val; the arm 'mtl' is scored on",
        ),
        (
            "preregistration.endpoints.0.metric",
            "mIuO",
            "endpoint 'mIoU', arm 'stl_seg': segmentation has no score 'mIuO'; did you mean miou",
        ),
        ("arms.mtl", {"training": {"optimizer": {"rl": 1}}}, "arms.mtl: .*rl.*did you mean"),
        ("arms.mtl", {"training": {"extends": ["none.yaml"]}}, "no training configuration at .*none.yaml"),
    ],
)
def test_a_wrong_study_is_refused_by_name(tmp_path: Path, keys: str, value: object, message: str) -> None:
    path = write_study(tmp_path, change(study_content(), keys, value))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        jobs_of(path)


@pytest.mark.parametrize(
    ("task", "metric", "told"),
    [
        (
            1,
            "mAP",
            "endpoint 'AP', arm 'stl_det': .* no score 'mAP'; did you mean ap. known: ap, ap50,",
        ),
        (1, "per_class.car.boxes", "detection has no score"),
        (0, "acuracy", r"classification has no score 'acuracy'; did you mean \*\.accuracy"),
        (0, "wether.accuracy", r"did you mean weather\.accuracy"),
        (0, "timeofday.top5", r"'timeofday.top5'; did you mean"),
        (0, "*.per_class", "'..per_class'; did you mean"),
        (2, "dice", r"'dice'; known: miou, pixel_accuracy, boundary_f, per_class\.CLASS"),
        (1, "ar100", None),
        (1, "per_class.car.ap_small", None),
        (0, "scene.top5", None),
        (0, "weather.per_class.rainy", None),
        (2, "per_class.sky", None),
    ],
)
def test_a_metric_that_no_evaluation_has_is_refused_before_any_job(
    tmp_path: Path, task: int, metric: str, told: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    content = change(simulated_study(), f"preregistration.endpoints.{task}.metric", metric)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    status = main(["study", "status", str(path), "--out", str(tmp_path / "out")])
    assert (status != 0) == (told is not None)
    assert re.search(told or "^$", capsys.readouterr().err)


def test_an_endpoint_is_read_by_its_dotted_key(tmp_path: Path) -> None:
    scores = {"a/b": {"classification": {"x": {"accuracy": 0.5}, "y": {"accuracy": 1.0}}}}
    mean = EndpointConfig("top-1", "classification", "a/b", "*.accuracy", 0.01)
    assert endpoint_value(scores, mean) == 0.75
    assert endpoint_value(scores, dataclasses.replace(mean, metric="x.accuracy")) == 0.5
    with pytest.raises(KeyError, match=r"a/b\.classification has no 'z'; it has x, y"):
        endpoint_value(scores, dataclasses.replace(mean, metric="z.accuracy"))
    with pytest.raises(KeyError, match="a/b has no 'detection'; it has classification"):
        endpoint_value(scores, dataclasses.replace(mean, task="detection"))
    with pytest.raises(ValueError, match=r"a/b.classification.x is no number"):
        endpoint_value(scores, dataclasses.replace(mean, metric="x"))


def test_a_change_after_the_first_job_is_told_with_its_keys(tmp_path: Path) -> None:
    path = write_study(tmp_path, study_content())

    def content() -> dict:
        return registration(load_study(path), path)

    out = tmp_path / "out"
    assert len(register(out, content(), 0)) == len(register(out, content(), 3)) == 1
    assert changes(out, content()) == []
    changed = change(study_content(), "preregistration.endpoints.0.margin", 0.05)
    changed["seeds"] = [0, 1, 2]
    write_study(tmp_path, changed)
    (line,) = changes(out, content())
    assert line == "the study file differs from the pre-registration: preregistration.endpoints, seeds"
    first, second = register(out, content(), 3)
    assert first["finished_jobs"] == 0 and first["changed"] == [] and first["sha256"] != second["sha256"]
    assert second["changed"] == ["preregistration.endpoints", "seeds"]
    assert registrations(out) == [first, second]
    (line,) = changes(out, content())
    assert "after 3 finished jobs: preregistration.endpoints, seeds" in line
    # The test set is part of what was decided.
    base = tmp_path / "base.yaml"
    text = base.read_text()
    base.write_text(text.replace("evaluate:\n-", "evaluate:\n- limit: 2\n "))
    assert "differs from the pre-registration: test_sets" in changes(out, content())[1]
    # So is how arms are trained; what changes no weights is not.
    assert "checkpoint_every: 5" in text and "lr: 0.002" in text
    base.write_text(text.replace("checkpoint_every: 5", "checkpoint_every: 6"))
    assert len(changes(out, content())) == 1
    base.write_text(text.replace("lr: 0.002", "lr: 0.004"))
    told = "differs from the pre-registration: training.stl_seg.optimizer.lr, training.mtl.optimizer.lr"
    assert told in changes(out, content())[1]


def test_a_finished_job_of_another_configuration_is_told(tmp_path: Path) -> None:
    job = jobs_of(write_study(tmp_path, study_content()))[0]
    finish(tmp_path, job)
    assert outdated_jobs(tmp_path, [job]) == []
    slower = dataclasses.replace(job, config=dataclasses.replace(job.config, label_smoothing=0.1, workers=9))
    (line,) = outdated_jobs(tmp_path, [slower])
    assert line.startswith("stl_seg/1/0 was run under another configuration (label_smoothing differ)")
    result = job_folder(tmp_path, job).read_result()
    # A key of a later version, everywhere in the tree, changes nothing.
    del result["config"]["label_smoothing"], result["config"]["train"][0]["limit"]
    assert outdated(result, job) == []
    # One that the user adds to a dictionary of his own does.
    balancing = dataclasses.replace(job.config.balancing, method="a:b", options={"power": 2.0})
    other = dataclasses.replace(job, config=dataclasses.replace(job.config, balancing=balancing))
    result["config"]["balancing"]["method"] = "a:b"
    assert outdated(result, other) == ["balancing"]


def test_one_process_has_a_job_and_the_next_may_have_it_when_that_one_is_killed(tmp_path: Path) -> None:
    source = (
        "import sys, time; from pathlib import Path; from pvt_mtl_perception.study.folder import JobFolder\n"
        "with JobFolder(Path(sys.argv[1])).claim() as mine: print(mine, flush=True); time.sleep(60)\n"
    )
    folder = JobFolder(tmp_path)
    assert not folder.is_claimed() and folder.state() == "waiting"
    with subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        assert folder.is_claimed() and folder.state() == "running"
        with folder.claim() as mine:
            assert not mine
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not folder.is_claimed()
    with folder.claim() as mine:
        assert mine and JobFolder(tmp_path).is_claimed()
    folder.failure.write_text("{}")
    assert folder.state() == "failed"


def test_the_end_follows_from_measured_durations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_of(write_study(tmp_path, study_content()))
    progress = Progress(tmp_path, jobs)
    progress.look()
    assert progress.end() == "unknown" and (progress.steps, progress.total_steps) == (0, 12)
    finish(tmp_path, jobs[0], seconds=100)
    progress.look()
    # No multi-task job is measured yet, so all go by steps.
    assert progress._left == pytest.approx(300) and progress.steps == 3
    finish(tmp_path, jobs[1], seconds=400)
    progress.look(at_once=2)
    # 100 and 400 seconds beside each other.
    assert progress._left == pytest.approx(400)
    progress.look(at_once=1)
    assert progress._left == pytest.approx(500)
    job_folder(tmp_path, jobs[3]).path.mkdir(parents=True)
    row = {"step": 1, "losses": {}, "step_s": 3.0}
    (job_folder(tmp_path, jobs[3]).path / "log.jsonl").write_text(json.dumps(row) + "\n{cut")
    progress.look(at_once=1)
    assert progress._left == pytest.approx(100 + 400 * 2 / 3) and progress.steps == 7

    job_folder(tmp_path, jobs[3]).failure.write_text("{}")
    job_folder(tmp_path, jobs[3]).output.write_text("a\nValueError: no\n")
    rows = [line.split() for line in status_table(tmp_path, jobs).splitlines()]
    assert rows[0] == ["arm", "done", "running", "failed", "waiting", "s", "a", "job"]
    assert rows[1] == ["stl_seg", "1", "0", "0", "1", "100"]
    assert rows[2] == ["mtl", "1", "0", "1", "0", "400"]
    assert rows[3] == ["all", "2", "0", "1", "1"]
    assert rows[5][:4] == ["failed:", "mtl/1/1:", "ValueError:", "no"]


TRIALS = [{"optimizer": {"lr": 0.001}}, {"optimizer": {"lr": 0.003}}]


def tuned_study(folder: Path, trials: list[dict] = TRIALS) -> Path:
    content = study_content()
    for arm in content["arms"].values():
        arm["trials"] = trials
    untuned = jobs_of(write_study(folder, study_content()))[0].config
    held_out = dataclasses.replace(untuned.evaluate[0], limit=2)
    content["tuning"] = {"seed": 99, "evaluate": [json.loads(json.dumps(dataclasses.asdict(held_out)))]}
    # One primary endpoint, and one that would turn the choice around if it counted.
    secondary = {"name": "pixels", "metric": "pixel_accuracy", "primary": False}
    content["preregistration"]["endpoints"].append(content["preregistration"]["endpoints"][0] | secondary)
    return write_study(folder, content)


def finish_trial(out: Path, job: Job, miou: float) -> None:
    finish(out, job)
    folder = job_folder(out, job)
    result = folder.read_result()
    result["scores"] = {"generic/train": {"segmentation": {"miou": miou, "pixel_accuracy": 1 - 2 * miou}}}
    folder.result.write_text(json.dumps(result))


def test_the_trial_with_the_best_primary_endpoints_becomes_the_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tuned_study(tmp_path), tmp_path / "out"
    study = load_study(path)
    jobs = tuning_jobs(study, path)
    assert [job.id for job in jobs] == [f"tuning/{arm}/{i}" for arm in ("stl_seg", "mtl") for i in (0, 1)]
    assert all(job.seed == job.config.seed == 99 for job in jobs)
    assert all(job.config.evaluate[0].limit == 2 for job in jobs)
    assert [job.config.optimizer.lr for job in jobs] == [0.001, 0.003] * 2
    assert main(["study", "run", str(path), "--out", str(out)]) == 2
    assert f"there is no {out / 'tuning.json'}; run `pvt-mtl study tune` first" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the trial tuning/stl_seg/0 is not finished"):
        tuning_record(study, path, out)
    for job, miou in zip(jobs, (0.4, 0.6, 0.7, 0.2), strict=True):
        finish_trial(out, job, miou)
    record = tuning_record(study, path, out)
    assert (record["stl_seg"]["chosen"], record["mtl"]["chosen"]) == (1, 0)
    assert record["mtl"]["objective"] == ["mIoU"]
    second = record["mtl"]["trials"][1]
    assert second["settings"] == TRIALS[1] and second["objective"] == 0.2
    assert second["endpoints"] == pytest.approx({"mIoU": 0.2, "pixels": 0.6})
    # Every trial is there, so nothing is trained.
    assert main(["study", "tune", str(path), "--out", str(out)]) == 0
    assert "stl_seg: trial 1 of 2: {'optimizer': {'lr': 0.003}}" in capsys.readouterr().out
    assert json.loads((out / "tuning.json").read_text()) == record
    chosen = read_tuning(study, out)
    assert [job.config.optimizer.lr for job in study_jobs(study, path, chosen)] == [0.003, 0.001] * 2

    # Other trials in the study file: nothing is run, and what there is can be looked at.
    other = load_study(tuned_study(tmp_path, [*TRIALS[:1], {}]))
    with pytest.raises(ValueError, match="other trials of the arm 'stl_seg'"):
        read_tuning(other, out)
    assert main(["study", "report", str(path), "--out", str(out)]) == 0
    told = "settings were chosen from other trials of stl_seg, mtl than the study file has"
    assert told in capsys.readouterr().out
    markdown = (out / "report.md").read_text()
    assert markdown.count(f"{told[0].upper()}{told[1:]}.") == 2
    assert "chosen by the mean of the primary endpoints it learns" in markdown


def test_tuning_chooses_for_each_arm_when_its_last_trial_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tuned_study(tmp_path), tmp_path / "out"
    study = load_study(path)
    jobs = tuning_jobs(study, path)
    for job in (jobs[0], *jobs[2:]):
        finish_trial(out, job, 0.4)
    common = ["study", "tune", str(path), "--out", str(out)]
    # Of the four trials these are the first and the third: another runner has the others.
    assert main([*common, "--jobs", "1/2"]) == 0
    said = capsys.readouterr().out
    assert "mtl: trial 0 of 2" in said
    assert f"{out / 'tuning.json'} lacks stl_seg: 1 trials are not finished (tuning/stl_seg/1)" in said
    assert f"`pvt-mtl study tune {path} --out {out}` runs them all" in said
    assert set(json.loads((out / "tuning.json").read_text())) == {"mtl"}
    assert main(["study", "run", str(path), "--out", str(out), "--arms", "stl_seg"]) == 2
    assert "the trials of the arm 'stl_seg' are not in" in capsys.readouterr().err
    assert set(read_tuning(study, out, ["mtl"])) == {"mtl"}
    finish_trial(out, jobs[1], 0.5)
    assert main([*common, "--arms", "stl_seg"]) == 0
    assert "lacks" not in capsys.readouterr().out
    assert list(read_tuning(study, out)) == ["stl_seg", "mtl"]

    # The first of these calls has stored what was decided, trials and tuning data too.
    (version,) = registrations(out)
    assert (version["finished_jobs"], version["finished_trials"]) == (0, 3)
    assert version["content"]["trials"]["mtl"] == TRIALS and version["content"]["tuning"]["seed"] == 99
    path.write_text(path.read_text().replace("lr: 0.003", "lr: 0.004"))
    (line,) = changes(out, registration(load_study(path), path))
    assert line.endswith("differs from the pre-registration: trials.mtl, trials.stl_seg")


def test_two_runners_that_finish_their_arms_at_once_lose_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tuned_study(tmp_path), tmp_path / "out"
    study = load_study(path)
    own, others = tuning_jobs(study, path)[:2], tuning_jobs(study, path)[2:]
    for job in own:
        finish_trial(out, job, 0.4)
    args = argparse.Namespace(study=path, out=out)
    second = threading.Thread(target=_choose, args=(study, args))

    def slowly(*arguments: object) -> dict:
        """The other runner's last trial is done while this one chooses."""
        monkeypatch.undo()
        for job in others:
            finish_trial(out, job, 0.5)
        second.start()
        second.join(2)
        return tuning_record(*arguments)

    monkeypatch.setattr("pvt_mtl_perception.study.jobs.tuning_record", slowly)
    _choose(study, args)
    second.join()
    assert list(read_tuning(study, out)) == ["stl_seg", "mtl"]


def test_a_study_can_be_looked_at_before_its_trials_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tuned_study(tmp_path), tmp_path / "out"
    jobs = tuning_jobs(load_study(path), path)
    finish_trial(out, jobs[0], 0.4)
    common = [str(path), "--out", str(out)]
    assert main(["study", "status", *common]) == 0
    said = capsys.readouterr().out
    trials, study = said.split("\n\n")
    assert trials.startswith(f"trials of tiny in {out}: 4 jobs") and study.startswith(
        f"tiny in {out}: 4 jobs"
    )
    assert re.search(r"^stl_seg +1 +0 +0 +1 ", trials, re.MULTILINE)
    assert re.search(r"^stl_seg +0 +0 +0 +2 ", study, re.MULTILINE)
    absent = "no settings are chosen yet for stl_seg, mtl: their trials are not all done"
    assert absent in study
    assert main(["study", "cost", *common, "--size", "64x64", "--batch", "1", "--calls", "1"]) == 0
    assert re.search(r"^mtl +64x64", capsys.readouterr().out, re.MULTILINE)
    assert main(["study", "report", *common]) == 0
    markdown = (out / "report.md").read_text()
    assert "0 of 4 jobs are finished" in markdown and absent[1:] in markdown


def test_the_report_says_what_the_finished_seeds_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, study_content(seeds=list(range(9)), fractions=[0.5, 1.0]))
    out = tmp_path / "out"
    jobs = jobs_of(path)
    for job in jobs:
        # The last seed is not finished in one arm; the smaller fraction has but one seed.
        if job.id != "stl_seg/1/8" and (job.fraction == 1 or job.seed == 0):
            finish(
                out, job, miou=0.5 + 0.001 * job.seed + (0.03 + 0.001 * (job.seed % 3)) * (job.arm == "mtl")
            )
    whole = compare_arms(load_study(path), jobs, out)[1]
    assert whole.fraction == 1 and whole.missing == {"mIoU": [8]}
    assert whole.values["mIoU"][4] == pytest.approx((0.535, 0.504))
    (claim,) = whole.claims
    expected = sum(0.03 + 0.001 * (seed % 3) for seed in range(8)) / 8
    assert claim.comparison.mean == pytest.approx(expected)
    # All eight differences have one sign.
    assert claim.comparison.p_sign_flip == pytest.approx(2 / 2**8) and claim.verdict == "shown"

    assert main(["study", "report", str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "mtl or not (50% of the data, exploration)\n  mIoU: not finished in both arms" in said
    assert f"mtl or not (100% of the data)\n  {claim.text}\n" in said
    assert "with the seeds 8\n" in said
    stored = json.loads((out / "comparisons.json").read_text())
    assert stored["comparisons"][1]["values"]["mIoU"]["4"] == pytest.approx([0.535, 0.504])


def test_arms_and_parts_that_do_not_exist_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, study_content())
    assert main(["study", "status", str(path), "--out", str(tmp_path), "--arms", "mtk"]) == 2
    assert "has no arm 'mtk'; it has stl_seg, mtl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["study", "run", str(path), "--out", str(tmp_path), "--jobs", "3/2"])
    assert "'3/2' is not K/N" in capsys.readouterr().err


def test_each_seed_takes_the_next_fold(tmp_path: Path) -> None:
    folds = [{"segmentation_class_weights": "none"}, {"segmentation_class_weights": "inverse_log"}]
    jobs = jobs_of(write_study(tmp_path, study_content(seeds=[5, 6, 7], by_seed=folds)))
    found = [(job.id, job.config.segmentation_class_weights) for job in jobs if job.arm == "mtl"]
    assert found == [("mtl/1/5", "none"), ("mtl/1/6", "inverse_log"), ("mtl/1/7", "none")]


def test_the_studies_that_come_with_the_package_compare_what_they_say() -> None:
    folder = REPOSITORY / "config" / "study"
    joint, disjoint, camvid = (
        study_jobs(load_study(path), path)
        for path in (folder / f"{name}.yaml" for name in ("synthetic_joint", "synthetic_disjoint", "camvid"))
    )
    assert (len(joint), len(disjoint), len(camvid)) == (17 * 8 * 2, 9 * 8 * 2, 5 + 14 * 10)
    for name in ("synthetic_joint", "synthetic_disjoint", "small_joint"):
        weights = [
            trial["balancing"]["weights"]
            for trial in load_study(folder / f"{name}.yaml").arms["mtl_fixed"].trials
        ]
        # Tuning can fall back to equal weights.
        assert dict.fromkeys(("classification", "detection", "segmentation"), 1.0) in weights

    tenth = [job.config.train for job in joint if job.fraction == 0.1]
    assert all(train == tenth[0] for train in tenth) and tenth[0][0].fraction == 0.1
    # The 2x2 of backbone and neck, of which nothing else differs.
    arms = {job.arm: job.config for job in joint if job.id.endswith("/1/0")}
    square = {name: arms[name].model for name in ("mtl_equal", "pvt_bifpn", "regnet_fpn", "hydranet")}
    assert {(model.backbone.name, model.neck.type) for model in square.values()} == {
        (backbone, neck) for backbone in ("pvt_v2_b0", "regnety_004") for neck in ("fpn", "bifpn")
    }
    equal = arms["mtl_equal"]
    for name in square:
        # Measuring the relations of the tasks changes nothing in a training.
        assert dataclasses.replace(arms[name], model=equal.model, affinity=equal.affinity) == equal
    visits = {name: config.total_steps for name, config in arms.items()}
    assert visits["stl_cls"] == visits["mtl_equal"] == 3 * visits["stl_cls_third"]

    # Disjoint: other scenes for each task, as many visits of its images in one task's network as in all's.
    arms = {job.arm: job.config for job in disjoint if job.id.endswith("/1/0")}
    sources = arms["mtl_equal"].train
    assert len({source.base_seed for source in sources}) == 3
    assert [source.tasks for source in sources] == [["classification"], ["detection"], ["segmentation"]]
    for name, source in zip(("stl_cls", "stl_det", "stl_seg"), sources, strict=True):
        assert arms[name].train == [source]
        assert 3 * arms[name].total_steps == arms["mtl_equal"].total_steps

    # The small one takes what small_joint's trials chose.
    path = folder / "small_disjoint.yaml"
    arms = {job.arm: job.config for job in study_jobs(load_study(path), path) if job.id.endswith("/1/0")}
    chosen = json.loads((REPOSITORY / "docs/study/small_joint/results/tuning.json").read_text())
    assert arms.keys() == chosen.keys()
    for name, tuned in chosen.items():
        settings = tuned["settings"]
        assert arms[name].optimizer.lr == settings.get("optimizer", {"lr": 0.001})["lr"]
        weights = settings.get("balancing", {}).get("weights", {})
        assert arms[name].balancing.weights == weights
    for name in ("stl_cls", "stl_det", "stl_seg"):
        assert 3 * arms[name].total_steps == arms["mtl_equal"].total_steps

    runs = [job for job in camvid if job.arm is not None]
    # Every fold is held out twice, and never trained on.
    folds = [job.config.evaluate[0].fold for job in runs if job.arm == "mtl_equal"]
    assert folds == [0, 1, 2, 3, 4] * 2
    assert all(
        (job.config.train[0].split, job.config.evaluate[0].split) == ("fit", "held_out")
        and job.config.train[0].fold == job.config.evaluate[0].fold
        for job in runs
    )
    models = {job.id: job.config.model for job in camvid if job.arm is None}
    assert all(
        (models[job.needs].backbone, models[job.needs].neck)
        == (job.config.model.backbone, job.config.model.neck)
        for job in runs
        if job.needs
    )
    assert all(job.needs for job in runs)


@pytest.mark.parametrize("name", ["synthetic_joint", "synthetic_disjoint"])
def test_arms_said_to_be_matched_by_cost_cost_the_same_at_the_size_that_is_named(name: str) -> None:
    path = REPOSITORY / "config" / "study" / f"{name}.yaml"
    study = load_study(path)
    found = re.search(r"matched by multiply-adds at (\d+)x(\d+)", study.arms["hydranet_cost"].description)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    flops = []
    for arm in ("mtl_equal", "hydranet_cost"):
        spec = arm_config(study, path, arm).model
        labels = load_task_labels(spec)
        checkpoint = Checkpoint(
            spec=spec, labels=labels, preprocessing=Preprocessing(height, width), state_dict={}
        )
        flops.append(count_flops(checkpoint, height, width)["total"])
    assert flops[1] == pytest.approx(flops[0], rel=0.05)
