"""A video of a bag's images with the results of another bag drawn on them."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import ResultReader, ResultTopics
from pvt_mtl_perception.inference.render import draw_overlay
from pvt_mtl_perception.inference.video import VideoWriter
from pvt_mtl_perception.labels import TaskLabels


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
    """Writes each image that has a result, with the result drawn on it, at the time of its header's stamp.

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
        ValueError: when a bag cannot be read, the images change their size, or no image has a result.
    """
    count = 0
    with BagReader(images) as image_reader, BagReader(results) as result_reader:
        selected = image_reader.select([topic])
        recorded = ResultReader(result_reader, topics, labels)
        seconds = max(image_reader.duration, 1e-3)
        fps = min(max(selected[0].count / seconds, 1.0), 120.0)
        start: int | None = None
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
                start = image.stamp if start is None else start
                overlay = draw_overlay(
                    pixels, found.result(pixels.shape[0], pixels.shape[1]), labels, opacity
                )
                video.write(overlay, (image.stamp - start) / 1e9)
                count += 1
    if not count:
        raise ValueError(f"{results} has no result for the images of {images} on {topic}")
    return count
