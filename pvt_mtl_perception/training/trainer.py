"""The training loop: batches to losses to weights, with progress, log, exact resume and clean stop."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from timm.optim._optim_factory import create_optimizer_v2, list_optimizers
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.func import functional_call
from torch.utils.data import DataLoader
from tqdm import tqdm

from pvt_mtl_perception.data.collate import Batch, Collator
from pvt_mtl_perception.data.mixture import Mixture, SampleSource, build_loader
from pvt_mtl_perception.data.sources import SourceConfig, open_source
from pvt_mtl_perception.data.transforms import training_transform
from pvt_mtl_perception.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    Preprocessing,
    load_checkpoint,
    save_checkpoint,
)
from pvt_mtl_perception.model.compiled import compiled
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.model.pretrained import load_backbone_weights
from pvt_mtl_perception.model.spec import load_task_labels
from pvt_mtl_perception.paths import remove_partial
from pvt_mtl_perception.training.affinity import append_relations, measure_relations
from pvt_mtl_perception.training.balancing import make_balancer
from pvt_mtl_perception.training.class_weights import class_frequencies, inverse_log_weights
from pvt_mtl_perception.training.config import OptimizerConfig, TrainingConfig, plain_config, run_identity
from pvt_mtl_perception.training.distributed import Processes, alone
from pvt_mtl_perception.training.log import RunLog, plot_curves
from pvt_mtl_perception.training.losses import mask_cross_entropy
from pvt_mtl_perception.training.objective import labelled_tasks, task_losses
from pvt_mtl_perception.training.pictures import labels_beside_predictions
from pvt_mtl_perception.training.rows import keep_rows
from pvt_mtl_perception.training.scoring import score_sources, summary
from pvt_mtl_perception.training.state import TrainingState, load_state, save_state
from pvt_mtl_perception.training.stopping import stop_requests


class NonFiniteLossError(RuntimeError):
    """A loss or gradient was not finite; the message names the losses and the batch's samples."""


def load_matching_weights(network: MultiTaskNetwork, path: str | Path) -> list[str]:
    """Copies a checkpoint's tensors where name and shape fit; the others keep their random values.

    Args:
        network: is changed.
        path: checkpoint, a path or ``hf://owner/name``.

    Returns:
        Lines that say how much was taken and what was not.

    Raises:
        FileNotFoundError: when there is no such file.
        CheckpointError: when ``path`` is not a checkpoint, or none of its tensors fits.
    """
    found = load_checkpoint(path).state_dict
    own = network.state_dict()
    fitting = {key: value for key, value in found.items() if key in own and value.shape == own[key].shape}
    if not fitting:
        raise CheckpointError(f"{path}: no tensor of it fits the configured model")
    network.load_state_dict(fitting, strict=False)
    return [
        f"initial weights: {len(fitting)} of {len(own)} tensors from {path}",
        *(f"initial weights: {key} begins at random" for key in own if key not in fitting),
    ]


def _expanded(key: str, value: str) -> str:
    """A configuration's value with environment variables in the place of their names.

    Raises:
        ValueError: for a variable that is not set, naming it and the key.
    """
    expanded = os.path.expandvars(value)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise ValueError(f"{key} is {value}, and there is no environment variable {unset[1]}")
    return expanded


def _optimizer(network: MultiTaskNetwork, config: OptimizerConfig) -> torch.optim.Optimizer:
    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        near = ", ".join(difflib.get_close_matches(config.name, known)) or ", ".join(known)
        raise ValueError(f"optimizer.name is {config.name!r}, which this timm does not have; near it: {near}")
    return create_optimizer_v2(
        network,
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
    )


def _scheduler(optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int) -> Any:
    after_warmup = max(1, steps - config.warmup_steps)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.schedule,
        num_epochs=after_warmup,
        decay_milestones=[round(part * after_warmup) for part in config.milestones],
        # timm takes the power of ``poly`` from the same argument.
        decay_rate=config.power if config.schedule == "poly" else 0.1,
        warmup_epochs=config.warmup_steps,
        warmup_lr=config.lr / 100,
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler


class Trainer:
    """One run in one folder.

    The folder holds ``state.safetensors`` (to resume from), ``model.safetensors`` (the averaged weights as a
    checkpoint), ``best.safetensors`` (of the best validation), ``step_<n>.safetensors`` (kept ones),
    ``log.jsonl`` (a line every ten steps), ``tensorboard/`` and, at the end, ``curves.png``; where samples
    were skipped, ``bad_samples.jsonl``; where it is asked for, ``affinity.jsonl``.

    Args:
        config: the run.
        out: the folder, made when absent; a state in it is resumed.
        processes: this process among those of the run; one process on the CPU when None.
        provenance: plain data for the checkpoint.

    Raises:
        CheckpointError: when the folder's state is damaged or of another configuration.
        FileNotFoundError, ValueError: from the data sources and the initial weights.
        ValueError: to compile on a CPU without a C++ compiler.
    """

    def __init__(
        self,
        config: TrainingConfig,
        out: Path,
        processes: Processes | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.out = out
        self.processes = processes or alone()
        self.device = self.processes.device
        self.provenance = dict(provenance or {})
        labels = load_task_labels(config.model)
        self.sources: list[tuple[SourceConfig, SampleSource]] = []
        for source in config.train:
            opened = open_source(source, labels)
            if opened is None:
                self._say(f"{source.kind}: no folder {source.root}; training without it")
            else:
                self.sources.append((source, opened))
        if not self.sources:
            raise ValueError("train lists no data source that is present")
        self.preprocessing = Preprocessing(config.input_height, config.input_width)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.processes.leads:
            remove_partial(self.out)
        torch.manual_seed(config.seed)
        self.network = self._new_network()
        optimizer = _optimizer(self.network, config.optimizer)
        decay = config.optimizer.ema_decay
        self.state = TrainingState(
            self.network,
            ModelEmaV3(self.network, decay=decay, use_warmup=True) if decay else None,
            optimizer,
            make_balancer(config.balancing, self.network, config.seed),
        )
        self.scheduler = _scheduler(optimizer, config.optimizer, config.total_steps)
        self.mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        self._plain_config = plain_config(config)
        self._identity = run_identity(self._plain_config)
        if self.state_path.is_file():
            load_state(self.state_path, self.state, self._identity)
        self.segmentation_class_weights = self._class_weights()
        self._forward: Callable[[Tensor, Sequence[str]], NetworkOutput] = self.network
        self._cross_entropy: Callable[..., Tensor] = mask_cross_entropy
        if config.compile:
            self._forward = compiled(self.network, self.device)
            self._cross_entropy = compiled(mask_cross_entropy, self.device)

    def _say(self, text: str) -> None:
        if self.processes.leads:
            tqdm.write(text)

    def _new_network(self) -> MultiTaskNetwork:
        config = self.config
        network = MultiTaskNetwork(config.model)
        if not self.state_path.is_file():
            if config.pretrained:
                source = _expanded("pretrained", config.pretrained)
                self._say(str(load_backbone_weights(network, source)))
            if config.initial_weights:
                path = _expanded("initial_weights", config.initial_weights)
                for line in load_matching_weights(network, path):
                    self._say(line)
        network.to(self.device)
        network.to(memory_format=torch.channels_last)
        return network

    def _class_weights(self) -> Tensor | None:
        segmentation = self.network.labels.segmentation
        if self.config.segmentation_class_weights == "none" or segmentation is None:
            return None
        frequencies = class_frequencies(
            [data for _, data in self.sources],
            [source.ratio for source, _ in self.sources],
            len(segmentation),
            on_bad_sample=self.config.on_bad_sample,
        )
        return inverse_log_weights(frequencies).to(self.device)

    @property
    def state_path(self) -> Path:
        """The file that a stopped run goes on from."""
        return self.out / "state.safetensors"

    @property
    def model_path(self) -> Path:
        """The checkpoint of the averaged weights."""
        return self.out / "model.safetensors"

    @property
    def affinity_path(self) -> Path:
        """How the tasks bore on each other, where the configuration asks for it."""
        return self.out / "affinity.jsonl"

    def _loader(self, number: int, done: int) -> DataLoader[Batch]:
        config = self.config
        phase = config.phases[number]
        width, height = config.scale_reference or (config.input_width, config.input_height)
        transforms = [
            training_transform(
                (phase.height, phase.width),
                scale=source.scale or phase.scale,
                reference_size=(height, width),
                augmentation=config.augmentation,
            )
            for source, _ in self.sources
        ]
        mixture = Mixture(
            sizes=tuple(len(data) for _, data in self.sources),
            ratios=tuple(source.ratio for source, _ in self.sources),
            batch_size=phase.batch_size,
            # Every phase draws its own order and augmentation.
            seed=config.seed + (number << 32),
            homogeneous=config.batches == "homogeneous",
        )
        labels = self.network.labels
        collator = Collator(
            detection_classes=len(labels.detection) if labels.detection else 0,
            groups={group: len(names) for group, names in labels.classification.items()},
        )
        return build_loader(
            [data for _, data in self.sources],
            transforms,
            mixture,
            collator,
            start_step=done,
            stop_step=phase.steps,
            workers=config.workers,
            pin_memory=self.device.type == "cuda",
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            on_bad_sample=config.on_bad_sample,
        )

    def _report_bad_samples(self, batch: Batch) -> None:
        with (self.out / "bad_samples.jsonl").open("a") as file:
            for bad in batch.bad_samples:
                kind = self.sources[bad.dataset][0].kind
                record = {"step": self.state.step, "source": kind, "sample": bad.sample, "error": bad.error}
                file.write(json.dumps(record) + "\n")
                tqdm.write(f"skipped: {bad.error}")

    def run(self) -> bool:
        """Trains to the last step.

        Returns:
            True when the run is complete and may be scored, False when SIGTERM stopped it, with its state
            saved.

        Raises:
            NonFiniteLossError: with the batch's sample names, which are also in ``non_finite.json``; the last
                state on disk is from before it.
            KeyboardInterrupt: after the step has been finished and the state saved.
        """
        config, state = self.config, self.state
        if config.affinity is not None and self.processes.leads:
            keep_rows(self.affinity_path, state.step)
        log = RunLog(self.out, config.total_steps, state.step, self.processes.leads)
        with log, stop_requests() as stop:
            first = 0
            for number, phase in enumerate(config.phases):
                last = first + phase.steps
                if state.step < last and not self._run_phase(number, first, log, stop):
                    break
                first = last
            else:
                self.save()
                if self.processes.leads:
                    plot_curves(self.out / "log.jsonl", self.out / "curves.png")
            stopped = self.processes.any(bool(stop))[0]
            if signal.SIGINT in stop:
                raise KeyboardInterrupt
        return not stopped

    def _run_phase(self, number: int, first: int, log: RunLog, stop: list[signal.Signals]) -> bool:
        """The steps of a phase that are left; False when it was stopped."""
        config, state = self.config, self.state
        started = time.perf_counter()
        for batch in self._loader(number, state.step - first):
            waited = time.perf_counter() - started
            if batch.bad_samples:
                self._report_bad_samples(batch)
            if config.affinity is not None and (state.step + 1) % config.affinity.every == 0:
                # The time of a step is that of the training.
                started += self._measure_affinity(batch)
            row = self._step(batch) | {"phase": number, "load_s": waited}
            row["step_s"] = time.perf_counter() - started
            log.step(row)
            if config.image_every and state.step % config.image_every == 0 and self.processes.leads:
                log.images(state.step, labels_beside_predictions(self.checkpoint(), batch))
            if config.keep_every and state.step % config.keep_every == 0 and self.processes.leads:
                save_checkpoint(self.out / f"step_{state.step}.safetensors", self.checkpoint())
            if config.validate_every and state.step % config.validate_every == 0:
                self._validate(log)
            if state.step % config.checkpoint_every == 0:
                self.save()
            if self.processes.any(bool(stop))[0]:
                self.save()
                return False
            started = time.perf_counter()
        return True

    def _step(self, batch: Batch) -> dict[str, Any]:
        config, state, processes = self.config, self.state, self.processes
        _seed_step(config.seed, state.step, processes)
        self.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        parts = batch.split(config.accumulate)
        for part in parts:
            for task, value in self._backward(part, 1 / len(parts)).items():
                values[task] = values.get(task, 0.0) + value / len(parts)
        try:
            weights = state.balancer.finish(processes.mean_ if processes.world_size > 1 else None)
        except FloatingPointError as error:
            self._stop_on_non_finite(values, batch.names, str(error))
        limit = config.optimizer.clip_norm
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), math.inf if limit is None else limit)
        )
        if not math.isfinite(norm):
            self._stop_on_non_finite(values, batch.names, "the gradient is not finite")
        self.scheduler.step_update(state.step)
        state.optimizer.step()
        state.step += 1
        if state.ema is not None:
            cast(ModelEmaV3, state.ema).update(self.network, step=state.step)
        return {
            "step": state.step,
            "losses": state.balancer.losses,
            "weights": weights,
            "grad_norm": norm,
            "lr": max(group["lr"] for group in state.optimizer.param_groups),
        }

    def _backward(self, batch: Batch, share: float) -> dict[str, float]:
        """Adds a part of a step to the gradients; the values of its losses."""
        losses = self._losses(batch, self._forward, self.config.precision)
        values = {task: float(loss.detach()) for task, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            self._stop_on_non_finite(values, batch.names)
        self.state.balancer.backward(losses, share)
        return values

    def _labelled_anywhere(self, batch: Batch) -> list[str]:
        """The tasks that any process has a label of, the same on all: they meet in the losses' divisors."""
        here = labelled_tasks(batch)
        present = self.processes.any(*(task in here for task in self.network.tasks))
        return [task for task, labelled in zip(self.network.tasks, present, strict=True) if labelled]

    def _losses(
        self, batch: Batch, forward: Callable[[Tensor, Sequence[str]], NetworkOutput], precision: str
    ) -> dict[str, Tensor]:
        """The loss of each labelled task in a part of a step."""
        tasks = self._labelled_anywhere(batch)
        if not tasks:
            return {}
        batch = batch.to(self.device, non_blocking=True)
        images = batch.images.to(memory_format=torch.channels_last).float().div_(255)
        images = images.sub_(self.mean).div_(self.std)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = forward(images, tasks)
        return task_losses(
            output,
            batch,
            self.network,
            self.config.label_smoothing,
            self.segmentation_class_weights,
            self.processes.share_of_total,
            self._cross_entropy,
        )

    def _measure_affinity(self, batch: Batch) -> float:
        """Writes how the tasks of the step that comes next bear on each other; the seconds that it took."""
        state, processes = self.state, self.processes
        started = time.perf_counter()
        if len(self._labelled_anywhere(batch)) < 2:
            return time.perf_counter() - started
        # What the step sets, too; gradients of the step before would only take memory.
        self.network.train()
        self.scheduler.step_update(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        parts = batch.split(self.config.accumulate)

        def losses_of(replaced: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
            _seed_step(self.config.seed, state.step, processes)
            # The statistics of BatchNorm move with every pass.
            buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}

            def forward(images: Tensor, tasks: Sequence[str]) -> NetworkOutput:
                output = functional_call(self.network, {**replaced, **buffers}, (images, tasks))
                return cast(NetworkOutput, output)

            for part in parts:
                # A step changes a loss by less than bfloat16 tells apart.
                losses = self._losses(part, forward, "fp32")
                yield {task: loss / len(parts) for task, loss in losses.items()}

        rates = {p: group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
        reduce = processes.mean_ if processes.world_size > 1 else None
        relations = measure_relations(self.network, state.balancer.division, losses_of, rates, reduce)
        seconds = time.perf_counter() - started
        # Otherwise the step itself ends the run, and says why.
        finite = all(map(math.isfinite, relations.losses.values()))
        if processes.leads and finite:
            append_relations(self.affinity_path, state.step + 1, max(rates.values()), seconds, relations)
        return seconds

    def _stop_on_non_finite(
        self, values: Mapping[str, float], names: tuple[str, ...], reason: str = "a loss is not finite"
    ) -> NoReturn:
        step = self.state.step
        record = {
            "step": step,
            "reason": reason,
            "losses": {task: str(value) for task, value in values.items()},
            "samples": list(names),
        }
        path = self.out / f"non_finite{f'_{self.processes.rank}' if self.processes.rank else ''}.json"
        path.write_text(json.dumps(record, indent=1))
        raise NonFiniteLossError(
            f"step {step}: {reason}; losses {dict(values)} on the samples {', '.join(names)} "
            f"(written to {path})"
        )

    def score(self, sources: Sequence[SourceConfig]) -> dict[str, Any]:
        """What ``score_sources`` returns of the averaged weights, the work shared among the processes."""
        checkpoint = self.checkpoint()
        # BatchNorm's statistics are each process's own; what is saved is the first one's.
        weights = self.processes.from_first(checkpoint.state_dict)
        checkpoint = dataclasses.replace(checkpoint, state_dict=weights)
        return score_sources(
            checkpoint, sources, str(self.device), self.processes.rank, self.processes.world_size
        )

    def _validate(self, log: RunLog) -> None:
        scores = summary(self.score(self.config.validate))
        mean = float(np.mean(list(scores.values()))) if scores else math.nan
        if math.isnan(mean):
            self._say(f"step {self.state.step}: no source of validate has a score for a task of the model")
            return
        if self.processes.leads:
            log.validation(self.state.step, scores)
        # Versions that averaged nothing left a NaN, which no score is above.
        if self.state.best is None or not mean <= self.state.best[0]:
            self.state.best = (mean, self.state.step)
            if self.processes.leads:
                checkpoint = self.checkpoint()
                provenance = {**checkpoint.provenance, "validation": scores}
                save_checkpoint(
                    self.out / "best.safetensors", dataclasses.replace(checkpoint, provenance=provenance)
                )

    def save(self) -> None:
        """Writes the state to resume from and the checkpoint of the averaged weights.

        Raises:
            OSError: from the file system; what was there before is then intact.
        """
        if self.processes.leads:
            save_state(self.state_path, self.state, self._identity)
            save_checkpoint(self.model_path, self.checkpoint())
        self.processes.wait()

    def checkpoint(self) -> Checkpoint:
        """The averaged weights with everything needed to use them."""
        ema = self.state.ema
        module = self.network if ema is None else cast(ModelEmaV3, ema).module
        return Checkpoint(
            spec=self.config.model,
            labels=self.network.labels,
            preprocessing=self.preprocessing,
            state_dict=module.state_dict(),
            provenance={
                **self.provenance,
                "config": self._plain_config,
                "seed": self.config.seed,
                "steps": self.state.step,
                "trained_on": [source.kind for source, _ in self.sources],
            },
        )


def _seed_step(seed: int, step: int, processes: Processes) -> None:
    """Dropout and stochastic depth of a step follow from seed, step and process alone."""
    value = int(np.random.SeedSequence([seed, step, processes.rank]).generate_state(1, np.uint64)[0])
    # torch.manual_seed also formats a stack trace for the GPU generators, which takes over a millisecond.
    torch.default_generator.manual_seed(value)
    if processes.device.type == "cuda":
        # A process alone may train on another GPU than torch's current one.
        with torch.cuda.device(processes.device):
            torch.cuda.manual_seed(value)
