"""The processes of one run: started by torchrun, or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

# Its functions take the group of the moment of their import as a default argument. Imported later (timm and
# torchvision do it), it would keep the group and its threads alive past ``destroy_process_group``, and gloo's
# threads abort a process whose interpreter ends before them.
import torch.distributed.nn
from torch import Tensor

from pvt_mtl_perception.inference.predictor import select_device


@dataclass(frozen=True)
class Processes:
    """This process among those of the run; every method does nothing where it is alone.

    Attributes:
        rank: 0 .. world_size - 1, over all machines.
        world_size: how many processes train together.
        device: of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files and shows progress."""
        return self.rank == 0

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor by its mean over the processes."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
            tensor /= self.world_size
        return tensor

    def share_of_total(self, count: Tensor, minimum: float = 1.0) -> Tensor:
        """What a sum is divided by so that the mean over the processes is the whole batch's mean.

        Args:
            count: a scalar, this process's part of the whole batch's count.
            minimum: of the whole batch's count.

        Returns:
            max(total over the processes, minimum) / world_size.
        """
        total = count.detach().to(torch.float32)
        if self.world_size > 1:
            total = total.clone()
            dist.all_reduce(total)
        return total.clamp(min=minimum) / self.world_size

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process has raised it; all processes get the same answer."""
        if self.world_size == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.float32, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in tensor)

    def from_first(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors on all processes, as copies where there are several processes."""
        if self.world_size == 1:
            return dict(tensors)
        copies = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        for copy in copies.values():
            dist.broadcast(copy, 0)
        return copies

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world_size > 1:
            dist.barrier()


def alone(device: str | torch.device = "cpu") -> Processes:
    """A run of one process."""
    return Processes(0, 1, torch.device(device))


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Processes]:
    """Joins the process group that torchrun's environment describes; alone without one.

    Args:
        device: as ``select_device`` takes it. Started by torchrun, processes on the CPU talk over gloo, and
            those on GPUs over NCCL, each on the GPU of its local rank.

    Raises:
        ValueError, RuntimeError: from ``select_device``, and when there are fewer GPUs than processes on this
            machine.
    """
    chosen = select_device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield alone(chosen)
        return
    if chosen.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                "give torchrun at most as many with --nproc-per-node"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()
