"""The checkpoint file: round trip, atomic writes, and errors that say what is wrong with a file."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from safetensors import safe_open
from safetensors.torch import save_file

from pvt_mtl_perception.model.checkpoint import (
    CheckpointError,
    Preprocessing,
    build_network,
    load_checkpoint,
    save_checkpoint,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def rewrite(source: Path, target: Path, change) -> Path:
    """A copy with ``change(metadata, tensors)`` applied."""
    with safe_open(source, "pt") as file:
        metadata, tensors = dict(file.metadata()), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, target, metadata)
    return target


def test_a_saved_network_answers_as_before(path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(path)
    save_checkpoint(tmp_path / "again.safetensors", checkpoint)
    again = load_checkpoint(tmp_path / "again.safetensors")
    assert (again.spec, again.labels, again.preprocessing) == (
        checkpoint.spec,
        checkpoint.labels,
        Preprocessing(96, 160),
    )
    images = torch.randn(1, 3, 96, 160)
    with torch.inference_mode():
        first = build_network(checkpoint)(images).segmentation
        second = build_network(again)(images).segmentation
    assert torch.equal(first, second)


def test_a_checkpoint_from_before_a_spec_key_existed_loads_as_the_same_network(
    path: Path, tmp_path: Path
) -> None:
    def drop(metadata, tensors) -> None:
        spec = json.loads(metadata["spec"])
        assert spec["detection"].pop("type") == "gfl"
        metadata["spec"] = json.dumps(spec)

    older = load_checkpoint(rewrite(path, tmp_path / "older.safetensors", drop))
    assert older.spec == load_checkpoint(path).spec
    build_network(older)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


def test_a_truncated_file_is_named(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "half.safetensors"
    broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"half\.safetensors is not a complete safetensors file"):
        load_checkpoint(broken)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    evil = tmp_path / "model.pt"
    evil.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match=r"model\.pt is not a complete safetensors file"):
        load_checkpoint(evil)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("key", ["format", "spec", "labels", "preprocessing", "provenance"])
def test_a_missing_metadata_key_is_named(path: Path, tmp_path: Path, key: str) -> None:
    broken = rewrite(path, tmp_path / "x.safetensors", lambda metadata, _: metadata.pop(key))
    with pytest.raises(CheckpointError, match=f"x.safetensors lacks the metadata key '{key}'"):
        load_checkpoint(broken)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spec", "[]", "'spec': a model spec is a mapping"),
        ("spec", "{", "'spec' is not JSON"),
        ("labels", "[]", "'labels': "),
        ("labels", '{"classification": {}}', "'labels' lacks 'detection'"),
        ("preprocessing", '{"height": 32}', "'preprocessing' lacks 'width'"),
        ("provenance", "3", "'provenance': "),
    ],
)
def test_metadata_that_say_something_else_are_named(
    path: Path, tmp_path: Path, key: str, value: str, message: str
) -> None:
    broken = rewrite(path, tmp_path / "x.safetensors", lambda metadata, _: metadata.update({key: value}))
    with pytest.raises(CheckpointError, match=f"x.safetensors: metadata key {message}"):
        load_checkpoint(broken)


def test_a_weight_that_is_missing_left_over_or_of_another_shape_is_named(path: Path, tmp_path: Path) -> None:
    name = "heads.segmentation.predictor.bias"
    cases = {
        "has no weight": lambda _, tensors: tensors.pop(name),
        "has no place in it": lambda _, tensors: tensors.update({name + "_": tensors[name].clone()}),
        r"has shape \(7,\), the spec needs \(19,\)": lambda _, tensors: tensors.update(
            {name: torch.zeros(7)}
        ),
    }
    for number, (message, change) in enumerate(cases.items()):
        broken = rewrite(path, tmp_path / f"{number}.safetensors", change)
        with pytest.raises(CheckpointError, match=f"{number}.safetensors disagrees with its spec.*{message}"):
            build_network(load_checkpoint(broken), broken)


def test_a_spec_that_disagrees_with_the_weights_is_named(path: Path, tmp_path: Path) -> None:
    def narrow(metadata, _tensors) -> None:
        spec = json.loads(metadata["spec"])
        spec["neck"]["channels"] = 16
        metadata["spec"] = json.dumps(spec)

    broken = rewrite(path, tmp_path / "narrow.safetensors", narrow)
    with pytest.raises(CheckpointError, match=r"disagrees with its spec: weight '.*' has shape"):
        build_network(load_checkpoint(broken), broken)


def test_a_failed_write_leaves_the_old_file(path: Path, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    checkpoint = load_checkpoint(path)

    def full(*_args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(target, checkpoint)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]
