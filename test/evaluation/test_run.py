from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from checkpoints import make_checkpoint

from pvt_mtl_perception.data.sources import SourceConfig
from pvt_mtl_perception.data.synthetic_frames import SyntheticDataset
from pvt_mtl_perception.evaluation.records import confusion_matrix
from pvt_mtl_perception.evaluation.run import evaluate_source, with_mappings
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import LabelSet, TaskLabels, load_label_set

DRIVING, CARLA = load_label_set("driving_segmentation"), load_label_set("carla")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors"), "cpu")


def test_carla_tags_are_cityscapes_classes_shifted_by_one_and_road_lines_are_road() -> None:
    table = DRIVING.lookup_from(CARLA)
    np.testing.assert_array_equal(table[1:20], np.arange(19))
    assert table[CARLA.index("road line")] == DRIVING.index("road")
    outside = ["unlabeled", "static", "dynamic", "other", "water", "ground", "bridge", "rail track"]
    assert set(table[[CARLA.index(name) for name in [*outside, "guard rail"]]]) == {255}
    assert len(CARLA) == 30 and CARLA.colors[1:20] == DRIVING.colors
    np.testing.assert_array_equal(CARLA.lookup_from(DRIVING)[:19], np.arange(1, 20))


@pytest.fixture
def carla_frames(tmp_path: Path) -> SourceConfig:
    """Two frames as CARLA's cameras would leave them, with tags of which some have no class."""
    data = SyntheticDataset("test", size=2, frame_size=(320, 192))
    for folder in ("images", "tags"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        sample = data[number]
        tags = np.where(sample.mask == 255, CARLA.index("static"), sample.mask + 1).astype(np.uint8)
        tags[:9] = CARLA.index("dynamic")
        tags[-20:, :40] = CARLA.index("road line")
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), sample.image[..., ::-1])
        cv2.imwrite(str(tmp_path / f"tags/{number}.png"), tags)
    return SourceConfig(kind="generic", root=str(tmp_path), masks="tags", segmentation_labels="carla")


def test_a_model_is_scored_on_carla_tags_in_its_own_and_in_their_taxonomy(
    predictor: Predictor, carla_frames: SourceConfig
) -> None:
    own = evaluate_source(predictor, carla_frames)
    theirs = evaluate_source(predictor, carla_frames, CARLA)
    assert list(own.clean.scores) == ["images", "segmentation"]
    renamed = {
        CARLA.mappings["driving_segmentation"][name]: iou
        for name, iou in own.clean.scores["segmentation"]["per_class"].items()
    }
    assert theirs.clean.scores["segmentation"]["per_class"] == renamed and "road" in renamed
    mask = own.data[0].mask
    assert (mask[-20:, :40] == DRIVING.index("road")).all() and (mask[:9] == 255).all()


def test_a_checkpoints_label_sets_get_the_mappings_of_files_with_the_same_classes(
    predictor: Predictor,
) -> None:
    labels = predictor.labels
    assert not labels.segmentation.mappings
    assert "carla" in with_mappings(labels).segmentation.mappings
    other = dataclasses.replace(DRIVING, names=("street", *DRIVING.names[1:]), mappings={})
    unknown = LabelSet("mine", ("a",), ((0, 0, 0),))
    kept = with_mappings(TaskLabels({}, unknown, other))
    assert kept.detection is unknown and kept.segmentation is other


def test_corruptions_change_images_and_leave_labels(predictor: Predictor) -> None:
    source = SourceConfig(kind="synthetic", split="test", frames=2)
    one = evaluate_source(predictor, source, corruptions=["noise"], strengths=[1, 5])
    assert list(one.corrupted) == [("noise", 1), ("noise", 5)]
    passes = one.clean, one.corrupted["noise", 5]
    clean, noisy = (confusion_matrix(scored.records.segmentation) for scored in passes)
    np.testing.assert_array_equal(clean.sum(1), noisy.sum(1))
    assert (clean != noisy).any()


def test_an_absent_source_is_left_out_where_it_is_optional(predictor: Predictor, tmp_path: Path) -> None:
    root = str(tmp_path / "nowhere")
    assert evaluate_source(predictor, SourceConfig(kind="camvid", root=root, optional=True)) is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate_source(predictor, SourceConfig(kind="camvid", root=root))
