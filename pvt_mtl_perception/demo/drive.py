"""A rendered drive as a bag of camera images and a bag of its ground truth, kept for the next time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pvt_mtl_perception.bags import messages
from pvt_mtl_perception.bags.images import write_image_bag
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import (
    BagWriter,
    ResultReader,
    ResultTopics,
    StampedMessages,
    write_result,
)
from pvt_mtl_perception.data import synthetic
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic import Drive
from pvt_mtl_perception.inference.process import end_with_parent
from pvt_mtl_perception.labels import TaskLabels, load_label_set
from pvt_mtl_perception.result import Classification, Detections, Result, Segmentation

IMAGE_TOPIC = "/camera/image_raw"
FRAME_ID = "camera_optical_frame"
TRUTH = ResultTopics.under("/camera/ground_truth")
IGNORED = "/camera/ground_truth/ignored"
"""Boxes in which detections count neither way."""

START = 1_700_000_000 * 10**9
"""Stamp of the first frame, ns: a fixed one, so that the same settings give the same bag."""


@dataclass(frozen=True)
class DriveSettings:
    """Which drive.

    Attributes:
        seed: of everything in it; 3 is a city street by day with cars, pedestrians and traffic lights.
        width, height: pixels.
        fps: camera frames a second.
        seconds: duration.
    """

    seed: int = 3
    width: int = 1280
    height: int = 720
    fps: float = 10.0
    seconds: float = 15.0

    @property
    def frames(self) -> int:
        """Number of frames, at least one."""
        return max(1, round(self.seconds * self.fps))


@dataclass(frozen=True)
class DriveBags:
    """Where a drive is: a bag with ``IMAGE_TOPIC``, and one with what is to be seen on it."""

    images: Path
    truth: Path


def truth_labels() -> TaskLabels:
    """The label sets of the synthetic scenes."""
    return TaskLabels(
        classification={
            "weather": load_label_set("driving_weather"),
            "scene": load_label_set("driving_scene"),
            "timeofday": load_label_set("driving_timeofday"),
        },
        detection=load_label_set("driving_detection"),
        segmentation=load_label_set("driving_segmentation"),
    )


def prepare_drive(settings: DriveSettings, folder: Path, progress: bool = True) -> DriveBags:
    """The drive's bags, rendered unless the folder has them already from the same renderer.

    Args:
        settings: which drive.
        folder: holds one subfolder a drive; made when absent.
        progress: shows a bar.
    """
    target = folder / f"drive-{_fingerprint(settings)}"
    bags = DriveBags(target / "images", target / "truth")
    if not target.is_dir():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with closing(_rendered(settings, progress)) as samples, BagWriter(part / "truth") as truth:
            frames = _recording_truth(settings, samples, truth)
            write_image_bag(part / "images", frames, IMAGE_TOPIC, frame_id=FRAME_ID)
        part.rename(target)
    return bags


def _fingerprint(settings: DriveSettings) -> str:
    """Of the settings and of every source that has a part in the picture."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(settings)).encode())
    sources = sorted(Path(synthetic.__file__).parent.rglob("*.py"))
    for path in (*sources, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _drive(settings: DriveSettings) -> Drive:
    return Drive(settings.seed, settings.width, settings.height, settings.fps)


def _render(settings: DriveSettings, index: int) -> Sample:
    return _drive(settings).frame(index)


def _follow_parent(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def _rendered(settings: DriveSettings, progress: bool) -> Generator[Sample, None, None]:
    workers = min(len(os.sched_getaffinity(0)), settings.frames)
    # Forking a process that has loaded OpenCV or torch can hang it.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_follow_parent, initargs=(os.getpid(),)
    )
    indices = iter(range(settings.frames))
    ahead = deque(pool.submit(_render, settings, index) for index in islice(indices, 4 * workers))
    try:
        with tqdm(
            total=settings.frames, desc="render", unit="frame", disable=not progress, dynamic_ncols=True
        ) as bar:
            while ahead:
                sample = ahead.popleft().result()
                ahead.extend(pool.submit(_render, settings, index) for index in islice(indices, 1))
                bar.update()
                yield sample
    finally:
        pool.shutdown(cancel_futures=True)


def _recording_truth(
    settings: DriveSettings, samples: Iterable[Sample], truth: BagWriter
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Stamps and images of the samples, whose labels go into the bag on the way."""
    labels = truth_labels()
    for index, sample in enumerate(samples):
        stamp = START + round(index * 1e9 / settings.fps)
        header = messages.header(stamp, FRAME_ID)
        write_result(truth, TRUTH, labels, _as_result(sample, labels), stamp, header)
        truth.write(IGNORED, stamp, messages.boxes_message(header, sample.ignore_boxes))
        yield stamp, sample.image


def _as_result(sample: Sample, labels: TaskLabels) -> Result:
    """The labels as a result that is sure of them."""
    detections = segmentation = None
    if sample.boxes is not None and sample.box_labels is not None:
        detections = Detections(sample.boxes, np.ones(len(sample.boxes), np.float32), sample.box_labels)
    if sample.mask is not None:
        segmentation = Segmentation(sample.mask)
    probabilities = {
        group: np.eye(len(label_set), dtype=np.float32)[(sample.classes or {})[group]]
        for group, label_set in labels.classification.items()
    }
    height, width = sample.image.shape[:2]
    return Result(height, width, detections, segmentation, Classification(probabilities))


class DriveTruth:
    """The ground truth of a drive's frames, taken in the order of their stamps.

    Args:
        reader: the open bag ``DriveBags.truth``.
    """

    def __init__(self, reader: BagReader) -> None:
        self.labels = truth_labels()
        self._results = ResultReader(reader, TRUTH, self.labels)
        self._ignored = StampedMessages(reader, IGNORED)

    def take(self, stamp: int, image: npt.NDArray[np.uint8]) -> Sample:
        """The labelled frame.

        Args:
            stamp: ns; not lower than in the call before.
            image: its pixels, uint8 (H, W, 3) RGB.

        Raises:
            KeyError: when the drive has no frame with this stamp.
        """
        found = self._results.take(stamp)
        ignored = self._ignored.take(stamp)
        if found is None or ignored is None or found.detections is None or found.segmentation is None:
            raise KeyError(f"the drive's ground truth has no frame with the stamp {stamp} ns")
        probabilities = found.classification.probabilities if found.classification else {}
        return Sample(
            image=image,
            boxes=found.detections.boxes,
            box_labels=found.detections.labels,
            ignore_boxes=messages.boxes_from(ignored[1]),
            box_classes=tuple(range(len(self.labels.detection or ()))),
            mask=found.segmentation.mask,
            classes={group: int(p.argmax()) for group, p in probabilities.items()},
            name=f"drive frame {stamp} ns",
        )
