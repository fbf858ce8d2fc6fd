"""The training loop: batches to losses to weights, with progress, log, exact resume and clean stop."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from timm.optim._optim_factory import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pvt_mtl_perception.data.camvid import CamVidDataset
from pvt_mtl_perception.data.collate import Batch, Collator
from pvt_mtl_perception.data.mixture import Mixture, SampleSource, build_loader
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import training_transform
from pvt_mtl_perception.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    Preprocessing,
    load_checkpoint,
    save_checkpoint,
)
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.training.class_weights import class_frequencies, inverse_log_weights
from pvt_mtl_perception.training.config import SourceConfig, TrainingConfig
from pvt_mtl_perception.training.losses import classification_loss, detection_loss, segmentation_loss
from pvt_mtl_perception.training.state import TrainingState, load_state, save_state


class NonFiniteLossError(RuntimeError):
    """A loss was not a number or infinite; the message names the losses and the batch's samples."""


def open_source(source: SourceConfig) -> SampleSource | None:
    """The data set of a source; None where it is optional and absent.

    Raises:
        FileNotFoundError: when the data set's folder is absent and the source is not optional.
        ValueError: for a split the reader does not have.
    """
    if source.kind == "synthetic":
        return SyntheticDataset(cast(Any, source.split), size=source.frames, keep=source.split == "train")
    if source.root is None:
        raise ValueError(f"data source {source.kind!r} needs the key 'root'")
    root = Path(os.path.expandvars(source.root))
    if source.optional and not root.is_dir():
        return None
    return CamVidDataset(root, split=cast(Any, source.split))


def task_losses(
    output: NetworkOutput,
    batch: Batch,
    network: MultiTaskNetwork,
    label_smoothing: float = 0.0,
    segmentation_class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss of each task the output holds, a scalar each."""
    losses: dict[str, Tensor] = {}
    if output.classification is not None:
        losses["classification"] = classification_loss(output.classification, batch.classes, label_smoothing)
    if output.detection is not None and network.spec.detection is not None:
        parts = detection_loss(
            output.detection,
            batch.boxes,
            batch.box_labels,
            batch.ignore_boxes,
            batch.detection_labelled,
            network.spec.detection,
        )
        losses["detection"] = torch.stack(list(parts.values())).sum()
    if output.segmentation is not None and network.labels.segmentation is not None:
        losses["segmentation"] = segmentation_loss(
            output.segmentation,
            batch.masks,
            network.labels.segmentation.ignore_index,
            segmentation_class_weights,
        )
    return losses


def load_matching_weights(network: MultiTaskNetwork, path: str | Path) -> list[str]:
    """Copies a checkpoint's tensors where name and shape fit; the others keep their random values.

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


@contextmanager
def _stop_on_sigterm() -> Iterator[list[bool]]:
    """Yields a list that becomes non-empty when SIGTERM arrives."""
    asked: list[bool] = []

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.append(True)

    previous = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)


class Trainer:
    """One run in one folder.

    The folder holds ``state.safetensors`` (to resume from), ``model.safetensors`` (the averaged weights as a
    checkpoint) and ``log.jsonl`` (a line every ten steps).

    Args:
        config: the run.
        out: the folder, made when absent; a state in it is resumed.
        device: torch device.
        provenance: plain data for the checkpoint.

    Raises:
        CheckpointError: when the folder's state is damaged or of another configuration.
        FileNotFoundError, ValueError: from the data sources.
    """

    def __init__(
        self,
        config: TrainingConfig,
        out: Path,
        device: str = "cpu",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.out = out
        self.device = torch.device(device)
        self.provenance = dict(provenance or {})
        self.sources: list[tuple[SourceConfig, SampleSource]] = []
        for source in config.train:
            opened = open_source(source)
            if opened is None:
                tqdm.write(f"{source.kind}: no folder {source.root}; training without it")
            else:
                self.sources.append((source, opened))
        if not self.sources:
            raise ValueError("train lists no data source that is present")
        self.preprocessing = Preprocessing(config.input_height, config.input_width)
        self.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.network = MultiTaskNetwork(config.model).to(self.device)
        if config.initial_weights and not self.state_path.is_file():
            for line in load_matching_weights(self.network, os.path.expandvars(config.initial_weights)):
                tqdm.write(line)
        self.segmentation_class_weights: Tensor | None = None
        if config.segmentation_class_weights == "inverse_log" and self.network.labels.segmentation:
            frequencies = class_frequencies(
                [data for _, data in self.sources],
                [source.ratio for source, _ in self.sources],
                len(self.network.labels.segmentation),
            )
            self.segmentation_class_weights = inverse_log_weights(frequencies).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        optimizer = create_optimizer_v2(
            self.network,
            opt="adamw",
            lr=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
        )
        ema = ModelEmaV3(self.network, decay=config.optimizer.ema_decay, use_warmup=True)
        self.state = TrainingState(self.network, ema, optimizer)
        self.scheduler = CosineLRScheduler(
            optimizer,
            t_initial=max(1, config.total_steps - config.optimizer.warmup_steps),
            warmup_t=config.optimizer.warmup_steps,
            warmup_lr_init=config.optimizer.lr / 100,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self.mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        self._plain_config = json.loads(json.dumps(dataclasses.asdict(config)))
        if self.state_path.is_file():
            load_state(self.state_path, self.state, self._resume_key())

    @property
    def state_path(self) -> Path:
        """The file that a stopped run goes on from."""
        return self.out / "state.safetensors"

    @property
    def model_path(self) -> Path:
        """The checkpoint of the averaged weights."""
        return self.out / "model.safetensors"

    def _resume_key(self) -> dict[str, Any]:
        # What changes neither weights nor data order may differ between a run and its continuation.
        free = {"workers", "checkpoint_every", "evaluate"}
        return {k: v for k, v in self._plain_config.items() if k not in free}

    def _loader(self, number: int, done: int) -> DataLoader[Batch]:
        config = self.config
        phase = config.phases[number]
        transform = training_transform(
            (phase.height, phase.width),
            scale=phase.scale,
            reference_size=(config.input_height, config.input_width),
        )
        mixture = Mixture(
            sizes=tuple(len(data) for _, data in self.sources),
            ratios=tuple(source.ratio for source, _ in self.sources),
            batch_size=phase.batch_size,
            # Every phase draws its own order and augmentation.
            seed=config.seed + (number << 32),
        )
        labels = self.network.labels
        collator = Collator(
            detection_classes=len(labels.detection) if labels.detection else 0,
            groups={group: len(names) for group, names in labels.classification.items()},
        )
        return build_loader(
            [data for _, data in self.sources],
            transform,
            mixture,
            collator,
            start_step=done,
            stop_step=phase.steps,
            workers=config.workers,
            pin_memory=self.device.type == "cuda",
        )

    def run(self) -> bool:
        """Trains to the last step.

        Returns:
            True when the run is complete, False when SIGTERM ended it early, with its state saved.

        Raises:
            NonFiniteLossError: with the batch's sample names; the last state on disk is from before it.
            KeyboardInterrupt: after the state has been saved.
        """
        config = self.config
        log = (self.out / "log.jsonl").open("a", buffering=1)
        bar = tqdm(total=config.total_steps, initial=self.state.step, unit="step", dynamic_ncols=True)
        with log, bar, _stop_on_sigterm() as stop:
            try:
                first = 0
                for number, phase in enumerate(config.phases):
                    last = first + phase.steps
                    if self.state.step < last:
                        loader = self._loader(number, self.state.step - first)
                        started = time.perf_counter()
                        for batch in loader:
                            waited = time.perf_counter() - started
                            row = self._step(batch)
                            row |= {"phase": number, "load_s": waited}
                            row["step_s"] = time.perf_counter() - started
                            bar.update()
                            if self.state.step % 10 == 0:
                                log.write(json.dumps(row) + "\n")
                                bar.set_postfix(
                                    {k: f"{v:.3f}" for k, v in row["losses"].items()}, refresh=False
                                )
                            if self.state.step % config.checkpoint_every == 0:
                                self.save()
                            if stop:
                                self.save()
                                return False
                            started = time.perf_counter()
                    first = last
            except KeyboardInterrupt:
                self.save()
                raise
        self.save()
        return True

    def _step(self, batch: Batch) -> dict[str, Any]:
        config, state = self.config, self.state
        batch = batch.to(self.device, non_blocking=True)
        images = batch.images.to(memory_format=torch.channels_last).float().div_(255)
        images = images.sub_(self.mean).div_(self.std)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output = self.network(images)
        losses = task_losses(
            output, batch, self.network, config.label_smoothing, self.segmentation_class_weights
        )
        weights = config.task_weights
        total = torch.stack([weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
        values = {task: float(loss.detach()) for task, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLossError(
                f"step {state.step}: losses {values} on the samples {', '.join(batch.names)}"
            )
        state.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.optimizer.clip_norm)
        self.scheduler.step_update(state.step)
        state.optimizer.step()
        state.step += 1
        cast(ModelEmaV3, state.ema).update(self.network, step=state.step)
        return {
            "step": state.step,
            "losses": values,
            "grad_norm": float(norm),
            "lr": state.optimizer.param_groups[0]["lr"],
        }

    def save(self) -> None:
        """Writes the state to resume from and the checkpoint of the averaged weights.

        Raises:
            OSError: from the file system; what was there before is then intact.
        """
        save_state(self.state_path, self.state, self._resume_key())
        save_checkpoint(self.model_path, self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        """The averaged weights with everything needed to use them."""
        module = cast(ModelEmaV3, self.state.ema).module
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
