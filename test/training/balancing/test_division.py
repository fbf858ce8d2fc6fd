"""Which parameters tasks share is read off the network, whatever its neck and heads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from balancing_problems import ALL_TASKS, images, output_losses, small_network

from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.training.balancing import divide_parameters
from pvt_mtl_perception.training.balancing.methods import last_common_matrix


def names_by_part(network):
    division = divide_parameters(network)
    names = {p: n for n, p in network.named_parameters()}
    shared = {names[p] for p in division.shared}
    own = {task: {names[p] for p in parameters} for task, parameters in division.own.items()}
    reached = {
        task: {names[division.shared[i]] for i in positions} for task, positions in division.reached.items()
    }
    return set(names.values()), shared, own, reached


def under(names, *prefixes):
    return {name for name in names if name.startswith(prefixes)}


def test_fpn_levels_that_one_head_uses_are_its_own():
    every, shared, own, reached = names_by_part(small_network())
    only_segmentation = under(every, "neck.output.2.", "neck.lateral.2.")
    only_detection = under(every, "neck.output.6.", "neck.output.7.")
    assert only_segmentation and only_detection
    assert own["classification"] == under(every, "heads.classification.")
    assert own["detection"] == under(every, "heads.detection.") | only_detection
    assert own["segmentation"] == under(every, "heads.segmentation.") | only_segmentation
    assert shared == under(every, "backbone.", "neck.") - only_detection - only_segmentation
    assert reached["classification"] == under(every, "backbone.")
    assert reached["detection"] == reached["segmentation"] == shared


def test_bifpn_is_shared_as_far_as_both_dense_heads_depend_on_it():
    every, shared, own, reached = names_by_part(small_network(neck="bifpn"))
    # The last bottom-up step to P6 and P7 serves detection alone, and so does P7's share in P6.
    only_detection = under(every, "neck.layers.0.up_fuse.6.", "neck.layers.0.up_fuse.7.")
    only_detection |= under(every, "neck.layers.0.up_conv.6.", "neck.layers.0.up_conv.7.")
    assert own["classification"] == under(every, "heads.classification.")
    assert own["detection"] == under(every, "heads.detection.") | only_detection
    assert own["segmentation"] == under(every, "heads.segmentation.")
    assert shared == under(every, "backbone.", "neck.") - only_detection
    assert reached["classification"] == under(every, "backbone.")


@pytest.mark.parametrize("task", ALL_TASKS)
def test_a_single_task_shares_nothing(task):
    every, shared, own, reached = names_by_part(small_network((task,)))
    assert shared == reached[task] == set()
    assert own[task] == every


def test_two_dense_tasks_share_neck_and_backbone():
    every, shared, _, reached = names_by_part(small_network(("detection", "segmentation")))
    assert under(every, "backbone.") < shared
    assert under(every, "neck.output.3.", "neck.output.4.", "neck.output.5.") < shared
    assert reached["detection"] == reached["segmentation"] == shared


def test_frozen_parameters_belong_to_nobody():
    network = small_network()
    network.backbone.requires_grad_(False)
    every, shared, own, _ = names_by_part(network)
    assert not under(shared.union(*own.values()), "backbone.")
    assert shared == under(every, "neck.lateral.3", "neck.lateral.4", "neck.lateral.5") | under(
        every, "neck.output.3", "neck.output.4", "neck.output.5"
    )


@pytest.mark.parametrize("neck", ["fpn", "bifpn"])
def test_division_agrees_with_a_backward_pass_of_each_loss(neck):
    network = small_network(neck=neck)
    division = divide_parameters(network)
    for task, loss in output_losses(network(images())).items():
        gradients = torch.autograd.grad(
            loss, list(network.parameters()), retain_graph=True, allow_unused=True
        )
        reached = {p for p, g in zip(network.parameters(), gradients, strict=True) if g is not None}
        assert reached == set(division.parameters_of(task))


def test_looking_at_the_network_leaves_it_and_the_random_numbers_alone():
    network = small_network()
    network.train()
    network.backbone.eval()
    before = torch.get_rng_state()
    divide_parameters(network)
    assert torch.equal(before, torch.get_rng_state())
    assert network.training and network.heads.training and not network.backbone.training


def test_gradnorm_looks_at_the_last_matrix_of_the_backbone():
    network = small_network()
    names = {p: n for n, p in network.named_parameters()}
    at = last_common_matrix(network, divide_parameters(network))
    last = [n for n, p in network.backbone.named_parameters(prefix="backbone") if p.ndim > 1][-1]
    assert names[at] == last
    alone = small_network(("segmentation",))
    assert last_common_matrix(alone, divide_parameters(alone)) is None


@pytest.mark.parametrize("detection", ["gfl", "retinanet"])
def test_every_trainable_parameter_has_its_place(detection):
    spec = small_network().spec
    spec = dataclasses.replace(spec, detection=dataclasses.replace(spec.detection, type=detection))
    every, shared, own, _ = names_by_part(MultiTaskNetwork(spec))
    assert shared.union(*own.values()) == every
    assert len(shared) + sum(map(len, own.values())) == len(every)
    assert under(every, "heads.detection.") < own["detection"]
