"""Label sets: class names, colours, the ignore id, and how one taxonomy maps into another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.paths import read_yaml, share_directory

IGNORE_INDEX = 255
"""The id of pixels without a label in samples, whatever the files of their data set hold there."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of one task in the order of their ids.

    Attributes:
        name: the set's name, which is also its file's stem.
        names: class names; a class's id is its position.
        colors: RGB, 0..255, one a class.
        ignore_index: the id of pixels without a label in mask files; readers turn it into ``IGNORE_INDEX``.
        mappings: for each other set's name, that set's class names to names of this set.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_index: int = IGNORE_INDEX
    mappings: Mapping[str, Mapping[str, str]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"label set {self.name!r} has no classes")
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise ValueError(f"label set {self.name!r} names a class twice: {', '.join(twice)}")
        if len(self.colors) != len(self.names):
            raise ValueError(
                f"label set {self.name!r} has {len(self.names)} classes and {len(self.colors)} colours"
            )

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The id of a class.

        Raises:
            KeyError: when the set has no such class, with the nearest names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            hint = _did_you_mean(name, self.names, 3)
            raise KeyError(f"label set {self.name!r} has no class {name!r}{hint}") from None

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """RGB by id, uint8 (256, 3); ids without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: min(len(self), 256)] = np.asarray(self.colors[:256], np.uint8)
        return table

    def lookup_from(self, source: LabelSet) -> npt.NDArray[np.uint8]:
        """The table that turns a sample's mask of ``source`` into one of this set: uint8 (256,).

        Classes that ``mappings`` does not list, or gives to ``ignore_index``, become ``IGNORE_INDEX``.

        Raises:
            KeyError: when this set has no mapping from ``source``.
        """
        if source.name == self.name:
            names: Mapping[str, str] = {n: n for n in self.names}
        elif source.name in self.mappings:
            names = self.mappings[source.name]
        else:
            known = ", ".join(sorted(self.mappings)) or "none"
            raise KeyError(f"label set {self.name!r} has no mapping from {source.name!r}; it maps: {known}")
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for theirs, ours in names.items():
            table[source.index(theirs)] = self.index(ours)
        table[table == self.ignore_index] = IGNORE_INDEX
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint's metadata; ``from_dict`` reads it back."""
        return {
            "name": self.name,
            "names": list(self.names),
            "colors": [list(c) for c in self.colors],
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSet:
        """Reads what ``to_dict`` wrote.

        Raises:
            KeyError: when a key is missing.
        """
        return cls(
            name=data["name"],
            names=tuple(data["names"]),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in data["colors"]),
            ignore_index=int(data["ignore_index"]),
        )


@dataclass(frozen=True)
class TaskLabels:
    """The label sets of a model's tasks.

    Attributes:
        classification: by group, in the order of the head's outputs.
        detection, segmentation: None where the model lacks the task.

    Raises:
        ValueError: when there are more classes to segment than a mask has ids for.
    """

    classification: Mapping[str, LabelSet]
    detection: LabelSet | None
    segmentation: LabelSet | None

    def __post_init__(self) -> None:
        if self.segmentation is not None and len(self.segmentation) > IGNORE_INDEX:
            raise ValueError(
                f"label set {self.segmentation.name!r} has {len(self.segmentation)} classes; segmentation "
                f"takes at most {IGNORE_INDEX}, because masks have 8 bits and {IGNORE_INDEX} means unlabelled"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``from_dict`` reads it back."""
        return {
            "classification": {group: labels.to_dict() for group, labels in self.classification.items()},
            "detection": self.detection.to_dict() if self.detection else None,
            "segmentation": self.segmentation.to_dict() if self.segmentation else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskLabels:
        """Reads what ``to_dict`` wrote.

        Raises:
            KeyError: when a key is missing.
            ValueError: from the class itself.
        """
        return cls(
            classification={g: LabelSet.from_dict(d) for g, d in data["classification"].items()},
            detection=LabelSet.from_dict(data["detection"]) if data["detection"] else None,
            segmentation=LabelSet.from_dict(data["segmentation"]) if data["segmentation"] else None,
        )


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours for sets that bring none, by the bit-interleaving of the Pascal VOC colour map
    (Everingham 2010, devkit ``VOClabelcolormap``), without its leading black.
    """
    ids = np.arange(1, count + 1)
    shifts = np.arange(8)
    channels = [(((ids[:, None] >> (3 * shifts + c)) & 1) << (7 - shifts)).sum(1) for c in range(3)]
    return tuple((int(r), int(g), int(b)) for r, g, b in zip(*channels, strict=True))


def available_label_sets() -> list[str]:
    """Names that ``load_label_set`` knows without a path."""
    return sorted(p.stem for p in (share_directory() / "config" / "labels").glob("*.yaml"))


def load_label_set(name_or_path: str | Path) -> LabelSet:
    """Reads a label set by the name of a file in ``config/labels`` or by a path to a YAML file.

    A file has ``name``, ``classes`` (names, or mappings with ``name`` and ``color``), and optionally
    ``ignore_index`` and ``mappings``.

    Raises:
        FileNotFoundError: when there is no such file, with the names that exist.
        ValueError: when the file is not a label set, naming the file and the key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = share_directory() / "config" / "labels" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"no label set at {path}; known names: {', '.join(available_label_sets())}")
    data = read_yaml(path)
    if not isinstance(data, dict) or not isinstance(data.get("classes"), list):
        raise ValueError(f"{path}: a label set needs the key 'classes' with a list of names")
    try:
        _refuse_unknown_keys(data, ("name", "ignore_index", "classes", "mappings"), "the file")
        name, ignore_index = data.get("name", path.stem), data.get("ignore_index", IGNORE_INDEX)
        if not isinstance(name, str):
            raise ValueError(f"name is {name!r}; it must be a text")
        if not _is_byte(ignore_index):
            raise ValueError(f"ignore_index is {ignore_index!r}; it must be an id of 0..255")
        classes = [_class(item, position) for position, item in enumerate(data["classes"])]
        names = tuple(name for name, _ in classes)
        colors = zip(classes, distinct_colors(len(classes)), strict=True)
        return LabelSet(
            name=name,
            names=names,
            colors=tuple(given or default for (_, given), default in colors),
            ignore_index=ignore_index,
            mappings=_mappings(data.get("mappings", {}), names),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _did_you_mean(name: object, known: Sequence[str], at_most: int = 1) -> str:
    near = difflib.get_close_matches(str(name), known, n=at_most)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _refuse_unknown_keys(data: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            hint = _did_you_mean(key, known) or f"; known are {', '.join(known)}"
            raise ValueError(f"unknown key {key!r} in {where}{hint}")


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _class(item: Any, position: int) -> tuple[str, tuple[int, int, int] | None]:
    """Name and, where it is given, colour of a class."""
    where = f"classes[{position}]"
    entry = item if isinstance(item, dict) else {"name": item}
    _refuse_unknown_keys(entry, ("name", "color"), where)
    name, color = entry.get("name"), entry.get("color")
    if not isinstance(name, str):
        raise ValueError(f"{where} is {item!r}; it needs a name, which may need quotes to be text")
    if color is None:
        return name, None
    if not isinstance(color, list) or len(color) != 3 or not all(map(_is_byte, color)):
        raise ValueError(f"{where} ({name}): color is {color!r}; it must be red, green and blue of 0..255")
    return name, (color[0], color[1], color[2])


def _mappings(data: Any, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """The mappings of a file, whose classes on this side exist."""
    if not isinstance(data, dict):
        raise ValueError(f"mappings is {data!r}; it must have a mapping for each other label set")
    for source, mapping in data.items():
        if not isinstance(mapping, dict):
            raise ValueError(f"mappings.{source} is {mapping!r}; it must map its classes to this set's")
        for theirs, ours in mapping.items():
            if not isinstance(theirs, str):
                raise ValueError(f"mappings.{source}: {theirs!r} is no text; a class's name may need quotes")
            if ours not in names:
                hint = _did_you_mean(ours, names)
                raise ValueError(f"mappings.{source}.{theirs}: no class {ours!r} here{hint}")
    return data
