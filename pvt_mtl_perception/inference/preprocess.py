"""Images to network input and coordinates back: resize, letterbox and normalise on the device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pvt_mtl_perception.inference.streams import side_stream
from pvt_mtl_perception.model.checkpoint import Preprocessing

# Frames that come from a bag or a message are often views on immutable bytes. They are only read here,
# so torch's general warning about them would be noise.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)


@dataclass(frozen=True)
class LetterboxGeometry:
    """How a source image lies in the network's input: resized with its aspect kept, at the top left.

    Continuous coordinates have their origin at the outer corner of the first pixel, so pixel ``i`` covers
    ``[i, i + 1]`` in both frames and a coordinate maps by the ratio of the sizes alone. Rounding the resized
    size to whole pixels makes the two axes' ratios differ slightly; each axis uses its own, which makes the
    mapping exactly invertible.

    Attributes:
        source_height, source_width: of the image, in pixels.
        resized_height, resized_width: of the part of the input that shows the image.
        input_height, input_width: of the network's input; right of and below the image it is padding.
    """

    source_height: int
    source_width: int
    resized_height: int
    resized_width: int
    input_height: int
    input_width: int

    @property
    def scale(self) -> tuple[float, float]:
        """Source pixels an input pixel, (x, y)."""
        return self.source_width / self.resized_width, self.source_height / self.resized_height

    def boxes_to_source(self, boxes_input: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``xyxy`` (N, 4) from input to source pixels, not clipped."""
        return boxes_input * np.array([*self.scale, *self.scale], np.float32)

    def boxes_to_input(self, boxes_source: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``xyxy`` (N, 4) from source to input pixels, not clipped."""
        x, y = self.scale
        return boxes_source * np.array([1 / x, 1 / y, 1 / x, 1 / y], np.float32)

    def mask_to_source(self, mask_input: Tensor) -> Tensor:
        """A mask (input_height, input_width) of any dtype without its padding, at source size.

        Nearest neighbour between pixel centres; a centre that falls on an edge takes the later pixel.
        """
        height = self.resized_height, self.source_height
        width = self.resized_width, self.source_width
        if height[0] == height[1] and width[0] == width[1]:
            return mask_input[: self.source_height, : self.source_width].contiguous()
        if mask_input.device.type == "cpu":
            rows, columns = nearest_indices(*height), nearest_indices(*width)
            # Columns first, while there are few rows; then whole rows are copied. numpy takes a third of
            # the time of torch's index_select here, and cv2.INTER_NEAREST_EXACT, equally fast, rounds
            # ties and some other centres to the neighbour.
            valid = mask_input.numpy()[: self.resized_height]
            mask = np.take(np.take(valid, columns, axis=1), rows, axis=0)
            return torch.from_numpy(mask)
        device = mask_input.device
        return mask_input[_indices_on(device, *height)[:, None], _indices_on(device, *width)]

    def mask_to_input(self, mask_source: npt.NDArray[np.uint8], fill: int) -> npt.NDArray[np.uint8]:
        """A mask (source_height, source_width) at input size, nearest neighbour, padded with ``fill``."""
        rows = nearest_indices(self.source_height, self.resized_height)
        columns = nearest_indices(self.source_width, self.resized_width)
        mask_input = np.full((self.input_height, self.input_width), fill, np.uint8)
        mask_input[: self.resized_height, : self.resized_width] = mask_source[rows[:, None], columns]
        return mask_input


def nearest_indices(size_from: int, size_to: int) -> npt.NDArray[np.int64]:
    """For each of ``size_to`` pixels, the one of ``size_from`` pixels that contains its centre.

    In whole numbers, so that it is exact where floating point misses a tie.
    """
    return (2 * np.arange(size_to) + 1) * size_from // (2 * size_to)


@lru_cache(maxsize=64)
def _indices_on(device: torch.device, size_from: int, size_to: int) -> Tensor:
    """``nearest_indices`` on a device; kept, since an upload waits for the GPU."""
    with torch.inference_mode(False):
        return torch.from_numpy(nearest_indices(size_from, size_to)).to(device)


def letterbox_geometry(source_size: tuple[int, int], input_size: tuple[int, int]) -> LetterboxGeometry:
    """Where an image of ``source_size`` lies in an input of ``input_size``, both (height, width)."""
    source_height, source_width = source_size
    height, width = input_size
    scale = min(height / source_height, width / source_width)
    resized_height = min(height, max(1, round(source_height * scale)))
    resized_width = min(width, max(1, round(source_width * scale)))
    return LetterboxGeometry(source_height, source_width, resized_height, resized_width, height, width)


def preprocess(
    images: Sequence[npt.NDArray[np.uint8]], preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, list[LetterboxGeometry]]:
    """Letterboxes and normalises images of any sizes into one batch.

    The image is scaled to fit with its aspect kept (bilinear with antialiasing), lies at the top left, and is
    padded at the right and bottom with zeros after normalisation, which is the mean colour.

    Args:
        images: uint8 (H, W, 3) RGB; views with any strides, also negative ones, are taken as they are.
        preprocessing: input size and normalisation.
        device: where the work is done and the batch ends up.

    Returns:
        float32 (B, 3, height, width) in channels-last memory, ``(x / 255 - mean) / std``, and for each image
        its place in the batch.
    """
    height, width = preprocessing.height, preprocessing.width
    geometries = [letterbox_geometry((image.shape[0], image.shape[1]), (height, width)) for image in images]
    # Rows of interleaved channels: operations whose innermost dimension is 3 run a third as fast on a CPU.
    batch = torch.zeros((len(images), height, width * 3), device=device)
    scale, bias = _normalisation(tuple(preprocessing.mean), tuple(preprocessing.std), width, device)
    for members in _groups(images, device):
        geometry = geometries[members[0]]
        rows, columns = geometry.resized_height, geometry.resized_width * 3
        resized = _resize([images[i] for i in members], geometry, device)
        for position, member in enumerate(members):
            torch.addcmul(
                bias[:columns], resized[position], scale[:columns], out=batch[member, :rows, :columns]
            )
    return batch.view(len(images), height, width, 3).permute(0, 3, 1, 2), geometries


@lru_cache(maxsize=16)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand of a row of ``width`` pixels; kept, since making them waits for a GPU's work."""
    with torch.inference_mode(False):
        # Computed here and uploaded, which waits for the copy: any stream may use the result.
        deviation = torch.tensor(std)
        scale = (1 / (255 * deviation)).repeat(width)
        return scale.to(device), (-torch.tensor(mean) / deviation).repeat(width).to(device)


def _upload(images: Sequence[npt.NDArray[np.uint8]], device: torch.device) -> list[Tensor]:
    """Images on the device; to a GPU from pinned memory on a stream of its own, beside the work of others."""
    tensors = [torch.from_numpy(image) for image in images]
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    stream, current = side_stream(device, "upload"), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        uploaded = [_pinned(tensor).to(device, non_blocking=True) for tensor in tensors]
    current.wait_stream(stream)
    for tensor in uploaded:
        tensor.record_stream(current)
    return uploaded


def _pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory: dense, whatever the strides, where ``Tensor.pin_memory`` keeps them."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def _groups(images: Sequence[npt.NDArray[np.uint8]], device: torch.device) -> list[list[int]]:
    """Positions of the images that are resized together."""
    if device.type == "cpu":
        # torch's uint8 resize runs image by image on a CPU: stacking would gain nothing and cost a copy.
        return [[i] for i in range(len(images))]
    by_layout: dict[tuple[object, ...], list[int]] = {}
    for i, image in enumerate(images):
        by_layout.setdefault((image.shape, _flipped_axes(image)), []).append(i)
    return list(by_layout.values())


def _flipped_axes(image: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    return tuple(axis for axis, stride in enumerate(image.strides) if stride < 0)


def _resize(
    images: Sequence[npt.NDArray[np.uint8]], geometry: LetterboxGeometry, device: torch.device
) -> Tensor:
    """Images of one layout as float32 (n, resized_height, resized_width * 3), 0..255.

    On a CPU, F.interpolate on uint8 in channels-last memory is both the fastest accurate way and the one that
    torchvision takes: 1920x1080 to 640x360 in 1.5 ms, against 1.6 ms (INTER_AREA, whole factor) to 6.4 ms
    (other factors) with OpenCV, whose INTER_LINEAR is faster only because it skips pixels and so aliases.
    CUDA has no uint8 kernel and resizes in float32, which skips the rounding to whole grey levels.
    """
    # torch takes no negative strides. Unflip the view, which costs nothing, and flip the small result:
    # copying a 1080p BGR view instead takes 10 ms.
    axes = _flipped_axes(images[0])
    tensors = _upload([np.flip(image, axes) for image in images], device)
    # Indexing before permute keeps the strides that make torch see channels-last memory.
    stack = (torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]).permute(0, 3, 1, 2)
    size = (geometry.resized_height, geometry.resized_width)
    if size != (geometry.source_height, geometry.source_width):
        if device.type != "cpu":
            stack = stack.float()
        stack = F.interpolate(stack, size=size, mode="bilinear", antialias=True)
    interleaved = stack.permute(0, 2, 3, 1)
    if axes:
        interleaved = interleaved.flip([axis + 1 for axis in axes])
    return interleaved.reshape(len(images), size[0], size[1] * 3).float()
