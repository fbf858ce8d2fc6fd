"""Bootstrap over seeds and images of the difference between two arms."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pvt_mtl_perception.evaluation.records import Records
from pvt_mtl_perception.study.statistics.pooled import PooledScore, Weights

# Replicates scored at once: enough to hide the interpreter, few enough for the cache.
_BATCH = 50


@dataclass(frozen=True, eq=False)
class NestedBootstrap:
    """The mean difference of two arms with the uncertainty of seeds and test images, scores 0..1.

    Attributes:
        mean: first minus second on the whole test set, mean over the seeds.
        low: lower end of the percentile interval at 1 - alpha.
        high: its upper end.
        standard_error: standard deviation of the replicates.
        image_standard_error: the same with all seeds kept: what the choice of test images alone makes.
        replicates: (replicates,) the mean difference in each.
        undefined: replicates left out because they held nothing to score.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    image_standard_error: float
    replicates: npt.NDArray[np.float64]
    undefined: int


def nested_bootstrap(
    first: Sequence[Records],
    second: Sequence[Records],
    score: PooledScore,
    clips: Sequence[Hashable] | None = None,
    block_length: int = 1,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> NestedBootstrap:
    """Resamples seeds, then images, and computes the scores of both arms again on the same draw.

    The seeds of a replicate share one draw of images, as they share one test set: a hard image is hard for
    all of them. Drawing images anew for each seed would average that out and make the interval too narrow.
    With both drawn the interval errs to the wide side (Owen 2007).

    Args:
        first: records of the first arm, one evaluation for each seed.
        second: of the second arm, in the same order of seeds.
        score: from ``pooled_score``.
        clips: see ``draw_images``.
        block_length: see ``draw_images``.
        alpha: share of studies in which the interval may miss.
        replicates: bootstrap draws.
        seed: of the draws.
        progress: show a bar with rate and remaining time.

    Raises:
        ValueError: when the arms have different numbers of seeds or fewer than two, when an evaluation has
            other images than the first one, or the test set has nothing to score.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            "a nested bootstrap needs the same two or more seeds in both arms; got "
            f"{len(first)} and {len(second)}"
        )
    for arm, evaluations in (("first", first), ("second", second)):
        for number, records in enumerate(evaluations):
            if records.names != first[0].names:
                raise ValueError(
                    f"evaluation {number} of the {arm} arm has other images, or in another order, than "
                    "evaluation 0 of the first arm"
                )
    seeds, images = len(first), len(first[0])
    observed = float(_differences(first, second, score, np.ones((1, images), np.int64)).mean())
    if np.isnan(observed):
        raise ValueError("the test set has no label that this score counts")
    rng = np.random.default_rng(seed)
    by_seed = np.empty((replicates, seeds))
    with tqdm(total=replicates, unit="replicate", desc="bootstrap", disable=not progress) as bar:
        for start in range(0, replicates, _BATCH):
            count = min(_BATCH, replicates - start)
            weights = draw_images(images, count, rng, clips, block_length)
            by_seed[start : start + count] = _differences(first, second, score, weights)
            bar.update(count)
    by_seed = by_seed[~np.isnan(by_seed).any(axis=1)]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(by_seed))
    means = (by_seed * drawn).sum(axis=1) / seeds
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return NestedBootstrap(
        mean=observed,
        low=float(low),
        high=float(high),
        standard_error=float(means.std(ddof=1)),
        image_standard_error=float(by_seed.mean(axis=1).std(ddof=1)),
        replicates=means,
        undefined=replicates - len(by_seed),
    )


def draw_images(
    images: int,
    replicates: int,
    rng: np.random.Generator,
    clips: Sequence[Hashable] | None = None,
    block_length: int = 1,
) -> Weights:
    """How often each image stands in each bootstrap replicate.

    Frames of a video resemble their neighbours, so blocks of consecutive frames are drawn (Künsch 1989). A
    block that reaches the end of its clip continues at the clip's start (Politis and Romano 1992), so that
    every frame is equally likely. A block has to be longer than the correlation reaches.

    Args:
        images: number of images.
        replicates: number of replicates.
        rng: source of the draws.
        clips: of each image, in order, the clip it belongs to; all images are one clip where None. It
            matters only with ``block_length`` above 1.
        block_length: images drawn together; 1 draws each on its own.

    Returns:
        int64 (replicates, images); every row sums to ``images``.

    Raises:
        ValueError: when ``clips`` has another length than images, or a clip's images do not stand together.
    """
    if clips is not None and len(clips) != images:
        raise ValueError(f"{len(clips)} clips are named for {images} images; each image needs one")
    if block_length == 1:
        return rng.multinomial(images, np.full(images, 1 / images), size=replicates)
    first, length = _clip_of_each(images, clips)
    blocks = -(-images // block_length)
    start = rng.integers(0, images, (replicates, blocks, 1))
    offset = (start - first[start] + np.arange(block_length)) % length[start]
    drawn = (first[start] + offset).reshape(replicates, -1)[:, :images]
    cells = drawn + images * np.arange(replicates)[:, None]
    return np.bincount(cells.ravel(), minlength=replicates * images).reshape(replicates, images)


def _clip_of_each(
    images: int, clips: Sequence[Hashable] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First image and length of the clip of each image, (images,) each."""
    names = [None] * images if clips is None else clips
    starts = [i for i in range(images) if i == 0 or names[i] != names[i - 1]]
    if len({names[i] for i in starts}) < len(starts):
        raise ValueError("the images of a clip have to stand together, in the order of time")
    lengths = np.diff([*starts, images])
    return np.repeat(np.array(starts, np.int64), lengths), np.repeat(lengths.astype(np.int64), lengths)


def _differences(
    first: Sequence[Records], second: Sequence[Records], score: PooledScore, weights: Weights
) -> npt.NDArray[np.float64]:
    """(replicates, seeds), first minus second."""
    pairs = zip(first, second, strict=True)
    return np.stack([score(a, weights) - score(b, weights) for a, b in pairs], axis=1)
