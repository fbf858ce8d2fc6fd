"""Weights that let rare segmentation classes count in the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pvt_mtl_perception.data.mixture import SampleSource

# Class frequencies settle long before this, and a reader needs no more than seconds for it.
SAMPLES = 200


def class_frequencies(
    sources: Sequence[SampleSource], ratios: Sequence[float], classes: int, samples: int = SAMPLES
) -> Tensor:
    """Share of each class among the labelled pixels, estimated on evenly spaced samples.

    Args:
        sources: data sets, each asked for ``samples`` samples at most; those without masks count nothing.
        ratios: how often training draws from each.
        classes: number of segmentation classes; ids from there on are unlabelled.

    Returns:
        float32 (classes,), which sums to 1.

    Raises:
        ValueError: when no sample has a labelled pixel.
    """
    shares = np.zeros(classes)
    for source, ratio in zip(sources, ratios, strict=True):
        count = np.zeros(classes)
        for index in np.linspace(0, len(source) - 1, min(samples, len(source)), dtype=np.int64):
            mask = source[int(index)].mask
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
