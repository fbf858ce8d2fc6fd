"""Scores of a finished run, written into its checkpoint, and the model card made from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pvt_mtl_perception.data.sources import SourceConfig, named_sources, open_source
from pvt_mtl_perception.evaluation.evaluator import measure
from pvt_mtl_perception.evaluation.report import main_scores
from pvt_mtl_perception.evaluation.run import own_taxonomy, with_mappings
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork, count_parameters


def score_sources(
    checkpoint: Checkpoint | Path,
    sources: Sequence[SourceConfig],
    device: str = "auto",
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Any]:
    """Evaluates a checkpoint on each source.

    CamVid is scored in its own 11 classes. A source that is optional and absent is left out.

    Args:
        checkpoint: with the same weights in all processes.
        sources: present or absent in all processes alike.
        device: of this process.
        rank, world_size: as in ``measure``: the processes share the work, and all get the scores.

    Returns:
        by name (``named_sources``), what ``evaluate`` returns.

    Raises:
        CheckpointError, FileNotFoundError: from the checkpoint and the sources.
    """
    predictor = Predictor(checkpoint, device=device)
    scores: dict[str, Any] = {}
    for name, source in named_sources(sources).items():
        data = open_source(source, with_mappings(predictor.labels))
        if data is None:
            if rank == 0:
                tqdm.write(f"{name}: no folder {source.root}; not scored")
            continue
        taxonomy = own_taxonomy(source, data.labels)
        metrics = measure(predictor, data, taxonomy, progress=rank == 0, rank=rank, world_size=world_size)
        scores[name] = metrics.scores()
    return scores


def store_scores(path: Path, scores: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint at ``path`` with the scores in its provenance, where they now are on disk, too."""
    checkpoint = load_checkpoint(path)
    scored = dataclasses.replace(checkpoint, provenance={**checkpoint.provenance, "scores": dict(scores)})
    save_checkpoint(path, scored)
    return scored


def summary(scores: dict[str, Any]) -> dict[str, float]:
    """The main score of each task and source, 0..1: AP, mIoU, and the accuracy of each label group.

    Args:
        scores: from ``score_sources``.
    """
    return {
        f"{name}, {source}": value
        for source, values in scores.items()
        for name, value in main_scores(values).items()
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _score_rows(scores: dict[str, Any]) -> list[str]:
    rows = ["| data | measure | value (%) |", "|---|---|---|"]
    for source, values in scores.items():
        where = f"{source} ({values['images']} images)"
        if segmentation := values.get("segmentation"):
            rows.append(f"| {where} | mIoU | {_percent(segmentation['miou'])} |")
        if detection := values.get("detection"):
            rows.append(f"| {where} | AP | {_percent(detection['ap'])} |")
            rows.append(f"| {where} | AP50 | {_percent(detection['ap50'])} |")
        for group, result in values.get("classification", {}).items():
            rows.append(f"| {where} | accuracy, {group} | {_percent(result['accuracy'])} |")
            rows.append(f"| {where} | balanced accuracy, {group} | {_percent(result['balanced_accuracy'])} |")
    return rows


def _class_rows(scores: dict[str, Any]) -> list[str]:
    rows = []
    for source, values in scores.items():
        for group, result in values.get("classification", {}).items():
            rows += [f"\n### Accuracy by class, {group}, {source}\n", "| class | accuracy (%) |", "|---|---|"]
            rows += [f"| {name} | {_percent(value)} |" for name, value in result["per_class"].items()]
        if segmentation := values.get("segmentation"):
            rows += [f"\n### IoU by class, {source}\n", "| class | IoU (%) |", "|---|---|"]
            rows += [f"| {name} | {_percent(iou)} |" for name, iou in segmentation["per_class"].items()]
        if detection := values.get("detection"):
            rows += [
                f"\n### AP by class, {source}\n",
                "| class | AP (%) | AP50 (%) | boxes |",
                "|---|---|---|---|",
            ]
            rows += [
                f"| {name} | {_percent(v['ap'])} | {_percent(v['ap50'])} | {v['boxes']} |"
                for name, v in detection["per_class"].items()
            ]
    return rows


def _origin(provenance: Mapping[str, Any]) -> str:
    config = provenance.get("config", {})
    if source := config.get("initial_weights"):
        return f"Began with the weights of {source}."
    if source := config.get("pretrained"):
        return f"The backbone began with weights from {source}."
    return "No outside weights."


def model_card(name: str, checkpoint: Checkpoint) -> str:
    """A checkpoint's model card in Markdown, from what its metadata hold.

    Args:
        name: title of the card.
        checkpoint: with ``scores`` in its provenance.
    """
    provenance = checkpoint.provenance
    counts = count_parameters(MultiTaskNetwork(checkpoint.spec, checkpoint.labels))
    size = checkpoint.preprocessing
    scores = provenance.get("scores", {})
    lines = [
        f"# {name}",
        "",
        f"{checkpoint.spec.backbone.name} with {checkpoint.spec.neck.type.upper()} and heads for "
        f"{', '.join(checkpoint.spec.tasks)}; {counts['total'] / 1e6:.2f} M parameters; "
        f"input {size.width}x{size.height}, letterboxed.",
        "",
        f"- Trained by `{provenance.get('command')}` at commit `{provenance.get('commit')}`, "
        f"seed {provenance.get('seed')}, {provenance.get('steps')} steps.",
        f"- Trained on: {', '.join(dict.fromkeys(provenance.get('trained_on', [])))}. {_origin(provenance)}",
        *(f"- {note}" for note in provenance.get("notes", [])),
        "",
        "## Labels",
        "",
    ]
    labels = checkpoint.labels
    for group, label_set in labels.classification.items():
        lines.append(f"- classification, {group}: {', '.join(label_set.names)}")
    if labels.detection:
        lines.append(f"- detection: {', '.join(labels.detection.names)}")
    if labels.segmentation:
        lines.append(f"- segmentation: {', '.join(labels.segmentation.names)}")
    lines += ["", "## Scores", "", *_score_rows(scores), *_class_rows(scores), ""]
    return "\n".join(lines)
