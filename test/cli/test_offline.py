"""``pvt-mtl predict``, ``bag`` and ``images-to-bag`` on real files."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_files import TOPIC, street, write_bag
from checkpoints import make_checkpoint
from PIL import Image

from pvt_mtl_perception.bags.images import write_image_bag
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.cli import main
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.video import VideoReader, VideoWriter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, device="cpu", backend="auto")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of different sizes, one in a subfolder."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), street(0)[:, :, ::-1])
    cv2.imwrite(str(folder / "sub" / "b.png"), street(1, 50, 71)[:, :, ::-1])
    (folder / "notes.txt").write_text("not a picture")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_predict_writes_lines_masks_and_overlays(
    tmp_path: Path, pictures: Path, checkpoint: Path, predictor: Predictor
) -> None:
    out = tmp_path / "out"
    assert (
        main(["predict", str(pictures), "--out", str(out), "--model", str(checkpoint), "--device", "cpu"])
        == 0
    )
    records = lines(out / "results.jsonl")
    assert [record["image"] for record in records] == ["a.png", "sub/b.png"]
    for record, image, stem in (
        (records[0], street(0), out / "a"),
        (records[1], street(1, 50, 71), out / "sub" / "b"),
    ):
        (result,) = predictor.predict([image])
        assert (record["height"], record["width"]) == image.shape[:2]
        boxes = [detection["box"] for detection in record["detections"]]
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), result.detections.boxes, atol=0.006)
        assert [detection["class"] for detection in record["detections"]] == [
            predictor.labels.detection.names[label] for label in result.detections.labels
        ]
        for group, probabilities in result.classification.probabilities.items():
            names = predictor.labels.classification[group].names
            assert record["classification"][group] == pytest.approx(
                dict(zip(names, probabilities.tolist(), strict=True)), abs=1e-4
            )
        mask = cv2.imread(f"{stem}_mask.png", cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, result.segmentation.mask)
        shares = {
            name: float((result.segmentation.mask == index).mean())
            for index, name in enumerate(predictor.labels.segmentation.names)
            if (result.segmentation.mask == index).any()
        }
        assert record["segmentation"] == pytest.approx(shares, abs=1e-4)
        assert cv2.imread(f"{stem}_overlay.jpg").shape == image.shape


def test_predict_goes_on_where_it_stopped(tmp_path: Path, pictures: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--out", str(out), "--model", str(checkpoint), "--device", "cpu"]
    assert main(command) == 0
    whole = (out / "results.jsonl").read_text()
    first_overlay = (out / "a_overlay.jpg").stat().st_mtime_ns
    # As a kill leaves it: the second line is cut.
    (out / "results.jsonl").write_text(whole[: len(whole.splitlines()[0]) + 20])
    assert main(command) == 0
    assert (out / "results.jsonl").read_text() == whole
    assert (out / "a_overlay.jpg").stat().st_mtime_ns == first_overlay


def test_predict_refuses_to_mix_settings(
    tmp_path: Path, pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--out", str(out), "--model", str(checkpoint), "--no-pictures"]
    assert main(command) == 0
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", "run.json"]
    assert main([*command, "--score-threshold", "0.5"]) == 2
    assert "holds results with score_threshold '0.35', not '0.5'" in capsys.readouterr().err


def test_predict_a_video(tmp_path: Path, checkpoint: Path, predictor: Predictor) -> None:
    video = tmp_path / "drive.mp4"
    with VideoWriter(video, fps=10) as writer:
        for index in range(4):
            writer.write(street(index, 61, 91))
    with VideoReader(video) as reader:
        decoded = [image for _, image in reader]
    out = tmp_path / "out"
    command = ["predict", str(video), "--out", str(out), "--model", str(checkpoint), "--batch", "3"]
    assert main([*command, "--device", "cpu"]) == 0
    records = lines(out / "drive.jsonl")
    assert [record["time"] for record in records] == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-3)
    for record, image in zip(records, decoded, strict=True):
        (result,) = predictor.predict([image])
        boxes = [detection["box"] for detection in record["detections"]]
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), result.detections.boxes, atol=0.02)
    with VideoReader(out / "drive_overlay.mp4") as reader:
        overlay = list(reader)
    assert [image.shape for _, image in overlay] == [(62, 92, 3)] * 4


def test_predict_refuses_other_files_of_the_same_names(
    tmp_path: Path, pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with VideoWriter(pictures / "drive.mp4", fps=10) as writer:
        writer.write(street(0))
    other = tmp_path / "other"
    out = tmp_path / "out"
    options = ["--out", str(out), "--model", str(checkpoint), "--device", "cpu", "--no-pictures"]
    assert main(["predict", str(pictures), *options]) == 0
    written = {path: path.read_bytes() for path in out.iterdir()}
    for known, name in (("a.png", "a.png"), ("a.png", "a.bmp"), ("drive.mp4", "drive.mp4")):
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        shutil.copy(pictures / known, other / name)
        assert main(["predict", str(other), *options]) == 2
        error = capsys.readouterr().err
        assert f"of {pictures / known} (" in error and f"not of {other / name} (" in error
        assert error.endswith("choose another folder\n")
    # The file itself with another content is another one, too.
    cv2.imwrite(str(pictures / "a.png"), street(7)[:, :, ::-1])
    assert main(["predict", str(pictures), *options]) == 2
    assert f"results called a of {pictures / 'a.png'} (" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == written


def test_predict_does_not_take_its_own_pictures(
    pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(checkpoint), "--device", "cpu"]
    for _ in range(2):
        assert main(["predict", str(pictures), "--out", str(pictures / "out"), *options]) == 0
        assert "results of 2 of 2 files" in capsys.readouterr().out
    assert (pictures / "out" / "a_overlay.jpg").is_file()
    assert main(["predict", str(pictures), "--out", str(pictures), *options]) == 2
    assert f"outside the results' folder {pictures}" in capsys.readouterr().err


def test_a_video_called_results_has_lines_of_its_own(
    tmp_path: Path, pictures: Path, checkpoint: Path
) -> None:
    with VideoWriter(pictures / "results.mp4", fps=10) as writer:
        for index in range(3):
            writer.write(street(index))
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--out", str(out), "--model", str(checkpoint), "--device", "cpu"]
    assert main(command) == 0
    assert [record["image"] for record in lines(out / "results.jsonl")] == ["a.png", "sub/b.png"]
    assert len(lines(out / "results.mp4.jsonl")) == 3


def test_predict_turns_a_photo_upright(tmp_path: Path, checkpoint: Path, predictor: Predictor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    photo = tmp_path / "a.jpg"
    Image.fromarray(street(0)).save(photo, exif=exif)
    out = tmp_path / "out"
    command = ["predict", str(photo), "--out", str(out), "--model", str(checkpoint), "--device", "cpu"]
    assert main(command) == 0
    (record,) = lines(out / "results.jsonl")
    assert (record["height"], record["width"]) == (90, 60)
    mask = cv2.imread(str(out / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    with Image.open(photo) as stored:
        as_stored = np.asarray(stored)
    upright, upside_down = predictor.predict([np.rot90(as_stored, turns) for turns in (-1, 1)])
    # Two decoders of JPEG differ by a grey level here and there.
    assert (mask == upright.segmentation.mask).mean() > 0.98
    assert (mask == upside_down.segmentation.mask).mean() < 0.9


@pytest.mark.parametrize("content", ["", '{"precision": "fp32"}'])
def test_predict_names_a_note_that_it_cannot_read(
    tmp_path: Path, pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(content)
    assert main(["predict", str(pictures), "--out", str(out), "--model", str(checkpoint)]) == 2
    assert f"{out / 'run.json'} " in capsys.readouterr().err


def test_a_full_disk_is_named(
    tmp_path: Path, pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--out", str(out), "--model", str(checkpoint), "--device", "cpu"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for most, named in {100: "run.json", 1500: "results.jsonl"}.items():
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
            assert main([*command, "--no-pictures"]) == 2
            assert f"File too large: '{out / named}'" in capsys.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert main([*command, "--no-pictures"]) == 0
    assert [record["image"] for record in lines(out / "results.jsonl")] == ["a.png", "sub/b.png"]


def test_predict_names_what_it_cannot_use(
    tmp_path: Path, pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(checkpoint), "--device", "cpu"]
    assert main(["predict", str(tmp_path / "none"), *model]) == 2
    assert "no image, video or folder at" in capsys.readouterr().err
    assert main(["predict", str(pictures / "notes.txt"), *model]) == 2
    assert "notes.txt is neither an image" in capsys.readouterr().err
    shutil.copy(pictures / "a.png", pictures / "sub" / "a.png")
    same = [str(pictures / "a.png"), str(pictures / "sub" / "a.png")]
    assert main(["predict", *same, *model]) == 2
    assert "would both have results called a" in capsys.readouterr().err


def test_predict_leaves_out_a_broken_picture(
    tmp_path: Path, pictures: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.png").write_bytes(b"broken")
    (pictures / "c.mp4").write_bytes(b"broken")
    out = tmp_path / "out"
    command = ["predict", str(pictures), "--out", str(out), "--model", str(checkpoint), "--device", "cpu"]
    assert main(command) == 0
    assert [record["image"] for record in lines(out / "results.jsonl")] == ["sub/b.png"]
    assert "results of 1 of 3 files, 2 could not be read" in capsys.readouterr().out


def test_bag_verb_writes_bag_and_video(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bag(tmp_path / "drive", "ros1", [street(index) for index in range(3)], compressed="jpeg")
    target, video = tmp_path / "results", tmp_path / "results.mp4"
    command = ["bag", str(source), str(target), "--model", str(checkpoint), "--device", "cpu"]
    assert main([*command, "--video", str(video)]) == 0
    out = capsys.readouterr().out
    assert "results: 3 images" in out
    assert f"{TOPIC}: results on /rig/front" in out
    with BagReader(target) as reader:
        assert {topic.name: topic.count for topic in reader.topics}["/rig/front/detections"] == 3
    with VideoReader(video) as frames:
        assert len(list(frames)) == 3


def test_bag_verb_says_at_once_that_a_video_has_no_folder(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bag(tmp_path / "drive", "ros1", [street(0)])
    command = ["bag", str(source), str(tmp_path / "results"), "--model", str(checkpoint), "--device", "cpu"]
    assert main([*command, "--video", str(tmp_path / "absent" / "a.mp4")]) == 2
    assert f"no folder {tmp_path / 'absent'} for --video a.mp4" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive.bag"]


def test_bag_verb_does_not_replace_a_file_that_is_no_video(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bag(tmp_path / "drive", "ros1", [street(0)])
    before = source.read_bytes()
    command = ["bag", str(source), str(tmp_path / "results"), "--model", str(checkpoint), "--device", "cpu"]
    assert main([*command, "--video", str(source)]) == 2
    assert f"--video {source} is no .mp4 file" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_images_to_bag_keeps_order_rate_and_pixels(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bag"
    command = ["images-to-bag", str(pictures), str(target), "--fps", "15", "--topic", "/cam/image"]
    assert main(command) == 0
    assert "2 images on /cam/image, 0.1 s" in capsys.readouterr().out
    with BagReader(target) as reader:
        images = list(reader.images(reader.select()))
    assert images[1].stamp - images[0].stamp == 66_666_667
    np.testing.assert_array_equal(images[0].decode(), street(0))
    np.testing.assert_array_equal(images[1].decode(), street(1, 50, 71))
    assert main(command) == 2
    assert "bag exists already" in capsys.readouterr().err


def test_images_to_bag_names_a_bad_picture_and_leaves_no_half_bag(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "zz.jpg").write_bytes(b"no picture")
    target = tmp_path / "bag"
    assert main(["images-to-bag", str(pictures), str(target), "--fps", "15"]) == 2
    assert re.search(r"zz\.jpg: 10 bytes .* do not decode", capsys.readouterr().err)
    assert not target.exists()


def test_images_to_bag_starts_anew_after_a_kill(tmp_path: Path, pictures: Path) -> None:
    work, killed = tmp_path / "work", tmp_path / "killed"

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, street(0)
        shutil.copytree(work, killed)
        yield 1, street(1)

    write_image_bag(work / "bag", frames(), TOPIC)
    assert not (killed / "bag").exists(), "half a bag has the whole one's name"
    assert main(["images-to-bag", str(pictures), str(killed / "bag"), "--fps", "15"]) == 0
    for folder in (work, killed):
        assert [path.name for path in folder.iterdir()] == ["bag"]
        assert sorted(path.name for path in (folder / "bag").iterdir()) == ["bag.mcap", "metadata.yaml"]
        with BagReader(folder / "bag") as reader:
            assert reader.select()[0].count == 2


def test_images_to_bag_compresses(tmp_path: Path, pictures: Path) -> None:
    target = tmp_path / "bag"
    assert main(["images-to-bag", str(pictures), str(target), "--fps", "10", "--codec", "png"]) == 0
    with BagReader(target) as reader:
        (topic,) = reader.select()
        assert topic.type == "sensor_msgs/msg/CompressedImage"
        np.testing.assert_array_equal(next(reader.images([topic])).decode(), street(0))
