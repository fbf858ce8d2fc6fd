"""Backbone weights from files in every layout they come in: what is set, left out, adapted and refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from pvt_mtl_perception.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    Preprocessing,
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.pretrained import load_backbone_weights
from pvt_mtl_perception.model.spec import BackboneSpec, ClassificationSpec, ModelSpec, SegmentationSpec


def make_network(backbone: str = "pvt_v2_b0", norm: Literal["batch", "frozen"] = "batch") -> MultiTaskNetwork:
    return MultiTaskNetwork(
        ModelSpec(
            BackboneSpec(backbone, norm=norm),
            classification=ClassificationSpec({"weather": "driving_weather"}),
            segmentation=SegmentationSpec(channels=32),
        )
    )


def original(backbone: str = "pvt_v2_b0", seed: int = 5) -> torch.nn.Module:
    """timm's classifier with weights that differ from every fresh network's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(backbone, pretrained=False)
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) * 0.1 + 0.5)
    return model.eval()


def authors_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's PVT v2 names to those of the checkpoints that the PVT authors released."""
    renamed = {}
    for key, value in weights.items():
        key = re.sub(r"^patch_embed\.", "patch_embed1.", key)
        key = re.sub(r"^stages\.(\d)\.downsample", lambda m: f"patch_embed{int(m[1]) + 1}", key)
        key = re.sub(r"^stages\.(\d)\.blocks\.(\d+)", lambda m: f"block{int(m[1]) + 1}.{m[2]}", key)
        key = re.sub(r"^stages\.(\d)\.norm", lambda m: f"norm{int(m[1]) + 1}", key)
        renamed[key.replace("mlp.dwconv", "mlp.dwconv.dwconv")] = value
    return renamed


def features_of(model: torch.nn.Module, images: Tensor, strides: tuple[int, ...] = (4, 8, 16, 32)) -> list:
    """C2 to C5 of the whole model, by timm's other interface to intermediate features."""
    found = model.forward_intermediates(images, intermediates_only=True)
    return [next(f for f in reversed(found) if f.shape[-1] == images.shape[-1] // s) for s in strides]


def assert_same_features(network: MultiTaskNetwork, model: torch.nn.Module) -> None:
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(network.eval().backbone(images), features_of(model, images), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layout", ["timm", "authors", "nested", "detector", "distributed"])
def test_every_layout_of_pvt_gives_the_models_own_features(tmp_path: Path, layout: str) -> None:
    model = original()
    weights: dict = dict(model.state_dict())
    path = tmp_path / ("weights.safetensors" if layout == "timm" else "weights.pth")
    if layout == "timm":
        save_file(weights, path)
    else:
        weights = authors_layout(weights)
        assert {"patch_embed1.proj.weight", "block1.0.attn.q.weight", "norm1.weight"} <= set(weights)
        assert "block1.0.mlp.dwconv.dwconv.weight" in weights
        if layout == "nested":
            weights = {"model": weights, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
        elif layout == "detector":
            weights = {f"backbone.{k}": v for k, v in weights.items()}
            weights = {"state_dict": weights | {"neck.conv.weight": torch.zeros(3)}, "meta": {"epoch": 12}}
        elif layout == "distributed":
            weights = {f"module.{k}": v for k, v in weights.items()}
        torch.save(weights, path)
    network = make_network()
    before = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("backbone")}
    report = load_backbone_weights(network, str(path))
    assert_same_features(network, model)
    assert report.missing == () and report.resized == {}
    assert len(report.loaded) == len(network.backbone.body.state_dict())
    expected = {"head.weight": "classifier", "head.bias": "classifier"}
    if layout == "detector":
        expected["neck.conv.weight"] = "not in the backbone"
    assert report.skipped == expected
    assert "skipped 2 (classifier): head.bias, head.weight" in str(report)
    for key, value in before.items():
        assert torch.equal(network.state_dict()[key], value)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_regnet_files_set_the_running_statistics(tmp_path: Path, norm: Literal["batch", "frozen"]) -> None:
    model = original("regnety_004")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    network = make_network("regnety_004", norm)
    report = load_backbone_weights(network, tmp_path / "weights.safetensors")
    assert_same_features(network, model)
    assert "stem.bn.running_var" in report.loaded and report.missing == ()
    reasons = {key: reason for key, reason in report.skipped.items() if reason != "counter"}
    assert reasons == {"head.fc.weight": "classifier", "head.fc.bias": "classifier"}
    # Frozen statistics count no batches.
    assert (len(report.skipped) > len(reasons)) == (norm == "frozen")


def test_own_checkpoint_gives_its_backbone(tmp_path: Path) -> None:
    network = make_network()
    trained = Checkpoint(network.spec, network.labels, Preprocessing(64, 96), network.state_dict())
    save_checkpoint(tmp_path / "model.safetensors", trained)
    fresh = make_network()
    report = load_backbone_weights(fresh, tmp_path / "model.safetensors")
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(fresh.backbone.state_dict()[key], value)
    assert report.missing == ()
    assert set(report.skipped.values()) == {"not in the backbone"}


def test_first_convolution_of_other_channels_is_resized(tmp_path: Path) -> None:
    weights = dict(original().state_dict())
    weights["patch_embed.proj.weight"] = grey = weights["patch_embed.proj.weight"][:, :1].contiguous()
    save_file(weights, tmp_path / "grey.safetensors")
    network = make_network()
    report = load_backbone_weights(network, tmp_path / "grey.safetensors")
    assert report.resized == {"patch_embed.proj.weight": "(32, 1, 7, 7) to (32, 3, 7, 7)"}
    assert "resized patch_embed.proj.weight: (32, 1, 7, 7) to (32, 3, 7, 7)" in str(report)
    # A grey picture's three equal channels must give what its one channel gave.
    torch.testing.assert_close(network.backbone.body.patch_embed.proj.weight.sum(1, keepdim=True), grey)


def test_tensors_the_file_lacks_keep_their_values_and_are_listed(tmp_path: Path) -> None:
    weights = dict(original().state_dict())
    del weights["stages.3.norm.weight"]
    weights["stages.3.norm.bias"] = torch.zeros(5)
    save_file(weights, tmp_path / "part.safetensors")
    network = make_network()
    kept = network.backbone.body.stages_3.norm.weight.clone()
    report = load_backbone_weights(network, tmp_path / "part.safetensors")
    assert report.missing == ("stages_3.norm.weight", "stages_3.norm.bias")
    assert report.skipped["stages.3.norm.bias"] == "shape (5,) for (256,)"
    assert "missing 2, as initialised: stages_3.norm.weight, stages_3.norm.bias" in str(report)
    assert torch.equal(network.backbone.body.stages_3.norm.weight, kept)


@pytest.mark.parametrize(
    ("file", "backbone", "looks"),
    [
        ("pvt_v2_b1", "pvt_v2_b0", "it looks like pvt_v2_b1"),
        ("regnety_004", "pvt_v2_b0", "it looks like regnety_004"),
        ("pvt_v2_b0", "regnety_004", "it looks like pvt_v2_b0"),
        ("mobilenetv3_small_050", "pvt_v2_b0", "no model known here; its first keys are conv_stem.weight"),
    ],
)
def test_another_models_file_is_refused_by_name(tmp_path: Path, file: str, backbone: str, looks: str) -> None:
    weights = dict(original(file).state_dict())
    torch.save({"model": authors_layout(weights) if file == "pvt_v2_b1" else weights}, tmp_path / "w.pth")
    network = make_network(backbone)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"w.pth is not for {backbone}: .*{looks}"):
        load_backbone_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


class Harmless:
    """An object whose pickle names code of this file."""


def test_files_that_cannot_be_read_safely_or_at_all_are_refused(tmp_path: Path) -> None:
    network = make_network()
    torch.save({"model": Harmless()}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code\.pth holds Python objects .*Harmless.*runs code"):
        load_backbone_weights(network, tmp_path / "code.pth")
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load_backbone_weights(network, tmp_path / name)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_backbone_weights(network, tmp_path / "list.pth")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(CheckpointError, match=r"read from \.safetensors and \.pth"):
        load_backbone_weights(network, tmp_path / "weights.npz")
    with pytest.raises(FileNotFoundError, match=r"no weights at absent\.pth; a source is 'timm'"):
        load_backbone_weights(network, "absent.pth")


def test_a_checkpoint_of_a_pretrained_network_loads_without_the_source(tmp_path: Path) -> None:
    save_file(original().state_dict(), tmp_path / "weights.safetensors")
    network = make_network()
    load_backbone_weights(network, tmp_path / "weights.safetensors")
    trained = Checkpoint(network.spec, network.labels, Preprocessing(64, 96), network.state_dict())
    save_checkpoint(tmp_path / "model.safetensors", trained)
    (tmp_path / "weights.safetensors").unlink()
    restored = build_network(load_checkpoint(tmp_path / "model.safetensors"))
    assert_same_features(restored, original())
