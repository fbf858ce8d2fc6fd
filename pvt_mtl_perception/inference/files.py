"""Image and video files through a predictor: results as JSON lines, with masks and overlays as pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pvt_mtl_perception.inference.batches import batched, deferred_interrupt, prefetched
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.render import draw_overlay
from pvt_mtl_perception.inference.video import VideoReader, VideoWriter
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.paths import naming, read_json, replaced
from pvt_mtl_perception.result import Result

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")

RESULTS = "results.jsonl"
_RUN = "run.json"


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
        path: where it is.
        name: what its results are called: its path below the folder it was found in, or its file name.
    """

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Whether its suffix is a video's."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def stem(self) -> str:
        """Its name without the suffix, with which the names of all its results begin."""
        return str(self.name.with_suffix(""))

    def identity(self) -> dict[str, Any]:
        """What tells the file from others of its name and from its own earlier contents.

        Raises:
            OSError: when the file is gone.
        """
        status = self.path.stat()
        return {
            "path": str(self.path.resolve()),
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
        }


def find_inputs(paths: Iterable[Path], output: Path | None = None) -> list[Input]:
    """The image and video files among the paths and in the folders among them, sorted within a folder.

    Args:
        paths: files and folders.
        output: the folder of the results. Where it lies in one of the folders, what is in it is no input.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when a file is neither image nor video, a folder holds none, or two would have results
            of the same name.
    """
    inputs = []
    for path in paths:
        if path.is_dir():
            known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in known)
            outside = ""
            if output is not None and output.resolve().is_relative_to(path.resolve()):
                files = [file for file in files if not file.resolve().is_relative_to(output.resolve())]
                outside = f" outside the results' folder {output}"
            if not files:
                raise ValueError(f"{path} holds no file with the suffix {', '.join(known)}{outside}")
            inputs += [Input(file, file.relative_to(path)) for file in files]
        elif not path.exists():
            raise FileNotFoundError(f"no image, video or folder at {path}")
        elif path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            inputs.append(Input(path, Path(path.name)))
        else:
            raise ValueError(f"{path} is neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a video")
    seen: dict[str, Path] = {}
    for item in inputs:
        if item.stem in seen:
            raise ValueError(f"{seen[item.stem]} and {item.path} would both have results called {item.stem}")
        seen[item.stem] = item.path
    return inputs


def result_record(result: Result, labels: TaskLabels) -> dict[str, Any]:
    """A result as plain data for JSON.

    Returns:
        ``width`` and ``height`` in pixels; ``detections``, each with ``class``, ``score`` and ``box``
        (``xyxy`` in pixels); ``classification``, by group each class's probability; ``segmentation``, the
        share of the image's pixels of each class that occurs. A task that was not run is absent.
    """
    record: dict[str, Any] = {"width": result.width, "height": result.height}
    if result.detections is not None and labels.detection is not None:
        found = result.detections
        record["detections"] = [
            {
                "class": labels.detection.names[label],
                "score": round(float(score), 4),
                "box": [round(value, 2) for value in box.tolist()],
            }
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ]
    if result.classification is not None:
        record["classification"] = {
            group: {
                name: round(float(p), 4)
                for name, p in zip(labels.classification[group].names, probabilities, strict=True)
            }
            for group, probabilities in result.classification.probabilities.items()
        }
    if result.segmentation is not None and labels.segmentation is not None:
        mask = result.segmentation.mask
        counts = np.bincount(mask.ravel(), minlength=len(labels.segmentation))
        record["segmentation"] = {
            name: round(count / mask.size, 4)
            for name, count in zip(labels.segmentation.names, counts.tolist(), strict=False)
            if count
        }
    return record


def predict_files(
    inputs: Sequence[Input],
    output: Path,
    predictor: Predictor,
    batch_size: int = 1,
    pictures: bool = True,
    settings: dict[str, str] | None = None,
    progress: bool = True,
) -> tuple[int, int]:
    """Predicts files and writes the results below a folder.

    ``results.jsonl`` gets one line an image, with ``image`` its name; a video ``a.mp4`` gets ``a.jsonl``
    with one line a frame, with ``time`` in seconds; one called ``results.mp4`` gets ``results.mp4.jsonl``.
    With pictures, an image has ``<name>_overlay.jpg`` and ``<name>_mask.png`` (class ids), a video
    ``<name>_overlay.mp4``. A photo is first turned upright by its EXIF orientation. What is there already is
    not predicted again, so an interrupted run goes on when it is called again; ``run.json`` says of which
    files and settings the results are.

    Args:
        inputs: from ``find_inputs``.
        output: the folder; made when absent.
        predictor: what predicts.
        batch_size: images predicted at once.
        pictures: whether masks and overlays are written.
        settings: what the results depend on; a folder with results of other settings is refused.
        progress: shows a bar.

    Returns:
        How many files have results now, and how many could not be read.

    Raises:
        ValueError: when the folder holds results of other settings, or of another file of an input's name, or
            no file could be read.
    """
    output.mkdir(parents=True, exist_ok=True)
    images = [item for item in inputs if not item.is_video]
    videos = [item for item in inputs if item.is_video]
    earlier = _earlier_inputs(output, settings or {})
    done = _stems_with_results(output / RESULTS)
    done |= {item.stem for item in inputs if _lines_of_video(item, output).exists()}
    _note_inputs(output, inputs, earlier, done, settings or {})
    failed = _predict_images(
        [item for item in images if item.stem not in done],
        output, predictor, batch_size, pictures, progress,
    )  # fmt: skip
    for video in [item for item in videos if item.stem not in done]:
        failed += not _predict_video(video, output, predictor, batch_size, pictures, progress)
    if failed == len(inputs):
        raise ValueError(f"none of {len(inputs)} files could be read")
    return len(inputs) - failed, failed


def _earlier_inputs(output: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """The identities, by stem, of the files that the folder's results are of."""
    path = output / _RUN
    if not path.is_file():
        if (output / RESULTS).exists():
            raise ValueError(f"{output / RESULTS} exists and is not known to be of this kind of run")
        return {}
    earlier = read_json(path)
    if not isinstance(earlier, dict) or not {"settings", "inputs"} <= earlier.keys():
        raise ValueError(f"{path} does not name settings and inputs; choose another folder")
    for key in {**earlier["settings"], **settings}:
        have, wanted = earlier["settings"].get(key), settings.get(key)
        if have != wanted:
            raise ValueError(
                f"{output} holds results with {key} {have!r}, not {wanted!r}; choose another folder"
            )
    inputs: dict[str, Any] = earlier["inputs"]
    return inputs


def _note_inputs(
    output: Path,
    inputs: Sequence[Input],
    earlier: Mapping[str, Any],
    done: Collection[str],
    settings: Mapping[str, str],
) -> None:
    """Writes of which files the results are going to be; those that are done must be of the same ones."""
    known = dict(earlier)
    for item in inputs:
        try:
            identity = item.identity()
        except OSError:  # a link to nothing: reading it will say so
            continue
        of = known.get(item.stem)
        if item.stem in done and identity != of:
            what = _described(of) if of else "a file that is not known"
            raise ValueError(
                f"{output} holds results called {item.stem} of {what}, not of {_described(identity)}; "
                "choose another folder"
            )
        known[item.stem] = identity
    with replaced(output / _RUN) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "inputs": known}, indent=1))


def _described(identity: Mapping[str, Any]) -> str:
    modified = datetime.fromtimestamp(identity["modified_ns"] / 1e9).isoformat(" ", "milliseconds")
    return f"{identity['path']} ({identity['bytes']} bytes, modified {modified})"


def _stems_with_results(path: Path) -> set[str]:
    """Of the images in the file; a last line that a kill has cut is removed from it."""
    if not path.is_file():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return {str(Path(json.loads(line)["image"]).with_suffix("")) for line in whole.splitlines()}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} has a line that is no image's result: {error!r}") from None


def _lines_of_video(item: Input, output: Path) -> Path:
    """Where its results go: beside the images' file and not into it, which a ``results.mp4`` would share."""
    lines = output / f"{item.stem}.jsonl"
    return lines if lines != output / RESULTS else output / f"{item.name}.jsonl"


def _read_image(item: Input) -> tuple[Input, npt.NDArray[np.uint8] | None]:
    """The pixels, RGB, turned upright: a photo has no calibration that it would no longer fit."""
    try:
        pixels = cv2.imdecode(np.frombuffer(item.path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError("no picture that OpenCV reads")
    except (OSError, ValueError, cv2.error) as error:  # OpenCV's is of an empty file or an impossible size
        _log.warning("left out: %s: %s", item.path, error)
        return item, None
    return item, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _write_picture(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"{path} cannot be written")


def _write_pictures(stem: Path, image: npt.NDArray[np.uint8], result: Result, labels: TaskLabels) -> None:
    overlay = draw_overlay(image, result, labels)
    bgr = np.asarray(cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR), np.uint8)
    _write_picture(stem.with_name(f"{stem.name}_overlay.jpg"), bgr)
    if result.segmentation is not None:
        _write_picture(stem.with_name(f"{stem.name}_mask.png"), result.segmentation.mask)


def _predict_images(
    images: Sequence[Input],
    output: Path,
    predictor: Predictor,
    batch_size: int,
    pictures: bool,
    progress: bool,
) -> int:
    failed = 0
    read = prefetched(map(_read_image, images), depth=2 * batch_size)
    with (
        naming(output / RESULTS),
        (output / RESULTS).open("a") as lines,
        deferred_interrupt() as stopping,
        closing(read),
        tqdm(total=len(images), unit="image", disable=not progress or not images, dynamic_ncols=True) as bar,
    ):
        batches = batched(read, batch_size)
        for batch, results in predictor.predict_stream(
            batches, lambda batch: [pixels for _, pixels in batch if pixels is not None]
        ):
            good = [(item, pixels) for item, pixels in batch if pixels is not None]
            failed += len(batch) - len(good)
            for (item, pixels), result in zip(good, results, strict=True):
                if pictures:
                    _write_pictures(output / item.stem, pixels, result, predictor.labels)
                record = {"image": str(item.name), **result_record(result, predictor.labels)}
                lines.write(json.dumps(record) + "\n")
            lines.flush()
            bar.update(len(batch))
            if stopping():
                raise KeyboardInterrupt
    return failed


def _predict_video(
    item: Input, output: Path, predictor: Predictor, batch_size: int, pictures: bool, progress: bool
) -> bool:
    """False when the file cannot be read to its end."""
    target = _lines_of_video(item, output)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    overlay = output / f"{item.stem}_overlay.mp4" if pictures else None
    try:
        with naming(target), VideoReader(item.path) as reader, part.open("w") as lines:
            _predict_frames(reader, lines, overlay, predictor, batch_size, progress)
        part.replace(target)
    except ValueError as error:
        _log.warning("left out: %s", error)
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _predict_frames(
    reader: VideoReader,
    lines: TextIO,
    overlay: Path | None,
    predictor: Predictor,
    batch_size: int,
    progress: bool,
) -> None:
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(overlay, reader.fps)) if overlay is not None else None
        bar = stack.enter_context(
            tqdm(
                total=reader.frames,
                desc=reader.path.name,
                unit="frame",
                disable=not progress,
                dynamic_ncols=True,
            )
        )
        frames = stack.enter_context(closing(prefetched(reader, depth=2 * batch_size)))
        for batch, results in predictor.predict_stream(
            batched(frames, batch_size), lambda batch: [image for _, image in batch]
        ):
            for (time, image), result in zip(batch, results, strict=True):
                if writer is not None:
                    writer.write(draw_overlay(image, result, predictor.labels), time)
                record = {"time": round(time, 6), **result_record(result, predictor.labels)}
                lines.write(json.dumps(record) + "\n")
            bar.update(len(batch))
