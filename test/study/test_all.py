"""The one command that answers a study's question, and what is measured of its jobs after them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml
from study_files import study_content, write_study

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.evaluation.records import load_records
from pvt_mtl_perception.evaluation.run import evaluate_source
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.study.config import load_study
from pvt_mtl_perception.study.folder import NMS_THRESHOLD, JobFolder
from pvt_mtl_perception.study.jobs import study_jobs

REPOSITORY = Path(__file__).resolve().parents[2]
JOB = "mtl/1/0"


def command(verb: str, path: Path, out: Path, *arguments: str) -> list[str]:
    return ["study", verb, str(path), "--out", str(out), *arguments]


def everything(path: Path, out: Path) -> list[str]:
    robustness = ("--robustness", "--corruptions", "noise", "--strengths", "1", "2")
    costs = ("--size", "64x64", "--batch", "1", "--calls", "1")
    return command(
        "all", path, out, "--arms", "mtl", "--threads", "1", "--replicates", "20", *costs, *robustness
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Study file, folder and what the command printed."""
    folder = tmp_path_factory.mktemp("all")
    content = study_content(seeds=[0])
    write_study(folder, content)
    (source,) = yaml.safe_load((folder / "base.yaml").read_text())["evaluate"]
    for arm in content["arms"].values():
        arm["trials"] = [{"optimizer": {"lr": 0.001}}]
    content["arms"]["mtl"]["training"] = {"affinity": {"every": 2}}
    # One kind and split twice: each has its own scores.
    content["training"]["evaluate"] = [source, source | {"limit": 2}]
    (endpoint,) = content["preregistration"]["endpoints"]
    second = {"name": "mIoU of two", "source": "generic/train 2", "primary": False}
    content["preregistration"]["endpoints"].append(endpoint | second)
    content["tuning"] = {"seed": 9, "evaluate": [source | {"limit": 2}]}
    path, out = write_study(folder, content), folder / "out"
    done = subprocess.run(
        [sys.executable, "-m", "pvt_mtl_perception.cli", *everything(path, out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return path, out, done.stdout


def scores_of(out: Path) -> dict:
    found: dict = json.loads((out / "jobs" / JOB / "robustness" / "scores.json").read_text())
    return found


def test_one_command_tunes_runs_measures_and_reports_and_does_nothing_twice(
    finished: tuple[Path, Path, str],
) -> None:
    path, out, said = finished
    parts = re.findall(r"^part (\d) of 6: (\w+)$", said, re.MULTILINE)
    names = ("tune", "run", "cost", "affinity", "robustness", "report")
    assert parts == [(str(number), name) for number, name in enumerate(names, start=1)]
    assert "tuning.json lacks stl_seg: 1 trials are not finished" in said
    assert "1 of 1 jobs measured under noise" in said
    markdown = (out / "report.md").read_text()
    assert "1 of 2 jobs are finished" in markdown and "latency, 64x64" in markdown
    assert "whether they changed" not in markdown and "was not changed since" in markdown
    assert f"{torch.__version__}; {timm.__version__}; {cv2.__version__} |" in markdown
    assert (out / "affinity_mtl.png").is_file()
    made = ("tuning.json", "cost.json", "preregistration.jsonl")
    files = [out / name for name in (*made, f"jobs/{JOB}/result.json", f"jobs/{JOB}/robustness/scores.json")]
    before = [file.read_bytes() for file in files]
    assert main(everything(path, out)) == 0
    assert [file.read_bytes() for file in files] == before


def test_sources_of_one_kind_and_split_have_their_own_scores_and_records(
    finished: tuple[Path, Path, str], tmp_path: Path
) -> None:
    path, out, _ = finished
    folder = JobFolder(out / "jobs" / JOB)
    scores = folder.read_result()["scores"]
    images = {"generic/train": 4, "generic/train 2": 2}
    assert {name: found["images"] for name, found in scores.items()} == images
    assert {name: len(load_records(folder.records(name))) for name in images} == images
    measured = scores_of(out)
    for found in (measured["sources"], measured["corruptions"]["noise"]["1"]):
        assert {name: one["images"] for name, one in found.items()} == images
    assert main(command("archive", path, out, "--to", str(tmp_path))) == 0
    assert len(list((tmp_path / "jobs" / JOB / "records").iterdir())) == 2


def test_robustness_is_what_an_evaluation_gives_and_stands_in_the_report(
    finished: tuple[Path, Path, str],
) -> None:
    path, out, _ = finished
    job = next(job for job in study_jobs(load_study(path), path) if job.id == JOB)
    folder = JobFolder(out / "jobs" / job.id)
    predictor = Predictor(folder.path / "model.safetensors", device="cpu", nms_threshold=NMS_THRESHOLD)
    evaluated = evaluate_source(predictor, job.config.evaluate[0], corruptions=["noise"], strengths=[1, 2])
    assert evaluated is not None
    stored = scores_of(out)
    mious = []
    for strength in (1, 2):
        expected = evaluated.corrupted["noise", strength].scores
        found = stored["corruptions"]["noise"][str(strength)]["generic/train"]
        assert found == json.loads(json.dumps(expected))
        mious.append(expected["segmentation"]["miou"])
    assert stored["sources"] == folder.read_result()["scores"]
    values = json.loads((out / "comparisons.json").read_text())["robustness"]["mIoU"]
    assert values["noise"]["mtl"]["0"] == pytest.approx(np.mean(mious))
    assert values["none"]["mtl"]["0"] == stored["sources"]["generic/train"]["segmentation"]["miou"]
    row = rf"^\| noise \| (?:.* \| )?{100 * np.mean(mious):.1f} \|$"
    assert re.search(row, (out / "report.md").read_text(), re.MULTILINE)


def test_robustness_goes_on_where_it_was_interrupted(
    finished: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, _ = finished
    extended = command("robustness", path, out, "--device", "cpu")
    left = out / "jobs" / JOB / "robustness" / "unfinished.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "pvt_mtl_perception.cli", *extended],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not left.is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    # The report still reads what was complete.
    assert set(json.loads((left.parent / "scores.json").read_text())["corruptions"]) == {"noise"}
    content = json.loads(left.read_text())
    assert set(content["corruptions"]["noise"]) >= {"1", "2"} and "fog" in content["corruptions"]
    content["corruptions"]["fog"]["1"]["generic/train"]["segmentation"]["miou"] = 0.123
    left.write_text(json.dumps(content))
    assert main(extended) == 0
    said = capsys.readouterr().out
    assert "1 of 2 jobs measured under fog, rain, night" in said
    assert "not measured: stl_seg/1/0 is not finished" in said
    assert not left.is_file()
    stored = scores_of(out)["corruptions"]
    assert {name: sorted(by_strength) for name, by_strength in stored.items()} == {
        name: list("12345") for name in ("fog", "rain", "night", "motion_blur", "noise", "jpeg")
    }
    # A pass that was done before the interruption was not done again.
    assert stored["fog"]["1"]["generic/train"]["segmentation"]["miou"] == 0.123


def test_robustness_of_fewer_frames_and_of_what_cannot_be_measured(
    finished: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, _ = finished
    few = ("--device", "cpu", "--corruptions", "jpeg", "--strengths", "3", "--frames", "2")
    assert main(command("robustness", path, out, *few)) == 0
    assert "1 of 2 jobs measured under jpeg" in capsys.readouterr().out
    scores = scores_of(out)
    assert scores["sources"]["generic/train"]["images"] == 2
    assert scores["corruptions"]["jpeg"]["3"]["generic/train"]["images"] == 2
    foreign = out / "jobs" / JOB / "robustness" / "scores.json"
    foreign.write_text(json.dumps({"sources": {}}))
    assert main(command("robustness", path, out, *few)) == 0
    told = f"not measured: {JOB} has scores of `pvt-mtl eval`; remove {foreign} for others"
    assert told in capsys.readouterr().out
    for wrong, message in (
        (("--corruptions", "hail"), "--corruptions hail: known are fog"),
        (("--strengths", "6"), "--strengths 6: they go from 1 to 5"),
        (("--fraction", "0.3"), "--fraction 0.3: the study has 1"),
        (("--seeds", "8"), "--seeds 8: the study has 0"),
        (("--arms", "mtk"), "has no arm 'mtk'"),
    ):
        assert main(command("robustness", path, out, *wrong)) == 2
        assert message in capsys.readouterr().err
