from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.model.checkpoint import Preprocessing, load_checkpoint
from pvt_mtl_perception.model.spec import spec_from_dict

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors", height=96, width=160)


def test_the_file_says_all_that_its_user_needs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    others = tmp_path / ".other.onnx.abcd1234.partial"
    for left in (others, tmp_path / ".small.onnx.abcd1234.partial"):
        left.touch()
    assert main(["export", str(checkpoint), "--out", str(path), "--size", "96x64"]) == 0
    assert sorted(tmp_path.iterdir()) == [others, path], "what a killed export left"
    printed = capsys.readouterr().out
    assert "opset 20, input (batch, 3, 64, 96)" in printed
    assert "checked with onnxruntime against eager PyTorch" in printed
    assert "100.000 % of the pixels equal" in printed or "99.9" in printed
    model = onnx.load(path)
    onnx.checker.check_model(model)
    (images,) = model.graph.input
    dimensions = images.type.tensor_type.shape.dim
    assert images.name == "images"
    assert dimensions[0].dim_param and not dimensions[0].dim_value
    assert [dimension.dim_value for dimension in dimensions[1:]] == [3, 64, 96]
    assert {entry.version for entry in model.opset_import if not entry.domain} == {20}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    source = load_checkpoint(checkpoint)
    assert spec_from_dict(json.loads(metadata["spec"])) == source.spec
    assert TaskLabels.from_dict(json.loads(metadata["labels"])) == source.labels
    preprocessing = json.loads(metadata["preprocessing"])
    assert (preprocessing["height"], preprocessing["width"]) == (64, 96)
    assert tuple(preprocessing["mean"]) == Preprocessing(64, 96).mean
    assert json.loads(metadata["provenance"]) == dict(source.provenance)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "160x100"], "input size 160x100: both must be multiples of 32"),
        (["--out", "absent/model.onnx"], "no folder absent"),
        (["--out", "."], "--out . is a folder; a file is wanted, such as model.onnx"),
        (["--format", "tensorrt", "--device", "cpu"], "backend 'tensorrt' runs on cuda, not on cpu"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(checkpoint), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_is_not_replaced_by_its_export(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copy(checkpoint, tmp_path))
    assert main(["export", str(copy), "--out", str(copy)]) == 2
    assert f"--out {copy} is the checkpoint itself" in capsys.readouterr().err
    assert copy.read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize("factor", [1.1, math.nan])
def test_an_export_that_disagrees_leaves_the_earlier_file(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    factor: float,
) -> None:
    import torch

    from pvt_mtl_perception.inference import export

    real = export.build_network

    def other_weights(*arguments: object) -> torch.nn.Module:
        network = real(*arguments)
        with torch.no_grad():
            for parameter in network.heads["segmentation"].parameters():
                parameter.mul_(factor)
        return network

    monkeypatch.setattr(export, "build_network", other_weights)
    target = tmp_path / "other.onnx"
    target.write_bytes(b"earlier")
    assert main(["export", str(checkpoint), "--out", str(target), "--size", "96x64"]) == 2
    assert "disagrees with the checkpoint: logits by" in capsys.readouterr().err
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(target, b"earlier")]


def test_a_picture_that_cannot_be_read_leaves_the_earlier_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, picture = tmp_path / "small.onnx", tmp_path / "a.png"
    target.write_bytes(b"earlier")
    picture.write_bytes(b"no picture")
    assert main(["export", str(checkpoint), "--out", str(target), "--images", str(picture)]) == 2
    assert "a.png is no picture that OpenCV reads" in capsys.readouterr().err
    assert target.read_bytes() == b"earlier"
