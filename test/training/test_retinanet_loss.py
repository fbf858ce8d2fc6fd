"""RetinaNet's loss against torchvision's own, and zero gradient from what is not labelled."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList

from pvt_mtl_perception.data.collate import Batch
from pvt_mtl_perception.model.anchors import retinanet_anchors
from pvt_mtl_perception.model.heads import DETECTION_LEVELS, AnchorDetectionHead, RetinaNetOutput
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import DetectionSpec, ModelSpec, NeckSpec
from pvt_mtl_perception.training.objective import task_losses
from pvt_mtl_perception.training.retinanet_loss import retinanet_loss

SPEC = DetectionSpec(type="retinanet")
CLASSES = 4
INPUT = (128, 256)
SIZES = tuple((INPUT[0] // s, INPUT[1] // s) for s in SPEC.strides)
NONE = torch.zeros(0, 4)
NO_LABELS = torch.zeros(0, dtype=torch.int64)
BOXES = [
    torch.tensor([[5.0, 7, 60, 50], [100, 20, 130, 90], [101, 22, 250, 120]]),
    torch.tensor([[10.0, 3, 80, 127]]),
]
LABELS = [torch.tensor([1, 3, 0]), torch.tensor([2])]
ALL = torch.ones(2, CLASSES, dtype=torch.bool)


class Features(nn.Module):
    """Stands where RetinaNet wants a backbone; the features come from the test."""

    out_channels = 16


def random_output(batch: int = 2, seed: int = 0) -> RetinaNetOutput:
    generator = torch.Generator().manual_seed(seed)
    count = len(retinanet_anchors(SIZES, SPEC.strides))
    logits = torch.randn(batch, count, CLASSES, generator=generator) - 2
    deltas = torch.randn(batch, count, 4, generator=generator) * 0.3
    return RetinaNetOutput(logits.requires_grad_(), deltas.requires_grad_(), SIZES)


def gradients(output: RetinaNetOutput, loss: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(sum(loss.values()), [output.logits, output.deltas])


def test_loss_and_gradients_equal_torchvision_on_the_same_features() -> None:
    torch.manual_seed(0)
    head = AnchorDetectionHead(16, CLASSES)
    reference = RetinaNet(Features(), CLASSES, head=head)
    features = [torch.randn(3, 16, *size) for size in SIZES]
    boxes, labels = [*BOXES, NONE], [*LABELS, NO_LABELS]

    output = head(dict(zip(DETECTION_LEVELS, features, strict=True)))
    ours = retinanet_loss(output, boxes, labels, [NONE] * 3, torch.ones(3, CLASSES, dtype=torch.bool), SPEC)
    our_gradients = torch.autograd.grad(sum(ours.values()), list(head.parameters()))

    anchors = reference.anchor_generator(ImageList(torch.zeros(3, 3, *INPUT), [INPUT] * 3), features)
    torch.testing.assert_close(retinanet_anchors(SIZES, SPEC.strides), anchors[0], rtol=0, atol=0)
    outputs = super(AnchorDetectionHead, head).forward(features)
    targets = [{"boxes": b, "labels": own} for b, own in zip(boxes, labels, strict=True)]
    theirs = reference.compute_loss(targets, outputs, anchors)
    torch.testing.assert_close(ours["classification"], theirs["classification"])
    torch.testing.assert_close(ours["regression"], theirs["bbox_regression"])
    their_gradients = torch.autograd.grad(sum(theirs.values()), list(head.parameters()))
    assert len(our_gradients) == 20
    torch.testing.assert_close(our_gradients, their_gradients)
    assert all(g.abs().max() > 0 for g in our_gradients)


def test_unlabelled_classes_and_images_get_exactly_zero_gradient() -> None:
    output = random_output()
    labelled = torch.tensor([[True, True, False, True], [False, False, False, False]])
    loss = retinanet_loss(output, [BOXES[0], NONE], [LABELS[0], NO_LABELS], [NONE, NONE], labelled, SPEC)
    logits, deltas = gradients(output, loss)
    assert torch.count_nonzero(logits[0, :, 2]) == 0
    assert torch.count_nonzero(logits[1]) == torch.count_nonzero(deltas[1]) == 0
    assert all((logits[0, :, c] != 0).float().mean() > 0.9 for c in (0, 1, 3))
    assert torch.count_nonzero(deltas[0]) > 0
    alone = RetinaNetOutput(output.logits[:1], output.deltas[:1], SIZES)
    single = retinanet_loss(alone, BOXES[:1], LABELS[:1], [NONE], labelled[:1], SPEC)
    for name, value in single.items():
        torch.testing.assert_close(loss[name], value)


def test_background_inside_ignore_boxes_gets_exactly_zero_gradient() -> None:
    output = random_output(1)
    ignored = torch.tensor([[150.0, 0, 256, 128]])
    plain = gradients(output, retinanet_loss(output, BOXES[:1], LABELS[:1], [NONE], ALL[:1], SPEC))
    with_ignored = gradients(output, retinanet_loss(output, BOXES[:1], LABELS[:1], [ignored], ALL[:1], SPEC))
    anchors = retinanet_anchors(SIZES, SPEC.strides)
    width = (anchors[:, 2].clamp(max=256) - anchors[:, 0].clamp(min=150)).clamp(min=0)
    height = (anchors[:, 3].clamp(max=128) - anchors[:, 1].clamp(min=0)).clamp(min=0)
    inside = width * height >= 0.5 * (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])
    foreground = plain[1][0].abs().sum(1) > 0
    silent = inside & ~foreground
    assert 100 < silent.sum() < len(anchors) / 2
    assert (inside & foreground).sum() > 0
    assert torch.count_nonzero(with_ignored[0][0, silent]) == 0
    torch.testing.assert_close(with_ignored[0][0, ~silent], plain[0][0, ~silent], rtol=0, atol=0)
    torch.testing.assert_close(with_ignored[1], plain[1], rtol=0, atol=0)


def test_a_batch_without_any_label_gives_zero_losses_and_zero_gradients() -> None:
    output = random_output()
    loss = retinanet_loss(output, [NONE] * 2, [NO_LABELS] * 2, [NONE] * 2, ~ALL, SPEC)
    assert [value.item() for value in loss.values()] == [0, 0]
    assert all(torch.count_nonzero(g) == 0 for g in gradients(output, loss))


def test_the_normaliser_is_asked_once_for_the_labelled_images() -> None:
    asked = []

    def normaliser(count: torch.Tensor, minimum: float) -> torch.Tensor:
        asked.append((count.item(), minimum))
        return torch.tensor(8.0)

    output = random_output()
    labelled = torch.tensor([[True] * CLASSES, [False] * CLASSES])
    arguments = (output, [BOXES[0], NONE], [LABELS[0], NO_LABELS], [NONE, NONE], labelled, SPEC)
    shared = retinanet_loss(*arguments, normaliser)
    assert asked == [(1, 1.0)]
    for name, value in retinanet_loss(*arguments).items():
        assert shared[name].item() == pytest.approx(value.item() / 8, rel=1e-6)


def test_half_precision_outputs_give_a_float32_loss() -> None:
    output = random_output()
    half = RetinaNetOutput(output.logits.detach().bfloat16(), output.deltas.detach().bfloat16(), SIZES)
    rounded = RetinaNetOutput(half.logits.float(), half.deltas.float(), SIZES)
    losses = [retinanet_loss(o, BOXES, LABELS, [NONE, NONE], ALL, SPEC) for o in (half, rounded)]
    for name, value in losses[0].items():
        assert value.dtype == torch.float32 and value == losses[1][name]


def test_the_training_objective_takes_the_loss_of_the_networks_head() -> None:
    torch.manual_seed(0)
    network = MultiTaskNetwork(ModelSpec(neck=NeckSpec(channels=32), detection=DetectionSpec("retinanet")))
    batch = Batch(
        images=torch.zeros(2, 3, 64, 96, dtype=torch.uint8),
        all_boxes=torch.tensor([[5.0, 7, 60, 50], [20, 10, 90, 60]]),
        all_box_labels=torch.tensor([1, 3]),
        all_ignore_boxes=NONE,
        box_counts=(2, 0),
        ignore_counts=(0, 0),
        detection_labelled=torch.tensor([[True] * 10, [False] * 10]),
        masks=torch.full((2, 64, 96), 255, dtype=torch.uint8),
        classes={},
        names=("a", "b"),
    )
    output = network(torch.randn(2, 3, 64, 96))
    expected = retinanet_loss(output.detection, batch.boxes, batch.box_labels, batch.ignore_boxes,
                              batch.detection_labelled, network.spec.detection)  # fmt: skip
    losses = task_losses(output, batch, network)
    assert set(losses) == {"detection"}
    torch.testing.assert_close(losses["detection"], sum(expected.values()))
    assert losses["detection"] > 0.1
