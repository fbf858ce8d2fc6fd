"""The node's benchmark measures what it says: predictor, plain loop and node beside the same cameras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_the_node_is_measured_beside_predictor_and_plain_loop(
    spawn: Any, checkpoint: Path, tmp_path: Path
) -> None:
    report = tmp_path / "node.json"
    benchmark = spawn(
        *("-m", "pvt_mtl_perception.ros.benchmark", "--checkpoint", checkpoint, "--backend", "eager"),
        *("--cameras", "2", "--size", "320x192", "--rate", "20", "--rounds", "1", "--seconds", "1"),
        *("--json", report, "--parallel-batches", "2"),
        environment={"OMP_NUM_THREADS": "1"},
    )
    assert benchmark.wait(150) == 0, benchmark.output
    found = json.loads(report.read_text())
    rates = [found[f"{name}_rate"] for name in ("bare_alone", "bare_beside_camera", "plain_loop", "node")]
    # Two cameras at 20 Hz give 40 images a second, and a short round may begin with some that waited.
    assert all(rate > 1 for rate in rates)
    assert max(rates[2:]) < 60
    assert found["ratio"] == pytest.approx(rates[3] / rates[1])
    assert found["ratio_to_plain_loop"] == pytest.approx(rates[3] / rates[2])
    assert 0 < found["prediction_p50_ms"] < found["latency_p50_ms"]
    assert f"node / plain loop                         {found['ratio_to_plain_loop']:.3f}" in benchmark.output
    assert found["ratio_to_bare_at_once"] == pytest.approx(rates[3] / found["bare_at_once_rate"])
    assert set(found["cores"]) == {"bare", "node", "cameras", "listener"}
    assert found["cores"]["bare"] > 0
    assert found["processor_ms_a_frame"]["node"] == pytest.approx(1e3 * found["cores"]["node"] / rates[3])
    assert "eager, parallel_batches 2" in benchmark.output
    assert "Traceback" not in benchmark.output
