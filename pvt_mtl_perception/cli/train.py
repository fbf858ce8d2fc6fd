"""``pvt-mtl train``: one training run from a YAML configuration, resumed where it stopped."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pvt_mtl_perception.cli.model_arguments import count

if TYPE_CHECKING:
    from pvt_mtl_perception.training.config import TrainingConfig

SUMMARY = "train a model from a configuration; goes on where an earlier run in the same folder stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("config", type=Path, help="YAML file, for example config/training/driving_b0.yaml")
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=count, default=None, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the configuration, for example optimizer.lr=0.0005; may be repeated",
    )
    parser.add_argument(
        "--pretrained",
        metavar="SOURCE",
        help="weights of the backbone: 'timm' fetches them, or a .safetensors or .pth file "
        "(the same as --set pretrained=SOURCE)",
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=["raise", "skip"],
        help="what to do when a sample cannot be read (the same as --set on_bad_sample=...)",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole configuration as YAML and end"
    )


def _commit() -> str | None:
    """The source checkout's commit; None outside one."""
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def run(args: argparse.Namespace) -> int:
    """Trains, then scores the averaged weights on the configuration's ``evaluate`` sources."""
    from pvt_mtl_perception.training.config import config_yaml, load_config
    from pvt_mtl_perception.training.stopping import TerminatedError, sigterm_raises

    changes = [*args.set, *([f"pretrained={args.pretrained}"] if args.pretrained else [])]
    if args.on_bad_sample:
        changes.append(f"on_bad_sample={args.on_bad_sample}")
    config = load_config(args.config, [f"--{change}" for change in changes])
    if args.print_config:
        print(config_yaml(config), end="")
        return 0
    if args.out is None:
        raise ValueError("--out is needed: the folder of the run")
    try:
        with sigterm_raises():
            _train(args, config, changes)
    except TerminatedError:
        print("stopped outside of the training steps; the same command goes on from there", file=sys.stderr)
    return 0


def _train(args: argparse.Namespace, config: TrainingConfig, changes: Sequence[str]) -> None:
    import torch

    from pvt_mtl_perception.paths import replaced
    from pvt_mtl_perception.training.distributed import join_processes
    from pvt_mtl_perception.training.scoring import model_card, store_scores
    from pvt_mtl_perception.training.trainer import Trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    provenance = {
        "command": " ".join(["pvt-mtl train", str(args.config), *(f"--set {change}" for change in changes)]),
        "commit": _commit(),
    }
    with join_processes(args.device) as processes:
        if processes.leads:
            of_several = f", process 1 of {processes.world_size}" if processes.world_size > 1 else ""
            print(f"training on {processes.device}{of_several}", file=sys.stderr)
        trainer = Trainer(config, args.out, processes, provenance)
        if not trainer.run():
            if processes.leads:
                print(
                    f"stopped at step {trainer.state.step}; the same command goes on from there",
                    file=sys.stderr,
                )
            return
        scores = trainer.score(config.evaluate)
    if processes.leads:
        card = args.out / "model.md"
        text = model_card(args.config.stem, store_scores(trainer.model_path, scores))
        with replaced(card) as temporary:
            temporary.write_text(text)
        print(f"{trainer.model_path}\n{card}\n{args.out / 'curves.png'}")
