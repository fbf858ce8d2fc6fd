"""Images and results as ROS 2 messages, and results back from them, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.bags.types import (
    BOXES,
    CLASSIFICATION,
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    LABEL_INFO,
    typestore,
)
from pvt_mtl_perception.inference.image_formats import is_compressed
from pvt_mtl_perception.labels import LabelSet
from pvt_mtl_perception.result import Classification, Detections

MAX_HYPOTHESES = 10
"""Of each classification group this many classes are written, as the node publishes them."""


def header(stamp: int, frame_id: str) -> Any:
    """A std_msgs/Header.

    Args:
        stamp: ns since the epoch, >= 0.
        frame_id: the camera's optical frame.
    """
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def image_message(header: Any, pixels: npt.NDArray[np.uint8], encoding: str) -> Any:
    """A raw image.

    Args:
        header: a std_msgs/Header.
        pixels: uint8, (H, W) for mono8 or (H, W, 3) for rgb8.
        encoding: ``mono8`` or ``rgb8``.
    """
    height, width = pixels.shape[:2]
    return typestore().types[IMAGE](
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels[0].size,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def compressed_image_message(header: Any, format: str, data: npt.NDArray[np.uint8]) -> Any:
    """A compressed image.

    Args:
        header: a std_msgs/Header.
        format: like ``jpeg``.
        data: the encoded file, uint8 (N,).
    """
    return typestore().types[COMPRESSED_IMAGE](header=header, format=format, data=data.reshape(-1))


def copied_image(header: Any, message: Any) -> Any:
    """An image message of any bag as one of ROS 2's sensor_msgs, sharing its data.

    Args:
        header: goes into the copy.
        message: of one of ``bags.types.IMAGE_TYPES``.
    """
    data = np.frombuffer(message.data, np.uint8)
    if is_compressed(message):
        return compressed_image_message(header, message.format, data)
    return typestore().types[IMAGE](
        header=header,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=int(getattr(message, "is_bigendian", False)),
        step=message.step,
        data=data,
    )


def _bounding_box(box: npt.NDArray[np.float32]) -> Any:
    types = typestore().types
    left, top, right, bottom = box.astype(np.float64).tolist()
    center = types["vision_msgs/msg/Point2D"](x=(left + right) / 2, y=(top + bottom) / 2)
    return types["vision_msgs/msg/BoundingBox2D"](
        center=types["vision_msgs/msg/Pose2D"](position=center, theta=0.0),
        size_x=right - left,
        size_y=bottom - top,
    )


def _xyxy(box: Any) -> tuple[float, float, float, float]:
    x, y = box.center.position.x, box.center.position.y
    return x - box.size_x / 2, y - box.size_y / 2, x + box.size_x / 2, y + box.size_y / 2


def detections_message(header: Any, detections: Detections, labels: LabelSet) -> Any:
    """A Detection2DArray with one Detection2D a box, sorted as ``detections`` are.

    Args:
        header: goes as it is into the array and into each detection.
        detections: boxes in source pixels.
        labels: the detection label set; ``class_id`` is the class's name.
    """
    types = typestore().types
    pose = types["geometry_msgs/msg/PoseWithCovariance"](
        pose=types["geometry_msgs/msg/Pose"](
            position=types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
            orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        covariance=np.zeros(36),
    )
    items = []
    for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True):
        hypothesis = types["vision_msgs/msg/ObjectHypothesis"](
            class_id=labels.names[label], score=float(score)
        )
        result = types["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis=hypothesis, pose=pose)
        items.append(
            types["vision_msgs/msg/Detection2D"](
                header=header, results=[result], bbox=_bounding_box(box), id=""
            )
        )
    return types[DETECTIONS](header=header, detections=items)


def boxes_message(header: Any, boxes: npt.NDArray[np.float32]) -> Any:
    """A BoundingBox2DArray.

    Args:
        header: a std_msgs/Header.
        boxes: float32 (N, 4), ``xyxy`` in source pixels.
    """
    return typestore().types[BOXES](header=header, boxes=[_bounding_box(box) for box in boxes])


def classification_message(
    header: Any, classification: Classification, labels: Mapping[str, LabelSet]
) -> Any:
    """A Classification with all groups; ``class_id`` is ``<group>/<class>``, also for one group.

    Groups come in the order of ``labels``, each with its classes by falling probability, at most
    ``MAX_HYPOTHESES``.
    """
    types = typestore().types
    results = []
    for group, label_set in labels.items():
        probabilities = classification.probabilities[group]
        for label in np.argsort(-probabilities, kind="stable")[:MAX_HYPOTHESES]:
            results.append(
                types["vision_msgs/msg/ObjectHypothesis"](
                    class_id=f"{group}/{label_set.names[label]}", score=float(probabilities[label])
                )
            )
    return types[CLASSIFICATION](header=header, results=results)


def label_info_message(header: Any, labels: LabelSet) -> Any:
    """A LabelInfo: the id and name of each class of a mask."""
    types = typestore().types
    classes = [
        types["vision_msgs/msg/VisionClass"](class_id=index, class_name=name)
        for index, name in enumerate(labels.names)
    ]
    return types[LABEL_INFO](header=header, class_map=classes, threshold=0.0)


def label_names(message: Any) -> tuple[str, ...]:
    """The class names of a LabelInfo in the order of their ids."""
    return tuple(entry.class_name for entry in sorted(message.class_map, key=lambda entry: entry.class_id))


def detections_from(message: Any, labels: LabelSet) -> Detections:
    """The boxes of a Detection2DArray whose ``class_id`` are names of ``labels``.

    Raises:
        KeyError: for a class that ``labels`` does not have.
    """
    items = message.detections
    best = [max(item.results, key=lambda result: result.hypothesis.score).hypothesis for item in items]
    return Detections(
        boxes=np.array([_xyxy(item.bbox) for item in items], np.float32).reshape(-1, 4),
        scores=np.array([hypothesis.score for hypothesis in best], np.float32),
        labels=np.array([labels.index(hypothesis.class_id) for hypothesis in best], np.int64),
    )


def boxes_from(message: Any) -> npt.NDArray[np.float32]:
    """The boxes of a BoundingBox2DArray: float32 (N, 4), ``xyxy`` in source pixels."""
    return np.array([_xyxy(box) for box in message.boxes], np.float32).reshape(-1, 4)


def mask_from(message: Any) -> npt.NDArray[np.uint8]:
    """The class ids of a mono8 mask: uint8 (H, W), a view onto the message.

    Raises:
        ValueError: when the encoding is another one or the sizes contradict each other.
    """
    if message.encoding != "mono8" or message.data.size != message.height * message.step:
        raise ValueError(
            f"mask of {message.width}x{message.height}, step {message.step}, encoding {message.encoding!r} "
            f"with {message.data.size} bytes; mono8 with height * step bytes is needed"
        )
    mask: npt.NDArray[np.uint8] = message.data.reshape(message.height, message.step)[:, : message.width]
    return mask


def classification_from(message: Any, labels: Mapping[str, LabelSet]) -> Classification:
    """The probabilities of a Classification; a class that it leaves out has 0.

    Raises:
        KeyError: for a group or class that ``labels`` does not have.
    """
    probabilities = {group: np.zeros(len(label_set), np.float32) for group, label_set in labels.items()}
    for hypothesis in message.results:
        group, _, name = hypothesis.class_id.partition("/")
        if group not in labels:
            raise KeyError(
                f"classification {hypothesis.class_id!r} is of none of the groups {', '.join(labels)}"
            )
        probabilities[group][labels[group].index(name)] = hypothesis.score
    return Classification(probabilities)
