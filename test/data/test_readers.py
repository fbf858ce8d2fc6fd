from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_layouts import (
    bdd_frame,
    coco_categories,
    coco_content,
    make_scene,
    write_ade20k,
    write_bdd100k,
    write_cityscapes,
    write_coco,
    write_generic,
    write_imagenet,
    write_json,
    write_picture,
)
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes, ImageFolder

from pvt_mtl_perception.data.ade20k import Ade20kDataset
from pvt_mtl_perception.data.bdd100k import Bdd100kDataset
from pvt_mtl_perception.data.cityscapes import CityscapesDataset
from pvt_mtl_perception.data.coco import CocoDataset
from pvt_mtl_perception.data.generic import GenericDataset
from pvt_mtl_perception.data.imagenet import ImageNetDataset
from pvt_mtl_perception.data.reading import SampleError
from pvt_mtl_perception.labels import LabelSet, distinct_colors, load_label_set

DETECTION = load_label_set("driving_detection")
SEGMENTATION = load_label_set("driving_segmentation")
SCENES = [make_scene(i) for i in range(3)]


def label_set(name: str, *names: str) -> LabelSet:
    return LabelSet(name, names, distinct_colors(len(names)))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ImageNet


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    write_imagenet(root)
    return root


def test_imagenet_classes_are_the_ranks_of_the_wordnet_ids(imagenet: Path) -> None:
    dataset = ImageNetDataset(imagenet)
    names = load_label_set("imagenet").names
    assert len(dataset) == 1000 == len(names)
    known = {0: ("n01440764", "tench"), 281: ("n02123045", "tabby"), 999: ("n15075141", "toilet tissue")}
    for index, (wnid, name) in known.items():
        sample = dataset[index]
        assert dataset.wnids[index] == wnid and names[index] == name
        assert sample.classes == {"imagenet": index} and wnid in sample.name
        assert sample.boxes is None and sample.mask is None
        assert np.abs(sample.image.astype(int) - make_scene(index % 10, (24, 32), 1).image).mean() < 12


def test_imagenet_gives_what_torchvisions_folders_give(imagenet: Path) -> None:
    dataset, reference = ImageNetDataset(imagenet), ImageFolder(str(imagenet / "train"))
    assert len(reference) == len(dataset) and tuple(reference.classes) == dataset.wnids
    for index in range(0, 1000, 97):
        path, label = reference.samples[index]
        assert dataset[index].name == path and dataset[index].classes == {"imagenet": label}


def test_imagenet_label_set_has_the_names_of_timm() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    assert info.label_names() == sorted(info.label_names())
    differs = [
        name
        for i, name in enumerate(load_label_set("imagenet").names)
        if name.lower() not in info.index_to_description(i).lower()
    ]
    # These two name two classes each; one of the two carries the other word.
    assert differs == ["crane bird", "maillot tank suit"]


def test_imagenet_errors(imagenet: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="val"):
        ImageNetDataset(imagenet, "val")
    with pytest.raises(
        ValueError, match="imagenet has the splits train, val; found 'tran'; did you mean 'train'"
    ):
        ImageNetDataset(imagenet, "tran")
    (tmp_path / "val").mkdir()
    write_picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", SCENES[0].image)
    with pytest.raises(
        SampleError, match="holds 0 of the 1000 class folders; missing, for example, n01440764"
    ):
        ImageNetDataset(tmp_path, "val")
    (imagenet / "train" / "extra").mkdir()
    with pytest.raises(SampleError, match="not a class: extra"):
        ImageNetDataset(imagenet)
    (imagenet / "train" / "extra").rmdir()
    only = next((imagenet / "train" / "n01443537").iterdir())
    dataset = ImageNetDataset(imagenet)
    target = only.readlink()
    only.unlink()
    with pytest.raises(SampleError, match=r"n01443537/n01443537_0\.JPEG: the file is missing"):
        dataset[1]
    with pytest.raises(SampleError, match="n01443537: the folder holds no image"):
        ImageNetDataset(imagenet)
    only.symlink_to(target)


# COCO


def test_coco_boxes_and_classes_are_those_of_pycocotools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_coco(tmp_path, SCENES)
    dataset = CocoDataset(tmp_path)
    reference = COCO(str(path))
    names = load_label_set("coco").names
    assert len(dataset) == 3 and dataset.labels.detection.names == names
    for index, image in enumerate(reference.dataset["images"]):
        sample = dataset[index]
        assert sample.name.endswith(f"train2017/{image['file_name']}")
        assert sample.box_classes == tuple(range(80)) and sample.mask is None and sample.classes is None
        expected, crowds = [], []
        for annotation in reference.loadAnns(reference.getAnnIds(image["id"])):
            x, y, width, height = annotation["bbox"]
            name = reference.loadCats(annotation["category_id"])[0]["name"]
            (crowds if annotation["iscrowd"] else expected).append((x, y, x + width, y + height, name))
        found = [
            (*box, names[label])
            for box, label in zip(sample.boxes.tolist(), sample.box_labels.tolist(), strict=True)
        ]
        assert found == expected and len(found) == 2
        assert [(*box,) for box in sample.ignore_boxes.tolist()] == [box[:4] for box in crowds]


def test_coco_class_ids_close_the_gaps_of_the_category_ids() -> None:
    assert [*coco_categories()][-1] == 90
    assert tuple(coco_categories().values()) == load_label_set("coco").names


def test_coco_boxes_end_at_the_image_and_those_without_area_are_left_out(tmp_path: Path) -> None:
    path = write_coco(tmp_path, SCENES[:1])
    content = json.loads(path.read_text())
    boxes = [[-5, 3, 20, 10], [60, 40, 30, 30], [10, 10, 0, 5], [70, 10, 5, 5]]
    for number, box in enumerate(boxes):
        content["annotations"].append(
            {"id": number, "image_id": 77, "category_id": 1, "bbox": box, "iscrowd": 0}
        )
    write_json(path, content)
    sample = CocoDataset(tmp_path)[0]
    assert sample.boxes[2:].tolist() == [[0, 3, 15, 13], [60, 40, 64, 48]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), r"instances_train2017\.json: an instances file has the lists"),
        (lambda c: c["images"].clear(), "lists no image"),
        (
            lambda c: c["images"][1].update(id=77),
            r"image 77: id or file name '000000000001.jpg' is there twice",
        ),
        (lambda c: c["images"][1].update(file_name="000000000000.jpg"), "image 78: id or file name"),
        (lambda c: c["images"][1].pop("width"), "image 78: has no key 'width'"),
        (lambda c: c["annotations"][1].update(id=1000), "annotation 1000: the id is there twice"),
        (lambda c: c["annotations"][1].update(image_id=5), "annotation 1001: image_id 5 is not among"),
        (
            lambda c: c["annotations"][1].update(category_id=12),
            "annotation 1001: category_id 12 is not among",
        ),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, -3, 4]),
            r"annotation 1001: bbox \[1, 2, -3, 4\] is not",
        ),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, float("nan"), 4]), "annotation 1001: bbox"),
        (lambda c: c["annotations"][1].pop("bbox"), "annotation 1001: bbox None is not"),
        (
            lambda c: c["categories"][0].update(name="dgo"),
            "category 90: .*no class 'dgo'; did you mean 'dog'",
        ),
        (lambda c: c["categories"][0].update(id=1), "category 1: the id is there twice"),
        (lambda c: c["images"].append(None), "entry 3 of 'images': is None, not a mapping"),
        (lambda c: c["annotations"].insert(0, [1]), r"entry 0 of 'annotations': is \[1\], not a mapping"),
        (lambda c: c["images"][1].update(id=[1]), r"image \[1\]: id is \[1\]"),
        (lambda c: c["images"][1].update(file_name=5), "image 78: file_name is 5"),
        (lambda c: c["images"][1].update(height=None), "image 78: height is None"),
        (lambda c: c["images"][1].update(height=float("nan")), "image 78: is 64xnan pixels"),
        (lambda c: c["images"][1].update(width=10**30), "image 78: is 10+x48 pixels"),
        (lambda c: c["categories"][0].update(name=None), "category 90: name is None"),
        (
            lambda c: c["annotations"][1].update(image_id=[77]),
            r"annotation 1001: image_id \[77\] is not among",
        ),
        (lambda c: [a.pop("id") for a in c["annotations"]], "annotation None: .*there twice, or is absent"),
    ],
)
def test_coco_errors_name_file_and_record(tmp_path: Path, change: object, message: str) -> None:
    path = write_coco(tmp_path, SCENES)
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)
    with pytest.raises(SampleError, match=message):
        CocoDataset(tmp_path)


def test_coco_files_that_are_missing_damaged_or_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*train2017"):
        CocoDataset(tmp_path)
    path = write_coco(tmp_path, SCENES)
    dataset = CocoDataset(tmp_path)
    damage(tmp_path / "train2017" / "000000000000.jpg")
    with pytest.raises(SampleError, match=r"000000000000\.jpg: damaged, or not an image"):
        dataset[0]
    write_picture(tmp_path / "train2017" / "000000000001.jpg", SCENES[1].image[:40])
    with pytest.raises(
        SampleError, match=r"000000000001\.jpg: is 64x40 pixels; .*instances_train2017.json says 64x48"
    ):
        dataset[1]
    (tmp_path / "train2017" / "000000000002.jpg").write_bytes(b"")
    with pytest.raises(SampleError, match=r"000000000002\.jpg: the file is empty"):
        dataset[2]
    path.write_text("{")
    with pytest.raises(SampleError, match="not JSON"):
        CocoDataset(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        CocoDataset(tmp_path)


# ADE20K


def test_ade20k_ids_are_one_less_and_zero_is_unlabelled(tmp_path: Path) -> None:
    write_ade20k(tmp_path, SCENES, "validation")
    dataset = Ade20kDataset(tmp_path, "val")
    assert len(dataset) == 3 and len(dataset.labels.segmentation) == 150
    for index, scene in enumerate(SCENES):
        sample = dataset[index]
        np.testing.assert_array_equal(sample.mask, scene.mask(255, (0, 1, 149)))
        assert sample.boxes is None and sample.classes is None
        assert np.abs(sample.image.astype(int) - scene.image).mean() < 12
    assert dataset.labels.segmentation.names[149] == "flag"


def test_ade20k_scene_categories_where_a_label_set_is_given(tmp_path: Path) -> None:
    write_ade20k(tmp_path, SCENES)
    dataset = Ade20kDataset(tmp_path, scene=label_set("places", "street", "bedroom"))
    assert [dataset[i].classes for i in range(3)] == [{"scene": 1}, {"scene": 0}, {"scene": -1}]
    (tmp_path / "sceneCategories.txt").write_text("a b c\n")
    with pytest.raises(SampleError, match=r"sceneCategories.txt: line 1: expected 'image category'"):
        Ade20kDataset(tmp_path, scene=label_set("places", "street"))


def test_ade20k_errors(tmp_path: Path) -> None:
    write_ade20k(tmp_path, SCENES)
    dataset = Ade20kDataset(tmp_path)
    masks = tmp_path / "annotations" / "training"
    write_picture(masks / "ADE_train_00000000.png", np.full((48, 64), 151, np.uint8))
    with pytest.raises(SampleError, match=r"00000000\.png: holds class id 151; the ids go up to 150"):
        dataset[0]
    write_picture(masks / "ADE_train_00000001.png", np.zeros((40, 64), np.uint8))
    with pytest.raises(SampleError, match=r"00000001\.png: is 64x40 pixels, its image 64x48"):
        dataset[1]
    write_picture(masks / "ADE_train_00000001.png", np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(SampleError, match="has 3 channels"):
        dataset[1]
    (masks / "ADE_train_00000002.png").unlink()
    with pytest.raises(SampleError, match=r"00000002\.png: the file is missing"):
        dataset[2]
    with pytest.raises(SampleError, match=r"no mask for 1 of 3 images; the first is ADE_train_00000002\.png"):
        Ade20kDataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="images/validation"):
        Ade20kDataset(tmp_path, "val")


# BDD100K


@pytest.mark.parametrize("release", ["det_20", "first"])
def test_bdd100k_joins_boxes_attributes_and_masks_by_name(tmp_path: Path, release: str) -> None:
    first = release == "first"
    for name, scene in zip("ab", SCENES, strict=False):
        write_picture(tmp_path / "images" / "100k" / "train" / f"{name}.jpg", scene.image)
    small = "seg/images/train" if first else "images/10k/train"
    masks = "seg/labels/train" if first else "labels/sem_seg/masks/train"
    for name, scene in (("b", SCENES[1]), ("c", SCENES[2])):
        write_picture(tmp_path / small / f"{name}.jpg", scene.image)
        suffix = "_train_id" if first else ""
        write_picture(tmp_path / masks / f"{name}{suffix}.png", scene.mask(0, (13, 255, 18)))
    categories = ("person", "bike", "motor") if first else ("pedestrian", "other vehicle", "motorcycle")
    frames = [
        bdd_frame(
            "a.jpg", SCENES[0], categories, weather="foggy", scene="gas stations", timeofday="dawn/dusk"
        ),
        bdd_frame(
            "b.jpg", SCENES[1], categories, weather="undefined", scene="highway", timeofday="undefined"
        ),
        bdd_frame("elsewhere.jpg", SCENES[2], categories),
    ]
    write_json(
        tmp_path / "labels" / ("bdd100k_labels_images_train.json" if first else "det_20/det_train.json"),
        frames,
    )
    dataset = Bdd100kDataset(tmp_path)
    a, b, c = (dataset[i] for i in range(3))
    names = [DETECTION.names[i] for i in a.box_labels]
    boxes = SCENES[0].boxes.astype(np.float32)
    if first:
        assert names == ["pedestrian", "bicycle", "motorcycle"] and len(a.ignore_boxes) == 0
        np.testing.assert_array_equal(a.boxes, boxes)
    else:
        assert names == ["pedestrian", "motorcycle"]
        np.testing.assert_array_equal(a.boxes, boxes[[0, 2]])
        np.testing.assert_array_equal(a.ignore_boxes, boxes[[1]])
    assert a.mask is None and a.box_classes == tuple(range(10))
    assert a.classes == {"weather": 5, "scene": 5, "timeofday": 1}
    assert b.classes == {"scene": 2} and len(b.boxes) and "100k" in b.name
    np.testing.assert_array_equal(b.mask, SCENES[1].mask(0, (13, 255, 18)))
    assert c.boxes is None and c.box_classes is None and c.classes == {} and c.mask is not None
    assert any("2 images with boxes, of 3 frames" in note for note in dataset.notes)


def test_bdd100k_without_one_kind_of_label_leaves_that_task_unlabelled(tmp_path: Path) -> None:
    write_bdd100k(tmp_path, SCENES)
    (tmp_path / "labels" / "det_20" / "det_train.json").unlink()
    dataset = Bdd100kDataset(tmp_path)
    assert dataset.labels.detection is None and dataset.labels.segmentation == SEGMENTATION
    assert dataset.labels.classification == {} and dataset[0].boxes is None and dataset[0].mask is not None


def test_bdd100k_training_has_no_image_of_a_validation_set(tmp_path: Path) -> None:
    write_bdd100k(tmp_path, SCENES)
    write_picture(tmp_path / "images" / "10k" / "val" / "00000001-0000.jpg", SCENES[1].image)
    dataset = Bdd100kDataset(tmp_path)
    assert [Path(dataset[i].name).stem for i in range(len(dataset))] == ["00000000-0000", "00000002-0000"]
    np.testing.assert_array_equal(dataset[1].boxes, SCENES[2].boxes)
    assert dataset.notes[0].startswith("1 images left out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[0].pop("name"), r"det_train\.json: frame 0: has no key 'name'"),
        (lambda f: f[1].update(name="00000000-0000.jpg"), r"00000000-0000\.jpg: the name is there twice"),
        (lambda f: f[1]["attributes"].update(weather="hail"), r"00000001-0000\.jpg: .*no class 'hail'"),
        (lambda f: f[1]["labels"][0].update(category="carr"), "no class 'carr'; did you mean 'car'"),
        (
            lambda f: f[1]["labels"][0]["box2d"].update(x1=500),
            "0001-0000.jpg, label 0: box2d .* is not x1 <= x2",
        ),
        (lambda f: f[1]["labels"][0]["box2d"].pop("x1"), "0001-0000.jpg, label 0: box2d .* has not x1"),
        (lambda f: [frame.update(labels=None) for frame in f], "none of its 3 frames is labelled"),
        (lambda f: f[1].update(labels={"0": {}}), r"00000001-0000\.jpg: labels is .*, not a list"),
        (lambda f: f[1].update(labels=["car"]), r"00000001-0000\.jpg: a label is 'car', not a mapping"),
        (lambda f: f[1].update(attributes="rainy"), r"0001-0000\.jpg: attributes is 'rainy', not a mapping"),
        (
            lambda f: f[1]["attributes"].update(weather=["rainy"]),
            r"0001-0000\.jpg: .*no class \"\['rainy'\]\"",
        ),
        (lambda f: f[1]["labels"][0].update(attributes=[1]), r"attributes is \[1\], not a mapping"),
    ],
)
def test_bdd100k_errors_name_file_and_record(tmp_path: Path, change: object, message: str) -> None:
    write_bdd100k(tmp_path, SCENES)
    path = tmp_path / "labels" / "det_20" / "det_train.json"
    frames = json.loads(path.read_text())
    change(frames)
    write_json(path, frames)
    with pytest.raises(SampleError, match=message):
        Bdd100kDataset(tmp_path)


def test_bdd100k_refuses_absent_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images/100k/train"):
        Bdd100kDataset(tmp_path)
    write_picture(tmp_path / "images" / "100k" / "train" / "a.jpg", SCENES[0].image)
    with pytest.raises(SampleError, match=r"no labels: none of labels/det_20/det_train\.json"):
        Bdd100kDataset(tmp_path)
    write_picture(tmp_path / "labels" / "sem_seg" / "masks" / "train" / "z.png", SCENES[0].mask(0, (1, 2, 3)))
    with pytest.raises(SampleError, match="no mask belongs to an image"):
        Bdd100kDataset(tmp_path)
    write_picture(
        tmp_path / "labels" / "sem_seg" / "masks" / "train" / "a.png", SCENES[0].mask(0, (1, 2, 19))
    )
    with pytest.raises(SampleError, match=r"a\.png: holds class id 19; the ids go up to 18"):
        Bdd100kDataset(tmp_path)[0]
    write_picture(tmp_path / "images" / "100k" / "train" / "a.png", SCENES[0].image)
    with pytest.raises(SampleError, match=r"a\.jpg and a\.png are two images of one name"):
        Bdd100kDataset(tmp_path)


# Cityscapes


def test_cityscapes_masks_are_train_ids_and_boxes_the_instances(tmp_path: Path) -> None:
    stems = write_cityscapes(tmp_path, SCENES)
    dataset = CityscapesDataset(tmp_path)
    assert len(dataset) == 3 and dataset[0].box_classes == tuple(range(8))
    for index in range(3):
        for _ in range(2):
            sample = dataset[index]
            number = next(i for i, stem in enumerate(stems) if stem in sample.name)
            scene = SCENES[number]
            # A car, a group of persons, and a caravan, which is not evaluated.
            np.testing.assert_array_equal(sample.mask, scene.mask(0, (13, 11, 255)))
            np.testing.assert_array_equal(sample.image, scene.image)
            np.testing.assert_array_equal(sample.boxes, scene.boxes[:1])
            assert [DETECTION.names[i] for i in sample.box_labels] == ["car"]
            np.testing.assert_array_equal(sample.ignore_boxes, scene.boxes[[2, 1]])


def test_cityscapes_train_ids_are_in_the_order_of_the_label_ids(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, SCENES[:1])
    label = np.repeat(np.arange(64, dtype=np.uint8)[None] % 34, 48, 0)
    write_picture(next((tmp_path / "gtFine").rglob("*labelIds.png")), label)
    mask = CityscapesDataset(tmp_path)[0].mask[0]
    of_torchvision = {c.id: c.train_id for c in Cityscapes.classes}
    assert mask[:34].tolist() == [of_torchvision[i] for i in range(34)]


def test_cityscapes_boxes_are_of_the_classes_that_have_instances(tmp_path: Path) -> None:
    with_instances = [c for c in Cityscapes.classes if c.has_instances]
    scenes = [make_scene(i) for i in range(len(with_instances))]
    for number, (scene, cls) in enumerate(zip(scenes, with_instances, strict=True)):
        write_cityscapes(tmp_path / str(number), [scene], inside=(cls.id * 1000, cls.id * 1000 + 7, 11))
        sample = CityscapesDataset(tmp_path / str(number))[0]
        boxes = sample.ignore_boxes if cls.ignore_in_eval else sample.boxes
        np.testing.assert_array_equal(boxes, scene.boxes[:2])
        name = {"person": "pedestrian"}.get(cls.name, cls.name)
        if not cls.ignore_in_eval:
            assert {DETECTION.names[i] for i in sample.box_labels} == {name}
    # The same files, found by torchvision.
    image, mask = Cityscapes(str(tmp_path / "0"), split="train", mode="fine", target_type="semantic")[0]
    np.testing.assert_array_equal(np.asarray(image), scenes[0].image)
    assert set(np.unique(mask)) == {7, 24, 11}


def test_cityscapes_instances_of_one_class_have_a_box_each_and_groups_one_a_region(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, SCENES[:1], inside=(33000, 33001, 33002))
    ids_path = next((tmp_path / "gtFine").rglob("*instanceIds.png"))
    sample = CityscapesDataset(tmp_path)[0]
    np.testing.assert_array_equal(sample.boxes, SCENES[0].boxes)
    assert {DETECTION.names[i] for i in sample.box_labels} == {"bicycle"}
    write_picture(ids_path, SCENES[0].mask(7, (26, 26, 11), np.uint16))
    sample = CityscapesDataset(tmp_path)[0]
    assert sample.boxes.shape == (0, 4)
    assert sorted(map(tuple, sample.ignore_boxes)) == sorted(map(tuple, SCENES[0].boxes[:2]))


def test_cityscapes_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="leftImg8bit/train"):
        CityscapesDataset(tmp_path)
    write_cityscapes(tmp_path, SCENES)
    dataset = CityscapesDataset(tmp_path)
    labels, ids = (
        sorted((tmp_path / "gtFine").rglob(f"*{kind}.png"))[0] for kind in ("labelIds", "instanceIds")
    )
    write_picture(ids, SCENES[0].mask(7, (11000, 24, 26001), np.uint16))
    with pytest.raises(
        SampleError, match=r"instanceIds\.png: holds instance id 11000, of no class with instances"
    ):
        dataset[0]
    write_picture(ids, SCENES[0].mask(7, (1, 2, 3)))
    with pytest.raises(SampleError, match="holds uint8; expected uint16 ids"):
        dataset[0]
    write_picture(labels, SCENES[0].mask(7, (34, 2, 3)))
    with pytest.raises(SampleError, match=r"labelIds\.png: holds class id 34; the ids go up to 33"):
        dataset[0]
    labels.unlink()
    with pytest.raises(SampleError, match=r"labelIds\.png: the file is missing"):
        CityscapesDataset(tmp_path)


# A user's own data

ANIMALS = label_set("animals", "cat", "dog", "hen")
GROUND = label_set("ground", "grass", "sand", "rock", "water")
SEASON = label_set("season", "summer", "winter")


def generic(root: Path, **changes: object) -> GenericDataset:
    keys = {"annotations": "boxes.json", "masks": "masks", "table": "classes.csv", "detection": ANIMALS,
            "segmentation": GROUND, "classification": {"season": SEASON}}  # fmt: skip
    return GenericDataset(root, **(keys | changes))


def test_generic_joins_boxes_masks_and_classes_by_name(tmp_path: Path) -> None:
    write_generic(tmp_path, SCENES, ("dog", "hen"), {"season": "winter"})
    dataset = generic(tmp_path)
    assert [Path(dataset[i].name).name for i in range(3)] == ["0.jpg", "2.jpg", "1.jpg"]
    for index, number in enumerate((0, 2, 1)):
        sample, scene = dataset[index], SCENES[number]
        np.testing.assert_array_equal(sample.boxes, scene.boxes[:2])
        assert sample.box_labels.tolist() == [1, 2] and sample.box_classes == (1, 2)
        np.testing.assert_array_equal(sample.ignore_boxes, scene.boxes[2:])
        np.testing.assert_array_equal(sample.mask, scene.mask(0, (1, 2, 3)))
        assert sample.classes == {"season": 1}


def test_generic_labels_that_are_absent_are_unlabelled(tmp_path: Path) -> None:
    write_generic(tmp_path, SCENES, ("dog", "hen"), {"season": "winter"})
    (tmp_path / "masks" / "part1" / "1.png").unlink()
    (tmp_path / "classes.csv").write_text("image,other,season\npart0/0.jpg,x,\npart0/2.jpg,y,summer\n")
    content = coco_content(SCENES[:1], {1: "dog"}, ["part0/0.jpg"])
    write_json(tmp_path / "boxes.json", content)
    a, b, c = (generic(tmp_path)[i] for i in range(3))
    assert [s.classes for s in (a, b, c)] == [{"season": -1}, {"season": 0}, {"season": -1}]
    assert a.box_classes == (1,) and b.boxes is None and c.boxes is None
    assert a.mask is not None and b.mask is not None and c.mask is None
    boxes_only = generic(tmp_path, masks=None, table=None)
    assert boxes_only[0].mask is None and boxes_only.labels.segmentation is None
    assert boxes_only.labels.classification == {}


def test_generic_reads_the_indices_of_a_palette(tmp_path: Path) -> None:
    write_generic(tmp_path, SCENES[:1], ("dog",), {"season": "winter"})
    mask = SCENES[0].mask(0, (1, 2, 3))
    picture = Image.fromarray(mask, "P")
    picture.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 7, 7, 7])
    picture.save(tmp_path / "masks" / "part0" / "0.png")
    assert cv2.imread(str(tmp_path / "masks" / "part0" / "0.png"), cv2.IMREAD_UNCHANGED).ndim == 3
    np.testing.assert_array_equal(generic(tmp_path)[0].mask, mask)


def test_generic_masks_are_255_where_they_hold_the_label_sets_ignore_index(tmp_path: Path) -> None:
    write_generic(tmp_path, SCENES[:1], ("dog",), {"season": "winter"})
    for ignored, inside in ((2, (1, 255, 3)), (77, (1, 2, 3))):
        ground = dataclasses.replace(GROUND, ignore_index=ignored)
        mask = generic(tmp_path, segmentation=ground)[0].mask
        np.testing.assert_array_equal(mask, SCENES[0].mask(0, inside))
    write_picture(tmp_path / "masks" / "part0" / "0.png", SCENES[0].mask(0, (77, 255, 3)))
    mask = generic(tmp_path, segmentation=ground)[0].mask
    np.testing.assert_array_equal(mask, SCENES[0].mask(0, (255, 255, 3)))


def test_generic_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images"):
        generic(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(SampleError, match="images: the folder holds no image"):
        generic(tmp_path)
    write_generic(tmp_path, SCENES, ("dog", "hen"), {"season": "winter"})
    with pytest.raises(ValueError, match="'masks' needs the label set"):
        generic(tmp_path, segmentation=None)
    with pytest.raises(ValueError, match="at least one of 'annotations', 'masks' and 'table'"):
        generic(tmp_path, annotations=None, masks=None, table=None)
    csv = tmp_path / "classes.csv"
    for text, message in (
        ("image,saison\n", "line 1: has no column 'season'; expected image, season"),
        ("image,season\npart0/9.jpg,winter\n", "line 2: no image 'part0/9.jpg'"),
        (
            "image,season\npart0/0.jpg,winter\npart0/0.jpg,winter\n",
            "line 3: image 'part0/0.jpg' is there twice",
        ),
        ("image,season\npart0/0.jpg,wintr\n", "line 2: .*no class 'wintr'; did you mean 'winter'"),
    ):
        csv.write_text(text)
        with pytest.raises(SampleError, match=rf"classes\.csv: {message}"):
            generic(tmp_path)
    for content in ("image,season\npart0/é.jpg,\n".encode("latin-1"), b"image,season\n" + b"x" * 200_000):
        csv.write_bytes(content)
        with pytest.raises(SampleError, match=r"classes\.csv: is no CSV in UTF-8"):
            generic(tmp_path)
    write_json(tmp_path / "boxes.json", coco_content(SCENES[:1], {1: "dog"}, ["9.jpg"]))
    with pytest.raises(SampleError, match=r"boxes\.json: image 9\.jpg: no such image in"):
        generic(tmp_path, table=None)
    write_picture(tmp_path / "masks" / "part0" / "0.png", np.full((48, 64), 4, np.uint8))
    with pytest.raises(SampleError, match=r"0\.png: holds class id 4; the ids go up to 3"):
        generic(tmp_path, table=None, annotations=None)[0]
