"""A video of a bag's images with the results of another bag drawn on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pvt_mtl_perception.bags.reader import BagImage, BagReader
from pvt_mtl_perception.bags.results import ResultReader, ResultTopics
from pvt_mtl_perception.inference.render import draw_overlay
from pvt_mtl_perception.inference.video import VideoWriter
from pvt_mtl_perception.labels import TaskLabels


class FrameClock:
    """When the frames of a video of a bag's images are shown.

    Images are as far apart as their stamps. Where a stamp does not advance, as of a driver that does not
    stamp, it is as far as they were recorded apart.
    """

    def __init__(self) -> None:
        self._last: BagImage | None = None
        self._elapsed = 0

    def seconds(self, image: BagImage) -> float:
        """Of the next image, from the first one."""
        if self._last is not None:
            step = image.stamp - self._last.stamp
            self._elapsed += step if step > 0 else max(image.timestamp - self._last.timestamp, 0)
        self._last = image
        return self._elapsed / 1e9


def fitted(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An image scaled into (height, width) with its proportions kept and black beside it: uint8 (H, W, 3)."""
    height, width = size
    if image.shape[:2] == size:
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in image.shape[:2])
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    top, left = (height - rows) // 2, (width - columns) // 2
    sides = top, height - rows - top, left, width - columns - left
    return np.asarray(cv2.copyMakeBorder(resized, *sides, cv2.BORDER_CONSTANT), np.uint8)


def write_overlay_video(
    path: str | Path,
    images: str | Path,
    topic: str,
    results: str | Path,
    topics: ResultTopics,
    labels: TaskLabels,
    opacity: float = 0.5,
    progress: bool = True,
) -> int:
    """Writes each image that has a result, with the result drawn on it, at its time by ``FrameClock``.

    The video has the first such image's size; images of another one are fitted into it.

    Args:
        path: an ``.mp4`` file, replaced when it exists.
        images: the bag of images.
        topic: its image topic.
        results: the bag of results; may be the same one.
        topics: where the results are.
        labels: label sets of the results.
        opacity: of the mask, 0..1.
        progress: shows a bar.

    Returns:
        How many frames were written.

    Raises:
        ValueError: when a bag cannot be read, or no image has a result.
    """
    count = 0
    with BagReader(images) as image_reader, BagReader(results) as result_reader:
        selected = image_reader.select([topic])
        recorded = ResultReader(result_reader, topics, labels)
        seconds = max(image_reader.duration, 1e-3)
        fps = min(max(selected[0].count / seconds, 1.0), 120.0)
        size: tuple[int, int] | None = None
        clock = FrameClock()
        with (
            VideoWriter(path, fps) as video,
            tqdm(
                total=selected[0].count, desc=Path(path).name, unit="image", disable=not progress,
                dynamic_ncols=True,
            ) as bar,
        ):  # fmt: skip
            for image in image_reader.images(selected):
                bar.update()
                found = recorded.take(image.stamp)
                if found is None:
                    continue
                pixels = image.decode()
                height, width = pixels.shape[:2]
                size = size or (height, width)
                overlay = draw_overlay(pixels, found.result(height, width), labels, opacity)
                video.write(fitted(overlay, size), clock.seconds(image))
                count += 1
    if not count:
        raise ValueError(f"{results} has no result for the images of {images} on {topic}")
    return count
