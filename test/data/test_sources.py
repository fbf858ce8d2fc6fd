from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from data_layouts import make_scene, write_ade20k, write_bdd100k, write_cityscapes, write_coco, write_generic

from pvt_mtl_perception.data.collate import Collator
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.sources import SourceConfig, SourceView, named_sources, open_source
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.data.transforms import evaluation_transform
from pvt_mtl_perception.labels import LabelSet, TaskLabels, distinct_colors, load_label_set

SCENES = [make_scene(i) for i in range(20)]
DRIVING = TaskLabels(
    {group: load_label_set(f"driving_{group}") for group in ("weather", "scene", "timeofday")},
    load_label_set("driving_detection"),
    load_label_set("driving_segmentation"),
)


def label_set(name: str, *names: str, **mappings: dict[str, str]) -> LabelSet:
    return LabelSet(name, names, distinct_colors(len(names)), mappings=mappings)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "camvidd", "root": "x"}, "unknown kind of data source 'camvidd'.*did you mean 'camvid'"),
        ({"kind": "synthetic", "tasks": ["segmentatio"]}, "unknown task .*did you mean 'segmentation'"),
        ({"kind": "synthetic", "ratio": 0}, "ratio is positive"),
        ({"kind": "synthetic", "fraction": 0}, "fraction is above 0"),
        ({"kind": "synthetic", "fraction": 1.5}, "at most 1"),
        ({"kind": "synthetic", "limit": 0}, "limit is at least 1"),
        ({"kind": "coco"}, "'coco' needs the key 'root'"),
        ({"kind": "coco", "root": "x", "masks": "m"}, "'coco' has no key 'masks', which is for generic"),
        (
            {"kind": "generic", "root": "x", "split": "val"},
            "'generic' has no key 'split', which is for ade20k, bdd100k, camvid",
        ),
        ({"kind": "coco", "root": "x", "frames": 5}, "'coco' has no key 'frames', which is for synthetic"),
        (
            {"kind": "camvid", "root": "x", "containing": ["car"]},
            "'camvid' has no key 'containing', which is for synthetic",
        ),
    ],
)
def test_configuration_refuses_what_makes_no_sense(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**keys)


def test_every_kind_opens_with_the_labels_of_the_driving_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bdd100k(tmp_path / "bdd", SCENES[:2])
    write_cityscapes(tmp_path / "city", SCENES[:2])
    monkeypatch.setenv("DATA", str(tmp_path))
    sources = {
        kind: open_source(SourceConfig(kind, root=root), DRIVING)
        for kind, root in (("bdd100k", "$DATA/bdd"), ("cityscapes", "$DATA/city"), ("synthetic", None))
    }
    for source in sources.values():
        assert source.labels.detection == DRIVING.detection
        assert source.labels.segmentation == DRIVING.segmentation
    assert sources["cityscapes"].labels.classification == {}
    assert isinstance(sources["synthetic"], SyntheticDataset)


def test_optional_source_that_is_absent_is_none_and_another_an_error(tmp_path: Path) -> None:
    assert open_source(SourceConfig("coco", root=str(tmp_path / "none"), optional=True)) is None
    with pytest.raises(FileNotFoundError, match="none"):
        open_source(SourceConfig("coco", root=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "synthetic", "frames": 1, "cache": "$NOT_SET/frames"}, "'synthetic': cache is"),
        ({"kind": "coco", "root": "${NOT_SET}/coco"}, "'coco': root is"),
        ({"kind": "generic", "root": ".", "segmentation_labels": "$NOT_SET"}, "segmentation_labels is"),
        (
            {"kind": "ade20k", "root": ".", "classification_labels": {"scene": "$NOT_SET"}},
            "classification_labels.scene is",
        ),
    ],
)
def test_a_variable_that_is_not_set_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ValueError, match=rf"{message} .*the environment variable NOT_SET is not set"):
        open_source(SourceConfig(**keys))
    assert not list(tmp_path.iterdir())
    if keys["kind"] == "coco":
        assert open_source(SourceConfig(**keys, optional=True)) is None


def test_kept_tasks_are_the_only_labels(tmp_path: Path) -> None:
    write_bdd100k(tmp_path, SCENES[:2])
    root = str(tmp_path)
    detection = open_source(SourceConfig("bdd100k", root=root, tasks=["detection"]))
    assert detection[0].mask is None and detection[0].classes == {} and len(detection[0].boxes) == 3
    assert detection.labels.segmentation is None and detection.labels.classification == {}
    rest = open_source(SourceConfig("bdd100k", root=root, tasks=["segmentation", "classification"]))
    assert rest[0].boxes is None and rest[0].box_classes is None and len(rest[0].ignore_boxes) == 0
    assert rest[0].mask is not None and set(rest[0].classes) == {"weather", "scene", "timeofday"}
    write_coco(tmp_path / "coco", SCENES[:2])
    with pytest.raises(ValueError, match="'coco' has no labels for segmentation"):
        open_source(SourceConfig("coco", root=str(tmp_path / "coco"), tasks=["segmentation"]))


def test_samples_without_a_label_of_the_learned_tasks_are_left_out(tmp_path: Path) -> None:
    write_bdd100k(tmp_path, SCENES[:6])
    for number in range(4):
        (tmp_path / f"labels/sem_seg/masks/train/{number:08x}-0000.png").unlink()
    config = SourceConfig("bdd100k", root=str(tmp_path))
    segmentation = open_source(config, TaskLabels({}, None, DRIVING.segmentation))
    assert [Path(segmentation[i].name).stem[:8] for i in range(len(segmentation))] == ["00000004", "00000005"]
    assert len(open_source(config, DRIVING)) == 6
    assert len(open_source(SourceConfig("bdd100k", root=str(tmp_path), tasks=["segmentation"]))) == 2
    half = SourceConfig("bdd100k", root=str(tmp_path), tasks=["segmentation"], fraction=0.5)
    assert len(open_source(half)) == 1 and open_source(half)[0].mask is not None


@pytest.mark.parametrize("part", [{"fraction": 0.5}, {"limit": 10}])
def test_every_model_gets_the_same_part_of_a_partly_labelled_source(tmp_path: Path, part: dict) -> None:
    write_bdd100k(tmp_path, SCENES)
    masked = {f"{number:08x}-0000" for number in range(0, 20, 3)}
    for path in (tmp_path / "labels/sem_seg/masks/train").iterdir():
        if path.stem not in masked:
            path.unlink()

    def stems(labels: TaskLabels | None, **keys: object) -> set[str]:
        source = open_source(SourceConfig("bdd100k", root=str(tmp_path), **part, **keys), labels)
        return {Path(source[i].name).stem for i in range(len(source))}

    drawn = stems(DRIVING)
    assert len(drawn) == 10 and drawn == stems(None) == stems(TaskLabels({}, DRIVING.detection, None))
    segmentation = TaskLabels({}, None, DRIVING.segmentation)
    assert stems(segmentation) == drawn & masked and 0 < len(drawn & masked) < len(masked)
    # A source that stands for masks alone has its part of those that have one.
    alone = stems(DRIVING, tasks=["segmentation"])
    assert alone == stems(segmentation, tasks=["segmentation"]) and alone <= masked
    assert len(alone) == (4 if "fraction" in part else 7)


def test_a_part_without_a_label_of_the_models_tasks_is_an_error(tmp_path: Path) -> None:
    write_bdd100k(tmp_path, SCENES)
    masks = sorted((tmp_path / "labels/sem_seg/masks/train").iterdir())
    for path in masks[1:]:
        path.unlink()
    seeds = [SourceConfig("bdd100k", root=str(tmp_path), limit=1, subset_seed=seed) for seed in range(3)]
    drawn = [Path(open_source(config)[0].name).stem for config in seeds]
    config = next(config for config, stem in zip(seeds, drawn, strict=True) if stem != masks[0].stem)
    with pytest.raises(ValueError, match="'bdd100k': none of the 1 samples in use has a label of"):
        open_source(config, TaskLabels({}, None, DRIVING.segmentation))


def test_sources_of_one_kind_and_split_are_told_apart_by_a_number() -> None:
    test, train = (SourceConfig("synthetic", split=split) for split in ("test", "train"))
    absent = SourceConfig("synthetic", split="test", root="nowhere", optional=True)
    other = SourceConfig("synthetic", split="test", frames=2)
    named = named_sources([test, train, absent, other])
    names = ["synthetic/test", "synthetic/train", "synthetic/test 2", "synthetic/test 3"]
    assert list(named.items()) == list(zip(names, [test, train, absent, other], strict=True))


def test_subsets_are_drawn_by_their_seed_and_grow(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, SCENES)

    def names(**keys: object) -> list[str]:
        source = open_source(SourceConfig("cityscapes", root=str(tmp_path), **keys))
        return [source[i].name for i in range(len(source))]

    tenth, half = names(fraction=0.1), names(fraction=0.5)
    assert len(tenth) == 2 and len(half) == 10 and set(tenth) < set(half) < set(names())
    assert names(fraction=0.5) == half and names(fraction=0.5, subset_seed=1) != half
    assert len(names(limit=3)) == 3 and len(names(limit=100)) == 20


def test_a_fraction_is_one_of_the_samples_that_the_limit_leaves(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, SCENES)

    def names(fraction: float, limit: int | None = None) -> set[str]:
        source = open_source(SourceConfig("cityscapes", root=str(tmp_path), fraction=fraction, limit=limit))
        return {source[i].name for i in range(len(source))}

    parts = [names(fraction, limit=8) for fraction in (0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [2, 4, 8] and parts[0] < parts[1] < parts[2]
    # One order is drawn for all: eight of twenty are two fifths.
    assert parts[2] == names(0.4) and names(0.5, limit=100) == names(0.5)


def test_labels_are_brought_to_the_models_ids_through_its_mapping(tmp_path: Path) -> None:
    write_coco(tmp_path, SCENES[:1])
    target = label_set("short", "pet", "tool", coco={"toothbrush": "tool", "cat": "pet"})
    source = open_source(SourceConfig("coco", root=str(tmp_path)), TaskLabels({}, target, None))
    # The scene's rectangles are a toothbrush, a hair drier and a crowd.
    np.testing.assert_array_equal(source[0].boxes, SCENES[0].boxes[:1])
    assert source[0].box_labels.tolist() == [1] and source[0].box_classes == (0, 1)
    assert len(source[0].ignore_boxes) == 1 and source.labels.detection == target
    write_ade20k(tmp_path, SCENES[:1])
    ground = label_set("ground", "built", "other", ade20k={"building": "built", "flag": "other"})
    source = open_source(SourceConfig("ade20k", root=str(tmp_path)), TaskLabels({}, None, ground))
    np.testing.assert_array_equal(source[0].mask, SCENES[0].mask(255, (255, 0, 1)))


def test_what_a_models_label_set_ignores_is_255_in_its_samples(tmp_path: Path) -> None:
    write_ade20k(tmp_path, SCENES[:1])
    mapping = {"building": "built", "flag": "void"}
    ground = label_set("ground", "built", "void", ade20k=mapping)
    for ignored, flag in ((1, 255), (7, 1)):
        ground = dataclasses.replace(ground, ignore_index=ignored)
        source = open_source(SourceConfig("ade20k", root=str(tmp_path)), TaskLabels({}, None, ground))
        np.testing.assert_array_equal(source[0].mask, SCENES[0].mask(255, (255, 0, flag)))


def test_labels_without_a_way_to_the_models_are_an_error(tmp_path: Path) -> None:
    write_coco(tmp_path, SCENES[:1])
    config = SourceConfig("coco", root=str(tmp_path))
    with pytest.raises(
        ValueError, match="coco labels detection with 'coco', the model with 'driving_detection'"
    ):
        open_source(config, DRIVING)
    segmentation = TaskLabels({}, None, DRIVING.segmentation)
    with pytest.raises(ValueError, match="coco labels detection and the model learns segmentation: nothing"):
        open_source(config, segmentation)
    groups = {"weather": label_set("mine", "wet", "dry")}
    write_bdd100k(tmp_path / "bdd", SCENES[:1])
    with pytest.raises(
        ValueError, match="bdd100k labels 'weather' with 'driving_weather', the model with 'mine'"
    ):
        open_source(SourceConfig("bdd100k", root=str(tmp_path / "bdd")), TaskLabels(groups, None, None))


def test_a_users_data_is_opened_by_names_and_paths_of_label_sets(tmp_path: Path) -> None:
    write_generic(tmp_path, SCENES[:2], ("car", "bus"), {"weather": "rainy"})
    (tmp_path / "ground.yaml").write_text("name: ground\nclasses: [a, b, c, d]\n")
    source = open_source(
        SourceConfig(
            "generic",
            root=str(tmp_path),
            split="train",
            annotations="boxes.json",
            masks="masks",
            table="classes.csv",
            detection_labels="driving_detection",
            segmentation_labels=str(tmp_path / "ground.yaml"),
            classification_labels={"weather": "driving_weather"},
        )
    )
    assert source[0].classes == {"weather": 3} and source[0].box_labels.tolist() == [2, 4]
    assert source.labels.segmentation.names == ("a", "b", "c", "d") and source[0].mask.max() == 3


class OneClass:
    """Stands for a folder of a thousand classes."""

    labels = TaskLabels({"imagenet": load_label_set("imagenet")}, None, None)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((40, 40, 3), np.uint8), classes={"imagenet": 999}, name="bill.JPEG")


def test_three_disjoint_label_spaces_share_a_batch(tmp_path: Path) -> None:
    write_coco(tmp_path, SCENES[:1])
    write_ade20k(tmp_path, SCENES[:1])
    labels = TaskLabels(OneClass.labels.classification, load_label_set("coco"), load_label_set("ade20k"))
    root = str(tmp_path)
    sources = [
        SourceView(OneClass(), None, OneClass.labels, labels, "imagenet"),
        open_source(SourceConfig("coco", root=root), labels),
        open_source(SourceConfig("ade20k", root=root), labels),
    ]
    fit = evaluation_transform((64, 64))
    batch = Collator(80, {"imagenet": 1000})([fit(source[0], 0) for source in sources])
    assert batch.classes["imagenet"].tolist() == [999, -1, -1]
    assert batch.detection_labelled.any(1).tolist() == [False, True, False]
    assert batch.box_counts == (0, 2, 0) and batch.ignore_counts == (0, 1, 0)
    assert [mask.unique().tolist() for mask in batch.masks] == [[255], [255], [0, 1, 149, 255]]


def test_a_view_reaches_a_worker(tmp_path: Path) -> None:
    write_coco(tmp_path, SCENES[:2])
    source = open_source(SourceConfig("coco", root=str(tmp_path), limit=1))
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert again[0].name == source[0].name and len(again) == 1
    assert again.labels.detection.names == load_label_set("coco").names
