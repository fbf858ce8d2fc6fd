"""Losses against formulas written out by hand, and zero gradient from what is not labelled."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, generalized_box_iou

from pvt_mtl_perception.data.collate import Collator
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.model.anchors import anchor_points, distances_to_boxes, expected_distances
from pvt_mtl_perception.model.heads import DetectionOutput
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import DetectionSpec, ModelSpec, NeckSpec, SegmentationSpec
from pvt_mtl_perception.training.assignment import assign, broadcast_iou, pad_boxes
from pvt_mtl_perception.training.losses import (
    classification_loss,
    detection_loss,
    distribution_focal_loss,
    quality_focal_loss,
    segmentation_loss,
)
from pvt_mtl_perception.training.objective import task_losses

SPEC = DetectionSpec()
SIZES = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
NONE = torch.zeros(0, 4)


def random_output(batch: int, classes: int = 4, seed: int = 0) -> DetectionOutput:
    generator = torch.Generator().manual_seed(seed)

    def maps(channels: int) -> list[torch.Tensor]:
        return [torch.randn(batch, channels, *s, generator=generator).requires_grad_() for s in SIZES]

    return DetectionOutput(maps(classes), maps(4 * (SPEC.reg_max + 1)))


def gradients(output: DetectionOutput, loss: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    leaves = [*output.logits, *output.distances]
    return list(torch.autograd.grad(sum(loss.values()), leaves, allow_unused=True, materialize_grads=True))


def test_quality_focal_loss_is_its_formula() -> None:
    logits, quality = torch.tensor([-2.0, 0.3, 4.0]), torch.tensor([0.0, 0.7, 1.0])
    for x, y, value in zip(
        logits.tolist(), quality.tolist(), quality_focal_loss(logits, quality), strict=True
    ):
        p = 1 / (1 + math.exp(-x))
        expected = -(abs(y - p) ** 2) * ((1 - y) * math.log(1 - p) + y * math.log(p))
        assert value.item() == pytest.approx(expected, rel=1e-5)


def test_distribution_focal_loss_is_its_formula_and_least_at_the_distance() -> None:
    logits = torch.tensor([[0.1, 1.2, 0.4, -0.3]])
    p = logits.softmax(-1)[0]
    value = distribution_focal_loss(logits, torch.tensor([1.25])).item()
    assert value == pytest.approx(-(0.75 * math.log(p[1]) + 0.25 * math.log(p[2])), rel=1e-5)
    exact = torch.tensor([[-30.0, math.log(0.75), math.log(0.25), -30.0]])
    assert expected_distances(exact.repeat(1, 4))[0].tolist() == pytest.approx([1.25] * 4, abs=1e-5)
    shifted = exact.clone()
    shifted[0, 1] += 0.5
    one_quarter = torch.tensor([1.25])
    assert distribution_focal_loss(exact, one_quarter) < distribution_focal_loss(shifted, one_quarter)


def test_broadcast_iou_equals_torchvision() -> None:
    corner = torch.rand(50, 2) * 40
    boxes = torch.cat((corner, corner + torch.rand(50, 2) * 30 + 1), 1)
    others = boxes.roll(1, 0)
    torch.testing.assert_close(broadcast_iou(boxes, others), box_iou(boxes, others).diag())


def test_detection_loss_equals_a_loop_over_points() -> None:
    output = random_output(2)
    boxes = [
        torch.tensor([[5.0, 7.0, 40.0, 50.0], [50.0, 20.0, 90.0, 60.0]]),
        torch.tensor([[10.0, 3, 80, 60]]),
    ]
    labels = [torch.tensor([1, 3]), torch.tensor([0])]
    labelled = torch.tensor([[True, True, False, True], [True, False, True, True]])
    loss = detection_loss(output, boxes, labels, [NONE, NONE], labelled, SPEC)

    points, strides = anchor_points(SIZES, SPEC.strides)
    owner = assign(points, strides, [h * w for h, w in SIZES], *pad_boxes(boxes), SPEC.anchor_scale)
    quality = giou = distribution = weights = positives = 0.0
    for image in range(2):
        logits = torch.cat([m[image].flatten(1).T for m in output.logits])
        sides = torch.cat([m[image].flatten(1).T for m in output.distances])
        for a in range(len(points)):
            target = torch.zeros(4)
            if owner[image, a] >= 0:
                box = boxes[image][owner[image, a]]
                predicted = distances_to_boxes(points[a], expected_distances(sides[a]) * strides[a])
                overlap = broadcast_iou(predicted, box)
                target[labels[image][owner[image, a]]] = overlap.detach()
                weight = logits[a].sigmoid().max().detach()
                giou += weight * (1 - generalized_box_iou(predicted[None], box[None])[0, 0])
                true = torch.cat((points[a] - box[:2], box[2:] - points[a])) / strides[a]
                for side in range(4):
                    bins = F.log_softmax(sides[a].reshape(4, -1)[side], 0)
                    left = int(true[side])
                    part = (1 - (true[side] - left)) * bins[left] + (true[side] - left) * bins[left + 1]
                    distribution += -weight * part / 4
                weights += weight
                positives += 1
            p = logits[a].sigmoid()
            element = (target - p).abs() ** 2 * F.binary_cross_entropy(p, target, reduction="none")
            quality += element[labelled[image]].sum()
    assert positives > 3
    assert loss["quality"].item() == pytest.approx(float(quality / positives), rel=1e-4)
    assert loss["giou"].item() == pytest.approx(float(2 * giou / max(float(weights), 1)), rel=1e-4)
    expected = 0.25 * distribution / max(float(weights), 1)
    assert loss["distribution"].item() == pytest.approx(float(expected), rel=1e-4)


def test_unlabelled_images_and_classes_give_exactly_zero_gradient() -> None:
    output = random_output(2)
    box = torch.tensor([[5.0, 7.0, 40.0, 50.0]])
    labelled = torch.tensor([[False] * 4, [True, True, False, True]])
    loss = detection_loss(
        output,
        [NONE, box],
        [torch.zeros(0, dtype=torch.int64), torch.tensor([1])],
        [NONE, NONE],
        labelled,
        SPEC,
    )
    found = gradients(output, loss)
    for gradient in found[:5]:
        assert gradient[0].abs().sum() == 0
        assert gradient[1, 2].abs().sum() == 0
    assert found[0][1, 0].abs().sum() > 0
    assert all(gradient[0].abs().sum() == 0 for gradient in found[5:])


def test_background_in_ignore_boxes_is_not_learned() -> None:
    output = random_output(1)
    ignore = torch.tensor([[0.0, 0.0, 48.0, 64.0]])
    no_labels = [torch.zeros(0, dtype=torch.int64)]
    loss = detection_loss(output, [NONE], no_labels, [ignore], torch.ones(1, 4, dtype=torch.bool), SPEC)
    finest = gradients(output, loss)[0][0]
    assert finest[:, :, :6].abs().sum() == 0
    assert (finest[:, :, 6:].abs() > 0).all()


def test_segmentation_loss_averages_over_labelled_pixels() -> None:
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    masks = torch.randint(0, 5, (2, 8, 12), dtype=torch.uint8)
    masks[0, :, :6] = 255
    masks[1] = 255
    loss = segmentation_loss(logits, masks)
    full = F.interpolate(logits, (8, 12), mode="bilinear", align_corners=False)[0, :, :, 6:]
    expected = F.cross_entropy(full.flatten(1).T, masks[0, :, 6:].flatten().long())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[1].abs().sum() == 0
    masks[:] = 255
    nothing = segmentation_loss(logits, masks)
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, logits)[0].abs().sum() == 0


def test_a_model_whose_label_set_has_its_own_ignore_index_learns_from_samples(tmp_path: Path) -> None:
    labels = tmp_path / "ground.yaml"
    labels.write_text("name: ground\nignore_index: 7\nclasses: [a, b, c]\n")
    segmentation = SegmentationSpec(label_set=str(labels), channels=16)
    network = MultiTaskNetwork(ModelSpec(neck=NeckSpec(channels=16), segmentation=segmentation))
    mask = np.full((64, 64), 255, np.uint8)
    mask[:32] = 1
    batch = Collator(0, {})([Sample(np.zeros((64, 64, 3), np.uint8), mask=mask, name="half")])
    output = network(torch.randn(1, 3, 64, 64))
    full = F.interpolate(output.segmentation, (64, 64), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(full[:, :, :32], torch.ones(1, 32, 64, dtype=torch.long))
    losses = task_losses(output, batch, network)
    assert losses["segmentation"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_classification_loss_skips_unlabelled_images_and_groups() -> None:
    logits = {name: torch.randn(3, 4, requires_grad=True) for name in ("weather", "scene")}
    classes = {"weather": torch.tensor([2, -1, 0]), "scene": torch.tensor([-1, -1, -1])}
    loss = classification_loss(logits, classes)
    expected = F.cross_entropy(logits["weather"][[0, 2]], torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weather, scene = torch.autograd.grad(loss, list(logits.values()))
    assert weather[1].abs().sum() == 0
    assert scene.abs().sum() == 0
