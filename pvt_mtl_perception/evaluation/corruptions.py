"""What weather, darkness, motion and cameras do to an image, at strengths 1 to 5, to score models under it.

No library that is still kept offers the weather under a free licence: imagecorruptions and imgaug have no
release in years, albumentations ended with a successor under the AGPL. torchvision has ``JPEG``, whose pixels
are those of OpenCV's here, and ``GaussianNoise``, which draws from torch's global generator and rounds noise
towards zero; here it follows from the image's own seed. The strengths of ``noise`` and ``jpeg`` are
those of ImageNet-C (Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations"); the others say where their formula comes from, and their strengths are chosen
by eye. None of them replaces driving in the rain: they rank models, on the same pixels.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.mixture import SampleSource
from pvt_mtl_perception.data.sample import Sample

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

STRENGTHS = (1, 2, 3, 4, 5)


def _clip(image: npt.NDArray[Any]) -> Image:
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def _clouds(height: int, width: int, dice: np.random.Generator) -> Floats:
    """A smooth field in -1..1: noise of three sizes, each half as strong as the one twice as coarse."""
    field = np.zeros((height, width), np.float32)
    for octave in range(3):
        cells = dice.uniform(-1, 1, (2 + 2**octave, 3 + 2 ** (octave + 1))).astype(np.float32)
        field += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray(np.clip(field / 1.75, -1, 1), np.float32)


def _line(length: float, angle: float) -> Floats:
    """A blur kernel along a line, of length in pixels and angle in degrees; its sum is 1."""
    reach = length / 2
    middle = math.ceil(reach) + 1
    along = np.linspace(-reach, reach, 8 * math.ceil(length) + 1)
    kernel = np.zeros((2 * middle + 1, 2 * middle + 1), np.float32)
    x = middle + along * math.cos(math.radians(angle))
    y = middle + along * math.sin(math.radians(angle))
    # Each point is shared among the four pixels around it, so that the length may be any number.
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = (1 - np.abs(x - left - dx)) * (1 - np.abs(y - top - dy))
        np.add.at(kernel, (top + dy, left + dx), share)
    return np.asarray(kernel / kernel.sum(), np.float32)


def fog(image: Image, strength: int, dice: np.random.Generator) -> Image:
    """Light from fog between camera and scene: J t + A (1 - t), t = exp(-density · distance) (Koschmieder).

    A frame without depth has the distance of a flat road: it grows from the lowest row to the horizon, taken
    at half of the height, above which it stays. Clouds vary the density by a quarter.
    """
    height, width = image.shape[:2]
    density = (0.5, 0.9, 1.4, 2.1, 3.0)[strength - 1]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    distance = np.clip(0.25 / np.maximum(rows - 0.25, 1e-6), 0.3, 1.0)
    through = np.exp(-density * distance * (1 + 0.25 * _clouds(height, width, dice)))[..., None]
    air = np.array([205, 209, 213], np.float32)
    return _clip(image * through + air * (1 - through))


def rain(image: Image, strength: int, dice: np.random.Generator) -> Image:
    """Streaks of falling drops, and behind them the veil that far drops make (Garg and Nayar 2007).

    A drop is brighter than what it hides because it shows the sky. Streaks of one frame fall alike, at an
    angle up to 15° from upright.
    """
    height, width = image.shape[:2]
    density = (0.0010, 0.0020, 0.0035, 0.0055, 0.0085)[strength - 1]
    length = height * (0.030, 0.035, 0.040, 0.050, 0.060)[strength - 1]
    veil = (0.05, 0.10, 0.16, 0.23, 0.32)[strength - 1]
    angle = 90 + dice.uniform(-15, 15)
    drops = (dice.random((height, width), np.float32) < density).astype(np.float32)
    drops *= dice.uniform(0.4, 1.0, (height, width)).astype(np.float32)
    kernel = _line(length, angle)
    streaks = np.clip(cv2.filter2D(drops, cv2.CV_32F, kernel / kernel.max()), 0, 1)
    streaks = cv2.GaussianBlur(streaks, (0, 0), max(0.5, height / 900))[..., None]
    grey = np.array([170, 174, 180], np.float32)
    wet = image * (1 - veil) + grey * veil
    return _clip(wet + 0.55 * streaks * np.maximum(grey * 1.25 - wet, 0))


def night(image: Image, strength: int, dice: np.random.Generator) -> Image:
    """Less light on the sensor and the noise that comes with it (Foi 2008: Poissonian-Gaussian noise).

    Intensities are halved and more in linear light (sRGB's gamma undone), then carry photon noise of a full
    well of 2000 electrons and read noise of 4. Lamps and headlights are not added.
    """
    gain = (0.35, 0.18, 0.09, 0.045, 0.022)[strength - 1]
    linear = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4)
    # Moonlight and street lamps apart, what is left of the sky's light is blue.
    electrons = 2000 * gain * linear[image] * np.array([0.85, 0.95, 1.15])
    electrons = electrons + np.sqrt(electrons + 16) * dice.standard_normal(image.shape, np.float32)
    # The camera's own gain makes up for part of the darkness, and for the noise as much.
    seen = np.clip(electrons / 2000 / math.sqrt(gain), 0, 1)
    return _clip(255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))


_SRGB = np.arange(256) / 255


def motion_blur(image: Image, strength: int, dice: np.random.Generator) -> Image:
    """The mean along a line of 1 to 6 % of the width, at most 15° from level: the camera turns."""
    length = max(2.0, image.shape[1] * (0.010, 0.017, 0.027, 0.040, 0.060)[strength - 1])
    kernel = _line(length, dice.uniform(-15, 15))
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.uint8)


def noise(image: Image, strength: int, dice: np.random.Generator) -> Image:
    """Gaussian noise; its standard deviations are ImageNet-C's."""
    deviation = 255 * (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1]
    return _clip(image + deviation * dice.standard_normal(image.shape, np.float32))


def jpeg(image: Image, strength: int, dice: np.random.Generator) -> Image:
    """JPEG at the qualities of ImageNet-C, with the pixels of ``torchvision.transforms.v2.JPEG``."""
    quality = (25, 18, 15, 10, 7)[strength - 1]
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


CORRUPTIONS: Mapping[str, Callable[[Image, int, np.random.Generator], Image]] = {
    "fog": fog,
    "rain": rain,
    "night": night,
    "motion_blur": motion_blur,
    "noise": noise,
    "jpeg": jpeg,
}
"""By name: of a uint8 (H, W, 3) RGB image, a strength of ``STRENGTHS`` and a generator, an image alike."""


def corrupt(image: Image, name: str, strength: int, seed: int = 0) -> Image:
    """One corrupted image.

    Args:
        image: uint8 (H, W, 3) RGB, left as it is.
        name: of ``CORRUPTIONS``.
        strength: 1 to 5.
        seed: another seed gives other drops, clouds and noise; the same, the same.

    Raises:
        ValueError: for an unknown name or strength, with the known ones.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is not known; known: {', '.join(CORRUPTIONS)}")
    if strength not in STRENGTHS:
        raise ValueError(f"strength is {strength}; it goes from 1 to 5")
    # Not hash(), which differs from process to process.
    dice = np.random.default_rng([zlib.crc32(name.encode()), strength, seed])
    return CORRUPTIONS[name](image, strength, dice)


class CorruptedSource:
    """A data set whose images are corrupted and whose labels are as they were.

    Every model sees the same pixels: an image's corruption follows from its place in the data set.

    Args:
        data: the data set.
        name: of ``CORRUPTIONS``.
        strength: 1 to 5.

    Raises:
        ValueError: for an unknown name or strength.
    """

    def __init__(self, data: SampleSource, name: str, strength: int) -> None:
        corrupt(np.zeros((8, 8, 3), np.uint8), name, strength)
        self.data = data
        self.name = name
        self.strength = strength

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            ValueError: from the data set.
        """
        sample = self.data[index]
        return dataclasses.replace(sample, image=corrupt(sample.image, self.name, self.strength, index))
