"""Task relations in training: the numbers by hand, and a training that does not notice them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pvt_mtl_perception.data.collate import Batch
from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.model.spec import (
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.training import trainer as trainer_module
from pvt_mtl_perception.training.affinity import (
    TaskRelations,
    measure_relations,
    read_relations,
)
from pvt_mtl_perception.training.balancing.division import divide
from pvt_mtl_perception.training.config import (
    AffinityConfig,
    OptimizerConfig,
    PhaseConfig,
    TrainingConfig,
    config_yaml,
    load_config,
)
from pvt_mtl_perception.training.objective import labelled_tasks, task_losses
from pvt_mtl_perception.training.rows import keep_rows
from pvt_mtl_perception.training.trainer import Trainer, _seed_step

RATES = {"trunk": 0.05, "middle": 0.02}


class Tasks(nn.Module):
    """a uses the trunk; b and c the trunk and the middle; each has a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(5, 4)
        self.middle = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in "abc"})

    def forward(self, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
        low = self.trunk(x).tanh()
        high = self.middle(low).tanh()
        features = {"a": low, "b": high, "c": high}
        return {
            task: (self.heads[task](features[task])[:, 0] - targets[:, i]).square().mean()
            for i, task in enumerate("abc")
        }


@pytest.fixture
def tiny() -> tuple[Tasks, Tensor, Tensor]:
    torch.manual_seed(3)
    return Tasks().double(), torch.randn(6, 5).double(), torch.randn(6, 3).double()


def relations_of(network: Tasks, parts: list[tuple[Tensor, Tensor]]) -> TaskRelations:
    division = divide(list(network.parameters()), network(*parts[0]))

    def losses_of(replaced: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        for part in parts:
            losses = functional_call(network, dict(replaced), part)
            yield {task: loss / len(parts) for task, loss in losses.items()}

    rates = {p: RATES[name.split(".")[0]] for name, p in network.named_parameters() if "heads" not in name}
    return measure_relations(network, division, losses_of, rates)


def test_relations_are_those_of_autograd_and_plain_gradient_descent(tiny) -> None:
    network, x, targets = tiny
    found = relations_of(network, [(x, targets)])

    losses = network(x, targets)
    trunk, middle = list(network.trunk.parameters()), list(network.middle.parameters())

    def gradient(task: str, parameters: list[nn.Parameter]) -> Tensor:
        parts = torch.autograd.grad(losses[task], parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    # A pair is compared on what both depend on: with a that is the trunk alone.
    for pair, common in (("ab", trunk), ("ac", trunk), ("bc", trunk + middle)):
        first, second = (gradient(task, common) for task in pair)
        cosine = torch.nn.functional.cosine_similarity(first, second, dim=0)
        assert found.cosine[pair[0]][pair[1]] == pytest.approx(float(cosine), rel=1e-12)
        assert found.norm_ratio[pair[0]][pair[1]] == pytest.approx(
            float(first.norm() / second.norm()), rel=1e-12
        )
    assert {task: set(row) for task, row in found.cosine.items()} == {"a": {"b", "c"}, "b": {"c"}}

    for task in "abc":
        moved = copy.deepcopy(network)
        shared = [
            {"params": list(getattr(moved, name).parameters()), "lr": rate} for name, rate in RATES.items()
        ]
        moved(x, targets)[task].backward()
        torch.optim.SGD(shared).step()
        after = moved(x, targets)
        for other in "abc":
            expected = 1 - after[other].item() / losses[other].item()
            assert found.affinity[task][other] == pytest.approx(expected, rel=1e-9)
        assert found.affinity[task][task] > 0
        assert found.losses[task] == pytest.approx(losses[task].item(), rel=1e-12)


def test_a_step_in_parts_has_the_relations_of_the_whole(tiny) -> None:
    network, x, targets = tiny
    whole = relations_of(network, [(x, targets)])
    parts = relations_of(network, [(x[:3], targets[:3]), (x[3:], targets[3:])])
    for key in ("cosine", "norm_ratio", "affinity"):
        for task, row in getattr(whole, key).items():
            assert getattr(parts, key)[task] == pytest.approx(row, rel=1e-9), key


def test_a_task_without_a_gradient_has_no_pairs(tiny) -> None:
    network, x, targets = tiny
    nn.init.zeros_(network.heads["c"].weight)
    found = relations_of(network, [(x, targets)])
    assert set(found.cosine) == {"a"} and set(found.cosine["a"]) == {"b"}
    # The others still move what c is computed from, which its zero weights ignore.
    assert set(found.affinity) == {"a", "b"} and found.affinity["a"]["c"] == 0


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch) -> None:
    """Drawing them takes longer than the trainings here."""
    monkeypatch.setattr(trainer_module, "plot_curves", lambda log, picture: None)


def small_config(backbone: str, steps: int = 4, **changes) -> TrainingConfig:
    config = TrainingConfig(
        model=ModelSpec(
            backbone=BackboneSpec(backbone),
            neck=NeckSpec(channels=16),
            classification=ClassificationSpec({"weather": "driving_weather"}, dropout=0.2),
            detection=DetectionSpec(channels=16, num_convs=1),
            segmentation=SegmentationSpec(channels=16),
        ),
        train=[SourceConfig("synthetic", frames=4, frame_size=(96, 64))],
        phases=[PhaseConfig(steps, 64, 64, 2, scale=(0.3, 0.5))],
        optimizer=OptimizerConfig(lr=2e-3, warmup_steps=1, ema_decay=0.5, layer_decay=0.9),
        affinity=AffinityConfig(every=1),
        input_width=160,
        input_height=96,
        image_every=0,
        workers=0,
        checkpoint_every=100,
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(("backbone", "accumulate"), [("regnety_002", 2), ("test_resnet", 1)])
def test_a_training_that_is_measured_is_the_same_bit_for_bit(
    tmp_path: Path, backbone: str, accumulate: int
) -> None:
    # With BatchNorm, whose running statistics are part of the state, as are moments and averages.
    config = small_config(backbone, steps=2, accumulate=accumulate)
    config = dataclasses.replace(config, phases=[dataclasses.replace(config.phases[0], batch_size=4)])
    measured = Trainer(config, tmp_path / "measured")
    plain = Trainer(dataclasses.replace(config, affinity=None), tmp_path / "plain")
    assert measured.run() and plain.run()

    def state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, str]]:
        with safetensors.safe_open(trainer.state_path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118

    (expected, facts), (found, facts_found) = state(plain), state(measured)
    for part in ("network.backbone", "ema.", "optimizer."):
        assert any(name.startswith(part) for name in expected)
    assert any("running_mean" in name for name in expected)
    assert expected.keys() == found.keys() and facts == facts_found
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [row["step"] for row in read_relations(measured.affinity_path)] == [1, 2]
    assert not plain.affinity_path.exists()


def test_a_row_is_what_a_copy_of_the_network_shows_by_hand(tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer(small_config("test_convnext", steps=2, affinity=AffinityConfig(every=2)), tmp_path)
    kept: dict[str, object] = {}
    step = trainer._step

    def spy(batch: Batch):
        if trainer.state.step == 1:
            kept.update(batch=batch, network=copy.deepcopy(trainer.network).train())
            kept["row"] = step(batch)
            kept["rates"] = {
                id(p): group["lr"] for group in trainer.state.optimizer.param_groups for p in group["params"]
            }
            return kept["row"]
        return step(batch)

    monkeypatch.setattr(trainer, "_step", spy)
    assert trainer.run()
    (row,) = read_relations(trainer.affinity_path)
    assert row["step"] == 2 and row["lr"] == kept["row"]["lr"] == max(kept["rates"].values())
    assert len(set(kept["rates"].values())) > 2
    # The training's own losses of the step: the same dropout, the same statistics.
    assert row["losses"] == pytest.approx(kept["row"]["losses"], rel=1e-6)

    network, batch = kept["network"], kept["batch"]
    images = (batch.images.float() / 255 - trainer.mean) / trainer.std
    images = images.to(memory_format=torch.channels_last)

    def losses() -> dict[str, Tensor]:
        _seed_step(trainer.config.seed, 1, trainer.processes)
        return task_losses(network(images), batch, network)

    names = {id(p): name for name, p in trainer.network.named_parameters()}
    rates = {names[key]: rate for key, rate in kept["rates"].items()}
    shared = [(n, p) for n, p in network.named_parameters() if n.startswith(("backbone", "neck"))]
    before = losses()
    gradients = {
        task: torch.autograd.grad(loss, [p for _, p in shared], retain_graph=True, allow_unused=True)
        for task, loss in before.items()
    }
    for first, second in (
        ("classification", "detection"),
        ("classification", "segmentation"),
        ("detection", "segmentation"),
    ):
        pairs = zip(gradients[first], gradients[second], strict=True)
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        a, b = (torch.cat([gradient.flatten() for gradient in side]) for side in zip(*both, strict=True))
        assert row["cosine"][first][second] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
        assert row["norm_ratio"][first][second] == pytest.approx(float(a.norm() / b.norm()), rel=1e-5)
    values = {name: p.detach().clone() for name, p in shared}
    for task, slopes in gradients.items():
        with torch.no_grad():
            for (name, parameter), slope in zip(shared, slopes, strict=True):
                # The levels of the pyramid that detection alone uses are its own.
                users = sum(g[list(values).index(name)] is not None for g in gradients.values())
                if slope is not None and users > 1:
                    parameter -= rates[name] * slope
            after = losses()
            for name, parameter in shared:
                parameter.copy_(values[name])
        for other in before:
            expected = 1 - after[other].item() / before[other].item()
            assert row["affinity"][task][other] == pytest.approx(expected, rel=1e-2, abs=2e-6)


def test_a_run_cut_off_at_any_step_leaves_each_row_once(tmp_path: Path, monkeypatch) -> None:
    class PowerCutError(Exception):
        pass

    def rows(trainer: Trainer) -> list[dict]:
        lines = trainer.affinity_path.read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    config = small_config("test_convnext", checkpoint_every=2)
    whole = Trainer(config, tmp_path / "whole")
    assert whole.run()
    assert [row["step"] for row in rows(whole)] == [1, 2, 3, 4]
    for last in range(1, 4):
        first = Trainer(config, tmp_path / f"cut after {last}")
        measure = first._measure_affinity

        def cut(batch: Batch, first=first, measure=measure, last=last) -> float:
            seconds = measure(batch)
            if first.state.step == last:
                with first.affinity_path.open("a") as file:
                    file.write('{"step": 9, "cos')
                raise PowerCutError
            return seconds

        monkeypatch.setattr(first, "_measure_affinity", cut)
        with pytest.raises(PowerCutError):
            first.run()
        second = Trainer(config, first.out)
        assert second.state.step == last // 2 * 2
        assert second.run()
        assert rows(second) == rows(whole)


def test_a_batch_that_lacks_a_task_gives_no_row_for_its_pairs(tmp_path: Path, monkeypatch) -> None:
    config = small_config("test_convnext", steps=6)
    train = [
        dataclasses.replace(config.train[0], tasks=[task], ratio=ratio)
        for task, ratio in (("detection", 3.0), ("segmentation", 1.0))
    ]
    trainer = Trainer(dataclasses.replace(config, train=train), tmp_path)
    labelled: dict[int, set[str]] = {}
    step = trainer._step

    def spy(batch: Batch):
        labelled[trainer.state.step + 1] = labelled_tasks(batch)
        return step(batch)

    monkeypatch.setattr(trainer, "_step", spy)
    assert trainer.run()
    rows = {row["step"]: row for row in read_relations(trainer.affinity_path)}
    assert set(rows) == {step for step, present in labelled.items() if len(present) > 1}
    assert 0 < len(rows) < 6
    for row in rows.values():
        assert {task: list(others) for task, others in row["cosine"].items()} == {
            "detection": ["segmentation"]
        }
        assert set(row["affinity"]) == set(row["affinity"]["detection"]) == {"detection", "segmentation"}


def test_a_network_of_one_task_has_nothing_to_measure(tmp_path: Path) -> None:
    model = ModelSpec(backbone=BackboneSpec("test_convnext"), segmentation=SegmentationSpec(channels=16))
    trainer = Trainer(small_config("test_convnext", steps=1, model=model), tmp_path)
    assert trainer.run()
    assert not trainer.affinity_path.exists()


def test_rows_after_the_state_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "affinity.jsonl"
    keep_rows(path, 0)
    assert not path.exists()
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6)) + '{"st')
    keep_rows(path, 4)
    assert read_relations(path) == [{"step": 2}, {"step": 4}]


def test_the_configuration_says_how_often(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = (
        "model: {segmentation: {channels: 16}}\ntrain: [{kind: synthetic}]\n"
        "phases: [{steps: 1, width: 64, height: 64, batch_size: 1}]\n"
    )
    path.write_text(text)
    assert load_config(path).affinity is None
    changed = load_config(path, ["--affinity.every=5"])
    assert changed.affinity == AffinityConfig(5)
    (tmp_path / "printed.yaml").write_text(config_yaml(changed))
    assert load_config(tmp_path / "printed.yaml") == changed
    path.write_text(text + "affinity: {every: 0}\n")
    with pytest.raises(ValueError, match=r"affinity.every is 0; it must be at least 1"):
        load_config(path)
