"""A bag's images through a predictor into a bag of results, resumable after any kind of end."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from tqdm import tqdm

from pvt_mtl_perception.bags import messages
from pvt_mtl_perception.bags.reader import BAG_SUFFIXES, BagImage, BagReader
from pvt_mtl_perception.bags.results import (
    BagWriter,
    ResultTopics,
    Storage,
    result_topics,
    write_label_info,
    write_result,
)
from pvt_mtl_perception.inference.batches import batched, deferred_interrupt, prefetched
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.paths import read_json, read_yaml, remove_partial, replaced, to_disk
from pvt_mtl_perception.result import Result

_log = logging.getLogger(__name__)

_INFORMATION = "rosbag2_bagfile_information"
_READ = "images_read"
_FAILED = "images_failed"
_LOGGED_FAILURES = 5
"""Undecodable images that are logged one by one; the others are only counted."""

Decoded = tuple[BagImage, "npt.NDArray[np.uint8] | ValueError"]


@dataclass(frozen=True)
class BagSummary:
    """What ``predict_bag`` did, the earlier parts of a resumed run included.

    Attributes:
        images: image messages read.
        failed: of these, how many could not be decoded.
        topics: for each image topic, where its results are.
    """

    images: int
    failed: int
    topics: Mapping[str, ResultTopics]


def predict_bag(
    source: str | Path,
    target: str | Path,
    predictor: Predictor,
    topics: Sequence[str] = (),
    batch_size: int = 1,
    with_images: bool = False,
    storage: Storage = "mcap",
    segment: int = 1000,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> BagSummary:
    """Predicts every image of a bag and writes the results into a new ROS 2 bag.

    Each result message has its image's header and recording time. An image that cannot be decoded is
    logged, counted and left out. While it works, ``<target>.part`` holds finished files of ``segment``
    images each; a run that was ended in any way is continued by calling again with the same arguments, and
    at most the images of one unfinished file are predicted again, or those from the first file on that does
    not hold its messages any more. The new bag consists of those files. A target that the same arguments
    have made already is left as it is.

    Args:
        source: a ROS 1 or ROS 2 bag.
        target: the new bag's folder.
        predictor: what predicts.
        topics: image topics; may be empty where the bag has exactly one.
        batch_size: images predicted at once.
        with_images: copies the images into the new bag too.
        storage: ``mcap`` or ``sqlite3``.
        segment: images a file of the new bag.
        settings: what else the results depend on, such as the model's file: noted in the bag's metadata,
            and a run is continued only with equal settings.
        progress: shows a bar.

    Raises:
        FileExistsError: when the target exists and is not the result of these arguments.
        FileNotFoundError: when the source does not exist.
        ValueError: when the source is no bag, a topic is wrong, no image could be decoded, the part of an
            earlier run had other settings, or a file of its notes or of the target's is damaged.
        KeyboardInterrupt: after Ctrl-C, with everything predicted so far kept.
    """
    target = Path(target)
    if segment < 1:
        raise ValueError(f"segment is {segment}; a file of the new bag needs at least 1 image")
    with BagReader(source) as reader:
        selected = reader.select(topics)
        if not sum(topic.count for topic in selected):
            raise ValueError(f"{source} has no image on {', '.join(map(str, selected))}")
        run = {
            "source": str(source),
            "source_files": _identity(reader.path),
            "topics": ", ".join(map(str, selected)),
            "with_images": with_images,
            "storage": storage,
            "model": predictor.model_name,
            "precision": predictor.precision,
            "backend": predictor.backend,
            "input_size": f"{predictor.preprocessing.width}x{predictor.preprocessing.height}",
            "score_threshold": predictor.score_threshold,
            "nms_threshold": predictor.nms_threshold,
            "max_detections": predictor.max_detections,
            **(settings or {}),
        }
        notes = {key: str(value) for key, value in run.items()}
        places = result_topics([topic.name for topic in selected])
        if target.exists():
            return _finished(target, notes, places)
        part = _Part(target, notes)
        if not part.complete:
            total = sum(topic.count for topic in selected)
            job = _Job(reader, predictor, places, with_images, storage)
            with tqdm(
                total=total, initial=part.images, unit="image", disable=not progress, dynamic_ncols=True
            ) as bar:
                job.run(part, batch_size, segment, bar)
    if part.images and part.failed == part.images:
        shutil.rmtree(part.folder)
        raise ValueError(f"{source}: none of {part.images} images could be decoded")
    summary = BagSummary(part.images, part.failed, places)
    part.finish(target)
    return summary


def _identity(bag: Path) -> str:
    """What tells a bag from another one that was at its path: its files' sizes and times of last change."""
    files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
    states = [(file.name, file.stat()) for file in files if file.suffix in BAG_SUFFIXES]
    return ", ".join(f"{name} ({state.st_size} bytes, {state.st_mtime_ns} ns)" for name, state in states)


def _finished(target: Path, notes: Mapping[str, str], places: Mapping[str, ResultTopics]) -> BagSummary:
    have: Mapping[str, str] = {}
    if (target / "metadata.yaml").is_file():
        have = _read_metadata(target).get("custom_data") or {}
    for key, value in notes.items():
        if have.get(key) != value:
            what = f"made with {key} {have[key]!r}, not {value!r}" if key in have else "something else"
            raise FileExistsError(f"{target} exists already and is {what}")
    return BagSummary(int(have[_READ]), int(have[_FAILED]), places)


class _Part:
    """The unfinished bag's folder: finished files with their metadata, and what the run is.

    Attributes:
        folder: ``<target>.part``.
        segments: metadata of the finished files, in order.
        images, failed: sums over the finished files.
    """

    def __init__(self, target: Path, run: Mapping[str, str]) -> None:
        self.folder = target.with_name(f"{target.name}.part")
        self._stem = target.name
        self._run = run
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial(self.folder)
        self.segments: list[dict[str, Any]] = []
        self.images = self.failed = 0
        if self.complete:
            metadata = _read_metadata(self.folder)
            # A kill may have come after run.json was removed.
            self._check_run({key: metadata["custom_data"].get(key) for key in run})
            self._count(metadata)
            return
        notes = self.folder / "run.json"
        if notes.is_file():
            self._check_run(read_json(notes))
        else:
            with replaced(notes) as temporary:
                temporary.write_text(json.dumps(run, indent=1))
        kept = set()
        while _is_whole(self.next_segment):
            kept.add(self.next_segment)
            self._take(self.next_segment)
        if self.next_segment.is_dir():
            _log.warning("%s has lost messages: predicting from there on again", self.next_segment)
        for path in self.folder.iterdir():
            if path.is_dir() and path not in kept:
                shutil.rmtree(path)

    def _check_run(self, earlier: Mapping[str, Any]) -> None:
        for key in {**earlier, **self._run}:
            if earlier.get(key) != self._run.get(key):
                raise ValueError(
                    f"{self.folder} is part of a run with {key} {earlier.get(key)!r}, not "
                    f"{self._run.get(key)!r}: continue with that value, or remove the folder to start anew"
                )

    @property
    def complete(self) -> bool:
        """Whether every image is in; the files may still have to be moved to their places."""
        return (self.folder / "metadata.yaml").is_file()

    @property
    def next_segment(self) -> Path:
        """The folder of the file that comes next, once it is finished."""
        return self.folder / f"{self._stem}_{len(self.segments)}"

    @property
    def unfinished(self) -> Path:
        """Where the file that comes next is written."""
        return self.folder / "unfinished" / self.next_segment.name

    def add_unfinished(self) -> None:
        """Makes the file that was written count, once it would outlive a power cut."""
        segment = self.next_segment
        for path in (*self.unfinished.iterdir(), self.unfinished):
            to_disk(path)
        self.unfinished.replace(segment)
        to_disk(self.folder)
        self._take(segment)

    def _take(self, segment: Path) -> None:
        self.segments.append(_read_metadata(segment))
        self._count(self.segments[-1])

    def _count(self, metadata: Mapping[str, Any]) -> None:
        self.images += int(metadata["custom_data"][_READ])
        self.failed += int(metadata["custom_data"][_FAILED])

    def topics_with_messages(self) -> set[str]:
        """Topics that the finished files have messages on."""
        return {
            topic["topic_metadata"]["name"]
            for metadata in self.segments
            for topic in metadata["topics_with_message_count"]
            if topic["message_count"]
        }

    def finish(self, target: Path) -> None:
        """Makes one bag of the finished files: after a kill in the middle, calling it again goes on."""
        if not self.complete:
            notes = {**self._run, _READ: str(self.images), _FAILED: str(self.failed)}
            text = yaml.safe_dump({_INFORMATION: _merged(self.segments, notes)}, sort_keys=False)
            with replaced(self.folder / "metadata.yaml") as temporary:
                temporary.write_text(text)
        for folder in [path for path in self.folder.iterdir() if path.is_dir()]:
            for file in folder.iterdir():
                if file.name != "metadata.yaml":
                    file.replace(self.folder / file.name)
            shutil.rmtree(folder)
        (self.folder / "run.json").unlink(missing_ok=True)
        to_disk(self.folder)
        self.folder.replace(target)


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.yaml"
    content = read_yaml(path)
    metadata = content.get(_INFORMATION) if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} has no `{_INFORMATION}:`, so it is not a rosbag2 bag's")
    return metadata


def _is_whole(segment: Path) -> bool:
    """Whether a segment is there and its files hold as many messages as its metadata say."""
    try:
        metadata = _read_metadata(segment)
        count = 0
        for name in metadata["relative_file_paths"]:
            with BagReader(segment / name) as reader:
                count += sum(topic.count for topic in reader.topics)
    except (FileNotFoundError, ValueError):
        return False
    return count == int(metadata["message_count"])


def _merged(segments: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a bag of several files, from the metadata of each as a bag of its own."""
    topics: dict[str, dict[str, Any]] = {}
    for segment in segments:
        for topic in segment["topics_with_message_count"]:
            name = topic["topic_metadata"]["name"]
            merged = topics.setdefault(name, {"topic_metadata": topic["topic_metadata"], "message_count": 0})
            merged["message_count"] += topic["message_count"]
    spans = [
        (start, start + segment["duration"]["nanoseconds"])
        for segment in segments
        if segment["message_count"]
        for start in [segment["starting_time"]["nanoseconds_since_epoch"]]
    ]
    first = min((start for start, _ in spans), default=0)
    last = max((end for _, end in spans), default=0)
    return {
        **segments[0],
        "relative_file_paths": [path for segment in segments for path in segment["relative_file_paths"]],
        "files": [file for segment in segments for file in segment["files"]],
        "starting_time": {"nanoseconds_since_epoch": first},
        "duration": {"nanoseconds": last - first},
        "message_count": sum(segment["message_count"] for segment in segments),
        "topics_with_message_count": list(topics.values()),
        "custom_data": dict(notes),
    }


@dataclass(frozen=True)
class _Job:
    reader: BagReader
    predictor: Predictor
    places: Mapping[str, ResultTopics]
    with_images: bool
    storage: Storage

    def run(self, part: _Part, batch_size: int, segment: int, bar: Any) -> None:
        """Writes files until the images end or Ctrl-C; each file is finished before the next."""
        announced = part.topics_with_messages()
        topics = self.reader.select(list(self.places))
        images = self.reader.images(topics, skip=part.images)
        decoded = prefetched(map(_decode, images), depth=2 * batch_size)
        with deferred_interrupt() as stopping, closing(decoded):
            batches = self.predictor.predict_stream(batched(decoded, batch_size), _pixels)
            batch = next(batches, None)
            while batch is not None and not stopping():
                read = failed = 0
                with BagWriter(part.unfinished, self.storage) as writer:
                    while batch is not None and read < segment and not stopping():
                        failed += self._write(writer, *batch, announced, part.failed + failed)
                        read += len(batch[0])
                        bar.update(len(batch[0]))
                        batch = next(batches, None)
                    writer.set_note(_READ, str(read))
                    writer.set_note(_FAILED, str(failed))
                part.add_unfinished()
            if stopping():
                raise KeyboardInterrupt

    def _write(
        self,
        writer: BagWriter,
        batch: Sequence[Decoded],
        results: Sequence[Result],
        announced: set[str],
        failed_before: int,
    ) -> int:
        """Writes a batch; how many of its images could not be decoded."""
        good = [(image, pixels) for image, pixels in batch if isinstance(pixels, np.ndarray)]
        failures = [error for _, error in batch if isinstance(error, ValueError)]
        for error in failures[: max(0, _LOGGED_FAILURES - failed_before)]:
            _log.warning("left out: %s", error)
        labels = self.predictor.labels
        for (image, _), result in zip(good, results, strict=True):
            place = self.places[image.topic]
            header = messages.header(image.stamp, image.frame_id)
            if self.with_images:
                writer.write(image.topic, image.timestamp, messages.copied_image(header, image.message))
            if place.label_info not in announced:
                write_label_info(writer, place, labels, image.timestamp, header)
                announced.add(place.label_info)
            write_result(writer, place, labels, result, image.timestamp, header)
        return len(failures)


def _pixels(batch: Sequence[Decoded]) -> list[npt.NDArray[np.uint8]]:
    return [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]


def _decode(image: BagImage) -> Decoded:
    try:
        return image, image.decode()
    except ValueError as error:
        return image, error
