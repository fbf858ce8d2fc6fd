"""A study as a user runs it: interrupted, killed, run by two at once, with a job that fails."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from study_files import study_content, write_study

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.evaluation.records import load_records
from pvt_mtl_perception.study.folder import JobFolder
from pvt_mtl_perception.training.affinity import read_relations

REPOSITORY = Path(__file__).resolve().parents[2]


def start(study: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "pvt_mtl_perception.cli", "study", "run", str(study)),
            *("--out", str(out), "--threads", "1", *arguments),
        ],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 300.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            assert process.stdout is not None
            raise AssertionError(process.stdout.read())
        time.sleep(0.05)


def sessions(folder: JobFolder) -> list[dict]:
    if not folder.sessions.is_file():
        return []
    return [json.loads(line) for line in folder.sessions.read_text().splitlines()]


def test_a_study_killed_run_by_two_at_once_and_interrupted_does_each_job_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def training(steps: int) -> dict:
        return {"phases": [{"steps": steps, "width": 64, "height": 64, "batch_size": 2}]}

    missing = tmp_path / "none.safetensors"
    content = study_content(
        pretraining={"common": {"extends": ["base.yaml"], "evaluate": []} | training(2)},
        fractions=[0.5],
        seeds=[0],
    )
    content["preregistration"]["fraction"] = 0.5
    content["training"] |= training(40)
    content["arms"]["stl_seg"]["pretraining"] = "common"
    content["arms"]["mtl"]["training"] = {"affinity": {"every": 20}}
    content["arms"]["broken"] = {"training": {"initial_weights": str(missing)}}
    study, out = write_study(tmp_path, content), tmp_path / "out"
    common, single, mtl, broken = (
        JobFolder(out / "jobs" / name)
        for name in ("pretraining/common", "stl_seg/0.5/0", "mtl/0.5/0", "broken/0.5/0")
    )

    killed = start(study, out)
    wait_for(lambda: single.steps_done() > 0, killed)
    killed.kill()
    killed.wait()
    deadline = time.monotonic() + 120
    while single.is_claimed() and time.monotonic() < deadline:
        time.sleep(0.05)
    # A job ends with its runner, and has saved its state.
    assert single.state() == "waiting" and (single.path / "state.safetensors").is_file()
    assert len(sessions(single)) == 2 and 0 < sessions(single)[1]["step"] < 40
    first_result = common.result.read_text()

    stopped, last = start(study, out), start(study, out)
    wait_for(lambda: len(sessions(single)) == 3 and len(sessions(mtl)) == 1, stopped)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(120) == 130
    output = last.communicate(timeout=300)[0]
    assert last.returncode == 1, output
    assert "3 of 4 jobs done" in output
    assert f"failed: broken/0.5/0: FileNotFoundError: no checkpoint at {missing}" in output
    assert str(broken.output) in output
    assert [folder.state() for folder in (common, single, mtl, broken)] == ["done", "done", "done", "failed"]
    # Never by two at once, and what was interrupted is taken over: one session more.
    assert common.result.read_text() == first_result and len(sessions(common)) == 2
    assert (single.read_result()["training"]["sessions"], mtl.read_result()["training"]["sessions"]) in (
        (3, 1),
        (2, 2),
    )

    result = single.read_result()
    assert (result["arm"], result["fraction"], result["seed"]) == ("stl_seg", 0.5, 0)
    assert result["training"]["steps"] == 40
    closed = sessions(single)
    spans = [end["stop"] - begin["start"] for begin, end in zip(closed[::2], closed[1::2], strict=True)]
    assert result["training"]["seconds"] == sum(spans) and min(spans) >= 0
    # The time of a training is without that of measuring how its tasks bear on each other.
    measured, rows = mtl.read_result()["training"], read_relations(mtl.path / "affinity.jsonl")
    assert [row["step"] for row in rows] == [20, 40]
    assert measured["measuring_seconds"] == pytest.approx(sum(row["seconds"] for row in rows)) != 0
    closed = sessions(mtl)
    spans = [end["stop"] - begin["start"] for begin, end in zip(closed[::2], closed[1::2], strict=True)]
    assert measured["seconds"] + measured["measuring_seconds"] == pytest.approx(sum(spans))
    assert 0 <= result["scores"]["generic/train"]["segmentation"]["miou"] <= 1
    assert len(load_records(single.records("generic/train"))) == 4
    assert set(result["parameters"]) == {"backbone", "neck", "heads.segmentation", "total"}
    assert result["config"]["train"][0]["fraction"] == 0.5
    # The weights of the pretraining, all of them, were found where the study's folder lies.
    taken = re.search(r"initial weights: (\d+) of (\d+) tensors", single.output.read_text())
    assert taken is not None and taken[1] == taken[2]
    assert not (single.path / "state.safetensors").exists() and (single.path / "model.safetensors").is_file()

    content["preregistration"]["endpoints"][0]["margin"] = 0.02
    write_study(tmp_path, content)
    before = [folder.result.stat().st_mtime_ns for folder in (common, single, mtl)]
    capsys.readouterr()
    assert main(["study", "run", str(study), "--out", str(out), "--arms", "stl_seg", "mtl"]) == 0
    said = capsys.readouterr()
    assert "3 of 3 jobs done" in said.out
    assert "pre-registration was changed on" in said.err
    assert "after 3 finished jobs: preregistration.endpoints" in said.err
    assert [folder.result.stat().st_mtime_ns for folder in (common, single, mtl)] == before
    assert main(["study", "status", str(study), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert re.search(r"\nall +3 +0 +1 +0\n", said.out) and "pre-registration was changed on" in said.out


def test_ray_that_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    study = write_study(tmp_path, study_content())
    assert main(["study", "run", str(study), "--out", str(tmp_path / "out"), "--executor", "ray"]) == 2
    assert "--executor ray needs the package ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
