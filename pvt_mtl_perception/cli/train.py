"""``pvt-mtl train``: one training run from a YAML configuration, resumed where it stopped."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SUMMARY = "train a model from a configuration; goes on where an earlier run in the same folder stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("config", type=Path, help="YAML file, for example config/training/driving_b0.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the configuration, for example optimizer.lr=0.0005; may be repeated",
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
    import torch

    from pvt_mtl_perception.model.checkpoint import load_checkpoint
    from pvt_mtl_perception.training.config import load_config
    from pvt_mtl_perception.training.scoring import model_card, score
    from pvt_mtl_perception.training.trainer import Trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    config = load_config(args.config, [f"--{change}" for change in args.set])
    provenance = {
        "command": " ".join(["pvt-mtl train", str(args.config), *(f"--set {change}" for change in args.set)]),
        "commit": _commit(),
    }
    trainer = Trainer(config, args.out, args.device, provenance)
    if not trainer.run():
        print(f"stopped at step {trainer.state.step}; the same command goes on from there", file=sys.stderr)
        return 0
    score(trainer.model_path, config.evaluate, args.device)
    card = args.out / "model.md"
    card.write_text(model_card(args.config.stem, load_checkpoint(trainer.model_path)))
    print(f"{trainer.model_path}\n{card}")
    return 0
