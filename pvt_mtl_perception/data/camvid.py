"""CamVid in its 11-class selection: real driving frames, mapped into the driving taxonomy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.derived_boxes import DerivedBoxes, derive_boxes
from pvt_mtl_perception.data.reading import SampleError, map_mask, read_ids, read_image, require_split
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import IGNORE_INDEX, TaskLabels, load_label_set

SPLITS = {"train": "train.txt", "val": "val.txt", "fit": "train.txt", "held_out": "train.txt"}
"""List file of each split; ``fit`` and ``held_out`` part the frames of ``train``."""

FOLDS = 5
# The middle one of every five blocks: the start and the end of each sequence stay in ``fit``.
HELD_OUT_FOLD = 2
# Frames are a second apart, so a block is a third of a minute of driving.
BLOCK_FRAMES = 20

_UNLABELLED = 11
_NAME = re.compile(r"(?P<sequence>[^_]+)_\D*(?P<frame>\d+)$")
# Filmed at dusk; the other sequences are filmed by day. Weather and scene change within a sequence and
# are documented nowhere, so they stay unlabelled.
_DUSK_SEQUENCES = frozenset({"0001TP"})


def time_blocks(
    names: Sequence[str], folds: int = FOLDS, block_frames: int = BLOCK_FRAMES
) -> npt.NDArray[np.int64]:
    """The fold of each frame: each sequence is cut into contiguous blocks, dealt to the folds in turn.

    Neighbouring frames of a video show the same things, so frames drawn at random would leak into the
    held-out part. Every sequence has a multiple of ``folds`` blocks, so each fold gets a part of each.

    Args:
        names: frame names ``<sequence>_<frame number>``, in any order; a suffix and folders are ignored.
        folds: how many folds.
        block_frames: about how many frames a block has.

    Returns:
        int64 (len(names),), the fold of each name, 0..folds-1.

    Raises:
        ValueError: when a name has another form, or a sequence has fewer frames than folds.
    """
    sequences: dict[str, list[tuple[int, int]]] = {}
    for position, name in enumerate(names):
        match = _NAME.match(Path(name).stem)
        if match is None:
            raise ValueError(f"frame name {name!r} is not <sequence>_<frame number>")
        sequences.setdefault(match["sequence"], []).append((int(match["frame"]), position))
    fold_of = np.empty(len(names), np.int64)
    for sequence, frames in sequences.items():
        if len(frames) < folds:
            raise ValueError(f"sequence {sequence!r} has {len(frames)} frames, too few for {folds} folds")
        positions = np.array([position for _, position in sorted(frames)])
        blocks = folds * max(1, round(len(frames) / (folds * block_frames)))
        for block, members in enumerate(np.array_split(positions, blocks)):
            fold_of[members] = block % folds
    return fold_of


class CamVidDataset:
    """CamVid frames with masks, derived boxes and the time of day, in the driving taxonomy.

    Masks are in ``segmentation`` ids (255 = unlabelled), boxes in ``detection`` ids. Only the detection
    classes that CamVid labels are in ``Sample.box_classes``. ``classes`` holds ``timeofday`` only.

    Args:
        root: the folder that holds the list files and the folders they name.
        split: ``train`` or ``val``, the official ones, whose lists are ``train.txt`` and ``val.txt`` (lines
            ``image label``, relative to ``root``); or a part of ``train``: the frames ``held_out`` (one fold
            of ``time_blocks``) or the rest, ``fit``.
        fold: which of the ``FOLDS`` is held out.

    Raises:
        FileNotFoundError: when ``root`` or the list file does not exist.
        SampleError: when a line of the list has another form, a frame is there twice, or none is left.
        ValueError: for another split or fold.
    """

    def __init__(self, root: str | Path, split: str = "train", fold: int = HELD_OUT_FOLD) -> None:
        require_split(split, SPLITS, "camvid")
        if not 0 <= fold < FOLDS:
            raise ValueError(f"camvid has the folds 0 to {FOLDS - 1}, found {fold}")
        self.root = Path(root)
        path = self.root / SPLITS[split]
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; CamVid's folder holds train.txt and val.txt")
        pairs = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            parts = line.split()
            if len(parts) not in (0, 2):
                raise SampleError(f"expected 'image label', found {line!r}", path, f"line {number}")
            if parts:
                pairs.append((parts[0], parts[1]))
        images = [image for image, _ in pairs]
        if len(set(images)) < len(images):
            twice = next(image for i, image in enumerate(images) if image in images[:i])
            raise SampleError("the frame is there twice", path, twice)
        if split in ("fit", "held_out"):
            held_out = time_blocks(images) == fold
            pairs = [pair for pair, out in zip(pairs, held_out, strict=True) if out == (split == "held_out")]
        if not pairs:
            raise SampleError(f"lists no frames for split {split!r}", path)
        self.pairs = tuple(pairs)
        camvid = load_label_set("camvid")
        segmentation = load_label_set("driving_segmentation")
        detection = load_label_set("driving_detection")
        timeofday = load_label_set("driving_timeofday")
        self.labels = TaskLabels({"timeofday": timeofday}, detection, segmentation)
        self._to_segmentation = segmentation.lookup_from(camvid)
        self._known = np.arange(256) <= _UNLABELLED
        self._to_detection = detection.lookup_from(camvid)
        self.box_classes = tuple(
            int(i) for i in np.unique(self._to_detection[self._to_detection != IGNORE_INDEX])
        )
        self._day, self._dusk = timeofday.index("daytime"), timeofday.index("dawn/dusk")
        # Labelling components costs several times what decoding a frame does, and the boxes are small.
        self._derived: dict[int, DerivedBoxes] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """One frame.

        Raises:
            SampleError: when a file is missing or damaged, image and label differ in size, or the label holds
                an id above 11.
        """
        image_name, label_name = self.pairs[index]
        image = read_image(self.root / image_name)
        path = self.root / label_name
        source = read_ids(path, image.shape[:2])
        mask = map_mask(source, self._to_segmentation, self._known, path)
        derived = self._derived.get(index)
        if derived is None:
            derived = self._derived[index] = derive_boxes(source, self._to_detection)
        name = Path(image_name).stem
        return Sample(
            image=image,
            boxes=derived.boxes,
            box_labels=derived.labels,
            ignore_boxes=derived.ignore_boxes,
            box_classes=self.box_classes,
            mask=mask,
            classes={"timeofday": self._dusk if name.split("_")[0] in _DUSK_SEQUENCES else self._day},
            name=str(self.root / image_name),
        )
