"""The benchmarks that take files of others refuse what they cannot use and tell what they measured."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from pvt_mtl_perception.model.checkpoint import load_checkpoint, save_checkpoint
from pvt_mtl_perception.training.config import load_config

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PEERS = BENCHMARKS / "peers.py"

# What the GPU suite does without, on a machine that has torch alone.
ABSENT = ("cv2", "onnx", "onnxruntime", "openvino", "rclpy", "rosbags", "scipy", "av", "mcap")
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PEERS), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def write_peer(path: Path, inputs: int = 1) -> Path:
    """A network of one convolution, its batch and size open."""
    from onnx import TensorProto, helper

    shapes = {"x": ["batch", 3, "height", "width"], "y": ["batch", 8, "height", "width"], "w": [8, 3, 1, 1]}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    weights = helper.make_tensor("w", TensorProto.FLOAT, shapes["w"], [0.5] * 24)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "peer",
        [values["x"], *([values["w"]] if inputs > 1 else [])],
        [values["y"]],
        [] if inputs > 1 else [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_peer_is_timed_beside_network_and_predictor(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = make_checkpoint(tmp_path / "untrained.safetensors")
    peer = write_peer(tmp_path / "peer.onnx")
    done = run(
        *(peer, "--checkpoint", model, "--size", "96x64", "--rounds", 1, "--calls", 1),
        *("--engines", "onnxruntime:fp32", "openvino:fp16", "--json", tmp_path / "peers.json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "peers.json").read_text())
    (row,) = report["rows"]
    assert report["shape"] == [1, 3, 64, 96]
    assert 0 < row["peer"] < row["predict"]
    assert row["ratio_predict"] == pytest.approx(row["peer"] / row["predict"])
    assert "openvino:fp16: not measured" in done.stdout


def test_a_peer_that_takes_no_single_image_is_named(tmp_path: Path) -> None:
    done = run(write_peer(tmp_path / "two.onnx", inputs=2), "--engines", "onnxruntime:fp32")
    assert done.returncode != 0
    assert "two.onnx needs one input (N, 3, H, W); it has ['x', 'w']" in done.stderr


def test_the_gpu_suite_runs_beside_torch_alone(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "untrained.safetensors")
    report = tmp_path / "made" / "gpu.json"
    options = ["--device", "cpu", "--size", "96x64", "--calls", 1, "--parts", "tasks", "parity"]
    options += ["--backends", "eager", "onnxruntime", "--checkpoint", model, "--json", report]
    script = [",".join(ABSENT), str(BENCHMARKS / "gpu_suite.py"), *map(str, options)]
    # Without it the suite would start anew, and with all modules.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(report.read_text())["parts"]
    assert [row.get("ratio", 0) > 0 for row in parts["tasks"]] == [True, True, False, False]
    assert "onnx" in parts["tasks"][2]["skipped"]


def test_class_weights_are_taken_back_from_a_mask(tmp_path: Path) -> None:
    source = "{kind: synthetic, frames: 3, frame_size: [160, 96]}"
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "model: {segmentation: {}}\n"
        f"train: [{source}]\nevaluate: [{source}]\n"
        "phases: [{steps: 1, width: 160, height: 96, batch_size: 1}]\n"
    )
    script = runpy.run_path(str(BENCHMARKS / "class_weights.py"))
    plain = load_checkpoint(make_checkpoint(tmp_path / "plain.safetensors"))
    weights = script["training_weights"](plain, load_config(config).train)
    # A loss with weights teaches posteriors times the weights.
    bias = script["BIAS"]
    tensors = {**plain.state_dict, bias: plain.state_dict[bias] + weights.log()}
    weighted = dataclasses.replace(plain, state_dict=tensors)
    save_checkpoint(tmp_path / "weighted.safetensors", weighted)

    def rows(model: str, *powers: float) -> list[list[str]]:
        done = subprocess.run(
            [
                *(sys.executable, str(BENCHMARKS / "class_weights.py"), str(tmp_path / model), str(config)),
                *("--device", "cpu", "--powers", *map(str, powers)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [line.split(" | ") for line in done.stdout.strip().splitlines() if " --- " not in line]

    as_it_is = rows("plain.safetensors", 0)
    shifted = rows("weighted.safetensors", 0, 1)
    assert [row[0] for row in shifted][:2] == ["| synthetic/train, IoU %", "| mean"]
    assert [row[2] for row in shifted[1:]] == [row[1] for row in as_it_is[1:]]
    assert [row[1] for row in shifted[1:]] != [row[2].rstrip(" |") for row in shifted[1:]]
