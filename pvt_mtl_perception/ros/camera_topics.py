"""Which topics a launch file's arguments name for each camera; needs no rclpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_mtl_perception.paths import read_yaml

COMPRESSED = "/compressed"


@dataclass(frozen=True)
class CameraTopics:
    """Where one camera's images come from.

    Attributes:
        camera: its name, empty for a single camera without one.
        raw: topic of sensor_msgs/Image, or empty where nothing names it.
        compressed: topic of sensor_msgs/CompressedImage, or empty likewise.
    """

    camera: str
    raw: str
    compressed: str

    @property
    def remappings(self) -> list[tuple[str, str]]:
        """From the node's own topics."""
        own = f"{self.camera}/image" if self.camera else "image"
        pairs = [(own, self.raw), (f"{own}{COMPRESSED}", self.compressed)]
        return [(source, topic) for source, topic in pairs if topic]


def camera_topics(arguments: Mapping[str, str]) -> list[CameraTopics]:
    """Each camera's topics; none where no argument names one.

    Args:
        arguments: ``image_topic`` of the raw images, also given with the ``/compressed`` of their compressed
            form; ``compressed_topic`` of compressed images that are not called so; ``cameras`` separated by
            commas, those of ``params_file`` where it is empty.

    Raises:
        ValueError: when several cameras would share one topic, or ``{camera}`` has no name to stand for.
    """
    raw, compressed = arguments["image_topic"], arguments["compressed_topic"]
    given = {name: arguments[name] for name in ("image_topic", "compressed_topic") if arguments[name]}
    if not given:
        return []
    names = camera_names(arguments)
    for argument, topic in given.items():
        if "{camera}" in topic and not any(names):
            raise ValueError(
                f"{argument} is {topic!r}, which needs the cameras' names; give them, like "
                "cameras:=front,left"
            )
        if "{camera}" not in topic and len(names) > 1:
            raise ValueError(
                f"{argument} is {topic!r}; with the cameras {', '.join(names)} it must contain {{camera}}, "
                "like /sensing/{camera}/image_raw"
            )
    if raw:
        raw = raw.removesuffix(COMPRESSED)
        compressed = compressed or raw + COMPRESSED
    return [
        CameraTopics(name, raw.replace("{camera}", name), compressed.replace("{camera}", name))
        for name in names
    ]


def camera_names(arguments: Mapping[str, str]) -> list[str]:
    """The names in ``cameras``, or those of ``params_file`` where it is empty; by default one empty name.

    Raises:
        ValueError: where ``params_file`` has cameras of several nodes.
    """
    if arguments["cameras"].strip():
        return [name.strip() for name in arguments["cameras"].split(",")]
    found = _of_params_file(arguments, "cameras")
    if len(found) > 1:
        raise ValueError(
            f"{arguments['params_file']} names cameras of several nodes ({found}); say which are meant, like "
            f"cameras:={','.join(map(str, found[0]))}"
        )
    return [str(name) for name in found[0]] if found else [""]


def image_transport(arguments: Mapping[str, str]) -> str:
    """``raw`` or ``compressed``: the argument ``image_transport``, or what ``params_file`` says.

    Raises:
        ValueError: where ``params_file`` says both, for different nodes.
    """
    found = [arguments["image_transport"]] if arguments["image_transport"] else []
    found = found or _of_params_file(arguments, "image_transport")
    if len(found) > 1:
        raise ValueError(
            f"{arguments['params_file']} has different image_transport for several nodes "
            f"({', '.join(found)}); say which is meant, like image_transport:=raw"
        )
    return found[0] if found else "raw"


def _of_params_file(arguments: Mapping[str, str], name: str) -> list[Any]:
    """The different values that the nodes in ``params_file`` have for a parameter, without empty ones."""
    found: list[Any] = []
    for parameters in _parameters(read_yaml(Path(arguments["params_file"]))):
        value = parameters.get(name)
        if value and value not in found:
            found.append(value)
    return found


def _parameters(content: Any) -> Iterator[dict[str, Any]]:
    """The ``ros__parameters`` of each node in a parameter file."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key == "ros__parameters" and isinstance(value, dict):
            yield value
        else:
            yield from _parameters(value)
