"""Everything a run needs to go on where it stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from pvt_mtl_perception.model.checkpoint import CheckpointError, save_tensors_atomically
from pvt_mtl_perception.training.balancing.balancer import Balancer
from pvt_mtl_perception.training.config import run_identity


@dataclass
class TrainingState:
    """The moving parts of a run.

    Attributes:
        network: being trained.
        ema: the averaged copy of it, None for a run without one.
        optimizer: with its moments.
        balancer: with its memory.
        step: optimiser steps done.
        best: the best validation score so far, and the step it was reached at.
    """

    network: nn.Module
    ema: nn.Module | None
    optimizer: torch.optim.Optimizer
    balancer: Balancer
    step: int = 0
    best: tuple[float, int] | None = None


def save_state(path: Path, state: TrainingState, config: dict[str, Any]) -> None:
    """Writes weights, averaged weights, optimiser moments and the balancer's memory atomically.

    There is no random state among them: each step's random numbers follow from the run's seed and the step.

    Raises:
        OSError: from the file system; an earlier state at ``path`` is then intact.
    """
    # A clone a tensor: safetensors refuses tensors that share memory.
    tensors = {f"network.{k}": v.clone() for k, v in state.network.state_dict().items()}
    if state.ema is not None:
        tensors |= {f"ema.{k}": v.clone() for k, v in state.ema.state_dict().items()}
    tensors |= {f"balancer.{k}": v.clone() for k, v in state.balancer.state_dict().items()}
    metadata = {
        "step": str(state.step),
        "config": json.dumps(config),
        "optimizer": json.dumps(_packed(state.optimizer.state_dict(), "optimizer", tensors)),
        "best": json.dumps(state.best),
    }
    save_tensors_atomically(path, tensors, metadata)


def load_state(path: Path, state: TrainingState, config: dict[str, Any]) -> None:
    """Reads what ``save_state`` wrote into ``state``.

    Args:
        path: the file.
        state: is changed.
        config: what ``run_identity`` returns of the run that goes on.

    Raises:
        CheckpointError: when the file is damaged or belongs to another configuration, naming the keys.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete training state ({error})") from None
    missing = {"step", "config", "optimizer"} - set(metadata)
    if missing:
        raise CheckpointError(f"{path} lacks the metadata key {sorted(missing)[0]!r}: no training state")
    saved = run_identity(json.loads(metadata["config"]))
    different = sorted(k for k in {*saved, *config} if saved.get(k) != config.get(k))
    if different:
        raise CheckpointError(
            f"{path} was written under another configuration ({', '.join(different)} differ); "
            "choose another output folder or the same configuration"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    state.network.load_state_dict(part("network."))
    if state.ema is not None:
        state.ema.load_state_dict(part("ema."))
    state.balancer.load_state_dict(part("balancer."))
    state.optimizer.load_state_dict(_unpacked(json.loads(metadata["optimizer"]), tensors))
    # Moments lie in memory as their weights do, in channels-last: sums over them follow that order.
    for parameter, moments in state.optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    state.step = int(metadata["step"])
    best = json.loads(metadata.get("best", "null"))
    state.best = None if best is None else (float(best[0]), int(best[1]))


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """An optimiser's state as JSON: its tensors go into ``tensors``, numbers keep type and every bit.

    Raises:
        TypeError: for what neither JSON nor safetensors holds, naming it.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.clone()
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"mapping": [[key, _packed(each, f"{name}.{key}", tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_packed(each, f"{name}.{index}", tensors) for index, each in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"the optimiser keeps a {type(value).__name__} as {name}, which cannot be saved")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    return {key: _unpacked(each, tensors) for key, each in value["mapping"]}
