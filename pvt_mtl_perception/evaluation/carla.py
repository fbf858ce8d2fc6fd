"""CARLA's semantic and instance images as labels: masks, boxes and samples in a model's taxonomy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.derived_boxes import MIN_AREA, MIN_SIDE, derive_boxes
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.run import with_mappings
from pvt_mtl_perception.inference.image_formats import decode_message
from pvt_mtl_perception.labels import IGNORE_INDEX, LabelSet, TaskLabels, load_label_set

Mask = npt.NDArray[np.uint8]

_NO_TAG = 255


@cache
def tag_labels() -> LabelSet:
    """The tags since CARLA 0.9.14 with their palette; a class's id is its tag."""
    return load_label_set("carla")


@cache
def _tag_of_color() -> Mask:
    """The tag of each 24-bit colour, red in the highest byte; ``_NO_TAG`` where a colour is of none."""
    table = np.full(1 << 24, _NO_TAG, np.uint8)
    for tag, (red, green, blue) in enumerate(tag_labels().colors):
        table[red << 16 | green << 8 | blue] = tag
    return table


def _pixels(message: Any, what: str) -> Mask:
    """The RGB pixels of a message, from an encoding that keeps each value as it is.

    Raises:
        ValueError: naming ``what``, for a lossy format or data that do not fit.
    """
    format = str(getattr(message, "format", ""))
    if format and "png" not in format.lower():
        raise ValueError(f"{what} is compressed as {format!r}, which blurs classes; it has to be raw or PNG")
    try:
        return decode_message(message)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _outside(rgb: Mask, wrong: npt.NDArray[np.bool_]) -> str:
    """In words, how many pixels are wrong and the first of them."""
    y, x = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    color = ", ".join(map(str, rgb[y, x].tolist()))
    return f"{100 * float(wrong.mean()):.1f} % of its pixels, such as RGB ({color}) at x {x}, y {y},"


def decode_semantic(message: Any) -> Mask:
    """The tags of an image of a semantic camera.

    Which interface sent it shows in the pixels: the bridge colours them with CARLA's Cityscapes palette, the
    native interface has the tag in red and nothing in green and blue. Only black may come from both, and it
    is tag 0 either way.

    Args:
        message: anything with the fields of sensor_msgs/Image, as both send it in bgra8, or of
            sensor_msgs/CompressedImage with a PNG.

    Returns:
        uint8 (H, W), ids of ``tag_labels``.

    Raises:
        ValueError: when it is neither, saying what was found.
    """
    rgb = _pixels(message, "the semantic image")
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    tags: Mask = _tag_of_color()[red << 16 | green << 8 | blue]
    if not (colorless := tags == _NO_TAG).any():
        return tags
    count = len(tag_labels())
    tags = rgb[..., 0]
    if tags.max() >= count:
        uncolored = not (green.any() or blue.any())
        wrong = tags >= count if uncolored else colorless
        raise ValueError(
            f"this is no semantic image of CARLA since 0.9.14: {_outside(rgb, wrong)} are neither a tag "
            f"0 to {count - 1} in red alone (native interface) nor a colour of the palette (bridge)"
        )
    if green.any() or blue.any():
        raise ValueError(
            "this is no semantic image: red holds tags, and green or blue hold values too, as in an "
            "instance image"
        )
    return tags


@dataclass(frozen=True, eq=False)
class Instances:
    """An image of an instance camera.

    Attributes:
        tags: uint8 (H, W), ids of ``tag_labels``.
        ids: uint16 (H, W), equal where pixels of one tag are of one object.
    """

    tags: Mask
    ids: npt.NDArray[np.uint16]


def decode_instances(message: Any) -> Instances:
    """Tags and ids of an image of an instance camera: tag in red, id in green (low byte) and blue (high).

    Args:
        message: as for ``decode_semantic``.

    Raises:
        ValueError: when it is something else, saying what was found.
    """
    rgb = _pixels(message, "the instance image")
    tags = np.ascontiguousarray(rgb[..., 0])
    count = len(tag_labels())
    if (wrong := tags >= count).any():
        raise ValueError(
            f"this is no instance image of CARLA since 0.9.14: {_outside(rgb, wrong)} have no tag 0 to "
            f"{count - 1} in red; a semantic image in the bridge's colours looks like that"
        )
    ids = rgb[..., 1] | rgb[..., 2].astype(np.uint16) << np.uint16(8)
    if not ids.any() and tags.any():
        raise ValueError(
            "this is no instance image: green and blue, which hold the objects' ids, are 0 everywhere, as in "
            "a semantic image of the native interface"
        )
    return Instances(tags, ids)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Labelled boxes of one image.

    Attributes:
        boxes: float32 (N, 4), ``xyxy`` in pixels; x2 and y2 are one past the last pixel.
        labels: int64 (N,), detection class ids.
        ignore_boxes: float32 (M, 4), ``xyxy`` of what is too small to count.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore_boxes: npt.NDArray[np.float32]


def instance_boxes(
    instances: Instances, to_detection: Mask, min_area: int = MIN_AREA, min_side: int = MIN_SIDE
) -> Boxes:
    """The box of each object's visible pixels; an object that others cut in pieces has one.

    Args:
        instances: of one image.
        to_detection: uint8 (256,), the detection class id of each tag, 255 where it has no box.
        min_area: objects with fewer visible pixels become ignore boxes.
        min_side: objects whose box is narrower or lower, in pixels, become ignore boxes.
    """
    labels = to_detection[instances.tags]
    ys, xs = np.nonzero(labels != IGNORE_INDEX)
    # Tag and id together: a rider and the bicycle below may share the id of one actor.
    keys = instances.tags[ys, xs].astype(np.uint32) << np.uint32(16) | instances.ids[ys, xs]
    order = np.argsort(keys, kind="stable")
    keys, ys, xs = keys[order], ys[order], xs[order]
    found, starts, areas = np.unique(keys, return_index=True, return_counts=True)
    if not len(found):
        return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    boxes = np.stack(
        [
            np.minimum.reduceat(xs, starts),
            np.minimum.reduceat(ys, starts),
            np.maximum.reduceat(xs, starts) + 1,
            np.maximum.reduceat(ys, starts) + 1,
        ],
        axis=1,
    ).astype(np.float32)
    counts = (areas >= min_area) & ((boxes[:, 2:] - boxes[:, :2]).min(1) >= min_side)
    return Boxes(
        boxes=boxes[counts],
        labels=to_detection[found >> np.uint32(16)][counts].astype(np.int64),
        ignore_boxes=boxes[~counts],
    )


class CarlaLabels:
    """Makes samples for a model out of CARLA's images.

    Road lines count as road; tags without a class of the model's count neither way.

    Args:
        labels: the model's label sets.

    Raises:
        KeyError: when a label set has no mapping from ``carla``.
    """

    def __init__(self, labels: TaskLabels) -> None:
        known = with_mappings(labels)
        self._to_segmentation: Mask | None = None
        self._to_detection: Mask | None = None
        self._box_classes: tuple[int, ...] | None = None
        if known.segmentation is not None:
            self._to_segmentation = known.segmentation.lookup_from(tag_labels())
        if known.detection is not None:
            self._to_detection = known.detection.lookup_from(tag_labels())
            classes = np.unique(self._to_detection)
            self._box_classes = tuple(classes[classes != IGNORE_INDEX].tolist())

    def sample(self, image: Mask | None, semantic: Mask, instances: Instances | None, name: str) -> Sample:
        """One labelled frame.

        Args:
            image: uint8 (H, W, 3) RGB; where None, the tags in their colours stand for it.
            semantic: tags of the semantic image, uint8 (H, W).
            instances: of the same frame; its boxes are exact. Where None the boxes are derived from the tags:
                touching objects of a class are one box, and cut ones several.
            name: of the frame, for messages.

        Raises:
            ValueError: when the images differ in size, naming the frame.
        """
        sizes = {"semantic": semantic.shape}
        if image is not None:
            sizes["RGB"] = image.shape[:2]
        if instances is not None:
            sizes["instance"] = instances.tags.shape
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{what} {size[1]}x{size[0]}" for what, size in sizes.items())
            raise ValueError(
                f"{name}: the images differ in size ({found}); their cameras need the same size, pose and "
                "field of view, as in config/carla"
            )
        boxes = None
        if self._to_detection is not None:
            if instances is not None:
                boxes = instance_boxes(instances, self._to_detection)
            else:
                derived = derive_boxes(semantic, self._to_detection)
                boxes = Boxes(derived.boxes, derived.labels, derived.ignore_boxes)
        return Sample(
            image=tag_labels().palette[semantic] if image is None else image,
            boxes=boxes.boxes if boxes is not None else None,
            box_labels=boxes.labels if boxes is not None else None,
            ignore_boxes=boxes.ignore_boxes if boxes is not None else np.zeros((0, 4), np.float32),
            box_classes=self._box_classes,
            mask=None if self._to_segmentation is None else self._to_segmentation[semantic],
            name=name,
        )
