"""Weights that let rare segmentation classes count in the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pvt_mtl_perception.data.mixture import OnBadSample, SampleSource
from pvt_mtl_perception.data.sources import labelled_samples

# Class frequencies settle long before this, and a reader needs no more than seconds for it.
SAMPLES = 200


def class_frequencies(
    sources: Sequence[SampleSource],
    ratios: Sequence[float],
    classes: int,
    samples: int = SAMPLES,
    on_bad_sample: OnBadSample = "raise",
) -> Tensor:
    """Share of each class among the labelled pixels, estimated on evenly spaced samples.

    Args:
        sources: data sets, each asked for ``samples`` samples at most, of those with a mask where it knows
            them; those without masks count nothing.
        ratios: how often training draws from each.
        classes: number of segmentation classes; ids from there on are unlabelled.
        samples: of each source.
        on_bad_sample: ``raise`` the error of a sample that cannot be read, or ``skip`` it.

    Returns:
        float32 (classes,), which sums to 1.

    Raises:
        OSError, ValueError: when no sample has a labelled pixel, and of a sample that cannot be read.
    """
    shares = np.zeros(classes)
    for source, ratio in zip(sources, ratios, strict=True):
        count = np.zeros(classes)
        labelled = labelled_samples(source, ["segmentation"])
        spaced = np.linspace(0, len(labelled) - 1, min(samples, len(labelled)), dtype=np.int64)
        for index in labelled[spaced].tolist():
            try:
                mask = source[index].mask
            except (OSError, ValueError):
                if on_bad_sample == "raise":
                    raise
                continue
            if mask is None:
                continue
            count += np.bincount(mask.ravel(), minlength=256)[:classes]
        if total := count.sum():
            shares += ratio * count / total
    if not shares.any():
        raise ValueError("class weights need a data source with masks; none of the sources has one")
    return torch.from_numpy(shares / shares.sum()).float()


def inverse_log_weights(frequencies: Tensor, offset: float = 1.02) -> Tensor:
    """1 / ln(offset + p), bounded for rare classes (Paszke 2016, section 5.2), with mean 1 over the pixels.

    Args:
        frequencies: (classes,) shares p of the pixels.
        offset: 1.02 bounds the unscaled weights to 1.4..50.5.
    """
    weights = 1 / (frequencies + offset).log()
    assert math.isfinite(float(weights.sum()))
    return weights / (weights * frequencies).sum()
