"""What the documents say of the code, held against it."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvt_mtl_perception.training.balancing import METHODS
from pvt_mtl_perception.training.config import TrainingConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"


def keys(config: type[Any], prefix: str, seen: set[type[Any]]) -> Iterator[tuple[str, str]]:
    """Every key of a configuration with its default as JSON; those of each dataclass once."""
    seen.add(config)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        parts = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            text = "required"
        else:
            text = "its own" if dataclasses.is_dataclass(default) else json.dumps(default)
        yield f"{prefix}{field.name}", text
        # A list's keys are those of each of its items.
        inner = (
            f"{prefix}{field.name}." if typing.get_origin(hint) is not list else f"{prefix}{field.name}[]."
        )
        for part in parts:
            if part not in seen:
                yield from keys(part, inner, seen)


def test_the_table_of_keys_has_every_key_of_a_training_configuration_with_its_default() -> None:
    section = (DOCS / "model.md").read_text().split("\n## Configuration keys\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| `([^|]+)` \| .+ \|$", section, re.MULTILINE)
    assert dict(rows) == dict(keys(TrainingConfig, "", set()))
    assert len(rows) == len(dict(rows))


def test_the_table_of_balancing_has_every_method_once() -> None:
    section = (DOCS / "model.md").read_text().split("\n### Balancing\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` ", section, re.MULTILINE)) == sorted(METHODS)
