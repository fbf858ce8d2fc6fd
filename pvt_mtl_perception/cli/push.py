"""Uploads a checkpoint with its model card to a Hugging Face repository, in one commit.

The repository is made where it does not exist. It holds the checkpoint as model.safetensors and the card as
README.md, and every --model argument then takes it as hf://OWNER/NAME. The text file beside the checkpoint
(model.md beside model.safetensors) is the card; without one it is written from the checkpoint's own metadata.
The hub wants a token that may write: `hf auth login`, or HF_TOKEN in the environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it loads torch, for which help does not wait
    from pvt_mtl_perception.model.checkpoint import Checkpoint

SUMMARY = "upload a checkpoint and its model card to the Hugging Face hub"

LICENSE = "apache-2.0"
LIBRARY = "pvt_mtl_perception"
PIPELINE_TAGS = {
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "classification": "image-classification",
}
"""The hub's name of each task; a model is listed under that of its first one here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the model's file")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, made where absent; default: main")


def run(args: argparse.Namespace) -> int:
    """Uploads the checkpoint and says where it is.

    Raises:
        FileNotFoundError, CheckpointError: for a file that is no usable checkpoint; nothing is uploaded then.
        HubError: when the hub cannot be reached or refuses.
    """
    from pvt_mtl_perception.model.checkpoint import build_network, load_checkpoint
    from pvt_mtl_perception.model.hub import CHECKPOINT_FILE, push_files
    from pvt_mtl_perception.training.scoring import model_card

    checkpoint = load_checkpoint(args.checkpoint)
    build_network(checkpoint, args.checkpoint)
    written = args.checkpoint.with_suffix(".md")
    text = written.read_text() if written.is_file() else model_card(args.repository, checkpoint)
    card = front_matter(checkpoint) + text
    files = {CHECKPOINT_FILE: args.checkpoint, "README.md": card.encode()}
    commit = push_files(args.repository, files, private=args.private, revision=args.revision)
    print(f"{commit}\nuse it as hf://{args.repository}{f'@{args.revision}' if args.revision else ''}")
    return 0


def front_matter(checkpoint: Checkpoint) -> str:
    """The block of YAML that the hub reads a model's licence, library and tasks from."""
    from huggingface_hub import ModelCardData

    spec = checkpoint.spec
    tasks = [PIPELINE_TAGS[task] for task in PIPELINE_TAGS if task in spec.tasks]
    data = ModelCardData(
        license=LICENSE,
        library_name=LIBRARY,
        pipeline_tag=tasks[0],
        tags=["multi-task-learning", "ros2", *tasks, spec.backbone.name, spec.neck.type],
    )
    return f"---\n{data.to_yaml()}\n---\n\n"
