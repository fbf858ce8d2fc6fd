"""What a multi-task training step costs beside three single-task ones, and how long it waits for its batch.

``python benchmarks/training.py [--size WxH] [--backbone NAME] [--device NAME] [--bf16] [--compile] [--wait]``

Rounds go through the arms in turn, so that other work on the machine meets all of them. On a CPU, times are
of the one thread that computes. Peak memory is that of a process that trains one arm alone. ``--compile``
adds a compiled multi-task arm, which takes minutes to make. ``--wait`` runs
the trainer itself on CamVid (CAMVID_ROOT) or synthetic scenes and prints the share of the steps' time that it
waits for batches, and on a GPU the share in which that works.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.data.collate import Batch, Collator
from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import training_transform
from pvt_mtl_perception.model.compiled import compiled
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.model.spec import (
    TASKS,
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.training.balancing import BalancingConfig, make_balancer
from pvt_mtl_perception.training.config import PhaseConfig, TrainingConfig
from pvt_mtl_perception.training.distributed import join_processes
from pvt_mtl_perception.training.losses import mask_cross_entropy
from pvt_mtl_perception.training.objective import task_losses
from pvt_mtl_perception.training.trainer import Trainer

GROUPS = {group: f"driving_{group}" for group in ("weather", "scene", "timeofday")}
PARTS = ("load", "forward", "backward", "balancing", "optimiser")


class Arm:
    """One model with its optimiser, ready to take a step on a fixed set of frames."""

    def __init__(
        self, tasks: tuple[str, ...], method: str, args: argparse.Namespace, compile_it: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.bf16 = args.bf16
        spec = ModelSpec(
            backbone=BackboneSpec(args.backbone),
            classification=ClassificationSpec(GROUPS),
            detection=DetectionSpec(),
            segmentation=SegmentationSpec(),
        )
        self.network = MultiTaskNetwork(replace(spec, **{task: None for task in TASKS if task not in tasks}))
        self.network.to(self.device, memory_format=torch.channels_last)
        self.forward: Callable[[Tensor], NetworkOutput] = self.network
        self.cross_entropy: Callable[..., Tensor] = mask_cross_entropy
        if compile_it:
            self.forward = compiled(self.network, self.device)
            self.cross_entropy = compiled(mask_cross_entropy, self.device)
        self.balancer = make_balancer(BalancingConfig(method), self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-5)
        self.transform = training_transform(tuple(args.size))
        labels = self.network.labels
        self.collator = Collator(
            len(labels.detection) if labels.detection else 0,
            {group: len(names) for group, names in labels.classification.items()},
        )
        self.samples = [SyntheticDataset(size=64)[i] for i in range(args.batch_size)]

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.thread_time()
        torch.accelerator.synchronize()
        return time.perf_counter()

    def step(self, seed: int) -> list[float]:
        """Seconds of the parts of a step; loading is without the reader, whose frames are in memory."""
        held: dict[str, object] = {}

        def load() -> None:
            held["batch"] = self.collator([self.transform(s, seed + i) for i, s in enumerate(self.samples)])

        def forward() -> None:
            batch = held["batch"]
            assert isinstance(batch, Batch)
            batch = batch.to(self.device)
            images = batch.images.to(memory_format=torch.channels_last).float().div_(255).sub_(0.5).div_(0.25)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                output = self.forward(images)
            held["losses"] = task_losses(output, batch, self.network, cross_entropy=self.cross_entropy)

        def backward() -> None:
            losses = held["losses"]
            assert isinstance(losses, dict)
            typed: dict[str, Tensor] = losses
            self.balancer.backward(typed)

        def optimise() -> None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimizer.step()

        self.optimizer.zero_grad()
        times = []
        work: tuple[Callable[[], object], ...] = (load, forward, backward, self.balancer.finish, optimise)
        for part in work:
            start = self._clock()
            part()
            times.append(self._clock() - start)
        return times


def peak_memory(tasks: tuple[str, ...], method: str, args: argparse.Namespace) -> float:
    """MiB of a process that trains this arm alone: of the GPU where it is used, else resident."""
    torch.set_num_threads(1)
    arm = Arm(tasks, method, args)
    for seed in range(3):
        arm.step(seed)
    if arm.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def waiting(args: argparse.Namespace) -> None:
    """Runs the trainer and prints how long its steps wait for their batches."""
    root = os.environ.get("CAMVID_ROOT")
    source = (
        SourceConfig("camvid", root=root, split="train") if root else SourceConfig("synthetic", frames=64)
    )
    height, width = args.size
    config = TrainingConfig(
        model=ModelSpec(
            backbone=BackboneSpec(args.backbone),
            classification=ClassificationSpec({"timeofday": GROUPS["timeofday"]}),
            detection=DetectionSpec(),
            segmentation=SegmentationSpec(),
        ),
        train=[source],
        phases=[PhaseConfig(args.steps, width, height, args.batch_size)],
        input_width=width,
        input_height=height,
        precision="bf16" if args.bf16 else "fp32",
        workers=args.workers,
        image_every=0,
        checkpoint_every=10**9,
    )
    with tempfile.TemporaryDirectory() as folder:
        with (
            join_processes(args.device) as processes,
            profile(activities=[ProfilerActivity.CUDA])
            if args.device != "cpu"
            else nullcontext() as profiled,
        ):
            Trainer(config, Path(folder), processes).run()
        rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    # The first rows have the start of the workers in them.
    rows = rows[len(rows) // 3 :]
    wait, whole = (sum(row[key] for row in rows) for key in ("load_s", "step_s"))
    print(
        f"{source.kind}, {width}x{height}, batch {args.batch_size}, {args.workers} workers: "
        f"a step takes {1e3 * whole / len(rows):.0f} ms, of which {100 * wait / whole:.1f} % is waiting"
    )
    if profiled is not None:
        print(f"the device works {100 * busy_share(profiled):.0f} % of the time of the last two thirds")


def busy_share(profiled: profile) -> float:
    """Part of the time in which at least one kernel runs, 0..1, after the first third of the kernels."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in profiled.events())
    spans = spans[len(spans) // 3 :]
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / (reached - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=image_size, default=(160, 256), metavar="WxH")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--backbone", default="pvt_v2_b0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="forward pass under autocast")
    parser.add_argument("--compile", action="store_true", help="add a compiled multi-task arm")
    parser.add_argument("--method", default="upgrad", help="gradient balancing method beside equal weighting")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--wait", action="store_true", help="measure the trainer's wait for batches instead")
    parser.add_argument("--workers", type=int, default=2, help="with --wait")
    parser.add_argument("--steps", type=int, default=60, help="with --wait")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.wait:
        waiting(args)
        return

    kinds: dict[str, tuple[tuple[str, ...], str]] = {f"single: {task}": ((task,), "equal") for task in TASKS}
    kinds |= {"multi, equal": (TASKS, "equal"), f"multi, {args.method}": (TASKS, args.method)}
    memory: dict[str, float] = {}
    if not args.no_memory:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            memory = {name: pool.submit(peak_memory, *kind, args).result() for name, kind in kinds.items()}
    arms = {name: Arm(*kind, args) for name, kind in kinds.items()}
    if args.compile:
        arms["multi, equal, compiled"] = Arm(TASKS, "equal", args, compile_it=True)
    times: dict[str, list[list[float]]] = {name: [] for name in arms}
    # The first round is for warming up.
    for number in tqdm(range(args.rounds + 1), unit="round"):
        for name, arm in arms.items():
            row = arm.step(number * args.batch_size)
            if number:
                times[name].append(row)

    height, width = args.size
    print(
        f"{args.backbone}, {width}x{height}, batch {args.batch_size}, {args.device}, "
        f"{'bf16' if args.bf16 else 'fp32'}; ms a step"
    )
    print(
        f"{'':<24}"
        + "".join(f"{part:>11}" for part in PARTS)
        + f"{'step':>9}{'images/s':>10}{'peak MiB':>10}"
    )
    for name, rows in times.items():
        parts = [1e3 * statistics.median(column) for column in zip(*rows, strict=True)]
        step = statistics.median(map(sum, rows))
        print(
            f"{name:<24}"
            + "".join(f"{value:>11.1f}" for value in parts)
            + f"{1e3 * step:>9.0f}{args.batch_size / step:>10.1f}{memory.get(name, float('nan')):>10.0f}"
        )

    def ratio(above: str, *below: str) -> float:
        """Median over the rounds."""
        sums = {name: [sum(row) for row in rows] for name, rows in times.items()}
        return statistics.median(
            sums[above][i] / sum(sums[name][i] for name in below) for i in range(args.rounds)
        )

    singles = [name for name in times if name.startswith("single")]
    print(f"multi-task / three single-task: {ratio('multi, equal', *singles):.2f}")
    if args.compile:
        print(f"compiled / not: {ratio('multi, equal, compiled', 'multi, equal'):.2f}")
    print(f"{args.method} / equal: {ratio(f'multi, {args.method}', 'multi, equal'):.2f}")


if __name__ == "__main__":
    main()
