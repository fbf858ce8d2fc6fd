"""Keeps what several threads publish in the order in which it came."""

from __future__ import annotations

import threading


class PublicationOrder:
    """Numbers for batches that are worked on at once; each has its turn after all that came before it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._drawn = 0
        self._turn = 0
        self._left: set[int] = set()

    @property
    def in_work(self) -> int:
        """How many batches have come and not left."""
        with self._changed:
            return self._drawn - self._turn - len(self._left)

    def draw(self) -> int:
        """The number of a batch that comes now."""
        with self._changed:
            self._drawn += 1
            return self._drawn - 1

    def wait(self, number: int) -> None:
        """Returns when every batch before this one has left."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn >= number)

    def leave(self, number: int) -> None:
        """The batch is published, or has nothing to publish; it need not have had its turn."""
        with self._changed:
            self._left.add(number)
            while self._turn in self._left:
                self._left.remove(self._turn)
                self._turn += 1
            self._changed.notify_all()
