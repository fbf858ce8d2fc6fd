"""Jobs of a study as tasks of Ray: of a cluster on this machine where ray is installed, and of a stand-in."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_stand_in
from study_files import study_content, write_study

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.study.folder import JobFolder


@pytest.fixture(params=["ray", "stand-in"])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of what runs the tasks, ready to be connected to."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "ray", ray_stand_in)
        ray_stand_in.options_of_tasks.clear()
        yield "stand-in"
        assert not ray_stand_in.connected
        return
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; the same runs with a stand-in of it")
    cluster_utils: Any = importlib.import_module("ray.cluster_utils")
    # Ray would end tasks where others fill the machine's memory, and reserve a third of it.
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    head = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    yield "ray"
    head.shutdown()


def study_of(folder: Path, steps: int, **arms: dict[str, Any]) -> Path:
    content = study_content(seeds=[0])
    phase = {"steps": steps, "width": 64, "height": 64, "batch_size": 2}
    content["training"]["phases"] = [phase]
    content["arms"] |= arms
    return write_study(folder, content)


def test_jobs_are_tasks_and_one_that_fails_is_told(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"training": {"initial_weights": str(tmp_path / "none.safetensors")}}
    study, out = study_of(tmp_path, 3, broken=broken), tmp_path / "out"
    arguments = ["study", "run", str(study), "--out", str(out), "--executor", "ray", "--threads", "1"]
    assert main([*arguments, "--workers", "2", "--arms", "mtl", "broken"]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 jobs done" in said and "failed: broken/1/0: FileNotFoundError: no checkpoint at" in said
    done = JobFolder(out / "jobs" / "mtl" / "1" / "0")
    assert done.read_result()["training"]["steps"] == 3 and done.read_result()["training"]["threads"] == 1
    if cluster == "stand-in":
        assert ray_stand_in.options_of_tasks == [{"num_cpus": 1, "num_gpus": 0, "max_retries": 0}]


def test_an_interrupted_runner_has_its_tasks_save_their_state(cluster: str, tmp_path: Path) -> None:
    study, out = study_of(tmp_path, 4000), tmp_path / "out"
    job = JobFolder(out / "jobs" / "mtl" / "1" / "0")

    def interrupt() -> None:
        deadline = time.monotonic() + 300
        while job.steps_done() == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    arguments = ["study", "run", str(study), "--out", str(out), "--executor", "ray", "--threads", "1"]
    assert main([*arguments, "--arms", "mtl"]) == 130
    assert not job.is_claimed() and job.state() == "waiting"
    assert (job.path / "state.safetensors").is_file()


def test_ray_deals_out_devices_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, study_content())
    arguments = ["study", "run", str(study), "--out", str(tmp_path / "out"), "--executor", "ray"]
    assert main([*arguments, "--device", "cuda:0,cuda:1"]) == 2
    said = capsys.readouterr().err
    assert "--device cuda:0,cuda:1: Ray deals out devices itself; with --executor ray use cpu or cuda" in said
    assert not (tmp_path / "out").exists()
