"""The frames of a bag of CARLA as samples with results: what ``pvt-mtl carla-eval`` scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pvt_mtl_perception.bags.matching import matched_by_stamp
from pvt_mtl_perception.bags.messages import label_names
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import RecordedResult, ResultReader, ResultTopics
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.evaluation.carla import CarlaLabels, decode_instances, decode_semantic
from pvt_mtl_perception.inference.image_formats import decode_message
from pvt_mtl_perception.labels import TaskLabels
from pvt_mtl_perception.result import Result


@dataclass(frozen=True)
class CarlaCamera:
    """The topics of one view.

    Attributes:
        name: of the RGB camera, for tables.
        image: topic of the RGB images.
        semantic: topic of the semantic images.
        instances: topic of the instance images, or None.
        results: where the node's results are.
    """

    name: str
    image: str
    semantic: str
    instances: str | None
    results: ResultTopics


@dataclass
class Counts:
    """What became of a camera's semantic images.

    Attributes:
        semantic: how many there are.
        without: by what was missing with the same stamp, how many.
    """

    semantic: int = 0
    without: dict[str, int] = field(default_factory=dict)

    @property
    def matched(self) -> int:
        """Frames of which nothing was missing."""
        return self.semantic - sum(self.without.values())

    def miss(self, what: str) -> None:
        """One frame is left out for want of this."""
        self.without[what] = self.without.get(what, 0) + 1

    def __str__(self) -> str:
        missing = "".join(f", {count} without {what}" for what, count in self.without.items())
        return f"{self.matched} of {self.semantic} semantic images matched by stamp{missing}"


class CarlaFrames:
    """The labelled frames of a camera in a bag, read as often as they are asked for.

    Args:
        reader: the open bag.
        camera: its topics.
        labels: of the model.
        recorded: whether the results come from the bag. RGB images may then be missing.

    Attributes:
        model_labels: as given.
        labels: of the tasks that are scored: where results are recorded, those that the bag has.
        total: semantic images in the bag.

    Raises:
        KeyError: when a label set of the model has no mapping from CARLA's.
        ValueError: when the bag lacks a topic, or has masks of other classes than the model's.
    """

    def __init__(self, reader: BagReader, camera: CarlaCamera, labels: TaskLabels, recorded: bool) -> None:
        self._reader, self._camera, self._recorded = reader, camera, recorded
        self.model_labels = labels
        needed = [camera.semantic, *([camera.instances] if camera.instances else [])]
        if not recorded:
            needed.append(camera.image)
        self.total = reader.select(needed)[0].count
        detection, segmentation = labels.detection, labels.segmentation
        if recorded:
            have = {topic.name for topic in reader.topics if topic.count}
            detection = detection if camera.results.detections in have else None
            segmentation = segmentation if camera.results.mask in have else None
            if detection is None and segmentation is None:
                raise ValueError(
                    f"{reader.path} has results neither on {camera.results.detections} nor on "
                    f"{camera.results.mask}; without --recorded the images are predicted"
                )
            self._check_classes()
        self.labels = TaskLabels({}, detection, segmentation)
        self._truth = CarlaLabels(self.labels)

    def __str__(self) -> str:
        return f"{self._reader.path}, camera {self._camera.name}"

    def _check_classes(self) -> None:
        segmentation = self.model_labels.segmentation
        infos = [message for _, _, message in self._reader.messages([self._camera.results.label_info])]
        if infos and segmentation is not None and label_names(infos[-1]) != segmentation.names:
            raise ValueError(
                f"{self._reader.path}, topic {self._camera.results.label_info}: the masks are of a model "
                f"with other classes; --model has to name it ({', '.join(label_names(infos[-1])[:4])}, ...)"
            )

    def read(self, counts: Counts) -> Iterator[tuple[Sample, Result | None]]:
        """Sample after sample, with the recorded result or None where results are not recorded.

        Args:
            counts: goes on counting what was read and what was missing.

        Raises:
            ValueError: when an image is not what its topic should have, naming bag, topic and stamp.
        """
        camera = self._camera
        others = [camera.image, *([camera.instances] if camera.instances else [])]
        results = ResultReader(self._reader, camera.results, self.model_labels) if self._recorded else None
        for stamp, semantic, (image, *instances) in matched_by_stamp(self._reader, camera.semantic, others):
            counts.semantic += 1
            if image is None and not self._recorded:
                counts.miss(camera.image)
                continue
            if instances == [None]:
                counts.miss(others[1])
                continue
            found = None
            if results is not None:
                found = self._take(results, stamp, counts)
                if found is None:
                    continue
            time = f"{stamp // 10**9}.{stamp % 10**9:09d}"
            at = f"{self._reader.path}, stamp {time}, topic"
            sample = self._truth.sample(
                image=None if image is None else _decoded(decode_message, image, f"{at} {camera.image}"),
                semantic=_decoded(decode_semantic, semantic, f"{at} {camera.semantic}"),
                instances=(
                    _decoded(decode_instances, instances[0], f"{at} {others[1]}") if instances else None
                ),
                name=f"{camera.name} {time[:-6]}",
            )
            yield sample, None if found is None else found.result(*sample.image.shape[:2])

    def _take(self, results: ResultReader, stamp: int, counts: Counts) -> RecordedResult | None:
        """The recorded result of a frame; None, and counted, where a scored task has none."""
        found = results.take(stamp)
        if self.labels.detection is not None and (found is None or found.detections is None):
            counts.miss("recorded detections")
            return None
        if self.labels.segmentation is not None and (found is None or found.segmentation is None):
            counts.miss("a recorded mask")
            return None
        return found


def _decoded(decode: Any, message: Any, where: str) -> Any:
    try:
        return decode(message)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def sensor_topic(sensor: str, ego: str) -> str:
    """The image topic of a sensor's name; what begins with a slash is a topic already."""
    return sensor if sensor.startswith("/") else f"/carla/{ego}/{sensor}/image"


def carla_cameras(
    ego: str, rgb: list[str], semantic: list[str], instances: list[str], results: list[str]
) -> list[CarlaCamera]:
    """The topics of views, by sensor names or topics in the same order.

    Args:
        ego: the vehicle's name.
        rgb, semantic: of each view.
        instances: of each view, or empty.
        results: namespace of the results of each view; where empty, they are beside the RGB images.

    Raises:
        ValueError: when the lists differ in length or a camera is named twice.
    """
    given = {"--semantic": semantic, "--instance": instances, "--results": results}
    for option, names in given.items():
        if len(names) != len(rgb) and (names or option == "--semantic"):
            raise ValueError(
                f"--rgb names {len(rgb)} cameras and {option} {len(names)}: each view needs one of each "
                "kind, in the same order"
            )
    topics = [sensor_topic(sensor, ego) for sensor in rgb]
    if len(set(topics)) < len(topics):
        raise ValueError(f"--rgb names a camera twice: {', '.join(rgb)}")
    return [
        CarlaCamera(
            name=image if name.startswith("/") else name,
            image=image,
            semantic=sensor_topic(semantic[index], ego),
            instances=sensor_topic(instances[index], ego) if instances else None,
            results=ResultTopics.under(results[index] if results else image.rpartition("/")[0]),
        )
        for index, (name, image) in enumerate(zip(rgb, topics, strict=True))
    ]
