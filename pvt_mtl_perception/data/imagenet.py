"""ImageNet-1k as folders of images, one a class, named by WordNet id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pvt_mtl_perception.data.reading import (
    SampleError,
    list_images,
    pack_names,
    read_image,
    require_split,
    unpack_name,
)
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.labels import TaskLabels, load_label_set

GROUP = "imagenet"
SPLITS = ("train", "val")


class ImageNetDataset:
    """``<root>/<split>/<WordNet id>/*.JPEG``; a class's id is the rank of its WordNet id, 0..999.

    ``classes`` of a sample holds the group ``imagenet`` only.

    Args:
        root: the folder that holds ``train`` and ``val``.
        split: ``train`` or ``val``, the latter sorted into the same 1000 folders.

    Raises:
        FileNotFoundError: when the split's folder does not exist.
        SampleError: when the folders are not exactly the 1000 WordNet ids, or one is empty.
        ValueError: for another split.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        # timm knows the WordNet ids; its import takes seconds and a worker does not need it.
        from timm.data.imagenet_info import ImageNetInfo

        require_split(split, SPLITS, "imagenet")
        self.root = Path(root) / split
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        self.wnids: tuple[str, ...] = tuple(ImageNetInfo("imagenet-1k").label_names())  # type: ignore[no-untyped-call]
        found = {entry.name for entry in self.root.iterdir() if entry.is_dir()}
        missing, strange = sorted(set(self.wnids) - found), sorted(found - set(self.wnids))
        if missing or strange:
            raise SampleError(
                f"holds {len(found & set(self.wnids))} of the 1000 class folders"
                + (f"; missing, for example, {missing[0]}" if missing else "")
                + (f"; not a class: {strange[0]}" if strange else ""),
                self.root,
            )
        names = [list_images(self.root / wnid) for wnid in self.wnids]
        self._names = pack_names(name for folder in names for name in folder)
        self._classes = np.repeat(np.arange(len(names), dtype=np.int16), [len(folder) for folder in names])
        self.labels = TaskLabels({GROUP: load_label_set("imagenet")}, None, None)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """One image.

        Raises:
            SampleError: when the file is missing or damaged.
        """
        label = int(self._classes[index])
        path = self.root / self.wnids[label] / unpack_name(self._names[index])
        return Sample(image=read_image(path), classes={GROUP: label}, name=str(path))
