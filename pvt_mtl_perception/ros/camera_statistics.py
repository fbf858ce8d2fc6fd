"""What a camera has gone through: counts, rates and latencies for /diagnostics."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

RATE_WINDOW = 5.0
"""Seconds over which rates are averaged."""

LATENCY_WINDOW = 10.0
"""Seconds over which latency percentiles are taken."""


@dataclass(frozen=True)
class Snapshot:
    """A camera's statistics at one moment.

    Attributes:
        received: images that reached this machine, whether or not the node looked at them.
        processed: images whose results were published.
        replaced: images that a newer one superseded while the node was busy.
        unwanted: images that nobody had subscribed to any result of.
        failed: images that could not be converted or processed.
        lost: images that the middleware reports as lost in transport.
        input_rate, output_rate: received and processed images a second.
        latency: p50 and p95 of receipt to publication in milliseconds, or None before the first.
        stamp_age: p50 and p95 of header stamp to publication in milliseconds, or None where the stamps'
            clock is not this machine's.
        last_error: the latest failure's reason, empty where none failed.
        last_size: width and height of the latest converted image, or None.
        last_encoding: its encoding or compressed format.
    """

    received: int
    processed: int
    replaced: int
    unwanted: int
    failed: int
    lost: int
    input_rate: float
    output_rate: float
    latency: tuple[float, float] | None
    stamp_age: tuple[float, float] | None
    last_error: str
    last_size: tuple[int, int] | None
    last_encoding: str


class Percentiles:
    """p50 and p95 of the values of the last ``window`` seconds."""

    def __init__(self, window: float = LATENCY_WINDOW) -> None:
        self._window = window
        self._values: deque[tuple[float, float]] = deque(maxlen=2000)

    def add(self, now: float, value: float) -> None:
        """Adds a value at the monotonic time ``now``."""
        self._values.append((now, value))

    def get(self, now: float) -> tuple[float, float] | None:
        """p50 and p95, or None where the window is empty."""
        while self._values and self._values[0][0] < now - self._window:
            self._values.popleft()
        if not self._values:
            return None
        p50, p95 = np.percentile([value for _, value in self._values], (50, 95))
        return float(p50), float(p95)


class CameraStatistics:
    """Counts of one camera; every method may be called from any thread. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._processed = 0
        self._replaced = 0
        self._unwanted = 0
        self._failed = 0
        self._lost = 0
        self._last_sequence: int | None = None
        self._lost_at_sequence = 0
        self._last_error = ""
        self._last_size: tuple[int, int] | None = None
        self._last_encoding = ""
        self._latency = Percentiles()
        self._stamp_age = Percentiles()
        self._history: deque[tuple[float, int, int]] = deque()

    def on_subscribed(self) -> None:
        """A subscription begins: what was published before is not skipped."""
        with self._lock:
            self._last_sequence = None

    def on_taken(self, sequence: int | None, wanted: bool) -> None:
        """An image was taken from the middleware.

        The images between this one and the one taken before are those that the subscription's queue of
        one has dropped, less those that never arrived.

        Args:
            sequence: the publisher's running number, or None where the middleware gives none or several
                publishers' numbers mix.
            wanted: whether the skipped images had subscribers to their results.
        """
        with self._lock:
            skipped = 0
            if sequence is not None and self._last_sequence is not None and sequence > self._last_sequence:
                missing = sequence - self._last_sequence - 1
                skipped = max(0, missing - (self._lost - self._lost_at_sequence))
            self._last_sequence = sequence
            self._lost_at_sequence = self._lost
            self._received += 1 + skipped
            if wanted:
                self._replaced += skipped
            else:
                self._unwanted += skipped

    def on_replaced(self) -> None:
        """A taken image gave way to a newer one."""
        with self._lock:
            self._replaced += 1

    def on_unwanted(self) -> None:
        """A taken image was dropped because nobody wants its results."""
        with self._lock:
            self._unwanted += 1

    def on_lost(self, count: int) -> None:
        """The middleware reports images lost in transport."""
        with self._lock:
            self._lost += count

    def on_converted(self, size: tuple[int, int], encoding: str) -> None:
        """An image was turned into an array of this width and height."""
        with self._lock:
            self._last_size = size
            self._last_encoding = encoding

    def on_failed(self, reason: str) -> None:
        """An image could not be processed."""
        with self._lock:
            self._failed += 1
            self._last_error = reason

    def on_published(self, now: float, latency: float, stamp_age: float | None) -> None:
        """An image's results were published.

        Args:
            now: the time.
            latency: seconds since the image's receipt.
            stamp_age: seconds since its header stamp, or None where that means nothing.
        """
        with self._lock:
            self._processed += 1
            self._latency.add(now, latency * 1e3)
            if stamp_age is not None:
                self._stamp_age.add(now, stamp_age * 1e3)

    def snapshot(self, now: float) -> Snapshot:
        """The statistics now; rates are averaged since the oldest call within ``RATE_WINDOW``."""
        with self._lock:
            while self._history and self._history[0][0] < now - RATE_WINDOW - 0.5:
                self._history.popleft()
            input_rate = output_rate = 0.0
            if self._history:
                before, received, processed = self._history[0]
                if now > before:
                    input_rate = (self._received - received) / (now - before)
                    output_rate = (self._processed - processed) / (now - before)
            self._history.append((now, self._received, self._processed))
            return Snapshot(
                received=self._received,
                processed=self._processed,
                replaced=self._replaced,
                unwanted=self._unwanted,
                failed=self._failed,
                lost=self._lost,
                input_rate=input_rate,
                output_rate=output_rate,
                latency=self._latency.get(now),
                stamp_age=self._stamp_age.get(now),
                last_error=self._last_error,
                last_size=self._last_size,
                last_encoding=self._last_encoding,
            )
