"""Several data sets as one endless stream of batches, a pure function of seed and step."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pvt_mtl_perception.data.collate import BadSample, Batch, Collator
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.transforms import SampleTransform

# Above this a permutation of the indices costs more memory than it is worth; sets that large are
# rendered from their index, so their order carries no meaning.
_LARGEST_SHUFFLED = 1 << 24
# 2**64 / golden ratio, odd: multiples of it modulo 2**64 are the most evenly spread additive sequence.
_WEYL = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 1 << 20
# More unreadable samples in a row are no accident, and looking for a good one would take for ever.
_MOST_BAD = 20

OnBadSample = Literal["raise", "skip"]


class SampleSource(Protocol):
    """A data set: samples by index, the same each time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Draw(NamedTuple):
    """One entry of a batch: which data set, which of its samples, and the seed of its augmentation."""

    dataset: int
    sample: int
    seed: int


@dataclass(frozen=True)
class Mixture:
    """Which samples step t trains on, for any t.

    The data sets' turns follow their ratios evenly (an additive recurrence, so any run of draws is within a
    few of the ratios); within a data set every pass is a new permutation of all its samples. Nothing is
    carried from step to step, so a run resumes at any step, and workers and processes cannot change what it
    sees.

    Attributes:
        sizes: the data sets' lengths.
        ratios: their shares of the stream; any positive scale.
        batch_size: draws of one step, over all processes.
        seed: of the order and of every augmentation.
        homogeneous: all of a batch from one data set, instead of each draw from its own.

    Raises:
        ValueError: when ratios and sizes do not fit, or a set is empty.
    """

    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    batch_size: int
    seed: int
    homogeneous: bool = False

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.ratios) or not self.sizes:
            raise ValueError(f"{len(self.ratios)} ratios for {len(self.sizes)} data sets; one ratio each")
        if min(self.sizes) < 1:
            raise ValueError(f"data set {self.sizes.index(min(self.sizes))} has no samples")
        if min(self.ratios) <= 0:
            raise ValueError(f"ratios are positive, found {min(self.ratios)}; leave the data set out instead")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is at least 1, found {self.batch_size}")

    def steps(self, start: int = 0) -> Iterator[list[Draw]]:
        """The batches of step ``start`` and all after it, without end."""
        taken = self._taken_before(start)
        permutations: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}
        step = start
        while True:
            seeds = np.random.SeedSequence([self.seed, 0, step]).generate_state(self.batch_size, np.uint64)
            batch = []
            for dataset, seed in zip(self._datasets_of_step(step), seeds, strict=True):
                epoch, position = divmod(int(taken[dataset]), self.sizes[dataset])
                taken[dataset] += 1
                if self.sizes[dataset] <= _LARGEST_SHUFFLED:
                    if permutations.get(dataset, (-1,))[0] != epoch:
                        permutations[dataset] = (epoch, self._permutation(int(dataset), epoch))
                    position = int(permutations[dataset][1][position])
                batch.append(Draw(int(dataset), position, int(seed >> np.uint64(1))))
            yield batch
            step += 1

    def _permutation(self, dataset: int, epoch: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 1, dataset, epoch]))
        return rng.permutation(self.sizes[dataset])

    def _choices(self, first: int, last: int) -> npt.NDArray[np.intp]:
        """The data sets of turns ``first`` .. ``last - 1``."""
        offset = np.random.SeedSequence([self.seed, 2]).generate_state(1, np.uint64)[0]
        turns = np.arange(first, last, dtype=np.uint64) * _WEYL + offset
        bounds = np.cumsum(self.ratios)[:-1] / np.sum(self.ratios)
        choices: npt.NDArray[np.intp] = np.searchsorted(bounds, turns.astype(np.float64) / 2.0**64, "right")
        return choices

    def _datasets_of_step(self, step: int) -> npt.NDArray[np.intp]:
        if self.homogeneous:
            return np.repeat(self._choices(step, step + 1), self.batch_size)
        return self._choices(step * self.batch_size, (step + 1) * self.batch_size)

    def _taken_before(self, step: int) -> npt.NDArray[np.int64]:
        """How many samples each data set has given before ``step``."""
        turns = step if self.homogeneous else step * self.batch_size
        counts = np.zeros(len(self.sizes), np.int64)
        for first in range(0, turns, _CHUNK):
            choices = self._choices(first, min(first + _CHUNK, turns))
            counts += np.bincount(choices, minlength=len(self.sizes))
        return counts * (self.batch_size if self.homogeneous else 1)


class _BatchSampler(Sampler[list[Draw]]):
    """This process's part of the steps ``start`` .. ``stop - 1``."""

    def __init__(self, mixture: Mixture, start: int, stop: int, rank: int, world_size: int) -> None:
        self._mixture = mixture
        self._start = start
        self._stop = stop
        per_process = mixture.batch_size // world_size
        self._slots = slice(rank * per_process, (rank + 1) * per_process)

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[Draw]]:
        # Bounded by range, so that the step after the last is not drawn up in vain.
        for _, draws in zip(range(self._start, self._stop), self._mixture.steps(self._start), strict=False):
            yield draws[self._slots]


class _Drawn(NamedTuple):
    """A transformed sample, and what was found unreadable on the way to it."""

    sample: Sample
    bad: tuple[BadSample, ...]


class _DrawnSamples(Dataset[_Drawn]):
    """Reads and transforms what the sampler draws; this is what a worker holds."""

    def __init__(
        self,
        datasets: Sequence[SampleSource],
        transforms: Sequence[SampleTransform],
        on_bad_sample: OnBadSample,
    ) -> None:
        self._datasets = tuple(datasets)
        self._transforms = tuple(transforms)
        self._skip = on_bad_sample == "skip"

    def __getitem__(self, draw: Draw) -> _Drawn:
        data = self._datasets[draw.dataset]
        index = draw.sample
        bad: list[BadSample] = []
        while True:
            try:
                sample = data[index]
                break
            except (OSError, ValueError) as error:
                if not self._skip:
                    raise
                bad.append(BadSample(draw.dataset, index, str(error)))
                if len(bad) == min(_MOST_BAD, len(data)):
                    raise ValueError(
                        f"{len(bad)} samples one after the other cannot be read; the last: {error}"
                    ) from error
                # A function of the draw alone, so that resume and number of workers change nothing.
                index = (index + 1) % len(data)
        return _Drawn(self._transforms[draw.dataset](sample, draw.seed), tuple(bad))


class _Checked:
    """A data set whose samples hold no class id that their batch has no place for."""

    def __init__(self, data: SampleSource, collator: Collator) -> None:
        self._data = data
        self._collator = collator

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        sample = self._data[index]
        self._collator.check(sample)
        return sample


class _CollateDrawn:
    """Collates the samples of draws and keeps what was unreadable."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __call__(self, drawn: Sequence[_Drawn]) -> Batch:
        batch = self._collator([sample for sample, _ in drawn])
        bad = tuple(found for _, several in drawn for found in several)
        return dataclasses.replace(batch, bad_samples=bad) if bad else batch


def prepare_worker(_: int) -> None:
    """Settings of a reading process; for ``DataLoader(worker_init_fn=...)``."""
    # Workers are the parallelism; threads of their own would take the cores from the network.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Ctrl-C and SIGTERM reach the whole process group; the main process ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux" and signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        threading.Thread(target=_end_when_the_parent_asks, daemon=True).start()


def _end_when_the_parent_asks() -> None:
    """Takes the SIGTERM that a worker was started without; one of another process than its parent is void."""
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


class _Loader(DataLoader[Any]):
    """Blocks SIGINT and SIGTERM in its workers from their first moment on; ``prepare_worker`` takes over.

    A worker that a signal to the process group ends makes the main process fail, which could have saved.
    """

    def __iter__(self) -> Any:
        if not self.num_workers or sys.platform != "linux":
            return super().__iter__()
        # Started on the way, it would unblock them again.
        resource_tracker.ensure_running()
        # A new process inherits what is blocked, and here it is delivered afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def build_loader(
    datasets: Sequence[SampleSource],
    transforms: SampleTransform | Sequence[SampleTransform],
    mixture: Mixture,
    collator: Collator,
    *,
    start_step: int = 0,
    stop_step: int,
    workers: int = 2,
    prefetch: int = 4,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
    on_bad_sample: OnBadSample = "raise",
) -> DataLoader[Batch]:
    """A loader of the batches of steps ``start_step`` .. ``stop_step - 1``, one each, in order.

    The batches depend on ``mixture`` and the step alone, not on ``workers``, ``start_step`` or how often the
    run was resumed. The processes of a distributed run read disjoint parts of the same global batch.

    Args:
        datasets: in the order of ``mixture.sizes``.
        transforms: one for all data sets, or one for each.
        workers: reading processes, started afresh (spawn); 0 reads in this process.
        prefetch: batches each worker keeps ready.
        pin_memory: batches in page-locked memory, for a copy to a GPU beside its work.
        rank, world_size: this process of a distributed run; ``world_size`` divides ``mixture.batch_size``.
        on_bad_sample: ``raise`` the reader's error, or ``skip``: the next sample of the same data set that
            can be read and collated takes the place, and ``Batch.bad_samples`` lists what could not.

    Raises:
        ValueError: when ``mixture`` or ``transforms`` do not fit the data sets, or ``world_size`` the batch.
    """
    sizes = tuple(len(dataset) for dataset in datasets)
    if sizes != mixture.sizes:
        raise ValueError(f"the mixture is for data sets of sizes {mixture.sizes}, these have {sizes}")
    each = [transforms] * len(sizes) if isinstance(transforms, SampleTransform) else list(transforms)
    if len(each) != len(sizes):
        raise ValueError(f"{len(each)} transforms for {len(sizes)} data sets; one each, or one for all")
    if mixture.batch_size % world_size:
        raise ValueError(f"batch size {mixture.batch_size} is not a multiple of {world_size} processes")
    return _Loader(
        _DrawnSamples([_Checked(data, collator) for data in datasets], each, on_bad_sample),
        batch_sampler=_BatchSampler(mixture, start_step, stop_step, rank, world_size),
        collate_fn=_CollateDrawn(collator),
        num_workers=workers,
        # A fork of a process whose OpenMP or CUDA threads already run may hang.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=prepare_worker,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        # Starting a loader draws from its generator; the default one is the network's, for dropout.
        generator=torch.Generator(),
    )
