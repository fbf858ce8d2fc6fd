"""Specs as YAML and plain data: round trip, and errors that name the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pvt_mtl_perception.model.spec import (
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    SegmentationSpec,
    TaskLabels,
    load_spec,
    load_task_labels,
    spec_from_dict,
)

SPEC = ModelSpec(classification=ClassificationSpec({"weather": "driving_weather"}), detection=DetectionSpec())


def test_round_trip_through_json() -> None:
    assert spec_from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_a_yaml_file_needs_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("backbone: {name: regnety_004}\nneck: {type: bifpn}\nsegmentation: {channels: 48}\n")
    spec = load_spec(path)
    assert (spec.backbone.name, spec.neck.type, spec.neck.channels) == ("regnety_004", "bifpn", 64)
    assert spec.tasks == ("segmentation",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"backbnoe": {}}, "unknown key backbnoe; did you mean backbone"),
        ({3: {}}, "unknown key 3; known: backbone, "),
        ([], "a model spec is a mapping with the keys"),
        ({"detection": {"chanels": 8}}, r"unknown key detection.chanels; did you mean detection.channels"),
        ({"detection": {"channels": "wide"}}, "Expected a <class 'int'>. Got value: wide"),
        ({"detection": {"channels": 12}}, "detection.channels is 12; it must be a multiple of 8"),
        ({"detection": {"strides": [4, 8, 16, 32, 64]}}, "detection.strides"),
        ({"detection": {"num_convs": -1}}, "detection.num_convs is -1; it must be at least 0"),
        (
            {"classification": {"label_sets": {"scene": "driving_scene"}, "dropout": float("nan")}},
            "classification.dropout is nan",
        ),
        ({"backbone": {"drop_path_rate": 1.0}, "detection": {}}, "backbone.drop_path_rate is 1.0"),
        ({"neck": {"type": "pan"}, "detection": {}}, "'fpn', 'bifpn'"),
        ({"classification": {"label_sets": {}}}, "classification.label_sets is empty"),
        ({}, "at least one of the keys classification, detection, segmentation"),
    ],
)
def test_bad_values_name_their_key(data: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_from_dict(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone: {", r"spec\.yaml is no YAML"),
        ("- 1", r"spec\.yaml: a model spec is a mapping"),
        ("1: 2", r"spec\.yaml: unknown key 1"),
    ],
)
def test_a_file_that_is_no_spec_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_spec(path)


def test_more_classes_to_segment_than_a_mask_has_ids_for_are_refused(tmp_path: Path) -> None:
    def labels(count: int) -> str:
        path = tmp_path / f"of_{count}.yaml"
        path.write_text(yaml.safe_dump({"classes": [f"class {i}" for i in range(count)]}))
        return str(path)

    at_most = load_task_labels(ModelSpec(segmentation=SegmentationSpec(labels(255))))
    assert at_most.segmentation is not None and len(at_most.segmentation) == 255
    with pytest.raises(ValueError, match="'of_256' has 256 classes; segmentation takes at most 255"):
        load_task_labels(ModelSpec(segmentation=SegmentationSpec(labels(256))))
    with pytest.raises(ValueError, match="label set 'imagenet' has 1000 classes"):
        load_task_labels(ModelSpec(segmentation=SegmentationSpec("imagenet")))


def test_labels_round_trip_and_follow_the_spec() -> None:
    labels = load_task_labels(SPEC)
    assert list(labels.classification) == ["weather"]
    assert labels.detection is not None
    assert len(labels.detection) == 10
    assert labels.segmentation is None
    assert TaskLabels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
