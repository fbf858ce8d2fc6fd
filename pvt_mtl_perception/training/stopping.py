"""SIGTERM and Ctrl-C: at once where nothing is lost by it, after the step while a run is under way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TerminatedError(BaseException):
    """SIGTERM came; as with KeyboardInterrupt, code that handles errors does not mean it."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises ``TerminatedError`` wherever this thread is, as SIGINT raises KeyboardInterrupt."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TerminatedError

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def stop_requests() -> Iterator[list[signal.Signals]]:
    """Yields a list that gets each SIGTERM or SIGINT; the loop stops after the step, a second SIGINT at once.

    A step cut in two would leave weights and optimiser out of step with each other.
    """
    asked: list[signal.Signals] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number))

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
