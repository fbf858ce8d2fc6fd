"""Whole runs: they learn, stop cleanly, and go on as if they had never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.model.checkpoint import CheckpointError, load_checkpoint
from pvt_mtl_perception.model.spec import (
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.training.balancing import BalancingConfig
from pvt_mtl_perception.training.config import (
    OptimizerConfig,
    PhaseConfig,
    TrainingConfig,
    config_yaml,
    load_config,
)
from pvt_mtl_perception.training.log import read_log
from pvt_mtl_perception.training.state import save_state
from pvt_mtl_perception.training.trainer import NonFiniteLossError, Trainer

REPOSITORY = Path(__file__).resolve().parents[2]


def small_config(steps: int = 4, **changes) -> TrainingConfig:
    config = TrainingConfig(
        model=ModelSpec(
            neck=NeckSpec(channels=16),
            classification=ClassificationSpec({"weather": "driving_weather"}, dropout=0.2),
            detection=DetectionSpec(channels=16, num_convs=1),
            segmentation=SegmentationSpec(channels=16),
        ),
        train=[SourceConfig("synthetic", frames=4)],
        phases=[
            PhaseConfig(steps // 2, 96, 64, 2, scale=(0.2, 0.3)),
            PhaseConfig(steps - steps // 2, 64, 64, 2, scale=(0.2, 0.3)),
        ],
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=1, ema_decay=0.5),
        input_width=160,
        input_height=96,
        workers=0,
        checkpoint_every=100,
    )
    return dataclasses.replace(config, **changes)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state_dict)


# What they keep: tensors; booleans and tensors; a tensor for a group.
@pytest.mark.parametrize("name", ["adamw", "muon", "lamb"])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path, monkeypatch, name: str) -> None:
    optimizer = OptimizerConfig(name, lr=1e-3, warmup_steps=1, ema_decay=0.5)
    whole = Trainer(small_config(optimizer=optimizer), tmp_path / "whole")
    assert whole.run()

    class PowerCutError(Exception):
        pass

    first = Trainer(small_config(checkpoint_every=3, optimizer=optimizer), tmp_path / "cut")
    step = first._step

    def cut(batch):
        if first.state.step == 3:
            raise PowerCutError
        return step(batch)

    monkeypatch.setattr(first, "_step", cut)
    with pytest.raises(PowerCutError):
        first.run()
    second = Trainer(small_config(optimizer=optimizer), tmp_path / "cut")
    assert second.state.step == 3
    assert second.run()
    expected, found = weights(whole.model_path), weights(second.model_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_losses_fall_on_a_few_frames(tmp_path: Path) -> None:
    config = small_config(steps=60)
    trainer = Trainer(config, tmp_path)
    assert trainer.run()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 10, 20, 30, 40, 50, 60]
    first, last = log[0]["losses"], log[-1]["losses"]
    assert set(first) == {"classification", "detection", "segmentation"}
    assert last["segmentation"] < 0.85 * first["segmentation"]
    assert sum(last.values()) < sum(first.values())


def test_a_loss_that_is_no_number_names_the_samples(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), tmp_path)
    with torch.no_grad():
        trainer.network.heads["segmentation"].predictor.bias.fill_(float("nan"))
    with pytest.raises(
        NonFiniteLossError, match=r"step 0: .*losses .*'segmentation': nan.* on the samples synthetic"
    ):
        trainer.run()
    record = json.loads((tmp_path / "non_finite.json").read_text())
    assert record["step"] == 0 and len(record["samples"]) == 2 and record["losses"]["segmentation"] == "nan"


@pytest.mark.parametrize("method", ["equal", "gradnorm"])
def test_a_gradient_that_is_no_number_is_not_trained_in(tmp_path: Path, method: str) -> None:
    trainer = Trainer(small_config(balancing=BalancingConfig(method), checkpoint_every=1), tmp_path)
    (first, *_) = trainer.network.heads["segmentation"].parameters()

    def break_second(gradient: torch.Tensor) -> torch.Tensor | None:
        return gradient * math.inf if trainer.state.step == 1 else None

    first.register_hook(break_second)
    with pytest.raises(
        NonFiniteLossError, match=r"step 1: the gradient is not finite; losses .* on the samples synthetic"
    ):
        trainer.run()
    record = json.loads((tmp_path / "non_finite.json").read_text())
    assert record["step"] == 1 and len(record["samples"]) == 2
    assert all(math.isfinite(float(value)) for value in record["losses"].values())
    assert all(parameter.isfinite().all() for parameter in trainer.network.parameters())
    assert Trainer(trainer.config, tmp_path).state.step == 1


def test_validation_needs_something_to_validate_on(tmp_path: Path, capsys) -> None:
    with pytest.raises(ValueError, match="validate_every is 2, but validate lists no data source"):
        small_config(validate_every=2)
    absent = SourceConfig("camvid", root=str(tmp_path / "none"), optional=True)
    trainer = Trainer(small_config(steps=2, validate=[absent], validate_every=1), tmp_path / "absent")
    assert trainer.run()
    assert trainer.state.best is None and not (tmp_path / "absent" / "best.safetensors").exists()
    assert "no source of validate has a score" in capsys.readouterr().out


def test_a_run_leaves_curves_pictures_and_the_checkpoints_it_was_asked_for(tmp_path: Path) -> None:
    config = small_config(
        validate=[SourceConfig("synthetic", split="test", frames=2)],
        validate_every=2,
        keep_every=3,
        image_every=4,
        optimizer=OptimizerConfig(
            name="sgd", schedule="multistep", milestones=(0.5,), warmup_steps=0, clip_norm=None, ema_decay=0
        ),
    )
    trainer = Trainer(config, tmp_path)
    # As a version left it that validated on nothing.
    trainer.state.best = (math.nan, 1)
    assert trainer.run()
    assert (tmp_path / "step_3.safetensors").is_file() and not (tmp_path / "step_4.safetensors").exists()
    assert cv2.imread(str(tmp_path / "curves.png")).shape[0] > 300
    assert trainer.state.best is not None and trainer.state.best[1] in (2, 4)
    best = load_checkpoint(tmp_path / "best.safetensors").provenance
    assert best["steps"] == trainer.state.best[1] and "mIoU, synthetic/test" in best["validation"]
    assert trainer.state.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {"losses/detection", "weights/segmentation", "run/lr", "validation/AP, synthetic/test"} <= set(
        board.Tags()["scalars"]
    )
    (picture,) = board.Images("labels and predictions/0")
    assert (picture.step, picture.width, picture.height) == (4, 2 * 64, 64)


def test_a_batch_in_parts_takes_the_step_of_the_whole(tmp_path: Path) -> None:
    # Segmentation is labelled everywhere, so the parts' means are the whole's.
    model = ModelSpec(neck=NeckSpec(channels=16), segmentation=SegmentationSpec(channels=16))
    phases = [PhaseConfig(2, 64, 64, 4, scale=(0.5, 0.5))]
    optimizer = OptimizerConfig(name="sgd", warmup_steps=0)
    whole = Trainer(small_config(model=model, phases=phases, optimizer=optimizer), tmp_path / "whole")
    parts = Trainer(
        small_config(model=model, phases=phases, optimizer=optimizer, accumulate=2), tmp_path / "parts"
    )
    assert whole.run() and parts.run()
    for name, value in weights(whole.model_path).items():
        torch.testing.assert_close(weights(parts.model_path)[name], value, rtol=1e-4, atol=1e-6)


# UPGrad goes back through the network once for each task.
@pytest.mark.parametrize("method", ["equal", "upgrad"])
@pytest.mark.parametrize(
    "backend",
    [
        # All that precedes the kernels, whose compilation takes minutes.
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                not os.environ.get("SLOW_TESTS"), reason="compiles for minutes: SLOW_TESTS=1 runs it"
            ),
        ),
    ],
)
def test_a_compiled_run_takes_the_steps_of_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, method: str
) -> None:
    compiled = []

    def compile_with(function, **options):
        compiled.append(function)
        return torch_compile(function, backend=backend, **options)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile_with)
    # Compiled dropout draws other numbers, and AdamW makes whole steps of gradients that are rounding alone.
    model = dataclasses.replace(
        small_config().model,
        backbone=BackboneSpec("test_convnext"),
        classification=ClassificationSpec({"weather": "driving_weather"}),
    )
    changes = {
        "model": model,
        "balancing": BalancingConfig(method),
        "phases": small_config().phases[:1],
        "optimizer": OptimizerConfig("sgd", lr=0.1, warmup_steps=0),
    }
    plain = Trainer(small_config(**changes), tmp_path / "plain")
    other = Trainer(small_config(**changes, compile=True), tmp_path / "compiled")
    assert len(compiled) == 2
    assert plain.run() and other.run()
    for name, value in weights(plain.model_path).items():
        torch.testing.assert_close(weights(other.model_path)[name], value, rtol=1e-3, atol=1e-5)


def test_compiling_on_a_cpu_without_a_compiler_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "run.yaml").write_text(config_yaml(small_config(compile=True)))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no_compiler")))
    arguments = ["train", str(tmp_path / "run.yaml"), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "needs a C++ compiler on a CPU and finds none: install g++" in capsys.readouterr().err


def test_a_full_disk_leaves_the_state_that_was_there(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), tmp_path)
    trainer.save()
    before = trainer.state_path.read_bytes()
    trainer.state.step = 7
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert trainer.state_path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "state.safetensors"]


def test_a_run_that_was_killed_has_each_row_once_and_leaves_no_half_file(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), tmp_path)
    trainer.run()
    whole = read_log(tmp_path / "log.jsonl")
    # Logged after the last state, and cut by the kill; the files are what it leaves of a state.
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps(whole[0] | {"step": 10}) + '\n{"step": 2')
    for name in (".state.safetensors.l0ht7mc9.partial", ".tmpQSY6f5"):
        (tmp_path / name).write_bytes(b"half")
    Trainer(small_config(), tmp_path).run()
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == whole
    assert not [*tmp_path.glob(".*")]


def test_a_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    Trainer(small_config(), tmp_path).save()
    with pytest.raises(CheckpointError, match=r"another configuration \(seed differ\)"):
        Trainer(small_config(seed=1), tmp_path)


def test_a_run_goes_on_under_other_settings_of_what_is_written(tmp_path: Path) -> None:
    Trainer(small_config(), tmp_path).save()
    other = small_config(
        validate=[SourceConfig("synthetic", split="test", frames=2)], validate_every=2, image_every=3
    )
    assert Trainer(other, tmp_path).state.step == 0


def test_a_state_from_before_a_key_existed_goes_on_where_that_has_its_default(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), tmp_path)
    trainer.state.step = 3
    trainer.save()
    older = json.loads(json.dumps(trainer._identity)) | {"validate": [], "validate_every": 0}
    del older["accumulate"], older["model"]["neck"]["separable"], older["train"][0]["fold"]
    save_state(trainer.state_path, trainer.state, older)
    assert Trainer(small_config(), tmp_path).state.step == 3
    with pytest.raises(CheckpointError, match=r"another configuration \(accumulate differ\)"):
        Trainer(small_config(accumulate=2), tmp_path)
    save_state(trainer.state_path, trainer.state, older | {"gone": 1})
    with pytest.raises(CheckpointError, match=r"another configuration \(.*gone"):
        Trainer(small_config(), tmp_path)


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("NO_SUCH_WEIGHTS", raising=False)
    for key in ("pretrained", "initial_weights"):
        with pytest.raises(ValueError, match=f"{key} is .*no environment variable NO_SUCH_WEIGHTS"):
            Trainer(small_config(**{key: "$NO_SUCH_WEIGHTS"}), tmp_path)


def test_sigterm_beside_the_steps_exits_with_0_and_loses_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {neck: {channels: 16}, segmentation: {channels: 16}}\n"
        "train: [{kind: synthetic, frames: 2}]\n"
        "evaluate: [{kind: synthetic, split: test, frames: 2}]\n"
        "phases: [{steps: 1, width: 64, height: 64, batch_size: 1}]\n"
        "input_width: 64\ninput_height: 64\nworkers: 0\n"
    )
    command = ["train", str(config), "--out", str(tmp_path / "out")]

    def terminated(*_args: object, **_kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    for place in ("trainer.open_source", "scoring.measure"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pvt_mtl_perception.training.{place}", terminated)
            assert main(command) == 0
        assert "the same command goes on from there" in capsys.readouterr().err
    before = weights(tmp_path / "out" / "model.safetensors")
    assert main(command) == 0
    assert "mIoU" in (tmp_path / "out" / "model.md").read_text()
    after = load_checkpoint(tmp_path / "out" / "model.safetensors")
    assert after.provenance["steps"] == 1 and after.provenance["scores"]["synthetic/test"]["images"] == 2
    assert all(torch.equal(value, after.state_dict[name]) for name, value in before.items())


def test_sigterm_saves_the_state_and_exits_with_0(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {neck: {channels: 16}, segmentation: {channels: 16}}\n"
        "train: [{kind: synthetic, frames: 2}]\n"
        "phases: [{steps: 100000, width: 64, height: 64, batch_size: 1}]\n"
        "workers: 1\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pvt_mtl_perception.cli", "train", str(config), "--out", str(out)]
    child = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said = ""
        # The bar skips numbers when steps are quick.
        while not re.search(r"\b(?:[3-9]|\d\d+)/100000", said):
            said += child.stderr.read(1)
            assert child.poll() is None, said
        # As service and cluster managers send it: to the workers, too.
        os.killpg(child.pid, signal.SIGTERM)
        # Ends when the last of the group has closed its standard error.
        _, rest = child.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, rest
    assert "the same command goes on from there" in rest
    resumed = Trainer(load_config(config), out)
    assert resumed.state.step >= 3
    assert os.path.getsize(out / "model.safetensors") > 1_000_000


def test_configurations_in_the_repository_load() -> None:
    paths = sorted((REPOSITORY / "config" / "training").glob("*.yaml"))
    assert paths
    for path in paths:
        assert load_config(path).total_steps > 0


def test_configuration_errors_name_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    text = f"extends: [{REPOSITORY / 'config' / 'training' / 'driving_b0.yaml'}]\n"
    path.write_text(text + "optimzer: {lr: 1}\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: .*optimzer.*did you mean optimizer"):
        load_config(path)
    path.write_text(text + "seed: many\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: .*seed"):
        load_config(path)
    path.write_text(text + "phases: [{step: 1, width: 64, height: 64, batch_size: 1}]\n")
    with pytest.raises(ValueError, match=r"(?s)phases.*'step' is not accepted; did you mean steps"):
        load_config(path)
    path.write_text(text + "train: [{kind: synthetic, frame: 4}]\n")
    with pytest.raises(ValueError, match=r"(?s)train.*'frame' is not accepted; did you mean frames"):
        load_config(path)
    path.write_text(text + "model: {detection: {chanels: 32}}\n")
    with pytest.raises(
        ValueError, match=r"bad\.yaml: model\.detection: 'chanels' is not accepted; did you mean channels"
    ):
        load_config(path)
    path.write_text(text + "affinity: {evry: 5}\n")
    with pytest.raises(ValueError, match=r"affinity: 'evry' is not accepted; did you mean every"):
        load_config(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"optimizer\.lrate.*did you mean optimizer\.lr"):
        load_config(path, ["--optimizer.lrate=0.1"])
    path.write_text("train: [{kind\n")
    with pytest.raises(ValueError, match=r"bad\.yaml is no YAML"):
        load_config(path)
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    changed = load_config(REPOSITORY / "config/training/driving_b0.yaml", ["--optimizer.lr", "0.5"])
    assert changed.optimizer.lr == 0.5


def test_an_optimizer_that_timm_lacks_is_named_with_those_near_it(tmp_path: Path) -> None:
    config = small_config(optimizer=OptimizerConfig(name="adamww"))
    with pytest.raises(ValueError, match=r"optimizer\.name is 'adamww'.*near it: adamw"):
        Trainer(config, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_device_that_is_absent_is_refused_in_plain_words(tmp_path: Path, capsys) -> None:
    config = str(REPOSITORY / "config" / "training" / "driving_b0.yaml")
    assert main(["train", config, "--out", str(tmp_path / "run"), "--device", "cuda"]) == 2
    assert "device 'cuda': torch" in capsys.readouterr().err


def test_a_configuration_builds_on_others_and_prints_whole(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(
        "model: {detection: {channels: 32}, segmentation: {channels: 32}}\n"
        "train: [{kind: synthetic, frames: 7, fraction: 0.5}]\n"
        "phases: [{steps: 5, width: 64, height: 64, batch_size: 2, scale: [0.9, 1.0]}]\n"
        "optimizer: {lr: 0.5}\n"
    )
    (tmp_path / "one_task.yaml").write_text("model: {segmentation: null}\noptimizer: {ema_decay: 0.5}\n")
    path = tmp_path / "run.yaml"
    path.write_text("extends: [data.yaml, one_task.yaml]\nseed: 4\n")
    config = load_config(path, ["--optimizer.lr=0.25"])
    assert config.model.tasks == ("detection",) and config.model.detection.channels == 32
    assert (config.seed, config.optimizer.lr, config.optimizer.ema_decay) == (4, 0.25, 0.5)
    (tmp_path / "printed.yaml").write_text(config_yaml(config))
    assert load_config(tmp_path / "printed.yaml") == config
    # A list is set as a whole: nothing of the base's items is left in its own.
    path.write_text(
        "extends: [run_before.yaml]\n"
        "train: [{kind: camvid, root: camvid, split: fit}]\n"
        "phases: [{steps: 1, width: 32, height: 32, batch_size: 1}]\n"
    )
    (tmp_path / "run_before.yaml").write_text("extends: [data.yaml, one_task.yaml]\nseed: 4\n")
    changed = load_config(path)
    assert changed.train == [SourceConfig("camvid", root="camvid", split="fit")]
    assert changed.phases == [PhaseConfig(steps=1, width=32, height=32, batch_size=1)]
    assert changed.optimizer == dataclasses.replace(config.optimizer, lr=0.5) and changed.seed == 4
    path.write_text("extends: [data.yaml]\nmodel: {backbone: {norm: frozen}}\n")
    with pytest.raises(ValueError, match=r"frozen.*needs the key pretrained or initial_weights"):
        load_config(path)
    path.write_text("extends: [run.yaml]\n")
    with pytest.raises(ValueError, match="extends itself"):
        load_config(path)
    path.write_text("extends: [data.yaml]\nmodel: {backbon: {name: x}}\n")
    with pytest.raises(ValueError, match=r"did you mean model\.backbone"):
        load_config(path)
    path.write_text("extends: [data.yaml]\nphases: [{steps: 1, width: 360, height: 64, batch_size: 1}]\n")
    with pytest.raises(ValueError, match="multiples of 32"):
        load_config(path)


def test_a_run_begins_with_the_tensors_of_a_checkpoint_that_fit(tmp_path: Path, capsys) -> None:
    first = Trainer(small_config(), tmp_path / "first")
    first.save()
    model = dataclasses.replace(first.config.model, neck=NeckSpec(channels=32))
    second = Trainer(
        small_config(model=model, initial_weights=str(first.model_path), seed=5), tmp_path / "second"
    )
    taken, own = first.network.state_dict(), second.network.state_dict()
    for key, value in own.items():
        if taken[key].shape == value.shape:
            assert torch.equal(value, taken[key]), key
    assert "begins at random" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="nothing"):
        Trainer(small_config(initial_weights=str(tmp_path / "nothing")), tmp_path / "third")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("--checkpoint_every=0", "checkpoint_every is 0; it must be at least 1"),
        ("--accumulate=0", "accumulate is 0; it must be at least 1"),
        ("--keep_every=-1", "keep_every is -1; it must be at least 0"),
        ("--phases=[]", "phases lists no phase"),
        ("--optimizer.ema_decay=1.5", "optimizer.ema_decay is 1.5; it is at least 0 and below 1"),
        ("--optimizer.warmup_steps=-1", "optimizer.warmup_steps is -1; it must be at least 0"),
        ("--phases=[{steps: 0, width: 64, height: 64, batch_size: 2}]", "phases: steps is 0; it must be at"),
    ],
)
def test_a_number_out_of_range_names_its_key(change: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_config(REPOSITORY / "config" / "training" / "driving_b0.yaml", [change])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("model: {neck: {channels: null}}", "model.neck.channels is null"),
        ("model: {backbone: 5}", "model.backbone is 5; it must be a mapping"),
        ("balancing: {weights: null}", "balancing.weights is null"),
        ("train: [{kind: synthetic, ratio: null}]", "train[0].ratio is null"),
        ("train: [{kind: synthetic, ratio: .nan}]", "ratio is positive, found nan"),
        ("train: [{kind: synthetic, frames: 0}]", "frames is at least 1, found 0"),
        ("train: [{kind: synthetic, frame_size: [-8, 8]}]", "frame_size is in pixels, found [-8, 8]"),
        ("train: [{kind: synthetic, scale: [0.5, .inf]}]", "scale is [0.5, inf]"),
        ("train: [{kind: synthetic, subset_seed: -1}]", "subset_seed is at least 0, found -1"),
        ("phases: [{steps: 1, width: 0, height: 64, batch_size: 2}]", "phases: width is 0"),
        (
            "phases: [{steps: 1, width: 64, height: 64, batch_size: 2, scale: [1, .inf]}]",
            "scale is [1.0, inf]",
        ),
        ("optimizer: {lr: .inf}", "optimizer.lr is inf; it must be at least 0 and finite"),
        ("optimizer: {clip_norm: .nan}", "optimizer.clip_norm is nan"),
        ("optimizer: {layer_decay: -0.5}", "optimizer.layer_decay is -0.5"),
        ("optimizer: {milestones: [0.5, 7]}", "optimizer.milestones has 7"),
        ("seed: -1", "seed is -1; it must be at least 0"),
        ("label_smoothing: .nan", "label_smoothing is nan"),
        ("scale_reference: [640, 0]", "scale_reference is [640, 0]"),
        ("augmentation: {photometric: .nan}", "augmentation.photometric is at least 0, found nan"),
        ("augmentation: {aspect_ratio: .inf}", "augmentation.aspect_ratio is at least 1, found inf"),
        ("input_width: 0", "input_width is 0; it must be at least 32"),
    ],
)
def test_a_value_that_a_file_cannot_have_names_its_key(tmp_path: Path, change: str, reason: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"extends: [{REPOSITORY / 'config' / 'training' / 'driving_b0.yaml'}]\n{change}\n")
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_config(path)
