"""Time of a training step under each balancing method, as a ratio to equal weighting.

``python benchmarks/balancing.py [--size WxH] [--batch-size N] [--backbone NAME] [--device NAME]``

Rounds go through all methods in turn, so that other work on the machine meets all of them; a method's ratio
is the median over the rounds of its time divided by that of equal weighting in the same round. On a CPU,
times are what the process computes for on one thread, not of the clock on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.data.collate import Batch, Collator
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import training_transform
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import (
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.training.balancing import METHODS, BalancingConfig, make_balancer
from pvt_mtl_perception.training.objective import task_losses

GROUPS = {"weather": "driving_weather", "scene": "driving_scene", "timeofday": "driving_timeofday"}
PARTS = ("forward", "backward", "finish", "optimizer")


def synthetic_batch(network: MultiTaskNetwork, size: tuple[int, int], count: int) -> Batch:
    """Labelled synthetic scenes."""
    data = SyntheticDataset(size=count)
    transform = training_transform(size)
    labels = network.labels
    assert labels.detection is not None
    collator = Collator(
        len(labels.detection), {group: len(names) for group, names in labels.classification.items()}
    )
    return collator([transform(data[i], i) for i in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=image_size, default=(160, 256), metavar="WxH")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--backbone", default="pvt_v2_b0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="forward pass under autocast")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names, or module:attribute")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)

    torch.manual_seed(0)
    spec = ModelSpec(
        backbone=BackboneSpec(args.backbone),
        classification=ClassificationSpec(GROUPS),
        detection=DetectionSpec(),
        segmentation=SegmentationSpec(),
    )
    network = MultiTaskNetwork(spec).to(device, memory_format=torch.channels_last)
    batch = synthetic_batch(network, tuple(args.size), args.batch_size).to(device)
    images = batch.images.to(memory_format=torch.channels_last).float().div_(255).sub_(0.5).div_(0.25)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def clock() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.accelerator.synchronize()
        return time.perf_counter()

    def losses() -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            output = network(images)
        return task_losses(output, batch, network)

    methods = ["equal", *(m for m in args.methods if m != "equal")]
    balancers = {m: make_balancer(BalancingConfig(m), network) for m in methods}
    times: dict[str, list[list[float]]] = {m: [] for m in methods}
    # The first round is for warming up.
    for number in tqdm(range(args.rounds + 1), unit="round"):
        for method in methods:
            optimizer.zero_grad()
            computed: dict[str, Tensor] = {}
            balancer = balancers[method]
            steps: list[Callable[[], object]] = [
                lambda computed=computed: computed.update(losses()),
                lambda balancer=balancer, computed=computed: balancer.backward(computed),
                balancer.finish,
                optimizer.step,
            ]
            parts = []
            for step in steps:
                start = clock()
                step()
                parts.append(clock() - start)
            if number:
                times[method].append(parts)

    height, width = args.size
    print(f"{args.backbone}, {width}x{height}, batch {args.batch_size}, {device}, bf16 {args.bf16}")
    print(
        f"{'method':<13}" + "".join(f"{part + ' ms':>14}" for part in PARTS) + f"{'step ms':>10}{'ratio':>8}"
    )
    for method, rows in times.items():
        parts = [1e3 * statistics.median(column) for column in zip(*rows, strict=True)]
        total = 1e3 * statistics.median(map(sum, rows))
        ratio = statistics.median(
            sum(row) / sum(base) for row, base in zip(rows, times["equal"], strict=True)
        )
        print(f"{method:<13}" + "".join(f"{part:14.1f}" for part in parts) + f"{total:10.1f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
