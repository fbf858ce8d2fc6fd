"""ADE20K's SceneParse150: 150 semantic classes, and optionally the scene's category."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.reading import (
    SampleError,
    by_stem,
    list_images,
    map_mask,
    pack_names,
    read_ids,
    read_image,
    require_split,
    unpack_name,
)
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import IGNORE_INDEX, LabelSet, TaskLabels, load_label_set

GROUP = "scene"
SPLITS = {"train": "training", "val": "validation"}


class Ade20kDataset:
    """``images/{training,validation}/*.jpg`` with ``annotations/{training,validation}/*.png``.

    Annotation id 0 is unlabelled (255 in ``Sample.mask``), 1..150 are classes 0..149.

    Args:
        root: the folder ``ADEChallengeData2016``.
        split: ``train`` or ``val``.
        scene: label set of the scene categories; with it ``classes`` holds the group ``scene``, read from
            ``sceneCategories.txt``. A category that the set does not have is unlabelled.

    Raises:
        FileNotFoundError: when a folder does not exist, or ``sceneCategories.txt`` where ``scene`` is given.
        SampleError: when a folder is empty, an image has no annotation, or a line names no category.
        ValueError: for another split.
    """

    def __init__(self, root: str | Path, split: str = "train", *, scene: LabelSet | None = None) -> None:
        require_split(split, SPLITS, "ade20k")
        self.root = Path(root)
        self.images = self.root / "images" / SPLITS[split]
        self.annotations = self.root / "annotations" / SPLITS[split]
        names = list_images(self.images)
        masks = by_stem(list_images(self.annotations), self.annotations)
        missing = [stem for stem in by_stem(names, self.images) if stem not in masks]
        if missing:
            raise SampleError(
                f"no mask for {len(missing)} of {len(names)} images; the first is {missing[0]}.png",
                self.annotations,
            )
        self._names = pack_names(names)
        self._scenes = None if scene is None else self._read_scenes(names, scene)
        segmentation = load_label_set("ade20k")
        self.labels = TaskLabels({} if scene is None else {GROUP: scene}, None, segmentation)
        ids = np.arange(256)
        # The subtraction wraps 0 around to 255, which is the ignore index.
        self._table = np.where(ids <= len(segmentation), (ids - 1) % 256, IGNORE_INDEX).astype(np.uint8)
        self._known = ids <= len(segmentation)

    def _read_scenes(self, names: list[str], scene: LabelSet) -> npt.NDArray[np.int32]:
        path = self.root / "sceneCategories.txt"
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        of_stem: dict[str, int] = {}
        ids = {name: class_id for class_id, name in enumerate(scene.names)}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            parts = line.split()
            if len(parts) != 2:
                raise SampleError(f"expected 'image category', found {line!r}", path, f"line {number}")
            if parts[0] in of_stem:
                raise SampleError(f"{parts[0]} is there twice", path, f"line {number}")
            of_stem[parts[0]] = ids.get(parts[1], -1)
        return np.array([of_stem.get(Path(name).stem, -1) for name in names], np.int32)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """One image.

        Raises:
            SampleError: when a file is missing or damaged, image and mask differ in size, or the mask holds
                an id above 150.
        """
        path = self.images / unpack_name(self._names[index])
        image = read_image(path)
        mask_path = (self.annotations / path.name).with_suffix(".png")
        mask = map_mask(read_ids(mask_path, image.shape[:2]), self._table, self._known, mask_path)
        classes = None if self._scenes is None else {GROUP: int(self._scenes[index])}
        return Sample(image=image, mask=mask, classes=classes, name=str(path))
