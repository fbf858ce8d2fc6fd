"""Costs of a study's arms, measured and reported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from study_results import SINGLES, simulated_study

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.study.config import load_study
from pvt_mtl_perception.study.cost import read_costs
from pvt_mtl_perception.study.jobs import study_jobs


def test_costs_are_measured_once_and_stand_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = simulated_study(fractions=[1.0], seeds=[0, 1])
    values["arms"] = {name: values["arms"][name] for name in (*SINGLES.values(), "mtl", "hydranet")}
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    command = ["study", "cost", str(path), "--out", str(out), "--device", "cpu", "--batch", "2"]
    command += ["--size", "96x64", "--arms", "mtl"]
    assert main([*command, "--calls", "1"]) == 0
    first = read_costs(out)
    assert set(first) == {"mtl"}
    assert main([*command, *SINGLES.values(), "--calls", "2"]) == 0
    costs = read_costs(out)
    assert set(costs) == {"mtl", *SINGLES.values()}
    # Under other settings it is measured again, under the same it is not.
    measured = costs["mtl"]["96x64"]
    assert measured["latency"] != first["mtl"]["96x64"]["latency"] and measured["latency"][0]["calls"] == 2
    assert main([*command, "--calls", "2"]) == 0
    assert read_costs(out) == costs
    assert measured["input_size"] == [64, 96] and measured["settings"]["weights"] is None
    assert [one["batch"] for one in measured["latency"]] == [1, 2]
    said = capsys.readouterr().out
    assert re.search(rf"mtl +96x64 +{measured['parameters']['total'] / 1e6:.2f}", said)

    assert main(["study", "report", str(path), "--out", str(out)]) == 0
    markdown = (out / "report.md").read_text()
    (row,) = re.findall(r"^\| latency, 96x64, batch of 2, ms \| .*\|$", markdown, re.MULTILINE)[:1]
    cells = [float(cell) for cell in row.strip("|").split("|")[1:]]
    medians = [costs[arm]["96x64"]["latency"][1]["median_ms"] for arm in ("mtl", *SINGLES.values())]
    assert cells[:4] == pytest.approx(medians, rel=0.01)
    assert cells[4] == pytest.approx(sum(medians[1:]), rel=0.01)
    assert cells[5] == pytest.approx(medians[0] / sum(medians[1:]), abs=0.006)
    # Activations of networks that run one after the other do not add up.
    (row,) = re.findall(r"^\| activations, 96x64, batch of 2, MiB \| .*\|$", markdown, re.MULTILINE)[:1]
    cells = [float(cell) for cell in row.strip("|").split("|")[1:]]
    assert cells[4] == max(cells[1:4])
    assert "The cost of hydranet was not measured." in markdown
    assert "random weights" in markdown and "Latency at 1280x720; it was measured at 96x64." in markdown
    assert "Latency and memory with the batch of six cameras." in markdown


def test_robustness_of_a_job_stands_in_the_report(tmp_path: Path) -> None:
    values = simulated_study(fractions=[1.0], seeds=[0, 1])
    values["arms"] = {name: values["arms"][name] for name in ("stl_seg", "mtl", "hydranet")}
    values["preregistration"]["endpoints"] = values["preregistration"]["endpoints"][2:]
    values["preregistration"]["comparisons"] = [
        {"name": "beside HydraNet-style", "arm": "mtl", "against": {"segmentation": "hydranet"}}
    ]
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    for job in study_jobs(load_study(path), path):
        clean = {"mtl": 0.6, "hydranet": 0.5}.get(str(job.arm), 0.4) + 0.01 * job.seed
        folder = out / "jobs" / job.id
        (folder / "robustness").mkdir(parents=True)

        def scores(miou: float) -> dict[str, object]:
            return {"synthetic/test": {"segmentation": {"miou": miou, "per_class": {}}}}

        result = {"scores": scores(clean), "training": {"seconds": 1.0, "device": "x86_64"}}
        (folder / "result.json").write_text(json.dumps(result | {"config": {}}))
        fog = {"1": scores(clean - 0.1), "3": scores(clean - 0.3)}
        (folder / "robustness" / "scores.json").write_text(
            json.dumps({"sources": scores(clean), "corruptions": {"fog": fog}})
        )
    assert main(["study", "report", str(path), "--out", str(out)]) == 0
    markdown = (out / "report.md").read_text()
    # Mean over strengths, then over seeds: 0.605 - 0.2 and 0.505 - 0.2.
    assert re.search(r"^\| fog \| 20\.5 ± 0\.7 \| 40\.5 ± 0\.7 \| 30\.5 ± 0\.7 \|$", markdown, re.MULTILINE)
    assert re.search(
        r"^\| mIoU, fog \| 40\.50 ± 0\.71 \| 30\.50 ± 0\.71 \| \+10\.00 ", markdown, re.MULTILINE
    )
    assert "Scores under corruptions of the test images." not in markdown
