"""Feeding a predictor: items in batches, prepared in another thread while the one before is predicted."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of ``size``; the last one may be shorter.

    Raises:
        ValueError: when ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch size is {size}; it must be at least 1")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def prefetched(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The items in their order, up to ``depth`` of them made ahead by one other thread.

    An exception of the iterable comes out where its item would have come. Closing the generator waits for
    the item that is being made.
    """
    iterator = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as executor:
        ahead: deque[Future[Any]] = deque(executor.submit(next, iterator, end) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(executor.submit(next, iterator, end))
                yield item
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits until the work in hand is whole.

    Gives a function to ask wherever stopping is clean: it says whether Ctrl-C has been pressed. A second
    Ctrl-C interrupts at once. In a thread that gets no signals, nothing is deferred.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = False
    previous = signal.getsignal(signal.SIGINT)

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    signal.signal(signal.SIGINT, request)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
