"""Images in, results out: a checkpoint on a device with thresholds that can change while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pvt_mtl_perception.inference.backends.graph import named_outputs
from pvt_mtl_perception.inference.backends.registry import build_backend
from pvt_mtl_perception.inference.decode import (
    DetectionSettings,
    decode_classification,
    decode_detection,
    decode_segmentation,
)
from pvt_mtl_perception.inference.preprocess import LetterboxGeometry, preprocess
from pvt_mtl_perception.inference.streams import only_after
from pvt_mtl_perception.model.checkpoint import Checkpoint, build_network, load_checkpoint
from pvt_mtl_perception.model.hub import source_name
from pvt_mtl_perception.model.network import NetworkOutput
from pvt_mtl_perception.result import Result

Image = npt.NDArray[np.uint8]
Item = TypeVar("Item")


class Predictor:
    """A model ready to use on images of any sizes.

    Calls from several threads at once are safe, and so is setting the thresholds meanwhile: a call uses the
    values that held when it began.

    Args:
        checkpoint: a file, ``hf://owner/name[@revision][/file]``, or what ``load_checkpoint`` returned.
        device: ``auto`` (CUDA where available, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, ``bf16``, or on CUDA ``fp16``.
        score_threshold, nms_threshold, max_detections: see ``DetectionSettings``.
        input_size: (height, width) of the network's input, multiples of 32; the checkpoint's when None.
        backend: what runs the network: ``eager``, which scores are computed with, ``compile``,
            ``cuda_graphs``, ``onnxruntime``, ``openvino``, ``tensorrt``, or ``auto``, the fastest that is
            installed for the device. All but ``eager`` prepare themselves in the first call of each set of
            tasks, and some for each batch size.
        background: for a stream that must not stand still: a new set of tasks runs in a program that has more
            while ``onnxruntime`` or ``openvino`` prepare its own in a thread.
        calls: how many calls are expected at once. ``openvino`` gives each a part of the processor's threads
            then: more images a second, later each. A call that comes alone gets all threads as ever.

    Attributes:
        labels: label sets of the heads (``TaskLabels``).
        tasks: the tasks the checkpoint has heads for.
        device: the device in use.
        precision: as given.
        backend: the name of the backend in use.
        model_name: the file's stem, the hub repository's name, or the backbone's for a checkpoint in memory.
        provenance: the checkpoint's: data, command, seed, commit, scores.
        preprocessing: input size and normalisation in use.

    Raises:
        FileNotFoundError, HubError, CheckpointError: from ``load_checkpoint``.
        ValueError: for an unknown device, precision or backend, a threshold or an input size out of range.
        RuntimeError: when the device or the backend is not available on this machine, with what to install.
    """

    def __init__(
        self,
        checkpoint: Path | str | Checkpoint,
        device: str = "auto",
        precision: str = "fp32",
        score_threshold: float = DetectionSettings.score_threshold,
        nms_threshold: float = DetectionSettings.nms_threshold,
        max_detections: int = DetectionSettings.max_detections,
        input_size: tuple[int, int] | None = None,
        backend: str = "eager",
        background: bool = False,
        calls: int = 1,
    ) -> None:
        self._settings = DetectionSettings(score_threshold, nms_threshold, max_detections)
        self._settings_lock = threading.Lock()
        self.device = select_device(device)
        self.precision = precision
        if isinstance(checkpoint, Checkpoint):
            loaded, source = checkpoint, "checkpoint"
            self.model_name = loaded.spec.backbone.name
        else:
            loaded, source = load_checkpoint(checkpoint), str(checkpoint)
            self.model_name = source_name(checkpoint)
        self.labels = loaded.labels
        self.tasks = loaded.spec.tasks
        self.provenance: Mapping[str, Any] = loaded.provenance
        self.preprocessing = loaded.preprocessing
        if input_size is not None:
            height, width = input_size
            self.preprocessing = replace(self.preprocessing, height=height, width=width)
        self._strides = loaded.spec.detection.strides if loaded.spec.detection is not None else ()
        self._backend = build_backend(
            backend, build_network(loaded, source), self.device, precision, background, calls
        )
        self.backend = self._backend.name

    @property
    def score_threshold(self) -> float:
        """Detections below it are dropped, 0..1; settable at any time."""
        return self._settings.score_threshold

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self._change_settings(score_threshold=value)

    @property
    def nms_threshold(self) -> float:
        """IoU above which the lower-scored box of a class is dropped, 0..1; settable at any time."""
        return self._settings.nms_threshold

    @nms_threshold.setter
    def nms_threshold(self, value: float) -> None:
        self._change_settings(nms_threshold=value)

    @property
    def max_detections(self) -> int:
        """At most so many detections an image; settable at any time."""
        return self._settings.max_detections

    @max_detections.setter
    def max_detections(self, value: int) -> None:
        self._change_settings(max_detections=value)

    def _change_settings(self, **changes: Any) -> None:
        with self._settings_lock:
            self._settings = replace(self._settings, **changes)

    def predict(
        self, images: Sequence[Image], tasks: Collection[str] | None = None, confidence: bool = False
    ) -> list[Result]:
        """Results of a batch of images, in source pixels, in the order of the images.

        An image's result does not depend on the others in the batch beyond rounding in the last bits, and the
        same call gives the same result.

        Args:
            images: uint8 (H, W, 3) RGB of any sizes; views are not copied. An empty list gives an empty list.
            tasks: a non-empty subset of ``self.tasks``; heads of the others are not computed. None for all.
            confidence: whether ``Segmentation.confidence`` is filled.

        Raises:
            ValueError: for an unknown task, naming the known ones, or for an image of another shape or dtype,
                naming its position.
        """
        output, geometries = self._start(images, self._check_tasks(tasks))
        if output is None:
            return []
        with torch.inference_mode():
            return self.decode(output, geometries, confidence)

    def predict_stream(
        self,
        items: Iterable[Item],
        images: Callable[[Item], Sequence[Image]],
        tasks: Collection[str] | None = None,
        confidence: bool = False,
    ) -> Iterator[tuple[Item, list[Result]]]:
        """As ``predict`` on batch after batch, always one batch ahead.

        A GPU computes the next batch while a batch is decoded and the caller uses its results.

        Args:
            items: batches in whatever form; each is read while the one before is predicted.
            images: gives the images of an item.
            tasks, confidence: as in ``predict``.

        Yields:
            Each item with its results. What goes wrong with an item is raised after the results of those
            before it.

        Raises:
            ValueError: as ``predict``.
        """
        wanted = self._check_tasks(tasks)
        iterator = iter(items)
        on_cuda = self.device.type == "cuda"
        ahead: tuple[Item, NetworkOutput | None, list[LetterboxGeometry], torch.cuda.Event | None] | None
        ahead = None
        while True:
            error: Exception | None = None
            following = None
            try:
                item = next(iterator)
                output, geometries = self._start(images(item), wanted)
                done = torch.cuda.current_stream(self.device).record_event() if on_cuda else None
                following = item, output, geometries, done
            except StopIteration:
                pass
            except Exception as caught:  # of the caller's iterable too: the results before it come first
                error = caught
            if ahead is not None:
                item, output, geometries, done = ahead
                results: list[Result] = []
                if output is not None:
                    # What is read of this batch does not wait for the next one, whose work is queued already.
                    with torch.inference_mode(), only_after(done, named_outputs(output).values()):
                        results = self.decode(output, geometries, confidence)
                yield item, results
            if error is not None:
                raise error
            if following is None:
                return
            ahead = following

    def _start(
        self, images: Sequence[Image], tasks: Collection[str]
    ) -> tuple[NetworkOutput | None, list[LetterboxGeometry]]:
        """Hands a batch to the device; no output for no image."""
        check_images(images)
        if len(images) == 0:
            return None, []
        with torch.inference_mode():
            batch, geometries = self.preprocess(images)
            return self.forward(batch, tasks), geometries

    def preprocess(self, images: Sequence[Image]) -> tuple[Tensor, list[LetterboxGeometry]]:
        """The first step of ``predict``: images to a normalised batch on the device."""
        return preprocess(images, self.preprocessing, self.device)

    def forward(self, batch: Tensor, tasks: Collection[str]) -> NetworkOutput:
        """The second step of ``predict``: the network."""
        return self._backend(batch, tasks)

    def decode(
        self, output: NetworkOutput, geometries: Sequence[LetterboxGeometry], confidence: bool = False
    ) -> list[Result]:
        """The third step of ``predict``: raw outputs to results in source pixels."""
        settings = self._settings
        detections = segmentations = classifications = None
        if output.detection is not None:
            detections = decode_detection(output.detection, self._strides, geometries, settings)
        if output.segmentation is not None:
            segmentations = decode_segmentation(output.segmentation, geometries, confidence)
        if output.classification is not None:
            classifications = decode_classification(output.classification)
        return [
            Result(
                height=geometry.source_height,
                width=geometry.source_width,
                detections=detections[i] if detections is not None else None,
                segmentation=segmentations[i] if segmentations is not None else None,
                classification=classifications[i] if classifications is not None else None,
            )
            for i, geometry in enumerate(geometries)
        ]

    def warm_up(self, sizes: Sequence[tuple[int, int]], tasks: Collection[str] | None = None) -> None:
        """Predicts grey images once, so that the first real frame pays for no set-up.

        Args:
            sizes: (height, width) of the images that will come, one a camera: they form one batch.
            tasks: as in ``predict``.
        """
        self.predict([np.full((height, width, 3), 127, np.uint8) for height, width in sizes], tasks)

    def _check_tasks(self, tasks: Collection[str] | None) -> tuple[str, ...]:
        if tasks is None:
            return self.tasks
        if isinstance(tasks, str):
            raise ValueError(f"tasks is the string {tasks!r}; it must be a collection such as [{tasks!r}]")
        unknown = sorted(set(tasks) - set(self.tasks))
        if unknown:
            raise ValueError(f"{self.model_name} has no task {unknown[0]!r}; it has: {', '.join(self.tasks)}")
        if not tasks:
            raise ValueError(f"tasks is empty; {self.model_name} has: {', '.join(self.tasks)}")
        return tuple(task for task in self.tasks if task in tasks)


def select_device(name: str) -> torch.device:
    """The torch device of a name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ValueError: for another name.
        RuntimeError: for a CUDA device that this machine or this torch does not offer.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device {name!r} is not known; use 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if kind == "cuda":
        if torch.version.cuda is None:
            raise RuntimeError(f"device {name!r}: torch {torch.__version__} is built without CUDA; use 'cpu'")
        count = torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise RuntimeError(f"device {name!r}: torch finds no CUDA device or driver here; use 'cpu'")
        if index and int(index) >= count:
            raise RuntimeError(f"device {name!r}: there are {count} CUDA devices, cuda:0..cuda:{count - 1}")
        # With its index: which device is current is each thread's own.
        return torch.device("cuda", int(index) if index else torch.cuda.current_device())
    return torch.device(name)


def check_images(images: Sequence[Image]) -> None:
    """Refuses what is not a sequence of uint8 (H, W, 3) images.

    Raises:
        ValueError: naming the position and what is right.
    """
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise ValueError(f"images[{i}] is a {type(image).__name__}; it must be a numpy array")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"images[{i}] has shape {image.shape}; it must be (height, width, 3), RGB")
        if image.dtype != np.uint8:
            raise ValueError(f"images[{i}] has dtype {image.dtype}; it must be uint8, 0..255")
