"""What a mask that was trained with class weights gains when they are taken back.

``python benchmarks/class_weights.py CHECKPOINT CONFIG.yaml [--powers 0 0.5 1] [--base-seed 777]``

A loss with weights w teaches posteriors multiplied by w, so that the mask's likeliest class claims too many
pixels for rare ones. ``logits - power * ln w`` takes that back (Menon et al. 2021, eq. 9, with weights in the
place of priors): power 0 is the checkpoint as it is, 1 what a loss without weights would have taught. The
weights are those that ``segmentation_class_weights: inverse_log`` makes of CONFIG's training sources, and
CONFIG's ``evaluate`` sources are scored. With ``--base-seed`` synthetic ones are scenes of the training split
from that seed on, so that a power can be chosen without the test's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from pvt_mtl_perception.data.sources import SourceConfig, named_sources, open_source
from pvt_mtl_perception.evaluation.run import evaluate_source
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import Checkpoint, load_checkpoint
from pvt_mtl_perception.training.class_weights import class_frequencies, inverse_log_weights
from pvt_mtl_perception.training.config import load_config

BIAS = "heads.segmentation.predictor.bias"


def without_weights(checkpoint: Checkpoint, weights: torch.Tensor, power: float) -> Checkpoint:
    """The checkpoint with ``power * ln weights`` taken from its mask's logits."""
    tensors = dict(checkpoint.state_dict)
    tensors[BIAS] = tensors[BIAS] - power * weights.log()
    return replace(checkpoint, state_dict=tensors)


def training_weights(checkpoint: Checkpoint, sources: Sequence[SourceConfig]) -> torch.Tensor:
    """(classes,), of a configuration's training sources.

    Raises:
        ValueError: when no source that is present has masks.
    """
    opened = [(open_source(source, checkpoint.labels), source.ratio) for source in sources]
    present = [(data, ratio) for data, ratio in opened if data is not None]
    assert checkpoint.labels.segmentation is not None
    return inverse_log_weights(
        class_frequencies(
            [data for data, _ in present],
            [ratio for _, ratio in present],
            len(checkpoint.labels.segmentation),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="the model's file or hf://owner/name[@revision]")
    parser.add_argument("config", help="training configuration")
    parser.add_argument("--powers", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--base-seed", type=int, help="score the training split's scenes from this seed on")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")
    args = parser.parse_args()
    checkpoint, config = load_checkpoint(args.checkpoint), load_config(args.config)
    if BIAS not in checkpoint.state_dict:
        parser.error(f"{args.checkpoint} has no segmentation head")
    weights = training_weights(checkpoint, config.train)
    sources = [
        replace(source, split="train", base_seed=args.base_seed)
        if source.kind == "synthetic" and args.base_seed is not None
        else source
        for source in config.evaluate
    ]
    predictors = [
        Predictor(without_weights(checkpoint, weights, power), args.device) for power in args.powers
    ]
    for name, source in named_sources(replace(one, tasks=["segmentation"]) for one in sources).items():
        scored = [evaluate_source(predictor, source) for predictor in predictors]
        found = [one.clean.scores["segmentation"] for one in scored if one is not None]
        if not found:
            print(f"{name}: no folder {source.root}; not scored")
            continue
        print(f"| {name}, IoU % | {' | '.join(f'power {power:g}' for power in args.powers)} |")
        print("| --- |" + " ---: |" * len(found))
        rows = {"mean": [one["miou"] for one in found]}
        rows |= {label: [one["per_class"][label] for one in found] for label in found[0]["per_class"]}
        for row, values in rows.items():
            cells = ("" if value is None else f"{value * 100:.1f}" for value in values)
            print(f"| {row} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main()
