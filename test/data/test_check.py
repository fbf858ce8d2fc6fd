from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_layouts import make_scene, write_ade20k, write_bdd100k, write_coco, write_picture

from pvt_mtl_perception.cli import main
from pvt_mtl_perception.data.check import check_sources, count_problems, draw_contact_sheet, markdown
from pvt_mtl_perception.data.sources import SourceConfig, open_source
from pvt_mtl_perception.labels import TaskLabels, load_label_set

SCENES = [make_scene(i) for i in range(4)]
DRIVING = TaskLabels(
    {"weather": load_label_set("driving_weather")},
    load_label_set("driving_detection"),
    load_label_set("driving_segmentation"),
)


@pytest.fixture
def bdd(tmp_path: Path) -> SourceConfig:
    """Four images: one truncated, one with a class id out of range in its mask, one without a mask."""
    write_bdd100k(tmp_path, SCENES)
    image = tmp_path / "images/100k/train/00000000-0000.jpg"
    image.write_bytes(image.read_bytes()[:200])
    masks = tmp_path / "labels/sem_seg/masks/train"
    write_picture(masks / "00000001-0000.png", np.full((48, 64), 77, np.uint8))
    (masks / "00000002-0000.png").unlink()
    return SourceConfig("bdd100k", root=str(tmp_path))


def test_report_counts_labels_and_lists_what_is_broken(bdd: SourceConfig) -> None:
    report, _ = check_sources({"train": [bdd]}, DRIVING, workers=0)
    (source,) = report["sources"]
    assert source["samples"] == 4 and source["images"] == 2 and source["image_sizes"] == {"64x48": 2}
    assert source["unlabelled"] == {"segmentation": 1}
    assert [bad["sample"] for bad in source["bad_samples"]] == [0, 1]
    assert [Path(bad["file"]).name for bad in source["bad_samples"]] == [
        "00000000-0000.jpg",
        "00000001-0000.png",
    ]
    assert (
        "damaged" in source["bad_samples"][0]["error"] and "class id 77" in source["bad_samples"][1]["error"]
    )
    detection = source["detection"]
    assert detection["classes"]["car"] == {"boxes": 2, "images": 2} and detection["boxes"] == 6
    assert detection["classes"]["truck"] == {"boxes": 0, "images": 0}
    sides = np.concatenate([SCENES[i].boxes[:, 2:] - SCENES[i].boxes[:, :2] for i in (2, 3)])
    assert detection["small"] == (np.sqrt(sides.prod(1)) < 32).sum() and detection["large"] == 0
    mask = SCENES[3].mask(0, (13, 255, 18))
    pixels = np.bincount(mask.ravel(), minlength=256)
    segmentation = source["segmentation"]
    assert segmentation["classes"]["car"]["share"] == pytest.approx(pixels[13] / (mask.size - pixels[255]))
    assert segmentation["unlabelled_share"] == pytest.approx(pixels[255] / mask.size)
    assert source["classification"]["weather"]["classes"]["rainy"] == 2
    assert count_problems(report) == 2
    text = markdown(report)
    assert text.startswith("# Data\n\n2 problems.") and "| rainy | 2 |" in text and "| car | 2 | 2 |" in text
    assert "damaged, or not an image" in text


def test_report_names_sources_that_cannot_be_opened_and_goes_on(tmp_path: Path, bdd: SourceConfig) -> None:
    sources = {
        "train": [
            SourceConfig("coco", root=str(tmp_path / "none")),
            SourceConfig("coco", root=str(tmp_path / "none"), optional=True),
            bdd,
        ],
        "evaluate": [bdd],
    }
    report, opened = check_sources(sources, DRIVING, workers=0)
    assert ["error" in source for source in report["sources"]] == [True, False, False]
    assert "absent" in report["sources"][1] and len(opened) == 1
    assert count_problems(report) == 3
    assert "Cannot be opened: no folder" in markdown(report) and "Left out: no folder" in markdown(report)


def test_images_of_training_among_those_of_evaluation_are_found(tmp_path: Path) -> None:
    write_ade20k(tmp_path, SCENES)
    labels = TaskLabels({}, None, load_label_set("ade20k"))
    part = SourceConfig("ade20k", root=str(tmp_path), limit=1)
    report, _ = check_sources(
        {"train": [SourceConfig("ade20k", root=str(tmp_path))], "evaluate": [part]}, labels, 0
    )
    assert [len(names) for names in report["in_both"].values()] == [1]
    assert "**1 images are in train and evaluate**" in markdown(report)


def test_contact_sheet_shows_masks_boxes_and_their_names(tmp_path: Path, bdd: SourceConfig) -> None:
    source = open_source(bdd, DRIVING)
    draw_contact_sheet([("train: bdd100k", source)], tmp_path / "sheet.png", columns=4)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert sheet.shape[1] > 1000
    # Boxes are outlined in the colours of their classes, car and pedestrian.
    for name in ("car", "pedestrian"):
        color = DRIVING.detection.colors[DRIVING.detection.index(name)]
        assert (np.abs(sheet.astype(int) - color).max(2) < 8).sum() > 100


def test_command_writes_the_report_and_ends_with_one_where_something_is_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path / "coco", SCENES)
    config = tmp_path / "run.yaml"
    config.write_text(
        "model:\n  backbone: {name: pvt_v2_b0}\n  neck: {type: fpn}\n  detection: {label_set: coco}\n"
        f"train: [{{kind: coco, root: {tmp_path / 'coco'}}}]\n"
        "phases: [{steps: 1, width: 64, height: 32, batch_size: 2}]\n"
    )
    arguments = ["data", "check", str(config), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(arguments) == 0
    assert "no problems" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.md",
        "contact_sheet.png",
    }
    (tmp_path / "coco" / "train2017" / "000000000001.jpg").unlink()
    assert main(arguments) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["sources"][0]["bad_samples"][0]["error"].endswith("000000000001.jpg: the file is missing")
