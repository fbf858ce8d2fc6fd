"""Results to vision_msgs: detections, classification and the label list of a mask."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from std_msgs.msg import Header
from vision_msgs.msg import (
    Classification as ClassificationMessage,
)
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    VisionClass,
)

from pvt_mtl_perception.labels import LabelSet
from pvt_mtl_perception.result import Classification, Detections

MAX_HYPOTHESES = 10
"""Of each classification group this many classes are published; the driving groups have fewer."""


def detections_message(header: Header, detections: Detections, labels: LabelSet) -> Detection2DArray:
    """One Detection2D a box, sorted by falling score; none is an empty array.

    Args:
        header: goes as it is into the array and into each detection.
        detections: boxes in source pixels.
        labels: the detection label set; ``class_id`` is the class's name.
    """
    boxes = detections.boxes.astype(np.float64)
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    message = Detection2DArray(header=header)
    for center, size, score, label in zip(
        centers, sizes, detections.scores.tolist(), detections.labels.tolist(), strict=True
    ):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = labels.names[label]
        hypothesis.hypothesis.score = score
        detection = Detection2D(header=header, results=[hypothesis])
        detection.bbox.center.position.x, detection.bbox.center.position.y = center
        detection.bbox.size_x, detection.bbox.size_y = size
        message.detections.append(detection)
    return message


def classification_message(
    header: Header, classification: Classification, labels: Mapping[str, LabelSet]
) -> ClassificationMessage:
    """All groups in one message; ``class_id`` is ``<group>/<class>``, also where there is one group.

    Groups come in the order of ``labels``, each with its classes by falling probability, at most
    ``MAX_HYPOTHESES``. The first entry of a group is therefore its winner.
    """
    message = ClassificationMessage(header=header)
    for group, label_set in labels.items():
        probabilities = classification.probabilities[group]
        for label in np.argsort(-probabilities, kind="stable")[:MAX_HYPOTHESES]:
            message.results.append(
                ObjectHypothesis(
                    class_id=f"{group}/{label_set.names[label]}", score=float(probabilities[label])
                )
            )
    return message


def label_info_message(header: Header, labels: LabelSet) -> LabelInfo:
    """The id and name of each class of a mask; the threshold is 0, because no pixel is left out."""
    classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(labels.names)]
    return LabelInfo(header=header, class_map=classes, threshold=0.0)
