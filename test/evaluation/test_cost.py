from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint

from pvt_mtl_perception.evaluation.cost import WARM_UP, count_flops, measure_cost, measure_latency
from pvt_mtl_perception.evaluation.html import cost_section
from pvt_mtl_perception.evaluation.report import format_cost
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors")


def test_flops_are_those_published_and_those_of_the_parts_make_up_the_total(path: Path) -> None:
    flops = count_flops(load_checkpoint(path), 224, 224)
    # 0.57 G multiply-adds with the classifier of 1000 classes (Wang 2022, table 2).
    assert flops["backbone"] / 2e9 == pytest.approx(0.57, abs=0.03)
    assert flops["total"] == sum(value for part, value in flops.items() if part != "total")
    assert set(flops) == {
        "backbone",
        "neck",
        "heads.classification",
        "heads.detection",
        "heads.segmentation",
        "total",
    }
    # One projection of the pooled features to 6, 6 and 3 or so classes.
    assert flops["heads.classification"] < 1e5


def test_cost_of_a_model_at_both_batch_sizes(path: Path) -> None:
    checkpoint, predictor = load_checkpoint(path), Predictor(path, "cpu")
    frame = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    cost = measure_cost(checkpoint, predictor, frame, batch=3, calls=3)
    assert cost["parameters"]["total"] == sum(
        value for part, value in cost["parameters"].items() if part != "total"
    )
    assert cost["weights_bytes"] == 4 * sum(tensor.numel() for tensor in checkpoint.state_dict.values())
    one, three = cost["latency"]
    assert (one["batch"], three["batch"], one["width"], one["height"]) == (1, 3, 200, 120)
    assert 0 < one["median_ms"] <= one["p95_ms"]
    assert three["frames_per_s"] == pytest.approx(3000 / three["median_ms"])
    peaks = [memory["peak_bytes"] for memory in cost["memory"]]
    # The input alone, and at a greater batch about as many times more.
    assert peaks[0] > 96 * 160 * 3 * 4 and 2 < peaks[1] / peaks[0] < 4
    table = format_cost(cost)
    assert "heads.segmentation" in table and "3 x 200x120" in table and f"{one['median_ms']:.1f} ms" in table
    assert cost["threads"] == torch.get_num_threads()


def test_memory_of_an_engine_that_torch_does_not_see_is_left_out(path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    predictor = Predictor(path, "cpu", backend="onnxruntime")
    cost = measure_cost(load_checkpoint(path), predictor, np.zeros((64, 96, 3), np.uint8), batch=1, calls=1)
    assert cost["backend"] == "onnxruntime" and cost["memory"][0]["peak_bytes"] is None
    assert cost["memory"][0]["process_bytes"] > 2**26
    assert "memory of onnxruntime is not known" in format_cost(cost)
    (table,) = [t for t in cost_section(cost).blocks[0].tables if t.head[-1] == "peak MiB"]
    assert table.rows[0][-1] == "-"


def test_calls_before_the_timed_ones_do_not_count(path: Path) -> None:
    calls = []

    class Slow:
        def predict(self, frames: list[np.ndarray]) -> None:
            calls.append(len(frames))

    latency = measure_latency(Slow(), [np.zeros((4, 6, 3), np.uint8)] * 2, calls=4)  # type: ignore[arg-type]
    assert calls == [2] * (WARM_UP + 4) and latency["calls"] == 4
