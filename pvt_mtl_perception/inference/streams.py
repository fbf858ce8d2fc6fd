"""Order among the streams of a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def side_stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """The stream of a CUDA device, its index given, that this process keeps for a purpose."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def only_after(done: torch.cuda.Event | None, tensors: Iterable[Tensor]) -> Iterator[None]:
    """Work on a stream that waits for an event and for nothing queued after it.

    Args:
        done: recorded when the tensors were complete; None leaves everything as it is.
        tensors: of one CUDA device, that the work reads; their memory stays theirs until it has ended.
    """
    if done is None:
        yield
        return
    read = list(tensors)
    stream = side_stream(read[0].device, "after")
    stream.wait_event(done)
    for tensor in read:
        tensor.record_stream(stream)
    with torch.cuda.stream(stream):
        yield


class Turns:
    """Lets a stream touch memory that calls share only when the stream of the call before has left it.

    Calls take their turns under a lock of their owner.
    """

    def __init__(self) -> None:
        self._left: torch.cuda.Event | None = None

    @contextmanager
    def of_current_stream(self) -> Iterator[None]:
        """A turn on the current stream of the current CUDA device."""
        stream = torch.cuda.current_stream()
        if self._left is not None:
            stream.wait_event(self._left)
        yield
        self._left = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._left.record(stream)
