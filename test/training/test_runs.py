"""Runs as a user starts them: killed and started again, and in several processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

from pvt_mtl_perception.model.checkpoint import load_checkpoint
from pvt_mtl_perception.training.log import read_log

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
model:
  neck: {channels: 16}
  classification: {label_sets: {weather: driving_weather}, dropout: %(dropout)s}
  detection: {channels: 16, num_convs: 1}
  segmentation: {channels: 16}
train: [{kind: synthetic, frames: 4}]
phases: [{steps: %(steps)d, width: 64, height: 64, batch_size: 4, scale: [0.3, 0.5]}]
optimizer: {name: %(optimizer)s, lr: 0.002, warmup_steps: 1, ema_decay: 0.9}
balancing: {method: %(method)s}
segmentation_class_weights: inverse_log
input_width: 160
input_height: 96
checkpoint_every: 2
workers: %(workers)d
"""


def train(config: Path, out: Path, *launcher: str) -> list[str]:
    return [
        sys.executable,
        *launcher,
        "-m",
        "pvt_mtl_perception.cli",
        "train",
        str(config),
        "--out",
        str(out),
    ]


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def relations(out: Path) -> list[dict]:
    """The rows of the file, none twice."""
    return [json.loads(line) for line in (out / "affinity.jsonl").read_text().splitlines()]


def validations(out: Path) -> list[dict[str, float]]:
    """The scores of the run's validations, in order."""
    return [row["validation"] for row in read_log(out / "log.jsonl") if "validation" in row]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(out / "model.safetensors").state_dict)


# Ends itself within the second replacement of a state, before the new file takes the old one's place.
KILLED_WHILE_SAVING = """
import os, pathlib, signal, sys
from pvt_mtl_perception.cli import main

replace, states = pathlib.Path.replace, []

def replace_or_die(source, target):
    states.extend([target] if str(target).endswith("state.safetensors") else [])
    if len(states) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(source, target)

pathlib.Path.replace = replace_or_die
main(sys.argv[1:])
"""


def test_a_run_killed_at_any_step_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    """Killed twice: while it saves in the second phase, with a state of the first on disk, and in a step."""
    config = tmp_path / "run.yaml"
    config.write_text(
        RUN % {"steps": 3, "dropout": 0.2, "optimizer": "adamw", "method": "gradnorm", "workers": 0}
    )
    phase = "{steps: 3, width: 64, height: 64, batch_size: 4, scale: [0.3, 0.5]}"
    assert phase in config.read_text()
    second = "{steps: 3, width: 96, height: 32, batch_size: 4, scale: [0.3, 0.5]}"
    config.write_text(config.read_text().replace(phase, f"{phase}, {second}"))
    run(train(config, tmp_path / "whole"))
    # The killed one is measured, too, which must not be seen in its weights.
    config.write_text(config.read_text() + "affinity: {every: 1}\n")
    out = tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    saving = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, "train", str(config), "--out", str(out)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert saving.returncode == -signal.SIGKILL, saving.stderr[-3000:]
    with safetensors.safe_open(out / "state.safetensors", framework="pt") as state:
        assert state.metadata()["step"] == "2"
    killed = subprocess.Popen(
        [*train(config, out), "--set", "workers=1"],
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    while not re.search(r"\b[345]/6 ", said):
        said += killed.stderr.read(1)
        assert killed.poll() is None, said
    killed.kill()
    killed.communicate()
    assert not (out / "curves.png").exists()
    run(train(config, out))
    expected, found = weights(tmp_path / "whole"), weights(out)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [row["step"] for row in relations(out)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("method", ["equal", "mgda"])
def test_two_processes_take_the_steps_of_one(tmp_path: Path, method: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(RUN % {"steps": 3, "dropout": 0.0, "optimizer": "sgd", "method": method, "workers": 0})
    # Of three frames one process scores one, the other two.
    validation = "validate: [{kind: synthetic, split: test, frames: 3}]\nvalidate_every: 3\n"
    config.write_text(config.read_text() + "affinity: {every: 2}\n" + validation)
    run(train(config, tmp_path / "one"))
    run(train(config, tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"))
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    (alone,), (together,) = relations(tmp_path / "one"), relations(tmp_path / "two")
    for key in ("cosine", "norm_ratio", "affinity"):
        for task, row in alone[key].items():
            assert together[key][task] == pytest.approx(row, rel=1e-2, abs=1e-4), (key, task)
    (scores,), (shared,) = validations(tmp_path / "one"), validations(tmp_path / "two")
    assert scores["mIoU, synthetic/test"] > 0
    assert shared == pytest.approx(scores, rel=1e-2, abs=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
