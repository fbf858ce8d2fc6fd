"""Reproducible random choices: the same key gives the same throws in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """A buffered stream of uniform numbers; a throw costs a list access instead of a generator call.

    Args:
        key: non-negative integers, the entropy of ``numpy.random.SeedSequence``.
        values: throws already drawn (0 <= v < 1), used before the generator is asked; with it and no key
            the stream repeats when it is used up.
    """

    __slots__ = ("_position", "_rng", "_values")

    def __init__(self, *key: int, values: Sequence[float] = ()) -> None:
        self._rng = np.random.default_rng(key) if key else None
        self._values = values
        self._position = 0

    def throw(self) -> float:
        """A float in [0, 1)."""
        if self._position >= len(self._values):
            if self._rng is not None:
                self._values = self._rng.random(256).tolist()
            self._position = 0
        value = self._values[self._position]
        self._position += 1
        return value

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.throw()

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high), or low where that is empty."""
        return low + int((high - low) * self.throw())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.throw() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(len(options) * self.throw())]

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One of the options, with the given relative weights."""
        rest = self.throw() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            rest -= weight
            if rest < 0:
                return option
        return options[-1]

    def color(self, base: Sequence[float], spread: float) -> tuple[float, float, float]:
        """``base`` (RGB) moved in brightness by +-spread and in each channel by +-spread / 3."""
        shift = self.uniform(-spread, spread)
        third = spread / 3
        red, green, blue = (min(255.0, max(0.0, c + shift + self.uniform(-third, third))) for c in base)
        return red, green, blue
