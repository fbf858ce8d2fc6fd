"""Joint transforms of an image and its labels: torchvision v2 on tv_tensors, reproducible from one seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import IGNORE_INDEX

Size = tuple[int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
# A box of which less is left in the crop says too little about what it was.
MIN_VISIBLE = 0.25
# A narrower box holds hardly a pixel of the object alone.
MIN_SIDE = 2.0
# torchvision draws windows of 0.3 of the side and more, and fails where that is less than a pixel.
_LEAST_CROPPED = 16

# Luma and chroma axes of NTSC's YIQ (FCC 1953), in which hue is an angle and saturation a radius.
_RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float64
)
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_NO_BOXES = np.zeros((0, 4), np.float32)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def fill_color(mean: Sequence[float] = IMAGENET_MEAN) -> tuple[int, int, int]:
    """The uint8 RGB of padding, nearest to 0 after normalisation with ``mean`` (0..1)."""
    red, green, blue = (round(255 * channel) for channel in mean)
    return red, green, blue


def _letterbox_scale(source: Size, target: Size) -> float:
    return min(target[0] / source[0], target[1] / source[1])


class _CropResize(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Cuts a window out of the source and resizes it, all types alike.

    Only the window's pixels are resized: a crop of a jittered frame costs what the crop is worth, not what
    the frame is.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        cropped = F.crop(inpt, *params["window"])
        if isinstance(cropped, tv_tensors.Image):
            # A dense channels-last input is resized as it is; a window into a larger one would become
            # channels-first, which costs more than this copy here and again where OpenCV takes over.
            dense = cropped.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            cropped = tv_tensors.wrap(dense, like=cropped)
        if isinstance(cropped, tv_tensors.Mask):
            # F.resize takes the corner of each pixel for masks, which shifts labels against the image.
            resized = F.resize_image(cropped, params["resized"], v2.InterpolationMode.NEAREST_EXACT)
            return tv_tensors.wrap(resized, like=cropped)
        return F.resize(cropped, params["resized"], antialias=True)


class FitInside(_CropResize):
    """Scales the whole frame to the largest size that fits into ``size`` (height, width)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn or worked out once for the image and all its labels."""
        height, width = v2.query_size(flat_inputs)
        scale = _letterbox_scale((height, width), self.size)
        resized = [max(1, round(height * scale)), max(1, round(width * scale))]
        return {"window": (0, 0, height, width), "resized": resized}


class RandomScaledCrop(_CropResize):
    """Scales by a random factor and cuts a random window of at most ``size``.

    Args:
        size: (height, width) of the window in scaled pixels; a frame that is smaller there stays smaller.
        scale: bounds of the factor, drawn log-uniformly; 1 is the scale at which the whole frame fits
            ``reference_size``, that is how the predictor sees it there.
        reference_size: (height, width) of the network's input when predicting.
        aspect_ratio: the picture is stretched by a factor drawn log-uniformly up to this, in width or height
            alike, its area kept.
    """

    def __init__(
        self, size: Size, scale: tuple[float, float], reference_size: Size, aspect_ratio: float = 1.0
    ) -> None:
        super().__init__()
        self.size = size
        self.scale = scale
        self.reference_size = reference_size
        self.aspect_ratio = aspect_ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn or worked out once for the image and all its labels."""
        height, width = v2.query_size(flat_inputs)
        low, high = self.scale
        scale = _letterbox_scale((height, width), self.reference_size)
        scale *= math.exp(_uniform(math.log(low), math.log(high)))
        stretch = 1.0
        if self.aspect_ratio != 1:
            stretch = math.exp(_uniform(-0.5, 0.5) * math.log(self.aspect_ratio))
        top, window_height, resized_height = self._window(height, self.size[0], scale / stretch)
        left, window_width, resized_width = self._window(width, self.size[1], scale * stretch)
        return {
            "window": (top, left, window_height, window_width),
            "resized": [resized_height, resized_width],
        }

    @staticmethod
    def _window(length: int, size: int, scale: float) -> tuple[int, int, int]:
        """Along one axis: the window's start and length in the source, and its length in the result."""
        window = min(length, max(1, round(size / scale)))
        resized = size if window < length else min(size, max(1, round(length * scale)))
        return int(torch.randint(length - window + 1, ())), window, resized


class RandomWindowOnBox(v2.RandomIoUCrop):  # type: ignore[misc]  # torchvision has no types
    """SSD's random crop (Liu 2016, section 2.2) by torchvision: a window with a drawn overlap of a box.

    torchvision takes away the boxes whose centre the window leaves out; here they stay, because
    ``SampleTransform`` makes them ignore boxes where too little of them is left, so that no visible part of
    an object is learned as background.

    Args:
        probability: of cropping at all.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn once for the image and all its labels; nothing for an image without boxes."""
        boxes = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes))
        if float(torch.rand(())) >= self.probability or not len(boxes):
            return {}
        if min(v2.query_size(flat_inputs)) < _LEAST_CROPPED:
            return {}
        params: dict[str, Any] = super().make_params(flat_inputs)
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of the image and its labels, changed."""
        if not params:
            return inpt
        return F.crop(inpt, params["top"], params["left"], params["height"], params["width"])


class PadTo(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Pads to ``size`` (height, width): the image with ``fill``, the mask with 255.

    Args:
        random: place the picture anywhere in ``size`` instead of top left.
    """

    def __init__(self, size: Size, fill: tuple[int, int, int], random: bool) -> None:
        super().__init__()
        self.size = size
        self.fill = fill
        self.random = random

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn or worked out once for the image and all its labels."""
        height, width = v2.query_size(flat_inputs)
        below, right = self.size[0] - height, self.size[1] - width
        top = int(torch.randint(below + 1, ())) if self.random else 0
        left = int(torch.randint(right + 1, ())) if self.random else 0
        return {"padding": [left, top, right - left, below - top]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of the image and its labels, changed."""
        if not any(params["padding"]):
            return inpt
        fill: Any = IGNORE_INDEX if isinstance(inpt, tv_tensors.Mask) else self.fill
        return F.pad(inpt, params["padding"], fill=fill)


class RandomPhotometric(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Random brightness, contrast, saturation and hue, and now and then grey, blur or sensor noise.

    Brightness, contrast, saturation and hue are one 3x4 matrix on RGB: torchvision's RandomPhotometricDistort
    goes through HSV in floating point and takes 12 ms at 320x192 on one core where this takes 0.1 ms.

    Args:
        strength: 0 leaves the picture as it is, 1 is the usual range: brightness and contrast within
            0.6..1.4, saturation within 0.5..1.5, hue within 18 degrees.
        grayscale, blur, noise: probabilities, scaled by ``strength`` too.
    """

    def __init__(
        self, strength: float = 1.0, grayscale: float = 0.03, blur: float = 0.1, noise: float = 0.1
    ) -> None:
        super().__init__()
        self.strength = strength
        self.grayscale = grayscale
        self.blur = blur
        self.noise = noise

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn or worked out once for the image and all its labels."""
        s = self.strength
        gray = float(torch.rand(())) < self.grayscale * s
        return {
            "brightness": _uniform(1 - 0.4 * s, 1 + 0.4 * s),
            "contrast": _uniform(1 - 0.4 * s, 1 + 0.4 * s),
            "saturation": 0.0 if gray else _uniform(1 - 0.5 * s, 1 + 0.5 * s),
            "hue": _uniform(-0.1 * s, 0.1 * s) * math.pi,
            "blur": _uniform(0.4, 1.5) if float(torch.rand(())) < self.blur * s else None,
            "noise": _uniform(2.0, 12.0) if float(torch.rand(())) < self.noise * s else None,
            "noise_seed": int(torch.randint(2**31 - 1, ())),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of the image and its labels, changed."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = np.ascontiguousarray(inpt.permute(1, 2, 0).numpy())
        radius, angle = params["saturation"], params["hue"]
        turn = np.array([[radius * math.cos(angle), -radius * math.sin(angle)],
                         [radius * math.sin(angle), radius * math.cos(angle)]])  # fmt: skip
        chroma = np.eye(3)
        chroma[1:, 1:] = turn
        color = _YIQ_TO_RGB @ chroma @ _RGB_TO_YIQ
        # Contrast pivots on the picture's own mean, as in torchvision's adjust_contrast.
        mean = np.array(cv2.mean(image)[:3])
        gain = params["brightness"] * params["contrast"]
        pivot = params["brightness"] * (1 - params["contrast"]) * float(_RGB_TO_YIQ[0] @ mean)
        matrix = np.hstack([gain * color, np.full((3, 1), pivot)])
        image = cv2.transform(image, matrix)
        if params["blur"] is not None:
            image = cv2.GaussianBlur(image, (0, 0), params["blur"])
        if params["noise"] is not None:
            cv2.setRNGSeed(params["noise_seed"])
            noise = np.empty(image.shape, np.int16)
            cv2.randn(noise, np.zeros(3), np.full(3, params["noise"]))
            image = cv2.add(image, noise, dtype=cv2.CV_8U)
        return tv_tensors.wrap(torch.from_numpy(image).permute(2, 0, 1), like=inpt)


class SampleTransform:
    """Applies torchvision v2 transforms to a ``Sample`` and keeps only the boxes that are worth learning.

    The same seed gives the same result in any process. A box of which less than ``MIN_VISIBLE`` of the area
    is left, or one narrower or lower than ``MIN_SIDE`` pixels, becomes an ignore box; one of which nothing is
    left vanishes.
    """

    def __init__(self, *transforms: v2.Transform) -> None:
        self._transform = v2.Compose(list(transforms))

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The transformed sample; ``seed`` is 0 .. 2**63-1."""
        boxes = _NO_BOXES if sample.boxes is None else sample.boxes
        every = np.concatenate([boxes, sample.ignore_boxes])
        fields: dict[str, Any] = {
            "image": tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1)),
            # What share of a box is left shows only against the whole of it, and where one crop follows
            # another, or padding follows a crop, what is left shows only where each step cuts it off.
            "whole": _bounding_boxes(every, sample.image.shape, None),
            "left": _bounding_boxes(_clip(every, sample.image.shape), sample.image.shape, "hard"),
        }
        if sample.mask is not None:
            fields["mask"] = tv_tensors.Mask(torch.from_numpy(sample.mask)[None])
        # torch.manual_seed also formats a stack trace for the GPU generators, which takes over a millisecond.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            fields = self._transform(fields)
        finally:
            torch.set_rng_state(state)
        image = fields["image"].permute(1, 2, 0).numpy()
        left, ignored = np.split(_clip(fields["left"].numpy(), image.shape), [len(boxes)])
        sides = (left[:, 2:] - left[:, :2]).min(1, initial=np.inf)
        good = (sides >= MIN_SIDE) & (
            _area(left) >= MIN_VISIBLE * _area(fields["whole"].numpy()[: len(boxes)])
        )
        ignored = np.concatenate([left[~good], ignored])
        return dataclasses.replace(
            sample,
            image=image,
            boxes=None if sample.boxes is None else left[good],
            box_labels=None if sample.box_labels is None else sample.box_labels[good],
            ignore_boxes=ignored[(ignored[:, 2:] > ignored[:, :2]).all(1)],
            mask=None if sample.mask is None else fields["mask"][0].numpy(),
        )


def _bounding_boxes(
    boxes: npt.NDArray[np.float32], shape: tuple[int, ...], clamping_mode: str | None
) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(
        torch.from_numpy(boxes),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=shape[:2],
        clamping_mode=clamping_mode,
    )


def _clip(boxes: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The boxes' parts inside the image, without area where there is none."""
    height, width = shape[:2]
    clipped: npt.NDArray[np.float32] = boxes.clip(0, np.array([width, height, width, height], np.float32))
    return clipped


def _area(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def check_scale(where: str, scale: tuple[float, float]) -> None:
    """Refuses bounds of a scale factor that are not above 0, finite and in order.

    Raises:
        ValueError: beginning with ``where``.
    """
    if not 0 < scale[0] <= scale[1] < math.inf:
        raise ValueError(f"{where}: scale is {list(scale)}; smallest and largest, both above 0, are needed")


@dataclass(frozen=True)
class AugmentationConfig:
    """How a picture and its labels are changed at random, beside scale and crop.

    There is no mosaic: it reads four images for one, and puts images that label different tasks and classes
    into one, for which a batch could no longer say what is labelled.

    Attributes:
        photometric: strength of the colour distortion; see ``RandomPhotometric``.
        flip: probability of a horizontal flip.
        aspect_ratio: largest stretch of one side against the other; see ``RandomScaledCrop``.
        iou_crop: probability of a first crop on a box; see ``RandomWindowOnBox``.

    Raises:
        ValueError: for a value out of range.
    """

    photometric: float = 1.0
    flip: float = 0.5
    aspect_ratio: float = 1.0
    iou_crop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "iou_crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} is a probability, found {getattr(self, name)}")
        if not 0 <= self.photometric < math.inf:
            raise ValueError(f"augmentation.photometric is at least 0, found {self.photometric}")
        if not 1 <= self.aspect_ratio < math.inf:
            raise ValueError(f"augmentation.aspect_ratio is at least 1, found {self.aspect_ratio}")


def training_transform(
    size: Size,
    scale: tuple[float, float] = (1.0, 2.5),
    reference_size: Size | None = None,
    augmentation: AugmentationConfig | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
) -> SampleTransform:
    """Random scale, crop, horizontal flip and photometric distortion.

    Args:
        size: (height, width) of the training picture.
        scale: bounds of the scale factor; see ``RandomScaledCrop``.
        reference_size: (height, width) at which the model will predict; ``size`` where None.
        augmentation: everything else; its defaults where None.
        mean: RGB, 0..1, the normalisation's mean, which is the colour of padding.
    """
    chosen = augmentation or AugmentationConfig()
    return SampleTransform(
        *([RandomWindowOnBox(chosen.iou_crop)] if chosen.iou_crop else []),
        RandomScaledCrop(size, scale, reference_size or size, chosen.aspect_ratio),
        *([RandomPhotometric(chosen.photometric)] if chosen.photometric else []),
        v2.RandomHorizontalFlip(chosen.flip),
        # Last, because the predictor's padding has one colour that no photometric change may touch.
        PadTo(size, fill_color(mean), random=True),
    )


def evaluation_transform(size: Size, mean: Sequence[float] = IMAGENET_MEAN) -> SampleTransform:
    """The whole frame letterboxed into ``size`` (height, width) as the predictor does; no seed changes it."""
    return SampleTransform(FitInside(size), PadTo(size, fill_color(mean), random=False))
