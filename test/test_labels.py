"""A label set's file: what it may leave out, and what it is told when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvt_mtl_perception.labels import IGNORE_INDEX, available_label_sets, distinct_colors, load_label_set


def test_names_alone_are_a_label_set(tmp_path: Path) -> None:
    path = tmp_path / "farm.yaml"
    path.write_text("classes: [field, {name: cow, color: [1, 2, 3]}, tractor]\n")
    labels = load_label_set(path)
    assert labels.name == "farm" and labels.names == ("field", "cow", "tractor")
    defaults = distinct_colors(3)
    assert labels.colors == (defaults[0], (1, 2, 3), defaults[2])
    assert labels.ignore_index == IGNORE_INDEX and labels.mappings == {}


def test_the_package_s_files_are_read_and_map_to_and_from_classes_that_exist() -> None:
    sets = {name: load_label_set(name) for name in available_label_sets()}
    mapped = [(labels, sets[other]) for labels in sets.values() for other in labels.mappings]
    assert len(mapped) >= 4
    for labels, other in mapped:
        assert (labels.lookup_from(other) < len(labels)).sum() == len(labels.mappings[other.name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: farm", "needs the key 'classes' with a list"),
        ("classes: []", "'farm' has no classes"),
        ("classes: [cow, cow]", "names a class twice: cow"),
        ("classes: [cow]\nignore: 0", "unknown key 'ignore' in the file; did you mean 'ignore_index'"),
        ("classes: [cow]\nignore_index: -1", r"ignore_index is -1; it must be an id of 0\.\.255"),
        ("classes: [cow]\nname: 3", "name is 3; it must be a text"),
        ("classes: [cow, on]", r"classes\[1\] is True; it needs a name, which may need quotes"),
        ("classes: [{color: [1, 2, 3]}]", r"classes\[0\] is .*; it needs a name"),
        (
            "classes: [{name: cow, colour: [1, 2, 3]}]",
            r"unknown key 'colour' in classes\[0\]; did you mean 'color'",
        ),
        ("classes: [{name: cow, color: [1, 2]}]", r"classes\[0\] \(cow\): color is \[1, 2\]; it must be red"),
        ("classes: [{name: cow, color: [1, 2, 256]}]", r"color is \[1, 2, 256\]; .* of 0\.\.255"),
        ("classes: [cow]\nmappings: [zoo]", r"mappings is \['zoo'\]; it must have a mapping for each"),
        ("classes: [cow]\nmappings: {zoo: cow}", r"mappings\.zoo is 'cow'; it must map its classes"),
        ("classes: [cow]\nmappings: {zoo: {no: cow}}", r"mappings\.zoo: False is no text; .* quotes"),
        (
            "classes: [cow]\nmappings: {zoo: {bison: cows}}",
            r"mappings\.zoo\.bison: no class 'cows' here; did you mean 'cow'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "farm.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(ValueError, match=rf"farm\.yaml: .*{message}"):
        load_label_set(path)


def test_a_label_set_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(FileNotFoundError, match=r"no label set at .*zoo\.yaml; known names: .*camvid"):
        load_label_set("zoo")
