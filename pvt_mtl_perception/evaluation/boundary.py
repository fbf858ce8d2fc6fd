"""How well the outlines of a mask are met: boundary pixels with a counterpart nearby, by class."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.labels import IGNORE_INDEX

TOLERANCE = 0.0075
"""How far apart two boundaries may lie, as a part of the image's diagonal (Csurka 2013)."""

Mask = npt.NDArray[np.uint8]


def _outlines(mask: Mask, ignored: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels with a neighbour above, below, left or right of another class; a border to ignored pixels or
    to the image's edge is none.
    """
    outlines = np.zeros(mask.shape, np.bool_)
    for one, other in (
        (np.s_[:-1], np.s_[1:]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        outlines[one] |= (mask[one] != mask[other]) & ~ignored[other]
    outlines &= ~ignored
    return outlines


def _dilated(bits: npt.NDArray[np.uint32], radius: float) -> npt.NDArray[np.uint32]:
    """Each pixel's bits and those of all pixels within the radius: a dilation of 32 planes at once."""
    height, width = bits.shape
    reach = math.floor(radius)
    rows = np.zeros_like(bits)
    across = bits.copy()
    half = 0
    # From the disc's outermost row inwards, so that the run along a row only grows.
    for dy in range(reach, -1, -1):
        wanted = math.floor(math.sqrt(radius * radius - dy * dy))
        while half < min(wanted, width - 1):
            half += 1
            across[:, half:] |= bits[:, :-half]
            across[:, :-half] |= bits[:, half:]
        if dy == 0:
            rows |= across
        elif dy < height:
            rows[dy:] |= across[:-dy]
            rows[:-dy] |= across[dy:]
    return rows


def boundary_counts(
    predicted: Mask, labelled: Mask, classes: int, tolerance: float = TOLERANCE
) -> npt.NDArray[np.int32]:
    """Counts from which the boundary F measure follows, pooled over as many images as wanted.

    A class's boundary pixels are those next to another class. One counts as met where the other mask has a
    boundary pixel of the same class within the tolerance (Csurka 2013, "What is a good evaluation measure for
    semantic segmentation?", section 3.2). There the F measure of each image is averaged; here the pixels of
    all images are pooled, as the confusion matrix of the IoU is, so that an image with a few pixels of a
    class does not weigh as much as one full of it.

    Args:
        predicted: uint8 (H, W), class ids; others are no class.
        labelled: uint8 (H, W), class ids; 255 is left out, and what is predicted there too.
        classes: how many are scored.
        tolerance: as a part of the image's diagonal.

    Returns:
        int32 (classes, 4): labelled boundary pixels, those of them that are met, predicted boundary pixels,
        those of them that are met.
    """
    ignored = labelled == IGNORE_INDEX
    truth, guess = _outlines(labelled, ignored), _outlines(predicted, ignored)
    pixels = tolerance * math.hypot(*labelled.shape)
    counts = np.zeros((classes, 4), np.int32)
    for column, outlines, mask, others, other_mask in (
        (0, truth, labelled, guess, predicted),
        (2, guess, predicted, truth, labelled),
    ):
        own = mask[outlines]
        counts[:, column] = np.bincount(own, minlength=256)[:classes]
        for first in range(0, classes, 32):
            # A bit a class; a class outside of these 32 has none.
            bit = np.zeros(256, np.uint32)
            count = min(32, classes - first)
            bit[first : first + count] = np.uint32(1) << np.arange(count, dtype=np.uint32)
            near = _dilated(np.where(others, bit[other_mask], np.uint32(0)), pixels)
            met = (near[outlines] & bit[own]) > 0
            counts[:, column + 1] += np.bincount(own[met], minlength=256)[:classes].astype(np.int32)
    return counts
