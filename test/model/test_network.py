"""The network: shapes, tasks, and that a task nobody asked for is not computed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
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
    """``neck`` is fpn, bifpn, or light: FPN and heads of separable convolutions."""
    light = neck == "light"
    return ModelSpec(
        backbone=BackboneSpec(backbone),
        neck=NeckSpec("bifpn" if neck == "bifpn" else "fpn", channels=32, repeats=2, separable=light),
        classification=ClassificationSpec({"weather": "driving_weather", "scene": "driving_scene"})
        if "classification" in tasks
        else None,
        detection=DetectionSpec(channels=32, num_convs=1, separable=light) if "detection" in tasks else None,
        segmentation=SegmentationSpec(channels=32, separable=light) if "segmentation" in tasks else None,
    )


@pytest.mark.parametrize(
    ("backbone", "neck"),
    [
        ("pvt_v2_b0", "fpn"),
        ("pvt_v2_b0", "bifpn"),
        ("pvt_v2_b0", "light"),
        ("pvt_v2_b2_li", "fpn"),
        ("regnety_004", "bifpn"),
    ],
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


@pytest.mark.parametrize("neck", ["fpn", "bifpn", "light"])
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
    for neck in ("fpn", "bifpn", "light"):
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


@pytest.mark.parametrize("size", [(96, 160), (32, 224)])
def test_segmentation_is_semantic_fpn_as_published(size: tuple[int, int]) -> None:
    """Every level convolved and enlarged step by step to stride 4, summed, then classified."""
    network = MultiTaskNetwork(make_spec(["segmentation"])).eval()
    head = network.heads["segmentation"]
    with torch.inference_mode():
        torch.nn.init.normal_(head.predictor.bias)
        images = torch.randn(2, 3, *size)
        pyramid = network.neck(network.backbone(images), (2, 3, 4, 5))
        total = head.branches["2"][0](pyramid[2])
        for level in (3, 4, 5):
            x = pyramid[level]
            for conv in head.branches[str(level)]:
                x = F.interpolate(conv(x), scale_factor=2, mode="bilinear", align_corners=False)
            total = total + x
        torch.testing.assert_close(network(images).segmentation, head.predictor(total), atol=1e-5, rtol=1e-4)


def test_separable_convolutions_mix_neither_channels_nor_places_at_once() -> None:
    network = MultiTaskNetwork(make_spec(neck="light"))
    assert network.neck is not None
    for part in (network.neck, network.heads):
        for conv in (m for m in part.modules() if isinstance(m, nn.Conv2d)):
            assert conv.kernel_size == (1, 1) or conv.groups == conv.in_channels == conv.out_channels
    dense, light = (count_parameters(MultiTaskNetwork(make_spec(neck=n))) for n in ("fpn", "light"))
    assert light["backbone"] == dense["backbone"]
    for part in ("neck", "heads.detection", "heads.segmentation"):
        assert light[part] < dense[part] / 2, part


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
    for neck in ("fpn", "bifpn", "light"):
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


BLOCKS = {
    "pvt_v2_b0": [2, 2, 2, 2],
    "pvt_v2_b1": [2, 2, 2, 2],
    "regnety_004": [1, 3, 6, 6],
    "resnet18": [2, 2, 2, 2],
}


@pytest.mark.parametrize("backbone", BLOCKS)
def test_layer_decay_rises_block_by_block_from_the_stem_to_neck_and_heads(backbone: str) -> None:
    network = MultiTaskNetwork(make_spec(backbone=backbone))
    optimizer = create_optimizer_v2(network, "adamw", lr=1.0, weight_decay=0.05, layer_decay=0.7)
    names = {id(p): name for name, p in network.named_parameters()}
    scales = {names[id(p)]: g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    assert set(scales) == set(names.values())
    assert {s for n, s in scales.items() if not n.startswith("backbone.")} == {1.0}
    # named_parameters goes through the backbone from its input to its output.
    body = [scales[n] for n, _ in network.named_parameters() if n.startswith("backbone.")]
    depth = 1 + sum(BLOCKS[backbone])
    assert body == sorted(body)
    assert sorted(set(body)) == pytest.approx([0.7 ** (depth - i) for i in range(depth)])


def test_coarse_layer_groups_are_stem_stages_and_the_rest() -> None:
    for backbone in BLOCKS:
        network = MultiTaskNetwork(make_spec(backbone=backbone))
        groups = group_parameters(network, network.group_matcher(coarse=True))
        assert len(groups) == 1 + 4 + 1
        assert all(n.startswith("backbone.") for i in range(5) for n in groups[i])
        assert not any(n.startswith("backbone.") for n in groups[5])


def test_timms_scheduler_applies_the_layers_scales() -> None:
    network = MultiTaskNetwork(make_spec(["classification"]))
    optimizer = create_optimizer_v2(network, "adamw", lr=2.0, layer_decay=0.5)
    CosineLRScheduler(optimizer, t_initial=10, t_in_epochs=False).step_update(5)
    assert len({g["lr"] for g in optimizer.param_groups}) == 10
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(1.0 * group["lr_scale"])


def regnet(norm: str, seed: int = 0) -> MultiTaskNetwork:
    torch.manual_seed(seed)
    spec = make_spec(backbone="regnety_002", neck="bifpn")
    network = MultiTaskNetwork(dataclasses.replace(spec, backbone=BackboneSpec("regnety_002", norm=norm)))
    with torch.no_grad():
        for name, value in network.backbone.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    return network


def test_frozen_batch_norm_keeps_statistics_and_scale_while_training() -> None:
    ordinary, frozen = regnet("batch").eval(), regnet("frozen").train()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(frozen.backbone(images), ordinary.backbone(images))
    before = {k: v.clone() for k, v in frozen.state_dict().items() if ".bn." in k or "_bn" in k}
    assert any(k.endswith("running_var") for k in before)
    optimizer = torch.optim.SGD(frozen.parameters(), lr=1.0)
    sum(t.square().mean() for t in _tensors(frozen(images))).backward()
    optimizer.step()
    assert all(torch.equal(frozen.state_dict()[k], v) for k, v in before.items())
    assert all(p.grad is not None for p in frozen.parameters())
    # A network with learned statistics gives a frozen one its weights.
    assert set(ordinary.state_dict()) - set(frozen.state_dict()) == {
        k for k in ordinary.state_dict() if k.endswith("num_batches_tracked")
    }
    ordinary.train()(images)
    frozen.load_state_dict(ordinary.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(frozen.backbone(images), ordinary.eval().backbone(images))


def test_batch_norm_is_synchronised_only_among_processes(tmp_path: Path) -> None:
    def synchronised(network: MultiTaskNetwork) -> int:
        return sum(isinstance(m, nn.SyncBatchNorm) for m in network.backbone.modules())

    images = torch.randn(2, 3, 64, 96)
    ordinary, alone = regnet("batch"), regnet("sync")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        together = regnet("sync")
    finally:
        torch.distributed.destroy_process_group()
    assert (synchronised(ordinary), synchronised(alone)) == (0, 0)
    batch_norms = sum(isinstance(m, nn.BatchNorm2d) for m in ordinary.backbone.modules())
    assert synchronised(together) == batch_norms > 40
    # The same weights' names, and the activations inside timm's norm layers are kept.
    together.load_state_dict(ordinary.state_dict())
    for mode in (True, False):
        expected = ordinary.train(mode).backbone(images)
        torch.testing.assert_close(together.train(mode).backbone(images), expected)


def test_norm_of_a_backbone_without_batch_norm_cannot_be_changed() -> None:
    spec = dataclasses.replace(make_spec(["classification"]), backbone=BackboneSpec(norm="frozen"))
    with pytest.raises(ValueError, match=r"backbone.norm is 'frozen', but pvt_v2_b0 has no BatchNorm"):
        MultiTaskNetwork(spec)


@pytest.mark.parametrize("neck", ["fpn", "bifpn"])
def test_with_one_seed_a_single_task_network_begins_with_the_weights_of_the_multi_task_one(neck: str) -> None:
    def fresh(tasks: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(3)
        return MultiTaskNetwork(make_spec(tasks, neck=neck)).state_dict(), torch.rand(4)

    multi, following = fresh(TASKS)
    for task in TASKS:
        single, after = fresh((task,))
        parts = {name: tensor for name, tensor in single.items() if not name.startswith("neck.")}
        assert {name.split(".")[0] for name in parts} == {"backbone", "heads"}
        assert all(torch.equal(tensor, multi[name]) for name, tensor in parts.items())
        assert torch.equal(after, following)
    torch.manual_seed(4)
    other = MultiTaskNetwork(make_spec(neck=neck)).state_dict()
    assert any(not torch.equal(other[name], tensor) for name, tensor in multi.items())
