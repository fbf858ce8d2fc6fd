"""Which topics of a known data set's bags are its cameras: ``config/presets/<name>.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pvt_mtl_perception.bags.reader import BagReader, BagTopic
from pvt_mtl_perception.paths import read_yaml, share_directory


@dataclass(frozen=True)
class Preset:
    """The cameras of a data set.

    Attributes:
        name: the file's stem.
        cameras: for each camera, the names that its topic has in the data set's conversions to bags.
    """

    name: str
    cameras: Mapping[str, tuple[str, ...]]

    def topics(self, reader: BagReader) -> dict[str, BagTopic]:
        """The image topic of each camera that the bag has, in the preset's order.

        Raises:
            ValueError: when it has none of them, with the bag's image topics.
        """
        images = {topic.name: topic for topic in reader.image_topics}
        found = {
            camera: next(images[name] for name in names if name in images)
            for camera, names in self.cameras.items()
            if any(name in images for name in names)
        }
        if not found:
            wanted = ", ".join(names[0] for names in self.cameras.values())
            listed = ", ".join(map(str, images.values())) or "none"
            raise ValueError(
                f"{reader.path} has no camera of the preset {self.name} ({wanted}); "
                f"its image topics: {listed}"
            )
        return found


def preset_names() -> tuple[str, ...]:
    """The presets that there are."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def load_preset(name: str) -> Preset:
    """Reads a preset.

    Raises:
        ValueError: when there is none of that name, with those that there are, or when its file does not list
            the cameras' topics, naming file and key.
    """
    path = _folder() / f"{name}.yaml"
    if name not in preset_names():
        raise ValueError(f"no preset {name!r} in {path.parent}; there are: {', '.join(preset_names())}")
    content = read_yaml(path)
    cameras = content.get("cameras") if isinstance(content, dict) else None
    if not isinstance(cameras, dict) or not cameras:
        raise ValueError(f"{path} has no `cameras:` with a list of topic names for each camera")
    for camera, names in cameras.items():
        if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
            raise ValueError(
                f"{path}: cameras.{camera} is {names!r}; a list of topic names is needed, like [/cam/image]"
            )
    return Preset(name, {str(camera): tuple(names) for camera, names in cameras.items()})


def _folder() -> Path:
    return share_directory() / "config" / "presets"
