from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.parameter import Parameter

from pvt_mtl_perception.cli.model_arguments import add_model_arguments
from pvt_mtl_perception.inference.backends.registry import BACKENDS
from pvt_mtl_perception.inference.decode import DetectionSettings
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.ros.parameters import PARAMETERS, Settings, refusal

CONFIG = Path(__file__).resolve().parents[2] / "config" / "perception.yaml"


def test_the_configuration_file_gives_every_parameter_its_default() -> None:
    content = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    defaults = {
        name: list(spec.default) if isinstance(spec.default, tuple) else spec.default
        for name, spec in PARAMETERS.items()
    }
    assert content == defaults
    assert {name: type(value) for name, value in content.items()} == {
        name: type(value) for name, value in defaults.items()
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_configuration_file_says_what_a_parameter_does_and_when(name: str) -> None:
    lines = CONFIG.read_text().splitlines()
    position = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
    comment: list[str] = []
    while lines[position - 1].strip().startswith("#"):
        position -= 1
        comment.insert(0, lines[position].strip(" #"))
    assert len(" ".join(comment)) > 40
    assert comment[-1].endswith(f"({PARAMETERS[name].when})")


@pytest.mark.parametrize("name", ["score_threshold", "nms_threshold", "max_detections"])
def test_node_commands_and_library_choose_boxes_alike(name: str) -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    default = getattr(DetectionSettings(), name)
    assert getattr(Settings(), name) == default == getattr(parser.parse_args([]), name)
    assert inspect.signature(Predictor).parameters[name].default == default


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_default_is_allowed(name: str) -> None:
    assert PARAMETERS[name].refusal(PARAMETERS[name].default) is None
    assert getattr(Settings(), name) == PARAMETERS[name].default


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("device", "tpu", "auto, cpu, cuda, or cuda:N"),
        ("device", "cuda:x", "cuda:N"),
        ("precision", "fp8", "fp32, fp16, bf16"),
        ("backend", "tvm", "auto, eager"),
        ("image_transport", "theora", "raw, compressed"),
        ("input_size", [100, 640], "multiples of 32"),
        ("input_size", [384], "[height, width]"),
        ("cameras", [], "front"),
        ("cameras", ["front", "front"], "distinct"),
        ("cameras", ["front", ""], "distinct names"),
        ("cameras", ["3rd"], "names like front"),
        ("score_threshold", 1.5, "0 to 1"),
        ("score_threshold", float("nan"), "0 to 1"),
        ("nms_threshold", -0.1, "0 to 1"),
        ("max_detections", 0, "1 to 1000"),
        ("no_image_warning_period", -1.0, "0 to 3600"),
    ],
)
def test_a_refusal_names_the_parameter_the_value_and_what_is_allowed(
    name: str, value: Any, allowed: str
) -> None:
    reason = PARAMETERS[name].refusal(value)
    assert reason is not None
    assert reason.startswith(f"{name} is ")
    assert repr(value) in reason
    assert allowed in reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "cuda:1"),
        ("input_size", [512, 1024]),
        ("cameras", ["front", "left/wide"]),
        ("score_threshold", 0.0),
        ("score_threshold", 1.0),
        ("max_detections", 1000),
    ],
)
def test_allowed_values_are_accepted(name: str, value: Any) -> None:
    assert refusal([Parameter(name, value=value)], unconfigured=True) is None


def test_what_is_read_at_configuration_is_refused_afterwards() -> None:
    change = [Parameter("device", value="cpu")]
    assert refusal(change, unconfigured=True) is None
    assert "clean it up" in (refusal(change, unconfigured=False) or "")


def test_parameters_of_others_are_left_alone() -> None:
    assert refusal([Parameter("use_sim_time", value=True)], unconfigured=False) is None


def test_the_backends_are_those_of_the_predictor() -> None:
    assert PARAMETERS["backend"].choices == BACKENDS


def test_ranges_are_in_the_descriptors() -> None:
    limits = PARAMETERS["score_threshold"].descriptor().floating_point_range[0]
    assert (limits.from_value, limits.to_value) == (0.0, 1.0)
    limits = PARAMETERS["max_detections"].descriptor().integer_range[0]
    assert (limits.from_value, limits.to_value) == (1, 1000)
    assert PARAMETERS["autostart"].descriptor().read_only
    assert "fp16" in PARAMETERS["precision"].descriptor().additional_constraints
