from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from torch import Tensor

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.cli.bench import add_arguments, node_command
from pvt_mtl_perception.inference.backends.eager import EagerBackend
from pvt_mtl_perception.model.network import NetworkOutput


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "untrained.safetensors")


def test_every_case_has_a_row_and_what_cannot_run_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backends", "cuda_graphs", "eager:bf16", "--batch", "1", "2", "--input", "96x64"]
    arguments += ["--source", "80x60", "--rounds", "1", "--each-task", "--device", "cpu"]
    assert main(["bench", "--model", str(checkpoint), *arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    cases = {(row["precision"], row["tasks"], row["batch"]) for row in report["rows"]}
    subsets = ("classification+detection+segmentation", "classification", "detection", "segmentation")
    assert cases == {(p, s, b) for p in ("fp32", "bf16") for s in subsets for b in (1, 2)}
    for row in report["rows"]:
        assert 0 < row["network"] < row["predict"] <= row["p95"] * 1.0001
        assert row["frames_per_s"] == pytest.approx(1000 / row["predict"])
        assert (row["input"], row["source"]) == ("96x64", "80x60")
        if row["precision"] == "fp32":
            assert row["network_ratio"] == row["predict_ratio"] == 1
    (agreement,) = report["agreement"]
    assert (agreement["backend"], agreement["precision"], agreement["images"]) == ("eager", "bf16", 2)
    assert 0 < max(agreement["outputs"].values()) < 1
    shares = {(part["precision"], part["batch"]): part["predict"] for part in report["together"]}
    for (precision, batch), share in shares.items():
        times = {
            row["tasks"]: row["predict"]
            for row in report["rows"]
            if (row["precision"], row["batch"]) == (precision, batch)
        }
        whole = times.pop(subsets[0])
        assert share == pytest.approx(whole / sum(times.values()))
    assert len(shares) == 4
    assert "cuda" in report["left_out"]["cuda_graphs:fp32"]
    assert (tmp_path / "bench.md").read_text() in capsys.readouterr().out


def test_an_engine_that_fails_in_its_first_call_costs_no_other_its_rows(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = EagerBackend.__call__

    def breaks_with_five(backend: EagerBackend, images: Tensor, tasks: Collection[str]) -> NetworkOutput:
        if backend.dtype == torch.bfloat16 and len(images) == 5:
            raise ArithmeticError("no program for five")
        return network(backend, images, tasks)

    monkeypatch.setattr(EagerBackend, "__call__", breaks_with_five)
    arguments = ["--backends", "eager:bf16", "--batch", "1", "5", "--input", "96x64", "--source", "80x60"]
    arguments += ["--rounds", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["bench", "--model", str(checkpoint), *arguments]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["precision"], row["batch"]) for row in report["rows"]] == [
        ("fp32", 1),
        ("bf16", 1),
        ("fp32", 5),
    ]
    assert report["left_out"] == {"eager:bf16, batch 5": "no program for five"}


def test_a_backend_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--backends", "onnx"]) == 2
    assert "backend 'onnx' is not known; known: eager" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "backend", "precision"),
    [([], "auto", "fp32"), (["--backends", "compile:bf16", "eager"], "compile", "bf16")],
)
def test_the_node_runs_what_the_first_of_the_backends_is(
    tmp_path: Path, given: list[str], backend: str, precision: str
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    command = node_command(tmp_path / "model", parser.parse_args(given), 6, tmp_path / "node.json")
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert (options["--backend"], options["--precision"]) == (backend, precision)
    assert (options["--cameras"], options["--size"]) == ("6", "1280x720")
