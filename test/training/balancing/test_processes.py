"""Two processes that exchange gradients over gloo do what one process does with both halves of the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from balancing_problems import ALL_TASKS, images, output_losses, quick_network
from torch import Tensor

from pvt_mtl_perception.training.balancing import BalancingConfig, make_balancer
from pvt_mtl_perception.training.balancing.config import METHODS

# Processes of a step by task: the first two steps have labels everywhere, the others on one process only.
LABELLED = [
    dict.fromkeys(ALL_TASKS, (0, 1)),
    dict.fromkeys(ALL_TASKS, (0, 1)),
    {"classification": (0,), "detection": (1,), "segmentation": (0, 1)},
    {"detection": (1,)},
]


def mean_over_processes(tensor: Tensor) -> None:
    dist.all_reduce(tensor)
    tensor.div_(dist.get_world_size())


def train(method: str, ranks: tuple[int, ...], reduce) -> dict[str, Tensor]:
    """Weights and balancer's state after some steps on the micro-batches of the given ranks."""
    network = quick_network()
    weights = {"detection": 0.5, "segmentation": 2.0} if method == "fixed" else {}
    balancer = make_balancer(BalancingConfig(method, weights, window=1, lr=0.01), network, seed=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    for step, labelled in enumerate(LABELLED):
        optimizer.zero_grad()
        for rank in ranks:
            # Every process draws other numbers meanwhile.
            torch.rand(rank + 1)
            losses = output_losses(network(images(seed=10 * step + rank)))
            given = {task: losses[task] for task in losses if rank in labelled.get(task, ())}
            balancer.backward(given, share=1 / len(ranks))
        balancer.finish(reduce)
        optimizer.step()
    return {**network.state_dict(), **{f"balancer.{k}": v for k, v in balancer.state_dict().items()}}


def child(rank: int, folder: Path) -> None:
    """One of two processes; leaves its tensors in the folder."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for method in METHODS:
        torch.save(train(method, (rank,), mean_over_processes), folder / f"{method}.{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    paths = [str(Path(__file__).parents[2]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in children] == [0, 0]
    finally:
        for process in children:
            process.kill()
            process.wait()
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one(two_processes, method):
    results = [torch.load(two_processes / f"{method}.{rank}.pt") for rank in range(2)]
    single = train(method, (0, 1), None)
    start = quick_network().state_dict()
    assert results[0].keys() == single.keys()
    for name, tensor in single.items():
        # The processes must not drift apart, not even by rounding.
        assert torch.equal(results[0][name], results[1][name]), name
        scale = tensor.abs().max().clamp(min=1.0)
        assert (results[0][name] - tensor).abs().max() <= 1e-5 * scale, name
    moved = [n for n in start if (start[n] != single[n]).any()]
    assert len(moved) > 0.9 * len(start)


def test_a_process_that_exchanges_nothing_ends_elsewhere(two_processes):
    """So the test above would notice."""
    alone = train("upgrad", (0,), None)
    together = torch.load(two_processes / "upgrad.0.pt")
    assert any((alone[name] - tensor).abs().max() > 1e-3 for name, tensor in together.items())


if __name__ == "__main__":
    child(int(sys.argv[1]), Path(sys.argv[2]))
