"""Weights of a backbone from elsewhere: timm's hub, files of timm or of the PVT authors, own checkpoints."""

from __future__ import annotations

import argparse
import inspect
import json
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv, model_entrypoint
from torch import Tensor

from pvt_mtl_perception.model.checkpoint import CheckpointError
from pvt_mtl_perception.model.hub import HubError, fetch_file, resolve_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork

TIMM = "timm"
TIMM_HUB_PREFIX = "hf-hub:"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
MIN_FIT = 0.9
"""Share of the backbone's tensors below which a file is taken for another model's."""

# In the order in which training scripts prefer them: averaged weights first.
_NESTED_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model")
_OWN_PREFIX = "backbone.body."
_PREFIXES = ("module.", _OWN_PREFIX, "backbone.")
# Candidates for what a file is that does not fit.
_KNOWN = (*(f"pvt_v2_b{n}" for n in (0, 1, 2, 3, 4, 5)), "pvt_v2_b2_li", "regnety_002", "regnety_004",
          "regnety_008", "regnety_016", "regnety_032", "resnet18", "resnet50", "swin_tiny_patch4_window7_224",
          "convnext_tiny")  # fmt: skip
_LISTED = 6


@dataclass(frozen=True)
class LoadReport:
    """What became of a source's weights; its text is a list to be printed.

    Attributes:
        source: where the weights came from.
        loaded: names of the backbone's tensors that were set, resized ones included.
        resized: of them those whose shape was adapted, with both shapes in words.
        skipped: keys of the source that were left out, with the reason.
        missing: names of the backbone's tensors that the source lacks; they keep their values.
    """

    source: str
    loaded: tuple[str, ...]
    resized: Mapping[str, str]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors of the backbone loaded"]
        for name, shapes in self.resized.items():
            lines.append(f"  resized {name}: {shapes}")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(key)
        for reason, keys in reasons.items():
            lines.append(f"  skipped {len(keys)} ({reason}): {_some(sorted(keys))}")
        if self.missing:
            lines.append(f"  missing {len(self.missing)}, as initialised: {_some(self.missing)}")
        return "\n".join(lines)


def load_backbone_weights(network: MultiTaskNetwork, source: str | Path) -> LoadReport:
    """Sets the backbone's weights from a source; neck and heads keep theirs.

    Args:
        network: whose backbone is set in place.
        source: ``timm`` (the weights that timm names for the backbone, from the hub),
            ``hf-hub:owner/name`` (a timm model on the hub), ``hf://owner/name[@revision][/file]``, or a
            ``.safetensors`` or ``.pth`` file in the layout of timm, of the architecture's authors, of a
            detector or segmenter built on it (keys under ``backbone.``), or of this package's checkpoints.

    Raises:
        FileNotFoundError: when there is no such file.
        HubError: when the hub is needed and cannot be reached, or lacks the model.
        CheckpointError: when the file cannot be read without running code in it, or is another
            architecture's; the message says which model it looks like.
    """
    name = network.spec.backbone.name
    weights, described = _fetch(str(source), name)
    body: Any = network.backbone.body
    target: dict[str, Tensor] = body.state_dict()
    fitted = _fit(weights, name, target)
    counted = [key for key in target if not key.endswith("num_batches_tracked")]
    missing = tuple(key for key in counted if key not in fitted.values)
    share = 1 - len(missing) / len(counted)
    if share < MIN_FIT:
        raise CheckpointError(
            f"{described} is not for {name}: it has {len(counted) - len(missing)} of the {len(counted)} "
            f"tensors; {_looks_like(weights, name)}"
        )
    body.load_state_dict(fitted.values, strict=False)
    return LoadReport(described, tuple(fitted.values), fitted.resized, fitted.skipped, missing)


def _fetch(source: str, name: str) -> tuple[Mapping[str, Tensor], str]:
    """A source's tensors, outer layers taken off, and the source in words."""
    if source == TIMM:
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.hf_hub_id:
            known = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}*")) or "none of this family"
            raise ValueError(f"timm has no weights for {name!r} on the hub; it has: {known}")
        try:
            return _read(resolve_checkpoint(f"hf://{config.hf_hub_id}")), f"hf://{config.hf_hub_id}"
        except HubError as error:
            raise HubError(f"timm's weights of {name}: {error}") from None
    if source.startswith(TIMM_HUB_PREFIX):
        repository, _, revision = source.removeprefix(TIMM_HUB_PREFIX).partition("@")
        described = json.loads(fetch_file(repository, "config.json", revision or None).read_text())
        if described.get("architecture") != name.partition(".")[0]:
            raise CheckpointError(f"{source} is {described.get('architecture')}; backbone.name is {name}")
        source = source.replace(TIMM_HUB_PREFIX, "hf://", 1)
    return _read(resolve_checkpoint(source)), source


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}; a source is {TIMM!r}, hf-hub:owner/name, hf://owner/name or a file"
        )
    if path.suffix == ".safetensors":
        try:
            return _unwrapped(load_file(path))
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path} is not a complete safetensors file ({error})") from None
    if path.suffix not in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: weights are read from .safetensors and {', '.join(PICKLE_SUFFIXES)}")
    try:
        # Training scripts leave their parsed arguments beside the weights; the class holds plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        try:
            blocked = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except ValueError:  # not a file of today's torch.save
            raise CheckpointError(f"{path} holds more than tensors, or is damaged ({error})") from None
        raise CheckpointError(
            f"{path} holds Python objects besides tensors ({blocked}), which is not read because loading "
            "them runs code; save its state_dict alone"
        ) from None
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is not a complete PyTorch file ({error})") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a mapping of names to tensors")
    return _unwrapped(content)


def _unwrapped(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The innermost mapping of names to tensors, without the prefix of a wrapper or of a larger network."""
    for key in _NESTED_UNDER:
        if isinstance(content.get(key), Mapping):
            return _unwrapped(content[key])
    weights = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


@dataclass(frozen=True)
class _Fitted:
    values: dict[str, Tensor]
    resized: dict[str, str]
    skipped: dict[str, str]


def _fit(weights: Mapping[str, Tensor], name: str, target: Mapping[str, Tensor]) -> _Fitted:
    """The tensors that have a place in ``target``, which is the state of a timm model or of its features."""
    model = _on_meta(name)
    config: Mapping[str, Any] = model.pretrained_cfg
    converted = _converted(weights, name, model)
    first_conv = {f"{layer}.weight" for layer in _as_tuple(config.get("first_conv"))}
    classifier = tuple(f"{layer}." for layer in _as_tuple(config.get("classifier")))
    fitted = _Fitted({}, {}, {})
    for key, tensor in converted.items():
        places = (key, key.replace(".", "_", 1), f"model.{key}")
        place = next((p for p in places if p in target), None)
        if place is None:
            reason = "classifier" if key.startswith(classifier) else "not in the backbone"
            fitted.skipped[key] = "counter" if key.endswith("num_batches_tracked") else reason
            continue
        shape = target[place].shape
        before = weights[key].shape if key in weights else tensor.shape
        if tensor.ndim == 4 and key in first_conv and tensor.shape[1] != shape[1]:
            tensor = adapt_input_conv(shape[1], tensor, base_chans=tensor.shape[1])
        if tensor.shape != shape:
            fitted.skipped[key] = f"shape {tuple(tensor.shape)} for {tuple(shape)}"
            continue
        fitted.values[place] = tensor
        if before != shape:
            fitted.resized[place] = f"{tuple(before)} to {tuple(shape)}"
    return fitted


@cache
def _on_meta(name: str) -> Any:
    """The whole timm model without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def _converted(weights: Mapping[str, Tensor], name: str, model: Any) -> Mapping[str, Tensor]:
    """The keys in timm's names, by the conversion that timm has for the architecture's other layouts."""
    module = sys.modules[model_entrypoint(name).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return weights
    arguments = (dict(weights), model)[: len(inspect.signature(convert).parameters)]
    try:
        converted: Mapping[str, Tensor] = convert(*arguments)
    except (KeyError, IndexError, ValueError, RuntimeError):
        # A conversion may rely on keys that another architecture's file lacks.
        return weights
    return converted


def _looks_like(weights: Mapping[str, Tensor], name: str) -> str:
    """Which model the tensors would fit, in words."""
    for candidate in _KNOWN:
        if candidate != name.partition(".")[0]:
            state = _on_meta(candidate).state_dict()
            if len(_fit(weights, candidate, state).values) >= MIN_FIT * len(state):
                return f"it looks like {candidate}"
    return f"it looks like no model known here; its first keys are {', '.join(list(weights)[:3]) or 'none'}"


def _as_tuple(value: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
