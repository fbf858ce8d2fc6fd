"""CamVid in its 11-class selection: real driving frames, mapped into the driving taxonomy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.derived_boxes import DerivedBoxes, derive_boxes
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import LabelSet, load_label_set

Split = Literal["all", "fit", "held_out"]

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
        list_file: ``train.txt`` or ``val.txt``: lines ``image label``, relative to ``root``.
        split: ``all`` frames of the list, those ``held_out`` (one fold of ``time_blocks``), or the rest,
            ``fit``.
        held_out_fold: which fold is held out, 0..FOLDS-1.
        segmentation, detection, timeofday: label sets; the first two have a mapping from ``camvid``.

    Raises:
        FileNotFoundError: when ``root`` or the list file does not exist.
        ValueError: when a line of the list has another form, or no frame is left.
    """

    def __init__(
        self,
        root: str | Path,
        list_file: str = "train.txt",
        split: Split = "all",
        held_out_fold: int = HELD_OUT_FOLD,
        segmentation: LabelSet | None = None,
        detection: LabelSet | None = None,
        timeofday: LabelSet | None = None,
    ) -> None:
        self.root = Path(root)
        path = self.root / list_file
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; CamVid's folder holds train.txt and val.txt")
        pairs = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            parts = line.split()
            if len(parts) not in (0, 2):
                raise ValueError(f"{path}:{number}: expected 'image label', found {line!r}")
            if parts:
                pairs.append((parts[0], parts[1]))
        if split != "all":
            held_out = time_blocks([image for image, _ in pairs]) == held_out_fold
            pairs = [pair for pair, out in zip(pairs, held_out, strict=True) if out == (split == "held_out")]
        if not pairs:
            raise ValueError(f"{path} lists no frames for split {split!r}")
        self.pairs = tuple(pairs)
        camvid = load_label_set("camvid")
        segmentation = segmentation or load_label_set("driving_segmentation")
        detection = detection or load_label_set("driving_detection")
        timeofday = timeofday or load_label_set("driving_timeofday")
        self._to_segmentation = segmentation.lookup_from(camvid)
        self._to_detection = detection.lookup_from(camvid)
        self.box_classes = tuple(
            int(i) for i in np.unique(self._to_detection[self._to_detection != detection.ignore_index])
        )
        self._day, self._dusk = timeofday.index("daytime"), timeofday.index("dawn/dusk")
        # Labelling components costs several times what decoding a frame does, and the boxes are small.
        self._derived: dict[int, DerivedBoxes] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """One frame.

        Raises:
            FileNotFoundError: when the image or the label cannot be read.
            ValueError: when the label has another size than the image or holds an id above 11.
        """
        image_name, label_name = self.pairs[index]
        image = cv2.imread(str(self.root / image_name), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise FileNotFoundError(f"{self.root / image_name} is missing or not an image")
        source = cv2.imread(str(self.root / label_name), cv2.IMREAD_UNCHANGED)
        if source is None:
            raise FileNotFoundError(f"{self.root / label_name} is missing or not an image")
        if source.shape != image.shape[:2] or source.dtype != np.uint8:
            raise ValueError(
                f"{self.root / label_name} is {source.dtype} {source.shape}, "
                f"expected uint8 {image.shape[:2]} like {image_name}"
            )
        if (largest := int(source.max())) > _UNLABELLED:
            raise ValueError(
                f"{self.root / label_name} holds class id {largest}; CamVid's are 0..{_UNLABELLED}"
            )
        mask = source.astype(np.uint8, copy=False)
        derived = self._derived.get(index)
        if derived is None:
            derived = self._derived[index] = derive_boxes(mask, self._to_detection)
        name = Path(image_name).stem
        return Sample(
            image=image.astype(np.uint8, copy=False),
            boxes=derived.boxes,
            box_labels=derived.labels,
            ignore_boxes=derived.ignore_boxes,
            box_classes=self.box_classes,
            mask=cv2.LUT(mask, self._to_segmentation).astype(np.uint8, copy=False),
            classes={"timeofday": self._dusk if name.split("_")[0] in _DUSK_SEQUENCES else self._day},
            name=image_name,
        )
