"""ONNX files for other engines: the network with everything a user of it needs in the file's metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from pvt_mtl_perception import __version__
from pvt_mtl_perception.inference.backends.graph import export_graph
from pvt_mtl_perception.model.checkpoint import Checkpoint, build_network
from pvt_mtl_perception.paths import replaced

FORMAT = "pvt_mtl_perception.onnx/1"


def export_onnx(
    checkpoint: Checkpoint, path: Path, input_size: tuple[int, int] | None = None, source: str = "checkpoint"
) -> None:
    """Writes the checkpoint's network as an ONNX file with a dynamic batch.

    Its input is ``images``, float32 (batch, 3, height, width) RGB, normalised; its outputs are the logits
    named in ``graph.named_outputs``. Thresholds, box decoding and suppression are the caller's. The metadata
    has the keys of a checkpoint (spec, labels, preprocessing, provenance) as JSON.

    Args:
        checkpoint: what to export.
        path: of the file, which appears whole or not at all; its folder must exist.
        input_size: (height, width), multiples of 32; the checkpoint's when None.
        source: the checkpoint's name for messages.

    Raises:
        BackendUnavailableError: when onnx is not installed.
        CheckpointError: from ``build_network``.
        ValueError: for a size that is no multiple of 32.
        OSError: when the file cannot be written.
    """
    height, width = input_size or (checkpoint.preprocessing.height, checkpoint.preprocessing.width)
    model = export_graph(build_network(checkpoint, source), (height, width))
    model.producer_name, model.producer_version = "pvt_mtl_perception", __version__
    metadata = {
        "format": FORMAT,
        "spec": checkpoint.spec.to_dict(),
        "labels": checkpoint.labels.to_dict(),
        "preprocessing": asdict(replace(checkpoint.preprocessing, height=height, width=width)),
        "provenance": dict(checkpoint.provenance),
    }
    # The exporter leaves notes of its own.
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    with replaced(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
