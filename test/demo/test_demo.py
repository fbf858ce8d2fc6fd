"""The demonstration runs through real processes and leaves video, picture, bag and figures that agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bag_files import street, write_bag
from checkpoints import make_checkpoint
from PIL import Image

from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.demo.drive import IMAGE_TOPIC, DriveSettings, DriveTruth, prepare_drive
from pvt_mtl_perception.inference.video import VideoReader

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = DriveSettings(seed=3, width=256, height=160, fps=8.0, seconds=1.5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors", height=64, width=96)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small drive rendered."""
    folder = tmp_path_factory.mktemp("demo") / "drives"
    prepare_drive(SMALL, folder, progress=False)
    return folder


def demo(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pvt_mtl_perception.cli", "demo", "--device", "cpu", *map(str, arguments)]


def drive_arguments(settings: DriveSettings) -> list[str]:
    return [
        *("--seed", str(settings.seed), "--size", f"{settings.width}x{settings.height}"),
        *("--fps", str(settings.fps), "--seconds", str(settings.seconds)),
    ]


def environment(ros_environment: dict[str, str]) -> dict[str, str]:
    return {**ros_environment, "OMP_NUM_THREADS": "1"}


def test_drive_bags_hold_the_frames_and_their_labels(drives: Path) -> None:
    from pvt_mtl_perception.data.synthetic import Drive

    bags = prepare_drive(SMALL, drives, progress=False)
    drive = Drive(SMALL.seed, SMALL.width, SMALL.height, SMALL.fps)
    with BagReader(bags.images) as images, BagReader(bags.truth) as truth:
        labels = DriveTruth(truth)
        frames = list(images.images(images.select()))
        assert [frame.topic for frame in frames] == [IMAGE_TOPIC] * 12
        for index, frame in enumerate(frames):
            assert frame.stamp - frames[0].stamp == round(index * 1e9 / SMALL.fps)
            found, expected = labels.take(frame.stamp, frame.decode()), drive.frame(index)
            np.testing.assert_array_equal(found.image, expected.image)
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
            np.testing.assert_array_equal(found.box_labels, expected.box_labels)
            np.testing.assert_allclose(found.ignore_boxes, expected.ignore_boxes, atol=1e-4)
            np.testing.assert_array_equal(found.mask, expected.mask)
            assert found.classes == expected.classes


def test_drive_is_rendered_once(drives: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drives.rglob("*")}
    bags = prepare_drive(SMALL, drives, progress=False)
    assert {path: path.stat().st_mtime_ns for path in drives.rglob("*")} == before
    other = prepare_drive(
        DriveSettings(seed=4, width=64, height=48, fps=2.0, seconds=0.5), drives, progress=False
    )
    assert other.images != bags.images


def test_demo_on_a_drive(drives: Path, checkpoint: Path, ros_environment: dict[str, str]) -> None:
    out = drives.parent
    command = demo("--out", out, "--model", checkpoint, *drive_arguments(SMALL))
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(ros_environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    frames = report["frames"]
    assert frames["in"] == 12
    assert 1 <= frames["processed"] <= 12
    assert frames["failed"] == 0
    latency = report["latency_ms"]["image_to_last_result"]
    assert 0 < latency["p50"] <= latency["p95"]
    assert report["scores"]["segmentation"]["miou"] is not None
    assert report["scores"]["detection"]["ap50"] is not None
    assert set(report["scores"]["classification"]) == {"weather", "scene", "timeofday"}
    assert f"frames        12 in · {frames['processed']} processed" in done.stdout
    assert "AP50" in done.stdout and "mIoU" in done.stdout and "p95" in done.stdout

    with BagReader(out / "recording") as recording:
        counts = {topic.name: topic.count for topic in recording.topics}
    # A frame counts as processed from its first output on, and the recorder may start between two.
    assert counts["/camera/segmentation/mask"] <= frames["processed"]
    assert max(counts[f"/camera/{name}"] for name in ("detections", "classification")) == frames["processed"]
    assert counts["/camera/segmentation/label_info"] == 1
    with VideoReader(out / "overlay.mp4") as video:
        shown = list(video)
    assert len(shown) == frames["processed"]
    assert shown[0][1].shape == (160, 256, 3)
    with Image.open(out / "summary.png") as summary:
        assert summary.width > 4 * 640


def test_demo_on_a_compressed_ros1_bag_has_no_scores(
    tmp_path: Path, checkpoint: Path, ros_environment: dict[str, str]
) -> None:
    bag = write_bag(
        tmp_path / "drive",
        "ros1",
        [street(index) for index in range(8)],
        compressed="jpeg",
        other_topics=["/rig/rear/image_raw"],
    )
    out = tmp_path / "out"
    command = demo("--out", out, "--model", checkpoint, "--bag", bag, "--topic", "/rig/rear/image_raw")
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(ros_environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["scores"] is None
    assert report["frames"]["in"] == 8
    assert report["frames"]["processed"] >= 1
    with BagReader(out / "recording") as recording:
        assert "/rig/rear/detections" in {topic.name for topic in recording.topics}


def test_demo_reports_a_node_that_cannot_work(
    tmp_path: Path, checkpoint: Path, ros_environment: dict[str, str]
) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(3)], damaged=[0, 1, 2])
    done = subprocess.run(
        demo("--out", tmp_path / "out", "--model", checkpoint, "--bag", bag),
        cwd=REPOSITORY,
        env=environment(ros_environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pvt-mtl: error: the node published no result for the 3 images of" in done.stderr
    assert "bytes" in done.stderr, "the node's own reason is missing"
    assert "Traceback" not in done.stderr


def processes_of(domain: str) -> set[int]:
    """Processes that have this ROS domain in their environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"ROS_DOMAIN_ID={domain}".encode() in variables:
            found.add(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_demo_leaves_no_process(
    drives: Path, checkpoint: Path, ros_environment: dict[str, str], number: signal.Signals
) -> None:
    out = drives.parent
    domain = ros_environment["ROS_DOMAIN_ID"]
    command = demo("--out", out, "--model", checkpoint, *drive_arguments(SMALL))
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(ros_environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        (out / "recorder.log").unlink(missing_ok=True)
        deadline = time.monotonic() + 60
        while len(processes_of(domain) - {os.getpid()}) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert b"Traceback" not in errors
    deadline = time.monotonic() + 30
    while processes_of(domain) - {os.getpid()} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(domain) - {os.getpid()}
