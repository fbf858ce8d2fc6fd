"""Reproducible random choices: the same key gives the same throws in every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, cycle
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Color = tuple[float, float, float]


def _uniforms(key: tuple[int, ...]) -> Iterator[list[float]]:
    # Seeding takes longer than what many dice are used for, and some are not used at all: it waits for the
    # first throw. One call of the generator costs as much as a hundred throws from a list.
    random = np.random.default_rng(key).random
    while True:
        yield random(128).tolist()


class Dice:
    """A stream of uniform numbers and the choices made with them.

    Args:
        key: non-negative integers, the entropy of ``numpy.random.SeedSequence``.
        values: instead of a key, throws already drawn (0 <= v < 1), repeated when used up.

    Attributes:
        throw: gives the next number in [0, 1).
    """

    __slots__ = ("throw",)

    throw: Callable[[], float]

    def __init__(self, *key: int, values: Sequence[float] = ()) -> None:
        self.throw = cycle(values).__next__ if values else chain.from_iterable(_uniforms(key)).__next__

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

    def color(self, base: Sequence[float], spread: float) -> Color:
        """``base`` (RGB) moved in brightness by +-spread and in each channel by +-spread / 3."""
        throw, third = self.throw, spread * 2 / 3
        shift = spread * (2 * throw() - 1) - third / 2
        red, green, blue = [channel + shift + third * throw() for channel in base]
        if 0.0 <= red <= 255.0 and 0.0 <= green <= 255.0 and 0.0 <= blue <= 255.0:
            return red, green, blue
        return min(255.0, max(0.0, red)), min(255.0, max(0.0, green)), min(255.0, max(0.0, blue))
