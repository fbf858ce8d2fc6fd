"""Tiny data sets in the layouts that the official ones have on disk, with what is drawn in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture of noise with rectangles that touch each other nowhere.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        boxes: int (N, 4) xyxy, the rectangles.
        rectangles: int (H, W), 1 + the rectangle's number, 0 outside.
    """

    image: np.ndarray
    boxes: np.ndarray
    rectangles: np.ndarray

    def mask(self, outside: int, inside: Sequence[int], dtype: type = np.uint8) -> np.ndarray:
        """Ids by pixel: one for each rectangle."""
        return np.array([outside, *inside], dtype)[self.rectangles]


def make_scene(seed: int, size: tuple[int, int] = (48, 64), count: int = 3) -> Scene:
    rng = np.random.default_rng(seed)
    height, width = size
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (width, height))
    rectangles = np.zeros(size, int)
    boxes = []
    column = width // count
    for i in range(count):
        w, h = rng.integers(column // 3, column - 2), rng.integers(height // 4, height // 2)
        x, y = i * column + rng.integers(0, column - 1 - w), rng.integers(0, height - h)
        boxes.append((x, y, x + w, y + h))
        rectangles[y : y + h, x : x + w] = i + 1
    return Scene(image, np.array(boxes), rectangles)


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_imagenet(root: Path, split: str = "train", pictures: Sequence[np.ndarray] = ()) -> None:
    """The 1000 folders with a link each to one of the pictures, by default ten: number class % 10."""
    from timm.data.imagenet_info import ImageNetInfo

    pictures = pictures or [make_scene(i, (24, 32), 1).image for i in range(10)]
    for i, picture in enumerate(pictures):
        write_picture(root / "pictures" / f"{i}.jpg", picture)
    for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names()):
        link = root / split / wnid / f"{wnid}_0.JPEG"
        link.parent.mkdir(parents=True)
        link.symlink_to(root / "pictures" / f"{i % len(pictures)}.jpg")


def coco_content(scenes: Sequence[Scene], categories: dict[int, str], names: Sequence[str]) -> dict[str, Any]:
    """Instances JSON: the rectangles in turn of the categories, the last one of each scene a crowd."""
    ids = list(categories)
    annotations = []
    for image, scene in enumerate(scenes):
        for number, (x1, y1, x2, y2) in enumerate(scene.boxes.tolist()):
            annotations.append(
                {
                    "id": 1000 + len(annotations),
                    "image_id": 77 + image,
                    "category_id": ids[number % len(ids)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(number == len(scene.boxes) - 1),
                }
            )
    images = [
        {"id": 77 + i, "file_name": name, "height": scene.image.shape[0], "width": scene.image.shape[1]}
        for i, (scene, name) in enumerate(zip(scenes, names, strict=True))
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
    }


def coco_categories() -> dict[int, str]:
    """The official category ids, which leave out 11 of 1..90."""
    from torchvision.models._meta import _COCO_CATEGORIES

    return {i: n for i, n in enumerate(_COCO_CATEGORIES) if n not in ("N/A", "__background__")}


def write_coco(root: Path, scenes: Sequence[Scene], split: str = "train2017") -> Path:
    names = [f"{i:012d}.jpg" for i in range(len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        write_picture(root / split / name, scene.image)
    categories = dict(reversed(coco_categories().items()))
    path = root / "annotations" / f"instances_{split}.json"
    write_json(path, coco_content(scenes, categories, names))
    return path


def write_ade20k(root: Path, scenes: Sequence[Scene], split: str = "training") -> None:
    """Outside of the rectangles 0, inside 1, 2, ... and 150 for the last."""
    scenes_text = ""
    for i, scene in enumerate(scenes):
        name = f"ADE_{split[:-3]}_{i:08d}"
        write_picture(root / "images" / split / f"{name}.jpg", scene.image)
        inside = [*range(1, len(scene.boxes)), 150]
        write_picture(root / "annotations" / split / f"{name}.png", scene.mask(0, inside))
        scenes_text += f"{name} {('bedroom', 'street', 'rare_place')[i % 3]}\n"
    (root / "sceneCategories.txt").write_text(scenes_text)


def bdd_frame(name: str, drawn: Scene, categories: Sequence[str], **attributes: str) -> dict[str, Any]:
    """A frame as in both releases; its boxes' x2 and y2 are the last pixel."""
    labels = [
        {
            "id": str(i),
            "category": category,
            "attributes": {"occluded": False, "truncated": False, "trafficLightColor": "NA"},
            "box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1},
        }
        for i, (category, (x1, y1, x2, y2)) in enumerate(zip(categories, drawn.boxes.tolist(), strict=True))
    ]
    lane = {"category": "lane", "id": "lane", "attributes": {}, "poly2d": [{"vertices": [[0, 0], [5, 5]]}]}
    return {"name": name, "attributes": attributes, "timestamp": 10000, "labels": [*labels, lane]}


def write_cityscapes(
    root: Path, scenes: Sequence[Scene], split: str = "train", inside: Sequence[int] = (26001, 24, 29000)
) -> list[str]:
    """Road around the rectangles, whose instance ids are ``inside``; the images' names without ending."""
    stems = []
    for i, scene in enumerate(scenes):
        stem = f"{split}/town{i % 2}/town{i % 2}_{i:06d}_000019"
        labels = [value // 1000 if value >= 1000 else value for value in inside]
        write_picture(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", scene.image)
        write_picture(root / "gtFine" / f"{stem}_gtFine_labelIds.png", scene.mask(7, labels))
        write_picture(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", scene.mask(7, inside, np.uint16))
        write_picture(root / "gtFine" / f"{stem}_gtFine_color.png", scene.image)
        stems.append(stem)
    return stems


def write_bdd100k(root: Path, scenes: Sequence[Scene], split: str = "train") -> None:
    """The newer layout with every label for every image."""
    frames = []
    categories = ("car", "pedestrian", "traffic light")
    for i, scene in enumerate(scenes):
        name = f"{i:08x}-0000"
        write_picture(root / "images" / "100k" / split / f"{name}.jpg", scene.image)
        write_picture(
            root / "labels" / "sem_seg" / "masks" / split / f"{name}.png", scene.mask(0, (13, 255, 18))
        )
        frames.append(
            bdd_frame(f"{name}.jpg", scene, categories, weather="rainy", scene="tunnel", timeofday="night")
        )
    write_json(root / "labels" / "det_20" / f"det_{split}.json", frames)


def write_generic(
    root: Path, scenes: Sequence[Scene], categories: Sequence[str], groups: dict[str, str]
) -> None:
    """All three kinds of label: boxes of the categories, masks 0, 1, 2, ..., and one class a group."""
    names = [f"part{i % 2}/{i}.jpg" for i in range(len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        write_picture(root / "images" / name, scene.image)
        inside = range(1, len(scene.boxes) + 1)
        write_picture((root / "masks" / name).with_suffix(".png"), scene.mask(0, inside))
    write_json(root / "boxes.json", coco_content(scenes, dict(enumerate(categories, 1)), names))
    rows = [",".join([name, *groups.values()]) for name in names]
    (root / "classes.csv").write_text("\n".join([",".join(["image", *groups]), *rows]) + "\n")
