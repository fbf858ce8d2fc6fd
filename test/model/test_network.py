"""The network: shapes, tasks, and that a task nobody asked for is not computed."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from pvt_mtl_perception.model.anchors import retinanet_anchors
from pvt_mtl_perception.model.network import MultiTaskNetwork, count_parameters
from pvt_mtl_perception.model.spec import (
    TASKS,
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
)


def make_spec(tasks=TASKS, backbone: str = "pvt_v2_b0", neck: str = "fpn") -> ModelSpec:
    return ModelSpec(
        backbone=BackboneSpec(backbone),
        neck=NeckSpec(neck, channels=32, repeats=2),
        classification=ClassificationSpec({"weather": "driving_weather", "scene": "driving_scene"})
        if "classification" in tasks
        else None,
        detection=DetectionSpec(channels=32, num_convs=1) if "detection" in tasks else None,
        segmentation=SegmentationSpec(channels=32) if "segmentation" in tasks else None,
    )


@pytest.mark.parametrize(
    ("backbone", "neck"),
    [("pvt_v2_b0", "fpn"), ("pvt_v2_b0", "bifpn"), ("pvt_v2_b2_li", "fpn"), ("regnety_004", "bifpn")],
)
def test_outputs_have_the_sizes_of_their_strides(backbone: str, neck: str) -> None:
    network = MultiTaskNetwork(make_spec(backbone=backbone, neck=neck)).eval()
    with torch.inference_mode():
        output = network(torch.randn(2, 3, 96, 160))
    assert {g: tuple(x.shape) for g, x in output.classification.items()} == {
        "weather": (2, 6),
        "scene": (2, 6),
    }
    assert output.segmentation.shape == (2, 19, 24, 40)
    sizes = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    assert [tuple(x.shape) for x in output.detection.logits] == [(2, 10, *s) for s in sizes]
    assert [tuple(x.shape) for x in output.detection.distances] == [(2, 4 * 17, *s) for s in sizes]


@pytest.mark.parametrize("neck", ["fpn", "bifpn"])
def test_a_task_subset_gives_what_all_tasks_give(neck: str) -> None:
    network = MultiTaskNetwork(make_spec(neck=neck)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        everything = network(images)
        for count in (1, 2):
            for tasks in itertools.combinations(TASKS, count):
                output = network(images, tasks)
                for task in TASKS:
                    value = getattr(output, task)
                    assert (value is not None) == (task in tasks)
                    if value is not None:
                        expected = nn.utils.parameters_to_vector(_tensors(getattr(everything, task)))
                        torch.testing.assert_close(nn.utils.parameters_to_vector(_tensors(value)), expected)


def _tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in (value.values() if isinstance(value, dict) else value) for t in _tensors(part)]


@pytest.mark.parametrize(
    ("tasks", "idle"),
    [
        (["classification"], ["neck", "heads.detection", "heads.segmentation"]),
        (["detection"], ["heads.classification", "heads.segmentation", "neck.lateral.2", "neck.output.2"]),
        (["segmentation"], ["heads.classification", "heads.detection", "neck.output.6", "neck.output.7"]),
    ],
)
def test_parts_of_other_tasks_do_not_run(tasks: list[str], idle: list[str]) -> None:
    network = MultiTaskNetwork(make_spec()).eval()
    ran: set[str] = set()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _m, _i, _o, name=name: ran.add(name))
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 64), tasks)
    assert f"heads.{tasks[0]}" in ran
    assert not ran & set(idle)


def test_every_parameter_of_a_network_gets_a_gradient() -> None:
    for neck in ("fpn", "bifpn"):
        network = MultiTaskNetwork(make_spec(neck=neck))
        output = network(torch.randn(2, 3, 64, 64))
        sum(t.square().mean() for t in _tensors(output)).backward()
        without = [name for name, p in network.named_parameters() if p.grad is None]
        assert without == []


@pytest.mark.parametrize(("backbone", "neck"), [("pvt_v2_b0", "fpn"), ("regnety_004", "bifpn")])
def test_retinanet_head_answers_for_nine_anchors_a_cell(backbone: str, neck: str) -> None:
    spec = dataclasses.replace(make_spec(backbone=backbone, neck=neck), detection=DetectionSpec("retinanet"))
    network = MultiTaskNetwork(spec)
    output = network(torch.randn(2, 3, 96, 160))
    assert output.detection.sizes == ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2))
    anchors = retinanet_anchors(output.detection.sizes, spec.detection.strides)
    assert output.detection.logits.shape == (2, len(anchors), 10) and len(anchors) == 9 * 323
    assert output.detection.deltas.shape == (2, len(anchors), 4)
    assert output.segmentation is not None and output.classification is not None
    torch.testing.assert_close(output.detection.logits.sigmoid().mean().item(), 0.01, atol=2e-3, rtol=0)
    (output.detection.logits.square().mean() + output.detection.deltas.square().mean()).backward()
    assert all(p.grad is not None for p in network.heads["detection"].parameters())


def test_retinanet_anchors_are_those_of_the_paper() -> None:
    anchors = retinanet_anchors([(2, 3), (1, 1)], (8, 16))
    assert anchors.shape == (9 * 7, 4)
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    for first, side in ((0, 32), (54, 64)):
        own = slice(first, first + 9)
        areas = (width[own] * height[own]).sqrt()
        expected = torch.tensor([side, side * 2 ** (1 / 3), side * 2 ** (2 / 3)] * 3)
        torch.testing.assert_close(areas, expected, rtol=0.03, atol=0)
        ratios = torch.tensor([0.5] * 3 + [1.0] * 3 + [2.0] * 3)
        torch.testing.assert_close(height[own] / width[own], ratios, rtol=0.05, atol=0)
    centres = (anchors[:54:9, :2] + anchors[:54:9, 2:]) / 2
    assert centres.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]


def test_single_task_networks_have_no_parts_of_other_tasks() -> None:
    counts = {task: count_parameters(MultiTaskNetwork(make_spec([task]))) for task in TASKS}
    assert set(counts["classification"]) == {"backbone", "heads.classification", "total"}
    assert set(counts["detection"]) == {"backbone", "neck", "heads.detection", "total"}
    together = count_parameters(MultiTaskNetwork(make_spec()))
    assert together["total"] < sum(c["total"] for c in counts.values()) / 2
    assert together["backbone"] == 3_409_760


def test_neck_and_heads_hold_no_batch_norm() -> None:
    for neck in ("fpn", "bifpn"):
        network = MultiTaskNetwork(make_spec(neck=neck))
        assert not [n for n, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 70), (3, 64, 64), (1, 1, 64, 64)])
def test_sides_that_are_no_multiples_of_32_are_refused(shape: tuple[int, ...]) -> None:
    network = MultiTaskNetwork(make_spec(["classification"]))
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.zeros(shape))


def test_unknown_task_and_backbone_are_named() -> None:
    with pytest.raises(ValueError, match="no head for 'depth'; it has detection"):
        MultiTaskNetwork(make_spec(["detection"]))(torch.zeros(1, 3, 64, 64), ["depth"])
    with pytest.raises(ValueError, match=r"'pvt_v2_b9' is no timm model; similar: .*pvt_v2_b0"):
        MultiTaskNetwork(make_spec(backbone="pvt_v2_b9"))
    with pytest.raises(ValueError, match="features at strides"):
        MultiTaskNetwork(make_spec(backbone="vit_tiny_patch16_224"))
