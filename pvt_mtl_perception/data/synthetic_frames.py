"""Rendered street scenes as a data set: an index is a seed."""

from __future__ import annotations

from typing import Literal

from pvt_mtl_perception.data.reading import require_split
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.labels import TaskLabels, load_label_set

_SEEDS = 1 << 31
# Walks through all seeds of a split from any start (odd, so it shares no factor with _SEEDS).
_STRIDE = 1_000_003


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

    Raises:
        ValueError: for another split, or when ``size`` is not 1 .. 2**31.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        base_seed: int = 0,
        size: int | None = None,
        frame_size: tuple[int, int] = (640, 384),
        keep: bool = False,
    ) -> None:
        require_split(split, ("train", "test"), "synthetic")
        if size is not None and not 1 <= size <= _SEEDS:
            raise ValueError(f"size is 1..{_SEEDS} frames, found {size}")
        self.split: Literal["train", "test"] = split
        self.base_seed = base_seed
        self.size = size
        self.frame_size = frame_size
        groups = {group: load_label_set(f"driving_{group}") for group in ("weather", "scene", "timeofday")}
        self.labels = TaskLabels(
            groups, load_label_set("driving_detection"), load_label_set("driving_segmentation")
        )
        self.keep = keep
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return _SEEDS if self.size is None else self.size

    def seed(self, index: int) -> int:
        """The renderer's seed of a frame.

        Raises:
            IndexError: when there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a data set of {len(self)}")
        if self.split == "test":
            return _SEEDS + index
        return (self.base_seed * _STRIDE + index) % _SEEDS

    def __getitem__(self, index: int) -> Sample:
        """One frame, the same each time."""
        if not self.keep:
            return render_frame(self.seed(index), *self.frame_size, self.split)
        if index not in self._kept:
            self._kept[index] = render_frame(self.seed(index), *self.frame_size, self.split)
        return self._kept[index]
