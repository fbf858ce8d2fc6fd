"""Bootstrap over seeds and images of the difference between two arms."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pvt_mtl_perception.evaluation.records import Records
from pvt_mtl_perception.study.statistics.pooled import Array, PooledScore, Weights

# Replicates scored at once: enough to hide the interpreter, few enough for the cache.
_BATCH = 50


@dataclass(frozen=True)
class Resampling:
    """How the images of a test set are drawn; arms that share it see the same images in each replicate.

    Attributes:
        clips: of each image, in order, the clip it belongs to; all images are one clip where None. It matters
            only with ``block_length`` above 1.
        block_length: consecutive images drawn together; 1 draws each on its own.
        replicates: bootstrap draws.
        seed: of the draws.
    """

    clips: tuple[Hashable, ...] | None = None
    block_length: int = 1
    replicates: int = 2000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ResampledScores:
    """A score of one arm on the test set and on each draw of its images.

    Attributes:
        names: of the test images.
        resampling: how they were drawn.
        observed: (seeds,) on the whole test set; (seeds, scores) of several scores.
        replicates: (replicates, seeds) or (replicates, seeds, scores), NaN where a draw holds nothing to
            score.
    """

    names: tuple[str, ...]
    resampling: Resampling
    observed: Array
    replicates: Array


@dataclass(frozen=True, eq=False)
class NestedBootstrap:
    """The mean difference of two arms with the uncertainty of seeds and test images.

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
    replicates: Array
    undefined: int


def resample_scores(
    evaluations: Sequence[Records], score: PooledScore, resampling: Resampling, progress: bool = False
) -> ResampledScores:
    """Computes a score of every seed again on every draw of test images.

    All seeds share a draw, as they share one test set: a hard image is hard for all of them. Drawing images
    anew for each seed would average that out and make intervals too narrow.

    Args:
        evaluations: of one arm, one for each seed, on the same images.
        score: from ``pooled_score``; or several of them, (replicates, scores).
        resampling: the same for all arms that are compared.
        progress: show a bar with rate and remaining time.

    Raises:
        ValueError: when an evaluation has other images than the first one, there are fewer than two, or the
            test set has nothing to score.
    """
    if len(evaluations) < 2:
        raise ValueError(f"a bootstrap over seeds needs two or more of them; got {len(evaluations)}")
    names = evaluations[0].names
    for number, records in enumerate(evaluations):
        if records.names != names:
            raise ValueError(f"evaluation {number} has other images, or in another order, than evaluation 0")

    def scores(weights: Weights) -> Array:
        return np.stack([score(records, weights) for records in evaluations], axis=1)

    observed = scores(np.ones((1, len(names)), np.int64))[0]
    if np.isnan(observed).any():
        raise ValueError("the test set has no label that this score counts")
    rng = np.random.default_rng(resampling.seed)
    replicates = np.empty((resampling.replicates, *observed.shape))
    with tqdm(total=len(replicates), unit="replicate", desc="bootstrap", disable=not progress) as bar:
        for start in range(0, len(replicates), _BATCH):
            count = min(_BATCH, len(replicates) - start)
            weights = draw_images(len(names), count, rng, resampling.clips, resampling.block_length)
            replicates[start : start + count] = scores(weights)
            bar.update(count)
    return ResampledScores(names, resampling, observed, replicates)


def nested_bootstrap(first: ResampledScores, second: ResampledScores, alpha: float = 0.05) -> NestedBootstrap:
    """Resamples seeds, then images, with the same draw of both in both arms.

    Seeds and images cross, each seed having answered each image; such an interval errs to the wide side for
    the images (Owen 2007) and, being of percentiles, to the narrow side for few seeds.

    Args:
        first: one arm.
        second: the other, with the same seeds in the same order.
        alpha: share of studies in which the interval may miss.

    Raises:
        ValueError: when the arms have different numbers of seeds, other images or another resampling.
    """
    if first.names != second.names or first.resampling != second.resampling:
        raise ValueError("arms can be compared on the same images with the same resampling only")
    if len(first.observed) != len(second.observed):
        raise ValueError(
            f"arms can be compared over the same seeds only; got {len(first.observed)} and "
            f"{len(second.observed)} of them"
        )
    differences = first.replicates - second.replicates
    differences = differences[~np.isnan(differences).any(axis=1)]
    seeds = len(first.observed)
    rng = np.random.default_rng([first.resampling.seed, seeds])
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(differences))
    means = (differences * drawn).sum(axis=1) / seeds
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return NestedBootstrap(
        mean=float((first.observed - second.observed).mean()),
        low=float(low),
        high=float(high),
        standard_error=float(means.std(ddof=1)),
        image_standard_error=float(differences.mean(axis=1).std(ddof=1)),
        replicates=means,
        undefined=len(first.replicates) - len(differences),
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
        clips: as of ``Resampling``.
        block_length: as of ``Resampling``.

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
