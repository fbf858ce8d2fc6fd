"""Rendered street scenes as a data set: an index is a seed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pvt_mtl_perception.data import synthetic
from pvt_mtl_perception.data.reading import require_split
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.labels import TaskLabels, load_label_set

_SEEDS = 1 << 31
# Walks through all seeds of a split from any start (odd, so it shares no factor with _SEEDS).
_STRIDE = 1_000_003
# Scenes that are looked through for one frame with a box of a wanted class; the rarest, a train, is in one of
# a hundred.
_SEARCHED = 4096


class SyntheticDataset:
    """Frames rendered when they are asked for.

    ``train`` and ``test`` have disjoint seeds; what else sets them apart is the renderer's ``split``. Test
    frames are the same for every ``base_seed``: frame i of the test split is one picture for ever.

    Args:
        split: whose seeds and appearance.
        base_seed: where in the train seeds this data set begins.
        size: number of frames; None gives every seed of the split, more than a training sees.
        frame_size: (width, height) of a frame in pixels.
        keep: hold rendered frames in memory, 1 MB each at the default size, so that the next pass over a
            pool of ``size`` frames costs no rendering. A frame that is given out is shared, not copied.
        cache: folder on disk that rendered frames are kept in and read from, for runs that share a pool.
            Frames of another version of the renderer are not taken.
        containing: detection classes; every frame has a box of at least one of them, so that a training
            meets rare classes more often. Frame i is then the first such scene from seed 4096 i on, and the
            scenes on the way are rendered for nothing. Empty takes every scene.

    Raises:
        ValueError: for another split, when ``size`` is not 1 .. 2**31 (2**19 with ``containing``), and for a
            class that is not of driving_detection.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        base_seed: int = 0,
        size: int | None = None,
        frame_size: tuple[int, int] = (640, 384),
        keep: bool = False,
        cache: Path | None = None,
        containing: Sequence[str] = (),
    ) -> None:
        require_split(split, ("train", "test"), "synthetic")
        self._step = _SEARCHED if containing else 1
        most = _SEEDS // self._step
        if size is not None and not 1 <= size <= most:
            raise ValueError(f"size is 1..{most} frames, found {size}")
        self.split: Literal["train", "test"] = split
        self.base_seed = base_seed
        self.size = size
        self.frame_size = frame_size
        groups = {group: load_label_set(f"driving_{group}") for group in ("weather", "scene", "timeofday")}
        self.labels = TaskLabels(
            groups, load_label_set("driving_detection"), load_label_set("driving_segmentation")
        )
        assert self.labels.detection is not None
        self.containing = tuple(containing)
        try:
            self._wanted = [self.labels.detection.index(name) for name in containing]
        except KeyError as error:
            raise ValueError(f"containing: {error.args[0]}") from None
        self.keep = keep
        self._kept: dict[int, Sample] = {}
        self.cache = None
        if cache is not None:
            width, height = frame_size
            self.cache = cache / f"{split}_{width}x{height}_{_renderer_digest()}"

    def __len__(self) -> int:
        return _SEEDS // self._step if self.size is None else self.size

    def seed(self, index: int) -> int:
        """The renderer's seed of a frame; with ``containing``, of the first scene that is looked at for it.

        Raises:
            IndexError: when there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a data set of {len(self)}")
        if self.split == "test":
            return _SEEDS + index * self._step
        return (self.base_seed * _STRIDE + index * self._step) % _SEEDS

    def __getitem__(self, index: int) -> Sample:
        """One frame, the same each time.

        Raises:
            OSError: when the cache cannot be written.
            ValueError: when none of 4096 scenes has a box of a class of ``containing``.
        """
        if not self.keep:
            return self._found(self.seed(index))
        if index not in self._kept:
            self._kept[index] = self._found(self.seed(index))
        return self._kept[index]

    def _found(self, first: int) -> Sample:
        if not self._wanted:
            return self._frame(first)
        for seed in range(first, first + _SEARCHED):
            sample = self._frame(seed)
            assert sample.box_labels is not None
            if np.isin(sample.box_labels, self._wanted).any():
                return sample
        raise ValueError(f"none of {_SEARCHED} scenes from seed {first} shows {' or '.join(self.containing)}")

    def _frame(self, seed: int) -> Sample:
        if self.cache is None:
            return render_frame(seed, *self.frame_size, self.split)
        path = self.cache / f"{seed}.npz"
        if not path.is_file():
            _store(path, render_frame(seed, *self.frame_size, self.split))
        return _load(path)


@functools.cache
def _renderer_digest() -> str:
    """Of the renderer's source: another one paints other pictures."""
    digest = hashlib.sha256()
    for path in sorted(Path(synthetic.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _store(path: Path, sample: Sample) -> None:
    assert sample.boxes is not None and sample.box_labels is not None and sample.mask is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"name": sample.name, "classes": dict(sample.classes or {}), "box_classes": sample.box_classes}
    handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    try:
        # Uncompressed: unpacking would cost as much as drawing.
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                image=sample.image,
                mask=sample.mask,
                boxes=sample.boxes,
                box_labels=sample.box_labels,
                ignore_boxes=sample.ignore_boxes,
                facts=json.dumps(facts),
            )
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _load(path: Path) -> Sample:
    with np.load(path) as arrays:
        facts = json.loads(str(arrays["facts"]))
        return Sample(
            image=arrays["image"],
            boxes=arrays["boxes"],
            box_labels=arrays["box_labels"],
            ignore_boxes=arrays["ignore_boxes"],
            box_classes=tuple(facts["box_classes"]),
            mask=arrays["mask"],
            classes=facts["classes"],
            name=facts["name"],
        )
