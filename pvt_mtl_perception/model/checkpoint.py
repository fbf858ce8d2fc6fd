"""The model's file: weights with spec, label sets, preprocessing and provenance in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.model.hub import resolve_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import ModelSpec, spec_from_dict
from pvt_mtl_perception.paths import replaced

FORMAT = "pvt_mtl_perception/1"
_KEYS = ("format", "spec", "labels", "preprocessing", "provenance")
_Value = TypeVar("_Value")


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: letterboxed to the top left, scaled to 0..1, normalised.

    Attributes:
        height, width: of the network's input in pixels, multiples of 32.
        mean, std: RGB, on the 0..1 scale; the defaults are ImageNet's.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.height < 32 or self.width < 32 or self.height % 32 or self.width % 32:
            raise ValueError(f"input size {self.width}x{self.height}: both must be multiples of 32")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every value must be above 0")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the node, the tools and the evaluator need of a model.

    Attributes:
        spec: what the network is made of.
        labels: label sets of its heads.
        preprocessing: how images become its input.
        state_dict: weights by parameter name.
        provenance: plain data on where it comes from: data, command, seed, commit, scores.
    """

    spec: ModelSpec
    labels: TaskLabels
    preprocessing: Preprocessing
    state_dict: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def save_tensors_atomically(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file so that ``path`` holds the old content or the new one, never a part.

    Raises:
        OSError: when the folder is missing or the disk is full; ``path`` is then as it was.
    """
    path = Path(path)
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replaced(path) as temporary:
            save_file(owned, temporary, metadata=dict(metadata))
    except safetensors.SafetensorError as error:
        # What the file system refuses comes out of safetensors as its own kind of error.
        raise OSError(f"{path} could not be written: {error}") from None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically.

    Raises:
        OSError: from the file system; an earlier file at ``path`` is then intact.
    """
    metadata = {
        "format": FORMAT,
        "spec": json.dumps(checkpoint.spec.to_dict()),
        "labels": json.dumps(checkpoint.labels.to_dict()),
        "preprocessing": json.dumps(asdict(checkpoint.preprocessing)),
        "provenance": json.dumps(checkpoint.provenance),
    }
    save_tensors_atomically(path, checkpoint.state_dict, metadata)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint and checks it against its own spec.

    Args:
        path: a file, or an address on the Hugging Face hub as in ``hub.resolve_checkpoint``.

    Raises:
        FileNotFoundError: when there is no such file.
        HubError: when the hub cannot be reached or lacks the file.
        CheckpointError: when it is no safetensors file, is truncated, lacks a metadata key, or one of them
            does not say what it should; the message names the file and the key.
    """
    path = resolve_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); {path.stat().st_size} bytes were found"
        ) from None
    for key in _KEYS:
        if key not in metadata:
            raise CheckpointError(
                f"{path} lacks the metadata key {key!r}: safetensors, but no checkpoint of pvt_mtl_perception"
            )
    if metadata["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {metadata['format']!r}; this version reads {FORMAT!r}")

    def read(key: str, value_from: Callable[[Any], _Value]) -> _Value:
        try:
            return value_from(json.loads(metadata[key]))
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}: metadata key {key!r} is not JSON ({error})") from None
        except KeyError as error:
            raise CheckpointError(f"{path}: metadata key {key!r} lacks {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: metadata key {key!r}: {error}") from None

    return Checkpoint(
        read("spec", spec_from_dict),
        read("labels", TaskLabels.from_dict),
        read("preprocessing", _preprocessing_from),
        state_dict,
        read("provenance", dict),
    )


def _preprocessing_from(data: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(int(data["height"]), int(data["width"]), tuple(data["mean"]), tuple(data["std"]))


def build_network(checkpoint: Checkpoint, source: str | Path = "checkpoint") -> MultiTaskNetwork:
    """The checkpoint's network with its weights, in eval mode on the CPU.

    Args:
        checkpoint: what ``load_checkpoint`` returned.
        source: the file's name for messages.

    Raises:
        CheckpointError: when a weight is missing, left over, or of another shape than the spec asks for.
    """
    try:
        network = MultiTaskNetwork(checkpoint.spec, checkpoint.labels)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None
    expected = network.state_dict()
    for name in expected:
        if name not in checkpoint.state_dict:
            raise CheckpointError(f"{source} disagrees with its spec: it has no weight {name!r}")
    for name, tensor in checkpoint.state_dict.items():
        if name not in expected:
            raise CheckpointError(f"{source} disagrees with its spec: weight {name!r} has no place in it")
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{source} disagrees with its spec: weight {name!r} has shape {tuple(tensor.shape)}, "
                f"the spec needs {tuple(expected[name].shape)}"
            )
    network.load_state_dict(dict(checkpoint.state_dict))
    return network.eval()
